// Connections that are waited for in a set: what is read and written between two waits.
#include "case.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static int listener, set, client, server;
static struct epoll_event event;
static char b[300000];

static struct sockaddr_in somewhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener == 0) {
        listener = socket(AF_INET, SOCK_STREAM, 0);
        bind(listener, (void *)&address, sizeof address);
        listen(listener, 10);
    }
    getsockname(listener, (void *)&address, &length);
    return address;
}

// A new connection, the server's end of it in a new set, and something on its way to it.
static void meet(uint32_t events, const char *text) {
    struct sockaddr_in address = somewhere();
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&address, sizeof address);
    server = accept4(listener, 0, 0, SOCK_NONBLOCK);
    set = epoll_create1(0);
    event = (struct epoll_event){.events = events, .data.u64 = 77};
    epoll_ctl(set, EPOLL_CTL_ADD, server, &event);
    write(client, text, strlen(text));
}

static void part(void) {
    close(client);
    close(server);
    close(set);
}

static int wait_for(int milliseconds) {
    memset(&event, 0, sizeof event);
    memset(b, 0, 100);
    return epoll_wait(set, &event, 1, milliseconds);
}

static void reading(uint32_t events) {
    int left = 0;
    meet(events, "0123456789");
    T(wait_for(1000));
    T(event.events);
    T(event.data.u64);
    T(read(server, b, 4));
    S(b);
    T(ioctl(server, FIONREAD, &left));
    T(left);
    T(recv(server, b, 100, MSG_PEEK));
    S(b);
    T(wait_for(0));
    T(read(server, b, 3));
    S(b);
    T(recv(server, b, 100, 0));
    S(b);
    T(read(server, b, 100));
    T(read(server, b, 100));
    T(wait_for(0));
    write(client, "abc", 3);
    T(wait_for(1000));
    T(recv(server, b, 0, 0));
    T(read(server, (void *)16, 3));
    struct iovec parts[2] = {{b, 1}, {b + 50, 10}};
    T(readv(server, parts, 2));
    S(b);
    S(b + 50);
    T(recv(server, b, 1, MSG_DONTWAIT));
    write(client, "def", 3);
    T(wait_for(1000));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    T(read(server, b, 1));
    T(recvmsg(server, &message, 0));
    S(b + 50);
    // The end behind some bytes.
    write(client, "end", 3);
    shutdown(client, SHUT_WR);
    doze(20);
    T(wait_for(1000));
    T(event.events);
    T(read(server, b, 100));
    T(read(server, b, 100));
    T(write(server, "still", 5));
    T(read(client, b, 100));
    part();
}

// Others have the file as well.
static void sharing_it(void) {
    meet(EPOLLIN, "0123456789");
    T(wait_for(1000));
    int other = dup(server);
    T(read(other, b, 3));
    T(read(server, b, 3));
    S(b);
    T(wait_for(1000));
    T(read(server, b, 1));
    T(read(other, b, 1));
    S(b);
    close(other);
    T(wait_for(1000));
    T(IN_CHILD(_exit(read(server, b, 1) == 1 ? b[0] : 0)));
    T(read(server, b, 100));
    S(b);
    part();
    meet(EPOLLIN, "first");
    T(wait_for(1000));
    int old = server;
    close(server);
    close(client);
    close(set);
    meet(EPOLLIN, "second");
    T(server == old || set == old || client == old);
    T(read(server, b, 100));
    S(b);
    T(wait_for(0));
    part();
    // Put in the place of another.
    meet(EPOLLIN, "first");
    int file = open("/etc/passwd", O_RDONLY);
    T(wait_for(1000));
    T(dup2(file, server) == server);
    T(read(server, b, 5) == 5 && memcmp(b, "first", 5) != 0);
    close(file);
    part();
}

static void writing(void) {
    struct iovec parts[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}};
    meet(EPOLLIN, "?");
    T(wait_for(1000));
    T(read(server, b, 100));
    T(write(server, "zero ", 5));
    T(writev(server, parts, 3));
    T(send(server, ".", 1, MSG_NOSIGNAL));
    T(write(server, (void *)16, 1));
    T(write(server, b, 0));
    T(read(client, b, 100));
    S(b);
    T(wait_for(0));
    // Much behind little, in its order.
    write(client, "?", 1);
    T(wait_for(1000));
    T(read(server, b, 1));
    T(write(server, "begin", 5));
    memset(b, 'x', sizeof b);
    long sent = write(server, b, 200000), got = 0, one;
    T(sent > 1000);
    T(shutdown(server, SHUT_WR));
    memset(b, 0, sizeof b);
    while ((one = read(client, b + got, sizeof b - got)) > 0)
        got += one;
    T(got == sent + 5);
    T(memcmp(b, "beginxx", 7));
    T(b[got - 1]);
    part();
    // To somebody who is gone.
    meet(EPOLLIN, "x");
    close(client);
    doze(20);
    T(wait_for(1000));
    T(read(server, b, 1));
    T(write(server, "abc", 3));
    doze(20);
    handle(SIGPIPE, 0);
    T(write(server, "abc", 3));
    T(caught);
    client = -1;
    part();
}

// What was written is on its way, whatever the writer does next.
static void promptness(void) {
    meet(EPOLLIN, "x");
    T(wait_for(1000));
    read(server, b, 1);
    handle(SIGUSR1, 0);
    caught = 0;
    pid_t parent = getpid(), child = START({
        close(server);
        _exit(read(client, b, 100) == 5 && kill(parent, SIGUSR1) == 0 ? 7 : 8);
    });
    write(client, "y", 1);
    T(wait_for(1000));
    read(server, b, 1);
    T(write(server, "reply", 5));
    // No call, but for the clock.
    for (long long end = now() + 5000000000LL; !caught && now() < end;) {
    }
    T(caught);
    int status;
    T(waitpid(child, &status, 0) == child);
    T(status);
    part();
    // Ended at once.
    struct sockaddr_in address = somewhere();
    child = START({
        server = accept(listener, 0, 0);
        set = epoll_create1(0);
        event = (struct epoll_event){.events = EPOLLIN};
        epoll_ctl(set, EPOLL_CTL_ADD, server, &event);
        wait_for(1000);
        read(server, b, 100);
        write(server, "bye", 3);
        raise(SIGKILL);
    });
    client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&address, sizeof address);
    write(client, "hi", 2);
    T(read(client, b, 100));
    T(read(client, b, 100));
    T(waitpid(child, &status, 0) == child);
    T(status);
}

// The same without anybody but the process itself.
void inward(void) {
    reading(EPOLLIN);
    reading(EPOLLIN | EPOLLRDHUP | EPOLLET);
    reading(EPOLLIN | EPOLLET);
    writing();
    // Refused, and then nothing.
    struct sockaddr_in address = somewhere();
    int other = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), value = 1;
    socklen_t length = sizeof value;
    T(bind(other, (void *)&address, sizeof address));
    close(listener);
    T(connect(other, (void *)&address, sizeof address) == 0 || errno == EINPROGRESS || errno == ECONNREFUSED);
    close(other);
    listener = 0;
    // Begun without waiting, and ended by each side.
    meet(EPOLLIN | EPOLLOUT | EPOLLRDHUP, "x");
    T(wait_for(1000));
    T(event.events);
    T(shutdown(client, SHUT_WR));
    T(wait_for(1000));
    T(event.events & EPOLLRDHUP);
    T(read(server, b, 9));
    T(read(server, b, 9));
    T(shutdown(server, SHUT_WR));
    T(wait_for(1000));
    T(event.events);
    T(read(client, b, 9));
    T(getsockopt(server, SOL_SOCKET, SO_ERROR, &value, &length));
    T(value);
    T(getsockopt(server, SOL_SOCKET, SO_TYPE, &value, &length));
    T(value);
    T(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    T(value);
    T(fcntl(server, F_GETFL) & O_NONBLOCK);
    T(setsockopt(server, SOL_SOCKET, 999, &value, sizeof value));
    T(listen(client, 1));
    T(accept(client, 0, 0));
    part();
    // Once only, changed, and taken out.
    meet(EPOLLIN | EPOLLONESHOT, "abc");
    T(wait_for(1000));
    T(wait_for(0));
    event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 78};
    T(epoll_ctl(set, EPOLL_CTL_ADD, server, &event));
    T(epoll_ctl(set, EPOLL_CTL_MOD, server, &event));
    T(wait_for(0));
    T(event.data.u64);
    T(epoll_ctl(set, EPOLL_CTL_DEL, server, &event));
    T(epoll_ctl(set, EPOLL_CTL_DEL, server, &event));
    T(epoll_ctl(client, EPOLL_CTL_ADD, server, &event));
    T(wait_for(0));
    part();
    T(socket(AF_INET, SOCK_STREAM, 17));
    T(socket(AF_INET, 99, 0));
    client = socket(AF_INET, SOCK_STREAM, 0);
    T(send(client, "x", 1, MSG_NOSIGNAL));
    T(recv(client, b, 1, 0));
    T(getpeername(client, (void *)&address, &length));
    T(shutdown(client, SHUT_RD));
    T(connect(client, (void *)&address, 3));
    address.sin_port = 0;
    T(bind(client, (void *)&address, sizeof address));
    T(bind(client, (void *)&address, sizeof address));
    T(lseek(client, 0, SEEK_SET));
    T(pread(client, b, 1, 0));
    close(client);
}

void connections(void) {
    reading(EPOLLIN);
    reading(EPOLLIN | EPOLLRDHUP | EPOLLET);
    reading(EPOLLIN | EPOLLET);
    sharing_it();
    writing();
    promptness();
}

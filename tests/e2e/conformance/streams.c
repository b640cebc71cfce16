// Pipes, sockets, and waiting for one of many.
#include "case.h"
#define PIDFD_NONBLOCK O_NONBLOCK
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

void pipes(void) {
    char b[200000] = {0};
    int p[2], waiting = 0;
    T(pipe(p));
    T(p[0] * 10 + p[1]);
    T(pipe2(p, 12345));
    T(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    T(fcntl(p[0], F_GETFD));
    T(fcntl(p[0], F_GETFL) & (O_ACCMODE | O_NONBLOCK));
    T(fcntl(p[1], F_GETFL) & (O_ACCMODE | O_NONBLOCK));
    T(read(p[0], b, 1));
    T(write(p[1], "abc", 3));
    T(ioctl(p[0], FIONREAD, &waiting));
    T(waiting);
    T(read(p[0], b, 100));
    T(write(p[0], "x", 1));
    T(read(p[1], b, 1));
    T(write(p[1], b, sizeof b));
    T(write(p[1], b, 1));
    T(fcntl(p[1], F_GETPIPE_SZ));
    T(lseek(p[0], 0, SEEK_SET));
    T(pread(p[0], b, 1, 0));
    T(close(p[1]));
    T(read(p[0], b, sizeof b));
    T(read(p[0], b, 1));
    T(pipe(p));
    T(close(p[0]));
    T(IN_CHILD(write(p[1], "x", 1)));
    signal(SIGPIPE, SIG_IGN);
    T(write(p[1], "x", 1));
    handle(SIGPIPE, 0);
    T(write(p[1], "x", 1));
    T(caught);
    struct pollfd one = {p[1], POLLOUT, 0};
    T(poll(&one, 1, 0));
    T(one.revents);
    close(p[1]);
    // A writer that waits writes all of it.
    T(pipe(p));
    pid_t child = START({
        close(p[0]);
        _exit(write(p[1], b, sizeof b) == (ssize_t)sizeof b ? 7 : 8);
    });
    close(p[1]);
    doze(50);
    long total = 0, got;
    while ((got = read(p[0], b, 5000)) > 0)
        total += got;
    T(total);
    int status;
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(pipe((int *)8));
    // Many come in order.
    T(pipe(p));
    child = START({
        for (int i = 0; i < 1000; i++)
            write(p[1], &i, sizeof i);
    });
    int expected = 0, number;
    while (expected < 1000 && read(p[0], &number, sizeof number) == sizeof number && number == expected)
        expected++;
    T(expected);
    T(waitpid(child, NULL, 0) == child);
}

void fifos(void) {
    char b[16] = {0};
    T(mkfifo("f", 0600));
    T(mkfifo("f", 0600));
    T(open("f", O_WRONLY | O_NONBLOCK));
    T(open("f", O_RDONLY | O_NONBLOCK));
    T(read(3, b, 1));
    T(open("f", O_WRONLY | O_NONBLOCK));
    T(read(3, b, 1));
    T(write(4, "ab", 2));
    T(read(3, b, 16));
    T(close(4));
    T(read(3, b, 16));
    T(close(3));
}

// Who opens one end waits for the other.
void fifo_waits(void) {
    char b[16] = {0};
    T(mkfifo("f", 0600));
    pid_t child = START({
        doze(150);
        int w = open("f", O_WRONLY);
        write(w, "late", 4);
    });
    long long begin = now();
    T(open("f", O_RDONLY));
    T(now() - begin > 80000000);
    T(fcntl(3, F_GETFL) & O_NONBLOCK);
    T(read(3, b, 16));
    S(b);
    T(read(3, b, 16));
    T(waitpid(child, NULL, 0) == child);
    T(close(3));
    child = START({
        doze(150);
        int r = open("f", O_RDONLY);
        char c[8];
        _exit(read(r, c, 8));
    });
    begin = now();
    T(open("f", O_WRONLY));
    T(now() - begin > 80000000);
    T(write(3, "abc", 3));
    T(close(3));
    int status;
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(open("f", O_RDWR));
}

static struct sockaddr_in local(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int listener(struct sockaddr_in *at) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof *at;
    *at = local(0);
    bind(s, (void *)at, sizeof *at);
    listen(s, 5);
    getsockname(s, (void *)at, &length);
    return s;
}

void sockets(void) {
    char b[64] = {0};
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in at, peer;
    socklen_t length = sizeof at;
    int value = 0;
    T(socket(AF_INET, 99, 0));
    T(socket(999, SOCK_STREAM, 0));
    int l = listener(&at);
    T(l);
    T(at.sin_port != 0);
    T(listen(0, 1) < 0);
    length = sizeof value;
    T(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    T(value);
    T(getsockopt(l, SOL_SOCKET, SO_TYPE, &value, &length));
    T(value);
    T(getsockopt(l, SOL_SOCKET, 9999, &value, &length));
    T(getsockopt(1, SOL_SOCKET, SO_TYPE, &value, &length));
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    T(fcntl(s, F_GETFD));
    T(bind(s, (void *)&at, sizeof at));
    T(send(s, "x", 1, MSG_NOSIGNAL));
    T(recv(s, b, 1, 0));
    length = sizeof peer;
    T(getpeername(s, (void *)&peer, &length));
    T(connect(s, (void *)&at, sizeof at));
    T(connect(s, (void *)&at, sizeof at));
    length = sizeof peer;
    T(getpeername(s, (void *)&peer, &length));
    T(peer.sin_port == at.sin_port);
    length = sizeof peer;
    int c = accept(l, (void *)&peer, &length);
    T(c);
    T(length);
    T(peer.sin_family);
    T(write(s, "hello", 5));
    T(recv(c, b, 2, MSG_PEEK));
    T(recv(c, b, 64, 0));
    T(recv(c, b, 64, MSG_DONTWAIT));
    T(fcntl(c, F_SETFL, O_NONBLOCK));
    T(read(c, b, 1));
    T(fcntl(c, F_SETFL, 0));
    value = 1;
    T(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    T(setsockopt(c, SOL_SOCKET, SO_REUSEADDR, &value, 1));
    T(setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    // All of it, though it comes in parts.
    pid_t child = START({
        write(s, "abc", 3);
        doze(100);
        write(s, "defg", 4);
    });
    T(recv(c, b, 7, MSG_WAITALL));
    T(memcmp(b, "abcdefg", 7));
    T(waitpid(child, NULL, 0) == child);
    // Not for ever.
    struct timeval limit = {0, 100000};
    T(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    long long begin = now();
    T(recv(c, b, 1, 0));
    T(now() - begin > 60000000 && now() - begin < 5000000000LL);
    begin = now();
    T(read(c, b, 1));
    T(now() - begin > 60000000 && now() - begin < 5000000000LL);
    limit.tv_usec = 0;
    T(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    limit.tv_usec = 100000;
    T(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    T(accept(l, NULL, NULL));
    // Half of it is closed.
    T(shutdown(s, SHUT_WR));
    T(read(c, b, 1));
    T(write(s, "x", 1) < 0 ? errno : 0);
    T(write(c, "back", 4));
    T(read(s, b, 64));
    T(close(c));
    T(read(s, b, 64));
    T(shutdown(l + 50, SHUT_RD));
    T(shutdown(s, 9));
    T(close(s));
    // Nobody listens.
    T(close(l));
    s = socket(AF_INET, SOCK_STREAM, 0);
    T(connect(s, (void *)&at, sizeof at));
    T(close(s));
    s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    l = listener(&at);
    T(accept4(s, NULL, NULL, 0));
    value = connect(s, (void *)&at, sizeof at) < 0 ? errno : 0;
    T(value == EINPROGRESS || value == 0);
    struct pollfd one = {s, POLLOUT, 0};
    T(poll(&one, 1, 1000));
    T(one.revents);
    length = sizeof value;
    T(getsockopt(s, SOL_SOCKET, SO_ERROR, &value, &length));
    T(value);
    c = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    T(fcntl(c, F_GETFL) & O_NONBLOCK);
    T(fcntl(c, F_GETFD));
    T(accept(c, NULL, NULL));
    // Accepting waits.
    child = START({
        doze(100);
        int again = socket(AF_INET, SOCK_STREAM, 0);
        connect(again, (void *)&at, sizeof at);
        doze(50);
    });
    T(accept(l, NULL, NULL) >= 0);
    T(waitpid(child, NULL, 0) == child);
    // A connection that is reset.
    struct linger linger = {1, 0};
    T(setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    T(close(s));
    fcntl(c, F_SETFL, 0);
    T(read(c, b, 1));
    s = socket(AF_INET6, SOCK_STREAM, 0);
    T(s >= 0);
    value = 1;
    T(ioctl(l, FIONBIO, &value));
    T(accept(l, NULL, NULL));
    T(bind(s, (void *)&at, 3));
    T(sendto(99, "x", 1, 0, NULL, 0));
}

void udp(void) {
    char b[64] = {0};
    struct sockaddr_in at = local(0), from;
    socklen_t length = sizeof at;
    int r = socket(AF_INET, SOCK_DGRAM, 0), s = socket(AF_INET, SOCK_DGRAM, 0);
    T(bind(r, (void *)&at, sizeof at));
    T(getsockname(r, (void *)&at, &length));
    T(sendto(s, "hello", 5, 0, (void *)&at, sizeof at));
    length = sizeof from;
    T(recvfrom(r, b, 3, 0, (void *)&from, &length));
    T(length);
    T(sendto(s, "", 0, 0, (void *)&at, sizeof at));
    T(recv(r, b, 64, 0));
    T(send(s, "x", 1, 0));
    T(connect(s, (void *)&at, sizeof at));
    T(send(s, "xyz", 3, 0));
    T(recv(r, b, 1, MSG_TRUNC));
    T(recv(r, b, 64, MSG_DONTWAIT));
    struct iovec v[2] = {{b, 2}, {b + 10, 10}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2, .msg_name = &from, .msg_namelen = sizeof from};
    T(send(s, "abcdef", 6, 0));
    T(recvmsg(r, &m, 0));
    T(m.msg_namelen);
    T(m.msg_flags);
    T(memcmp(b + 10, "cdef", 4));
    T(send(s, "0123456789abcdef", 16, 0));
    T(recvmsg(r, &m, 0));
    T(m.msg_flags);
    struct mmsghdr many[3] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}},
                              {.msg_hdr = {.msg_iov = v, .msg_iovlen = 2}}};
    T(sendmmsg(s, many, 2, 0));
    T(many[0].msg_len * 100 + many[1].msg_len);
    T(recvmmsg(r, many, 2, 0, NULL));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    T(connect(s, &none, sizeof none));
    T(send(s, "x", 1, 0));
    struct timeval limit = {0, 50000};
    T(setsockopt(r, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    T(recvfrom(r, b, 1, 0, NULL, NULL));
}

static long pass(int through, int fd) {
    char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(through, &m, 0);
}

static int take(int through, int flags) {
    int fd = -1;
    char byte, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(through, &m, flags) != 1)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c)
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

void local_sockets(void) {
    char b[64] = {0};
    int p[2];
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    T(p[0] * 10 + p[1]);
    T(write(p[0], "abc", 3));
    T(read(p[1], b, 64));
    T(pass(p[0], 1));
    T(take(p[1], 0));
    T(fcntl(5, F_GETFD));
    T(pass(p[0], 99));
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(pass(p[0], 6));
    T(close(6));
    T(take(p[1], MSG_CMSG_CLOEXEC));
    T(fcntl(6, F_GETFD));
    T(write(6, "x", 1));
    // To another process.
    pid_t child = START({
        int fd = take(p[1], 0);
        _exit(write(fd, "from a child", 12));
    });
    T(pass(p[0], 6));
    int status;
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(lseek(6, 0, SEEK_CUR));
    struct ucred who = {0};
    socklen_t length = sizeof who;
    T(getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &who, &length));
    T(who.uid);
    T(close(p[0]));
    T(read(p[1], b, 1));
    signal(SIGPIPE, SIG_IGN);
    T(write(p[1], "x", 1));
    T(close(p[1]));
    T(socketpair(AF_INET, SOCK_STREAM, 0, p));
    T(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, p));
    T(write(p[0], "abc", 3) + write(p[0], "de", 2));
    T(read(p[1], b, 64));
    T(read(p[1], b, 1));
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "socket"}, name;
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind(l, (void *)&at, sizeof at));
    T(bind(l, (void *)&at, sizeof at));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind(s, (void *)&at, sizeof at));
    T(connect(s, (void *)&at, sizeof at));
    T(listen(l, 3));
    T(connect(s, (void *)&at, sizeof at));
    int c = accept(l, NULL, NULL);
    T(c >= 0);
    length = sizeof name;
    T(getsockname(c, (void *)&name, &length));
    S(name.sun_path);
    T(write(s, "hi", 2));
    T(read(c, b, 64));
    T(unlink("socket"));
    int again = socket(AF_UNIX, SOCK_STREAM, 0);
    T(connect(again, (void *)&at, sizeof at));
    struct sockaddr_un hidden = {.sun_family = AF_UNIX, .sun_path = "\0hidden"};
    int h = socket(AF_UNIX, SOCK_DGRAM, 0), g = socket(AF_UNIX, SOCK_DGRAM, 0);
    T(bind(h, (void *)&hidden, sizeof(sa_family_t) + 7));
    T(sendto(g, "to it", 5, 0, (void *)&hidden, sizeof(sa_family_t) + 7));
    T(recv(h, b, 64, 0));
}

void readiness(void) {
    char b[64];
    int p[2];
    T(pipe(p));
    struct pollfd two[3] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {99, POLLIN, 0}};
    T(poll(two, 1, 0));
    long long begin = now();
    T(poll(two, 1, 50));
    T(now() - begin >= 50000000 && now() - begin < 5000000000LL);
    T(poll(two, 2, -1));
    T(two[1].revents);
    T(poll(two, 3, 1000));
    T(two[2].revents);
    two[2].fd = -5;
    T(poll(two, 3, 0));
    T(two[2].revents);
    T(poll(NULL, 0, 20));
    T(poll((void *)8, 1, 0));
    T(write(p[1], "x", 1));
    T(poll(two, 1, -1));
    T(two[0].revents);
    pid_t child = START({
        doze(100);
        write(p[1], "y", 1);
    });
    T(read(p[0], b, 1));
    struct timespec second = {5, 0};
    T(ppoll(two, 1, &second, NULL));
    T(waitpid(child, NULL, 0) == child);
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    T(select(10, &r, &w, NULL, NULL));
    T(FD_ISSET(p[0], &r) * 10 + FD_ISSET(p[1], &w));
    T(read(p[0], b, 64));
    struct timeval little = {0, 50000};
    FD_SET(p[0], &r);
    begin = now();
    T(select(10, &r, NULL, NULL, &little));
    T(FD_ISSET(p[0], &r));
    T(now() - begin >= 50000000 && now() - begin < 5000000000LL);
    FD_SET(55, &r);
    T(select(60, &r, NULL, NULL, &little));
    T(select(-1, NULL, NULL, NULL, &little));
    struct timeval wrong = {0, -1};
    T(select(0, NULL, NULL, NULL, &wrong));
    // epoll
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 77}, got[4];
    int set = epoll_create1(EPOLL_CLOEXEC);
    T(set);
    T(epoll_create1(5));
    T(epoll_create(0));
    T(fcntl(set, F_GETFD));
    T(epoll_ctl(set, EPOLL_CTL_ADD, p[0], &e));
    T(epoll_ctl(set, EPOLL_CTL_ADD, p[0], &e));
    T(epoll_ctl(set, EPOLL_CTL_MOD, p[1], &e));
    T(epoll_ctl(set, EPOLL_CTL_DEL, p[1], NULL));
    T(epoll_ctl(set, EPOLL_CTL_ADD, set, &e));
    T(epoll_ctl(set, EPOLL_CTL_ADD, 99, &e));
    T(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &e));
    T(epoll_ctl(set, 9, p[1], &e));
    int file = open("f", O_CREAT | O_RDWR, 0600);
    T(epoll_ctl(set, EPOLL_CTL_ADD, file, &e));
    T(epoll_wait(set, got, 4, 0));
    T(epoll_wait(set, got, 0, 0));
    T(epoll_wait(p[0], got, 1, 0));
    begin = now();
    T(epoll_wait(set, got, 4, 50));
    T(now() - begin >= 50000000 && now() - begin < 5000000000LL);
    T(write(p[1], "x", 1));
    T(epoll_wait(set, got, 4, -1));
    T(got[0].events);
    T(got[0].data.u64);
    T(epoll_wait(set, got, 4, 0));
    e.events = EPOLLIN | EPOLLET;
    T(epoll_ctl(set, EPOLL_CTL_MOD, p[0], &e));
    T(epoll_wait(set, got, 4, 0));
    T(epoll_wait(set, got, 4, 0));
    T(write(p[1], "x", 1));
    T(epoll_wait(set, got, 4, 0));
    e.events = EPOLLIN | EPOLLONESHOT;
    T(epoll_ctl(set, EPOLL_CTL_MOD, p[0], &e));
    T(epoll_wait(set, got, 4, 0));
    T(epoll_wait(set, got, 4, 0));
    e.events = EPOLLIN;
    T(epoll_ctl(set, EPOLL_CTL_MOD, p[0], &e));
    T(read(p[0], b, 64));
    child = START({
        doze(100);
        write(p[1], "y", 1);
    });
    T(epoll_wait(set, got, 4, 5000));
    T(waitpid(child, NULL, 0) == child);
    T(close(p[1]));
    T(epoll_wait(set, got, 4, 0));
    T(got[0].events);
    T(read(p[0], b, 1));
    T(epoll_wait(set, got, 4, 0));
    T(got[0].events);
    // Who closes the last descriptor of a file takes it out.
    T(close(p[0]));
    T(epoll_wait(set, got, 4, 20));
    struct pollfd regular = {file, POLLIN | POLLOUT, 0};
    T(poll(&regular, 1, 0));
    T(regular.revents);
    // One set in another.
    int outer = epoll_create1(0);
    T(pipe(p));
    e.data.u64 = 5;
    T(epoll_ctl(set, EPOLL_CTL_ADD, p[0], &e));
    T(epoll_ctl(outer, EPOLL_CTL_ADD, set, &e));
    T(epoll_wait(outer, got, 4, 0));
    T(write(p[1], "x", 1));
    T(epoll_wait(outer, got, 4, 1000));
}

void event_files(void) {
    uint64_t value = 0;
    int e = eventfd(3, EFD_NONBLOCK);
    T(e);
    T(read(e, &value, 8));
    T(value);
    T(read(e, &value, 8));
    T(read(e, &value, 4));
    value = 5;
    T(write(e, &value, 8));
    T(write(e, &value, 8));
    T(read(e, &value, 8));
    T(value);
    value = -1;
    T(write(e, &value, 8));
    value = -2;
    T(write(e, &value, 8));
    value = 1;
    T(write(e, &value, 8));
    T(eventfd(0, 12345));
    int s = eventfd(2, EFD_SEMAPHORE);
    T(read(s, &value, 8));
    T(value);
    T(read(s, &value, 8));
    pid_t child = START({
        doze(80);
        uint64_t one = 1;
        write(s, &one, 8);
    });
    T(read(s, &value, 8));
    T(waitpid(child, NULL, 0) == child);
    // timerfd
    int t = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    T(t);
    T(timerfd_create(99, 0));
    struct itimerspec when = {{0, 0}, {0, 50000000}}, before;
    T(timerfd_settime(t, 0, &when, NULL));
    T(timerfd_gettime(t, &before));
    T(before.it_value.tv_nsec > 0 && before.it_value.tv_nsec <= 50000000);
    long long begin = now();
    T(read(t, &value, 8));
    T(value);
    T(now() - begin > 20000000);
    when.it_interval.tv_nsec = when.it_value.tv_nsec = 10000000;
    T(timerfd_settime(t, 0, &when, &before));
    doze(55);
    T(read(t, &value, 8));
    T(value >= 3);
    when.it_value.tv_nsec = 2000000000;
    T(timerfd_settime(t, 0, &when, NULL));
    T(timerfd_settime(e, 0, &before, NULL));
    when = (struct itimerspec){{0, 0}, {0, 0}};
    T(timerfd_settime(t, 0, &when, NULL));
    struct pollfd one = {t, POLLIN, 0};
    T(poll(&one, 1, 20));
    // memfd
    int m = memfd_create("m", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    T(fcntl(m, F_GETFD));
    T(ftruncate(m, 100));
    T(fcntl(m, F_ADD_SEALS, F_SEAL_SHRINK));
    T(fcntl(m, F_GET_SEALS));
    T(ftruncate(m, 50));
    T(ftruncate(m, 200));
    T(memfd_create("m", 0x4000));
}

void signal_files(void) {
    struct pollfd one = {0, POLLIN, 0};
    pid_t child;
    int m = memfd_create("m", 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int f = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    T(f >= 0);
    struct signalfd_siginfo info = {0};
    T(read(f, &info, sizeof info));
    one.fd = f;
    T(poll(&one, 1, 0));
    T(kill(getpid(), SIGUSR1));
    T(poll(&one, 1, 1000));
    T(read(f, &info, 8));
    T(read(f, &info, sizeof info));
    T(info.ssi_signo);
    T(info.ssi_pid == (uint32_t)getpid());
    T(read(f, &info, sizeof info));
    T(fcntl(f, F_SETFL, 0));
    pid_t own = getpid();
    child = START({
        doze(80);
        kill(own, SIGUSR1);
    });
    T(read(f, &info, sizeof info));
    T(info.ssi_pid == (uint32_t)child);
    T(waitpid(child, NULL, 0) == child);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 9}, got;
    T(epoll_ctl(ep, EPOLL_CTL_ADD, f, &ev));
    T(epoll_wait(ep, &got, 1, 0));
    child = START({
        doze(80);
        kill(own, SIGUSR1);
    });
    T(epoll_wait(ep, &got, 1, 5000));
    T(waitpid(child, NULL, 0) == child);
    T(signalfd(-1, &set, 999));
    T(signalfd(m, &set, 0));
    sigaddset(&set, SIGUSR2);
    T(signalfd(f, &set, 0) == f);
    // Another set of the same descriptor.
    sigprocmask(SIG_BLOCK, &set, NULL);
    fcntl(f, F_SETFL, O_NONBLOCK);
    while (read(f, &info, sizeof info) > 0) {
    }
    one.fd = f;
    T(raise(SIGUSR2));
    T(poll(&one, 1, 0));
    T(write(f, "x", 1));
    // What is taken otherwise is no longer told of.
    int got_signal = 0;
    T(sigwait(&set, &got_signal));
    T(poll(&one, 1, 0));
    // Several at once, with what was said of them.
    sigset_t queued;
    sigemptyset(&queued);
    sigaddset(&queued, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &queued, NULL);
    T(signalfd(f, &queued, 0) == f);
    for (int i = 0; i < 3; i++)
        sigqueue(own, SIGRTMIN, (union sigval){.sival_int = 60 + i});
    struct signalfd_siginfo several[4];
    T(read(f, several, sizeof several) / (long)sizeof *several);
    T(several[2].ssi_int * 1000 + several[2].ssi_code);
    T(several[0].ssi_uid);
    // A child's descriptor tells of the child's signals, the parent's of the parent's.
    raise(SIGRTMIN);
    T(IN_CHILD({
        T(poll(&one, 1, 0));
        T(read(f, &info, sizeof info));
        raise(SIGRTMIN);
        T(poll(&one, 1, 0));
        T(read(f, &info, sizeof info));
    }));
    T(poll(&one, 1, 0));
    T(read(f, &info, sizeof info));
    // The end of a child.
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    T(signalfd(f, &children, 0) == f);
    child = START(_exit(7));
    T(poll(&one, 1, 5000));
    T(read(f, &info, sizeof info));
    T(info.ssi_status * 10 + info.ssi_code);
    T(info.ssi_pid == (uint32_t)child);
    T(waitpid(child, NULL, 0) == child);
    T(epoll_wait(ep, &got, 1, 0));
}

static int pidfd_open(pid_t pid, unsigned flags) { return syscall(SYS_pidfd_open, pid, flags); }

void process_files(void) {
    handle(SIGUSR1, SA_SIGINFO);
    int own = pidfd_open(getpid(), 0);
    T(own >= 0);
    T(fcntl(own, F_GETFD));
    T(pidfd_open(999999, 0));
    T(pidfd_open(-1, 0));
    T(pidfd_open(getpid(), 77));
    T(syscall(SYS_pidfd_send_signal, own, SIGUSR1, NULL, 0));
    T(caught);
    T(caught_info.si_pid == getpid());
    T(syscall(SYS_pidfd_send_signal, own, 0, NULL, 0));
    T(syscall(SYS_pidfd_send_signal, 1, 0, NULL, 0));
    T(syscall(SYS_pidfd_send_signal, own, 999, NULL, 0));
    char byte;
    T(read(own, &byte, 1));
    pid_t child = START(for (;;) pause());
    int f = pidfd_open(child, 0);
    struct pollfd one = {f, POLLIN, 0};
    T(poll(&one, 1, 0));
    siginfo_t info = {0};
    T(waitid(P_PIDFD, f, &info, WEXITED | WNOHANG));
    T(info.si_pid);
    T(syscall(SYS_pidfd_send_signal, f, SIGTERM, NULL, 0));
    T(poll(&one, 1, 5000));
    T(one.revents);
    T(syscall(SYS_pidfd_send_signal, f, 0, NULL, 0));
    T(waitid(P_PIDFD, f, &info, WEXITED));
    T(info.si_pid == child);
    T(info.si_code * 100 + info.si_status);
    T(syscall(SYS_pidfd_send_signal, f, 0, NULL, 0));
    T(waitid(P_PIDFD, f, &info, WEXITED));
    T(waitid(P_PIDFD, 1, &info, WEXITED));
    T(poll(&one, 1, 0));
    // With the process itself.
    int made = -1;
    child = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &made, 0, 0);
    if (child == 0)
        _exit(5);
    T(made >= 0);
    T(fcntl(made, F_GETFD));
    T(waitid(P_PIDFD, made, &info, WEXITED));
    T(info.si_status);
    struct {
        uint64_t words[11];
    } how = {{CLONE_PIDFD, (uintptr_t)&made, 0, 0, SIGCHLD}};
    child = syscall(SYS_clone3, &how, 64);
    if (child == 0)
        _exit(6);
    int by_clone3 = made;
    T(waitid(P_PIDFD, by_clone3, &info, WEXITED));
    T(child > 0 && info.si_pid == child);
    // In a set.
    child = START(doze(60));
    f = pidfd_open(child, 0);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 3}, got;
    T(epoll_ctl(ep, EPOLL_CTL_ADD, f, &ev));
    T(epoll_wait(ep, &got, 1, 0));
    T(epoll_wait(ep, &got, 1, 5000));
    T(waitpid(child, NULL, 0) == child);
    f = pidfd_open(getpid(), PIDFD_NONBLOCK);
    T(fcntl(f, F_GETFL) & O_NONBLOCK);
    child = START(doze(60));
    f = pidfd_open(child, PIDFD_NONBLOCK);
    T(waitid(P_PIDFD, f, &info, WEXITED));
    T(waitpid(child, NULL, 0) == child);
}

void watches(void) {
    char b[4096];
    int i = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    T(i);
    T(fcntl(i, F_GETFD));
    T(inotify_add_watch(i, ".", IN_CREATE | IN_DELETE | IN_MOVED_TO));
    T(inotify_add_watch(i, "missing", IN_CREATE));
    T(inotify_add_watch(i, ".", 0));
    T(inotify_add_watch(1, ".", IN_CREATE));
    T(read(i, b, sizeof b));
    T(close(creat("new", 0600)));
    T(read(i, b, sizeof b));
    struct inotify_event *e = (void *)b;
    T(e->mask);
    S(e->name);
    T(rename("new", "newer"));
    T(read(i, b, sizeof b) > 0);
    T(e->mask);
    T(unlink("newer"));
    T(read(i, b, 4));
    T(read(i, b, sizeof b) > 0);
    T(inotify_rm_watch(i, 1));
    T(inotify_rm_watch(i, 1));
    T(read(i, b, sizeof b));
    T(e->mask);
    T(inotify_init1(77));
}

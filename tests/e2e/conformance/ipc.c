// What processes share: pipes between them, words of memory to sleep on, System V's memory, messages and semaphores, queues.
#include "case.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/uio.h>

// Reads until the end, so much at once; gives how many bytes that were, and whether each was what it should be.
static long drain(int fd, size_t step) {
    static char b[100000];
    long total = 0, got;
    while ((got = read(fd, b, step)) > 0)
        for (long i = 0; i < got; i++, total++)
            if (b[i] != (char)(total * 7 + total / 251))
                return -2;
    return got < 0 ? -3 : total;
}

static long fill(int fd, long length, size_t step) {
    static char b[100000];
    long total = 0;
    while (total < length) {
        size_t part = length - total < (long)step ? length - total : step;
        for (size_t i = 0; i < part; i++)
            b[i] = (char)((total + i) * 7 + (total + i) / 251);
        ssize_t put = write(fd, b, part);
        if (put < 0)
            return -1;
        total += put;
    }
    return total;
}

static void streaming(void) {
    static const int steps[][2] = {{1, 1}, {100, 3000}, {4096, 4096}, {4097, 65536}, {70000, 999}, {100000, 100000}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int p[2];
        pipe(p);
        long length = steps[i][0] == 1 ? 5000 : 500000;
        pid_t child = START({
            close(p[0]);
            _exit(fill(p[1], length, steps[i][0]) == length ? 5 : 6);
        });
        close(p[1]);
        T(drain(p[0], steps[i][1]));
        int status = 0;
        waitpid(child, &status, 0);
        T(status);
        close(p[0]);
    }
}

// A signal every twenty milliseconds, until that is none: one of them comes while a call waits.
static void ring_often(int microseconds) {
    struct itimerval often = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &often, NULL);
}

static int raised;

static void raise_it(int signal) {
    (void)signal;
    raised++;
}

void pipes_between(void) {
    char b[70000] = {0};
    int p[2], q[2], n = 0, status;
    streaming();
    // There and back.
    pipe(p), pipe(q);
    pid_t child = START({
        for (;;) {
            if (read(p[0], b, 1) != 1)
                _exit(3);
            write(q[1], b, 1);
            if (b[0] == 'z')
                _exit(0);
        }
    });
    long echoed = 0;
    for (int i = 0; i < 2000; i++) {
        b[0] = i % 20 + 'a';
        b[0] = i == 1999 ? 'z' : b[0];
        char was = b[0];
        write(p[1], b, 1);
        echoed += read(q[0], b, 1) == 1 && b[0] == was;
    }
    T(echoed);
    waitpid(child, &status, 0);
    T(status);
    // Pieces of no more than PIPE_BUF are not torn apart.
    pid_t writers[3];
    for (int w = 0; w < 3; w++)
        writers[w] = START({
            memset(b, 'A' + w, 4000);
            for (int i = 0; i < 60; i++)
                write(p[1], b, 4000);
        });
    long torn = 0;
    for (int i = 0; i < 180; i++) {
        size_t have = 0;
        while (have < 4000)
            have += read(p[0], b + have, 4000 - have);
        for (int k = 1; k < 4000; k++)
            torn += b[k] != b[0];
    }
    T(torn);
    for (int w = 0; w < 3; w++)
        waitpid(writers[w], &status, 0);
    // Several readers.
    pid_t readers[3];
    for (int r = 0; r < 3; r++)
        readers[r] = START({
            int got = 0;
            close(p[1]);
            while (read(p[0], b, 10) == 10)
                got++;
            _exit(got > 0 ? 0 : 1);
        });
    for (int i = 0; i < 300; i++) {
        write(p[1], b, 10);
        if (i % 50 == 0)
            doze(2);
    }
    close(p[1]);
    doze(10);
    close(p[0]);
    for (int r = 0; r < 3; r++)
        waitpid(readers[r], &status, 0);
    close(q[0]), close(q[1]);
    // The end while somebody waits.
    pipe(p);
    child = START({
        close(p[1]);
        _exit(read(p[0], b, 5) == 0 ? 4 : 5);
    });
    close(p[0]);
    doze(30);
    close(p[1]);
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    pipe(p);
    child = START({
        close(p[0]);
        signal(SIGPIPE, SIG_IGN);
        while (write(p[1], b, 5000) > 0)
            ;
        _exit(errno == EPIPE ? 4 : 5);
    });
    close(p[1]);
    doze(30);
    close(p[0]);
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    // Its writer is killed while it waits.
    pipe(p);
    child = START({
        close(p[0]);
        fill(p[1], 1000000, 5000);
    });
    close(p[1]);
    for (int i = 0; i < 1000 && n < 50000; i++)
        ioctl(p[0], FIONREAD, &n), doze(5);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    T(WTERMSIG(status));
    T(drain(p[0], 4096) > 40000);
    close(p[0]);
    // Room: what fits, and what does not in one piece.
    pipe2(p, O_NONBLOCK);
    T(write(p[1], b, 65536));
    T(write(p[1], b, 1));
    T(read(p[0], b, 4095));
    T(write(p[1], b, 4096));
    T(read(p[0], b, 4097));
    T(write(p[1], b, 4096));
    T(ioctl(p[0], FIONREAD, &n));
    T(n > 60000);
    T(write(p[1], b, 0));
    T(read(p[0], b, 0));
    T(write(p[1], (void *)8, 5) < 0);
    while (read(p[0], b, sizeof b) > 0)
        ;
    T(write(p[1], (void *)8, 5));
    T(write(p[1], "abcdef", 6));
    T(read(p[0], (void *)8, 3));
    struct iovec parts[3] = {{b, 2}, {b + 10, 0}, {b + 20, 100}};
    T(readv(p[0], parts, 3));
    T(b[1] + b[23]);
    struct iovec out[2] = {{"12", 2}, {"345", 3}};
    T(writev(p[1], out, 2));
    T(writev(p[1], out, -1));
    T(readv(p[0], parts, 2000));
    T(read(p[0], b, 100));
    // Waiting is the open file's affair, whoever changes it.
    child = START({ fcntl(p[0], F_SETFL, 0); });
    waitpid(child, &status, 0);
    T(fcntl(p[0], F_GETFL) & O_NONBLOCK);
    child = START({
        doze(20);
        write(p[1], "late", 4);
    });
    T(read(p[0], b, 100));
    waitpid(child, &status, 0);
    T(ioctl(p[0], FIONBIO, &(int){1}));
    T(read(p[0], b, 100));
    // A signal interrupts who waits.
    fcntl(p[0], F_SETFL, 0);
    struct sigaction action = {.sa_handler = raise_it};
    sigaction(SIGALRM, &action, NULL);
    ring_often(20000);
    T(read(p[0], b, 100));
    T(raised > 0);
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    child = START({
        doze(60);
        write(p[1], "x", 1);
    });
    T(read(p[0], b, 100));
    ring_often(0);
    waitpid(child, &status, 0);
    close(p[0]), close(p[1]);
}

void pipes_as_files(void) {
    char b[70000] = {0};
    int p[2], q[2], status;
    signal(SIGPIPE, SIG_IGN);
    // Used, and then waited for together with others.
    pipe(p);
    write(p[1], "abcdef", 6);
    T(read(p[0], b, 2));
    struct pollfd one[2] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}};
    T(poll(one, 2, 0));
    T(one[0].revents * 100 + one[1].revents);
    T(read(p[0], b, 2));
    T(b[0]);
    int set = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {0}};
    T(epoll_ctl(set, EPOLL_CTL_ADD, p[0], &event));
    T(epoll_wait(set, &event, 1, 0));
    T(read(p[0], b, 100));
    T(epoll_wait(set, &event, 1, 0));
    pid_t child = START({
        doze(20);
        write(p[1], "x", 1);
    });
    T(epoll_wait(set, &event, 1, 1000));
    waitpid(child, &status, 0);
    close(set), close(p[0]), close(p[1]);
    // One waits in read, the other asks for readiness: both see the same pipe.
    pipe(p);
    child = START({
        close(p[1]);
        _exit(drain(p[0], 100) == 1000 ? 5 : 6);
    });
    doze(20);
    struct pollfd writer = {p[1], POLLOUT, 0};
    T(poll(&writer, 1, 0));
    T(fill(p[1], 1000, 10));
    close(p[0]), close(p[1]);
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    // Duplicates, and what is left of them.
    pipe(p);
    T(write(p[1], "123", 3));
    int d = dup(p[0]);
    T(read(d, b, 1));
    T(dup2(d, 40));
    T(read(40, b, 1));
    close(p[0]), close(d);
    T(read(40, b, 1));
    T(b[0]);
    T(dup2(p[1], 41));
    close(p[1]);
    T(write(41, "x", 1));
    close(41);
    T(read(40, b, 9));
    T(read(40, b, 9));
    // Another file at a number that was a pipe's.
    pipe(p);
    write(p[1], "abc", 3), read(p[0], b, 1);
    int file = open("plain", O_RDWR | O_CREAT, 0600);
    write(file, "file", 4), lseek(file, 0, SEEK_SET);
    T(dup2(file, p[0]));
    T(read(p[0], b, 10));
    T(write(p[1], "x", 1) < 0);
    close(p[0]), close(p[1]);
    // By a socket.
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    pipe(p);
    write(p[1], "hello", 5);
    read(p[0], b, 1);
    child = START({
        char c[CMSG_SPACE(sizeof(int))] = {0}, x = 'x';
        struct iovec part = {&x, 1};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
        recvmsg(s[1], &m, 0);
        int got = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&m));
        _exit(read(got, b, 100));
    });
    char c[CMSG_SPACE(sizeof(int))] = {0}, x = 'x';
    struct iovec part = {&x, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *header = CMSG_FIRSTHDR(&m);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &p[0], sizeof(int));
    T(sendmsg(s[0], &m, 0));
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    close(p[0]), close(p[1]);
    // Over exec.
    pipe(p);
    write(p[1], "one", 3), read(p[0], b, 1);
    dup2(p[0], 0);
    fflush(stdout);
    child = START({ execl("/bin/busybox", "busybox", "sh", "-c", "read x; test $x = netwo", NULL); });
    write(p[1], "two\n", 4);
    close(p[1]);
    waitpid(child, &status, 0);
    T(status);
    close(p[0]);
    // Sizes.
    pipe(p);
    write(p[1], b, 100), read(p[0], b, 50);
    T(fcntl(p[1], F_GETPIPE_SZ));
    T(fcntl(p[1], F_SETPIPE_SZ, 4096));
    T(fcntl(p[0], F_GETPIPE_SZ));
    T(read(p[0], b, 100));
    close(p[0]), close(p[1]);
    // From file to file.
    pipe(p);
    lseek(file, 0, SEEK_SET);
    write(p[1], "ab", 2);
    T(sendfile(p[1], file, NULL, 4));
    T(read(p[0], b, 100));
    struct stat st;
    T(fstat(p[0], &st));
    T(S_ISFIFO(st.st_mode));
    T(lseek(p[0], 0, SEEK_CUR));
    T(isatty(p[0]));
    T(write(p[1], "z", 1));
    T(read(p[0], b, 100));
    fd_set look;
    FD_ZERO(&look);
    FD_SET(p[0], &look);
    struct timeval no = {0, 0};
    T(select(p[0] + 1, &look, NULL, NULL, &no));
    close(p[0]), close(p[1]);
    // Many at once.
    int many[60][2], moved = 0;
    for (int i = 0; i < 60; i++)
        pipe(many[i]);
    child = START({
        for (int i = 0; i < 60; i++)
            write(many[i][1], b, i + 1);
    });
    for (int i = 0; i < 60; i++)
        moved += read(many[i][0], b, 100);
    T(moved);
    waitpid(child, &status, 0);
}

struct words {
    pthread_mutex_t plain, robust;
    pthread_cond_t turned;
    sem_t there, back;
    int turn, count, word;
    pthread_barrier_t barrier;
};

static long futex(int *word, int operation, int value, const struct timespec *time) {
    return syscall(SYS_futex, word, operation, value, time, NULL, ~0);
}

// As soon as there is somebody to be woken.
static long wake_somebody(int *word, int most) {
    long woken = 0;
    for (int i = 0; i < 1000 && (woken = futex(word, FUTEX_WAKE, most, NULL)) == 0; i++)
        doze(5);
    return woken;
}

static void words_in(struct words *w) {
    int status;
    pthread_mutexattr_t ma;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    T(pthread_mutex_init(&w->plain, &ma));
    pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
    T(pthread_mutex_init(&w->robust, &ma));
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    T(pthread_cond_init(&w->turned, &ca));
    T(sem_init(&w->there, 1, 0));
    T(sem_init(&w->back, 1, 0));
    pid_t child = START({
        for (int i = 0; i < 1000; i++)
            sem_wait(&w->there), sem_post(&w->back);
        for (int i = 0; i < 5000; i++)
            pthread_mutex_lock(&w->plain), w->count++, pthread_mutex_unlock(&w->plain);
        for (int i = 0; i < 200; i++) {
            pthread_mutex_lock(&w->plain);
            while (w->turn != 1)
                pthread_cond_wait(&w->turned, &w->plain);
            w->turn = 0;
            pthread_cond_broadcast(&w->turned);
            pthread_mutex_unlock(&w->plain);
        }
        pthread_mutex_lock(&w->robust);
    });
    for (int i = 0; i < 1000; i++)
        sem_post(&w->there), sem_wait(&w->back);
    for (int i = 0; i < 5000; i++)
        pthread_mutex_lock(&w->plain), w->count++, pthread_mutex_unlock(&w->plain);
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&w->plain);
        while (w->turn != 0)
            pthread_cond_wait(&w->turned, &w->plain);
        w->turn = 1;
        pthread_cond_broadcast(&w->turned);
        pthread_mutex_unlock(&w->plain);
    }
    waitpid(child, &status, 0);
    T(status);
    T(w->count);
    T(pthread_mutex_lock(&w->robust) == EOWNERDEAD);
    T(pthread_mutex_consistent(&w->robust));
    T(pthread_mutex_unlock(&w->robust));
    // The calls themselves.
    struct timespec moment = {0, 20000000};
    w->word = 5;
    T(futex(&w->word, FUTEX_WAIT, 4, NULL));
    T(futex(&w->word, FUTEX_WAIT, 5, &moment));
    T(futex(&w->word, FUTEX_WAKE, 1, NULL));
    child = START({ _exit(futex(&w->word, FUTEX_WAIT, 5, NULL) == 0 ? 4 : 5); });
    T(wake_somebody(&w->word, 10));
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    // One that is killed is not woken in another's place.
    child = START(futex(&w->word, FUTEX_WAIT, 5, NULL));
    doze(60);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    T(futex(&w->word, FUTEX_WAKE, 10, NULL));
    handle(SIGUSR1, 0);
    child = START({
        long gave = futex(&w->word, FUTEX_WAIT, 5, NULL);
        _exit(gave == -1 && errno == EINTR ? 4 : 5);
    });
    while (waitpid(child, &status, WNOHANG) == 0)
        kill(child, SIGUSR1), doze(20);
    T(WEXITSTATUS(status));
    T(w->word);
}

void shared_words(void) {
    struct words *w = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    words_in(w);
    int fd = open("words", O_RDWR | O_CREAT, 0600), status;
    ftruncate(fd, 16384);
    w = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    words_in(w);
    // The same word by another address, in another process that maps the file by itself.
    int *here = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    here[1024] = 9;
    pid_t child = START({
        int *there = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
        _exit(futex(there, FUTEX_WAIT, 9, NULL) == 0 ? 4 : 5);
    });
    T(wake_somebody(here + 1024, 1));
    waitpid(child, &status, 0);
    T(WEXITSTATUS(status));
    here = mremap(here, 12288, 65536, MREMAP_MAYMOVE);
    T(here != MAP_FAILED);
    sem_t *named = sem_open("/conformance", O_CREAT | O_EXCL, 0600, 0);
    T(named != SEM_FAILED);
    child = START({
        sem_t *again = sem_open("/conformance", 0);
        doze(20);
        sem_post(again);
    });
    T(sem_wait(named));
    waitpid(child, &status, 0);
    T(sem_unlink("/conformance"));
    T(sem_unlink("/conformance"));
}

void segments(void) {
    struct shmid_ds ds;
    int status;
    T(shmget(IPC_PRIVATE, 0, 0600));
    T(shmget(4711, 100, 0600));
    int id = shmget(4711, 5000, IPC_CREAT | IPC_EXCL | 0600);
    T(id >= 0);
    T(shmget(4711, 5000, IPC_CREAT | IPC_EXCL | 0600));
    T(shmget(4711, 100000, 0600));
    T(shmget(4711, 0, 0600) == id);
    char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
    T(p != (char *)-1 && q != (char *)-1 && p != q);
    strcpy(p, "hello");
    S(q);
    T(shmctl(id, IPC_STAT, &ds));
    T(ds.shm_segsz);
    T(ds.shm_nattch);
    T(ds.shm_perm.mode);
    T(ds.shm_cpid == getpid());
    T(IN_CHILD({
        strcat(p, " child");
        shmdt(q);
        shmctl(id, IPC_STAT, &ds);
        _exit(ds.shm_nattch);
    }) >> 8);
    S(q);
    T(shmctl(id, IPC_STAT, &ds));
    T(ds.shm_nattch);
    T(IN_CHILD(*q = 1) & 127);
    T(shmctl(id, IPC_RMID, NULL));
    T(shmget(4711, 100, 0600));
    T(shmctl(id, IPC_STAT, &ds));
    T(ds.shm_perm.mode);
    T(shmdt(q));
    T(shmdt(q));
    T(shmdt(p + 4096));
    char *at = p;
    T(shmdt(p));
    T(shmctl(id, IPC_STAT, &ds));
    T((long)shmat(id, NULL, 0));
    id = shmget(IPC_PRIVATE, 4096, 0600);
    T((char *)shmat(id, at + 5, 0) == (char *)-1);
    T((char *)shmat(id, at + 5, SHM_RND) == at);
    T((char *)shmat(id, at, 0) == (char *)-1);
    T((char *)shmat(id, at, SHM_REMAP) == at);
    ds.shm_perm.mode = 0640;
    T(shmctl(id, IPC_SET, &ds));
    T(shmctl(id, IPC_STAT, &ds));
    T(ds.shm_perm.mode);
    T(shmctl(id, IPC_RMID, NULL));
    T(shmctl(-1, IPC_STAT, &ds));
    // A child that executes something has nothing attached.
    id = shmget(IPC_PRIVATE, 4096, 0600);
    shmat(id, NULL, 0);
    T(IN_CHILD(execl("/bin/busybox", "busybox", "true", NULL)));
    shmctl(id, IPC_STAT, &ds);
    T(ds.shm_nattch);
    shmctl(id, IPC_RMID, NULL);
}

void messages(void) {
    struct message {
        long kind;
        char text[100];
    } m = {1, "text"};
    struct msqid_ds ds;
    int status;
    T(msgget(815, 0600));
    int id = msgget(815, IPC_CREAT | 0600);
    T(id >= 0);
    T(msgget(815, IPC_CREAT | IPC_EXCL | 0600));
    T(msgget(815, 0600) == id);
    T(msgsnd(id, &m, 5, 0));
    m.kind = 0;
    T(msgsnd(id, &m, 5, 0));
    m.kind = 3;
    T(msgsnd(id, &m, 0, 0));
    m.kind = 2;
    T(msgsnd(id, &m, 100, 0));
    T(msgsnd(id, &m, -1, 0));
    T(msgsnd(id, (void *)8, 5, 0));
    T(msgctl(id, IPC_STAT, &ds));
    T(ds.msg_qnum);
    T(msgrcv(id, &m, 100, 3, 0));
    T(m.kind);
    T(msgrcv(id, &m, 2, 1, 0));
    T(msgrcv(id, &m, 2, 1, MSG_NOERROR));
    T(msgrcv(id, &m, 100, -2, 0));
    T(m.kind);
    T(msgrcv(id, &m, 100, 0, IPC_NOWAIT));
    pid_t child = START({
        for (int i = 0; i < 100; i++) {
            msgrcv(id, &m, 100, 1, 0);
            m.kind = 2;
            msgsnd(id, &m, i, 0);
        }
    });
    long right = 0;
    for (int i = 0; i < 100; i++) {
        m.kind = 1;
        msgsnd(id, &m, 5, 0);
        right += msgrcv(id, &m, 100, 2, 0) == i;
    }
    T(right);
    waitpid(child, &status, 0);
    // A queue that is full.
    child = START({
        doze(20);
        for (int i = 0; i < 1000; i++)
            msgrcv(id, &m, 100, 0, 0);
    });
    for (int i = 0; i < 1000; i++)
        right += msgsnd(id, &m, 100, 0) == 0;
    T(right);
    waitpid(child, &status, 0);
    while (msgsnd(id, &m, 100, IPC_NOWAIT) == 0)
        ;
    T(msgsnd(id, &m, 100, IPC_NOWAIT));
    while (msgrcv(id, &m, 100, 0, IPC_NOWAIT) >= 0)
        ;
    handle(SIGALRM, SA_RESTART);
    ring_often(20000);
    T(msgrcv(id, &m, 100, 0, 0));
    ring_often(0);
    child = START({
        doze(300);
        msgctl(id, IPC_RMID, NULL);
    });
    T(msgrcv(id, &m, 100, 0, 0));
    waitpid(child, &status, 0);
    T(msgrcv(id, &m, 100, 0, 0));
    T(msgctl(id, IPC_RMID, NULL));
    T(msgctl(id, 99, NULL));
}

void semaphores(void) {
    union {
        int value;
        struct semid_ds *ds;
        unsigned short *all;
    } a = {0};
    struct semid_ds ds;
    int status;
    T(semget(IPC_PRIVATE, 0, 0600));
    int id = semget(77, 3, IPC_CREAT | 0600);
    T(id >= 0);
    T(semget(77, 4, 0600));
    T(semget(77, 3, IPC_CREAT | IPC_EXCL | 0600));
    a.value = 4;
    T(semctl(id, 1, SETVAL, a));
    T(semctl(id, 1, GETVAL));
    T(semctl(id, 3, GETVAL));
    T(semctl(id, 0, SETVAL, (a.value = -1, a)));
    unsigned short all[3] = {1, 2, 3};
    a.all = all;
    T(semctl(id, 0, SETALL, a));
    memset(all, 0, sizeof all);
    T(semctl(id, 0, GETALL, a));
    T(all[0] * 100 + all[1] * 10 + all[2]);
    a.ds = &ds;
    T(semctl(id, 0, IPC_STAT, a));
    T(ds.sem_nsems);
    struct sembuf two[2] = {{0, -1, 0}, {1, -2, 0}}, zero = {0, 0, 0}, much = {2, -50, IPC_NOWAIT};
    T(semop(id, two, 2));
    T(semop(id, &zero, 1));
    T(semop(id, &much, 1));
    T(semop(id, two, 0));
    T(semop(id, two, 501));
    T(semop(id, (void *)8, 1));
    two[1].sem_num = 9;
    T(semop(id, two, 2));
    much.sem_flg = 0;
    struct timespec moment = {0, 20000000}, wrong = {0, -1};
    T(semtimedop(id, &much, 1, &moment));
    T(semtimedop(id, &much, 1, &wrong));
    struct sembuf up = {0, 1, 0}, down = {0, -1, 0};
    pid_t child = START({
        struct sembuf other = {1, 1, 0};
        for (int i = 0; i < 200; i++)
            semop(id, &down, 1), semop(id, &other, 1);
    });
    struct sembuf take = {1, -1, 0};
    for (int i = 0; i < 200; i++)
        semop(id, &up, 1), semop(id, &take, 1);
    waitpid(child, &status, 0);
    T(status);
    T(semctl(id, 0, GETVAL));
    struct sembuf undone = {2, -2, SEM_UNDO};
    T(IN_CHILD(semop(id, &undone, 1)));
    T(semctl(id, 2, GETVAL));
    undone.sem_op = 5;
    child = START({
        semop(id, &undone, 1);
        pause();
    });
    for (int i = 0; i < 1000 && semctl(id, 2, GETVAL) != 8; i++)
        doze(5);
    T(semctl(id, 2, GETVAL));
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    T(semctl(id, 2, GETVAL));
    handle(SIGALRM, SA_RESTART);
    ring_often(20000);
    T(semop(id, &down, 1));
    ring_often(0);
    child = START({
        doze(300);
        semctl(id, 0, IPC_RMID);
    });
    T(semop(id, &down, 1));
    waitpid(child, &status, 0);
    T(semop(id, &down, 1));
    T(semctl(id, 0, GETVAL));
}

void message_queues(void) {
    char b[64];
    unsigned priority = 0;
    int status;
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 32};
    T(mq_open("/none", O_RDWR));
    mqd_t q = mq_open("/q", O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
    T(q >= 0);
    T(mq_open("/q", O_CREAT | O_EXCL | O_RDWR, 0600, &attributes));
    T(mq_send(q, "low", 3, 1));
    T(mq_send(q, "high", 4, 9));
    T(mq_send(q, "", 0, 1));
    T(mq_send(q, b, 33, 1));
    T(mq_send(q, b, 1, 40000));
    T(mq_receive(q, b, 31, &priority));
    T(mq_receive(q, b, 64, &priority));
    T(priority);
    T(mq_receive(q, b, 64, NULL));
    T(mq_receive(q, b, 64, &priority));
    T(mq_getattr(q, &attributes));
    T(attributes.mq_maxmsg * 1000 + attributes.mq_msgsize * 10 + attributes.mq_curmsgs);
    T(attributes.mq_flags);
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    T(mq_timedreceive(q, b, 64, NULL, &time));
    time.tv_sec += (time.tv_nsec += 20000000) >= 1000000000;
    time.tv_nsec %= 1000000000;
    T(mq_timedreceive(q, b, 64, NULL, &time));
    time.tv_nsec = -1;
    T(mq_timedreceive(q, b, 64, NULL, &time));
    attributes.mq_flags = O_NONBLOCK;
    T(mq_setattr(q, &attributes, NULL));
    T(mq_receive(q, b, 64, NULL));
    T(mq_getattr(q, &attributes));
    T(attributes.mq_flags == O_NONBLOCK);
    for (int i = 0; i < 4; i++)
        T(mq_send(q, "x", 1, 0));
    T(mq_send(q, "x", 1, 0));
    attributes.mq_flags = 12345;
    T(mq_setattr(q, &attributes, NULL));
    attributes.mq_flags = 0;
    T(mq_setattr(q, &attributes, &attributes));
    pid_t child = START({
        mqd_t other = mq_open("/q", O_RDWR);
        doze(20);
        for (int i = 0; i < 10; i++)
            mq_receive(other, b, 64, NULL);
        mq_send(other, "answer", 6, 5);
    });
    for (int i = 0; i < 6; i++)
        T(mq_send(q, "x", 1, 0));
    waitpid(child, &status, 0);
    T(mq_receive(q, b, 64, &priority));
    struct pollfd one = {q, POLLIN | POLLOUT, 0};
    T(poll(&one, 1, 0));
    T(one.revents);
    T(mq_close(q));
    T(mq_receive(q, b, 64, NULL));
    T(mq_unlink("/q"));
    T(mq_unlink("/q"));
    int plain = open("file", O_RDWR | O_CREAT, 0600);
    T(mq_send(plain, "x", 1, 0));
}

// Calls that few programs make.
#include "case.h"
#include <mqueue.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <utime.h>

static long fill(int fd, const char *text) { return write(fd, text, strlen(text)); }

static const char *rest_of(int fd) {
    static char text[4096];
    long length = read(fd, text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    return text;
}

void splices(void) {
    int one[2], two[2];
    T(pipe(one) | pipe(two));
    int file = open("f", O_CREAT | O_RDWR, 0600);
    fill(file, "honeybees");
    off_t at = 5;
    T(splice(file, &at, one[1], NULL, 100, 0));
    T(at);
    T(lseek(file, 0, SEEK_CUR));
    T(tee(one[0], two[1], 100, 0));
    S(rest_of(two[0]));
    T(splice(one[0], NULL, two[1], NULL, 2, 0));
    S(rest_of(two[0]));
    at = 1;
    T(splice(one[0], NULL, file, &at, 100, 0));
    char text[16] = {0};
    pread(file, text, 9, 0);
    S(text);
    T(splice(one[0], NULL, two[1], NULL, 1, SPLICE_F_NONBLOCK));
    T(tee(one[0], two[1], 1, SPLICE_F_NONBLOCK));
    T(splice(file, NULL, file, NULL, 1, 0));
    T(splice(one[0], NULL, one[1], NULL, 1, 0));
    T(splice(99, NULL, one[1], NULL, 1, 0));
    T(splice(one[0], NULL, two[1], NULL, 1, 64));
    T(splice(one[0], &at, two[1], NULL, 1, 0));
    struct iovec parts[2] = {{"to", 2}, {"gether", 6}};
    T(vmsplice(one[1], parts, 2, 0));
    S(rest_of(one[0]));
    T(vmsplice(file, parts, 2, 0));
    T(vmsplice(one[1], parts, 2, 99));
    // Waiting for something to move.
    pid_t child = START({
        doze(60);
        fill(one[1], "late");
    });
    T(splice(one[0], NULL, two[1], NULL, 100, 0));
    S(rest_of(two[0]));
    T(waitpid(child, NULL, 0) == child);
    child = START({
        doze(60);
        fill(one[1], "late");
    });
    T(tee(one[0], two[1], 100, 0));
    T(waitpid(child, NULL, 0) == child);
    close(one[1]);
    rest_of(one[0]);
    T(splice(one[0], NULL, two[1], NULL, 1, 0));
}

static long open_how(int at, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve, size_t size) {
    struct {
        uint64_t flags, mode, resolve, more;
    } how = {flags, mode, resolve, 0};
    return syscall(SYS_openat2, at, path, &how, size);
}

void further(void) {
    // openat2.
    mkdir("d", 0755);
    close(creat("d/in", 0644));
    close(creat("out", 0644));
    symlink("../out", "d/link");
    int d = open("d", O_DIRECTORY);
    T(open_how(AT_FDCWD, "new", O_CREAT | O_RDWR | O_CLOEXEC, 0600, 0, 24) >= 0);
    struct stat it;
    stat("new", &it);
    T(it.st_mode & 0777);
    T(open_how(d, "in", O_RDONLY, 0, 8, 24) >= 0);
    T(open_how(d, "link", O_RDONLY, 0, 8, 24));
    T(open_how(d, "link", O_RDONLY, 0, 0, 24) >= 0);
    T(open_how(d, "link", O_RDONLY, 0, 4, 24));
    T(open_how(d, "../out", O_RDONLY, 0, 8, 24));
    T(open_how(d, "/in", O_RDONLY, 0, 16, 24) >= 0);
    T(open_how(d, "in", O_RDONLY, 0, 1 << 20, 24));
    T(open_how(d, "in", O_RDONLY, 0600, 0, 24));
    T(open_how(d, "in", 1ULL << 40, 0, 0, 24));
    T(open_how(d, "in", O_RDONLY, 0, 0, 8));
    T(open_how(d, "in", O_RDONLY, 0, 0, 32) >= 0);
    // Times, as they were set before there were nanoseconds.
    struct utimbuf u = {1000, 2000};
    T(syscall(SYS_utime, "new", &u));
    stat("new", &it);
    T(it.st_atime * 10 + it.st_mtime);
    struct timeval v[2] = {{3000, 5}, {4000, 6}};
    T(syscall(SYS_utimes, "new", v));
    stat("new", &it);
    T(it.st_mtim.tv_sec + it.st_mtim.tv_nsec);
    T(syscall(SYS_futimesat, d, "in", v));
    T(syscall(SYS_utime, "missing", &u));
    char entries[1024];
    T(syscall(SYS_getdents, d, entries, sizeof entries) > 60);
    T(syscall(SYS_getdents, d, entries, sizeof entries));
    // Its own memory.
    char from[] = "busy bees";
    char into[16] = {0};
    struct iovec local[2] = {{into, 3}, {into + 8, 4}};
    struct iovec there[2] = {{from, 2}, {from + 5, 4}};
    T(syscall(SYS_process_vm_readv, getpid(), local, 2, there, 2, 0));
    S(into);
    S(into + 8);
    T(syscall(SYS_process_vm_writev, getpid(), there, 2, local, 2, 0));
    S(from);
    there[1].iov_base = (void *)8;
    T(syscall(SYS_process_vm_readv, getpid(), local, 2, there, 2, 0));
    there[0].iov_base = (void *)8;
    T(syscall(SYS_process_vm_readv, getpid(), local, 2, there, 2, 0));
    T(syscall(SYS_process_vm_readv, 999999, local, 2, there, 2, 0));
    T(syscall(SYS_process_vm_readv, getpid(), local, 2, there, 2, 5));
    T(syscall(SYS_mlock2, from, 1, 0));
    T(symlink("nowhere", "dangling"));
    T(lremovexattr("dangling", "user.none"));
}

static volatile int told;

static void from_queue(int signal, siginfo_t *info, void *context) {
    (void)context;
    told = info->si_value.sival_int * 10 + (info->si_code == SI_MESGQ);
}

void queue_notices(void) {
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 16};
    char name[64];
    snprintf(name, sizeof name, "/notice-%d", getpid());
    mqd_t queue = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
    T(queue >= 0);
    mq_unlink(name);
    struct sigaction action = {.sa_sigaction = from_queue, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 7};
    T(mq_notify(queue, &event));
    T(mq_notify(queue, &event));
    T(IN_CHILD(T(mq_notify(queue, &event))));
    T(told);
    T(mq_send(queue, "bee", 3, 0));
    for (int i = 0; i < 200 && !told; i++)
        doze(10);
    T(told);
    // Once, and only when it was empty.
    told = 0;
    T(mq_notify(queue, &event));
    T(mq_send(queue, "bee", 3, 0));
    doze(50);
    T(told);
    char text[16];
    T(mq_receive(queue, text, sizeof text, NULL));
    T(mq_receive(queue, text, sizeof text, NULL));
    T(IN_CHILD(T(mq_send(queue, "bee", 3, 0))));
    for (int i = 0; i < 200 && !told; i++)
        doze(10);
    T(told);
    T(mq_receive(queue, text, sizeof text, NULL));
    told = 0;
    T(mq_notify(queue, &event));
    T(mq_notify(queue, NULL));
    T(mq_send(queue, "bee", 3, 0));
    doze(50);
    T(told);
    event.sigev_signo = 99;
    T(mq_notify(queue, &event));
    event.sigev_notify = SIGEV_NONE;
    T(mq_notify(queue, &event));
    T(mq_notify(0, &event));
    T(mq_notify(999, &event));
}

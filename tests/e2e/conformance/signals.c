// Signals and timers.
#include "case.h"
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/times.h>

static long mask_of(void) {
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    long bits = 0;
    for (int i = 1; i < 64; i++)
        bits |= (long)(sigismember(&set, i) == 1) << i;
    return bits;
}

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    if (signal)
        sigaddset(&set, signal);
    return set;
}

static long pending(int signal) {
    sigset_t set;
    sigpending(&set);
    return sigismember(&set, signal);
}

void signals(void) {
    sigset_t one = only(SIGUSR1), none = only(0), all;
    sigfillset(&all);
    T(mask_of());
    T(sigprocmask(SIG_BLOCK, &one, NULL));
    T(mask_of());
    T(raise(SIGUSR1));
    T(pending(SIGUSR1));
    T(pending(SIGUSR2));
    handle(SIGUSR1, 0);
    T(caught);
    T(sigprocmask(SIG_UNBLOCK, &one, NULL));
    T(caught);
    T(pending(SIGUSR1));
    T(sigprocmask(SIG_SETMASK, &all, NULL));
    T(mask_of() >> SIGKILL & 1);
    T(mask_of() >> SIGSTOP & 1);
    T(sigprocmask(99, &one, NULL));
    T(sigprocmask(99, NULL, NULL));
    // However often it is sent, it comes once.
    T(kill(getpid(), SIGUSR1) + kill(getpid(), SIGUSR1));
    T(sigprocmask(SIG_SETMASK, &none, NULL));
    T(caught);
    T(signal(SIGKILL, SIG_IGN) == SIG_ERR ? -1 : 0);
    T(signal(SIGSTOP, SIG_IGN) == SIG_ERR ? -1 : 0);
    T(signal(65, SIG_IGN) == SIG_ERR ? -1 : 0);
    struct sigaction action = {.sa_handler = SIG_DFL}, old;
    T(sigaction(SIGUSR1, &action, &old));
    T(old.sa_handler == count);
    T(sigaction(SIGUSR1, NULL, &old));
    T(old.sa_handler == SIG_DFL);
    T(sigaction(0, NULL, &old));
    T(sigaction(SIGKILL, NULL, &old));
    // What is ignored is not even pending.
    signal(SIGUSR2, SIG_IGN);
    T(raise(SIGUSR2));
    sigset_t two = only(SIGUSR2);
    sigprocmask(SIG_BLOCK, &two, NULL);
    signal(SIGUSR2, SIG_DFL);
    T(raise(SIGUSR2));
    T(pending(SIGUSR2));
    signal(SIGUSR2, SIG_IGN);
    T(pending(SIGUSR2));
    // Waiting for one.
    sigset_t usr1 = only(SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    siginfo_t info = {0};
    struct timespec little = {0, 30000000};
    T(sigtimedwait(&usr1, &info, &little));
    raise(SIGUSR1);
    T(sigtimedwait(&usr1, &info, &little));
    T(info.si_signo);
    T(info.si_pid == getpid());
    pid_t own = getpid();
    pid_t child = START({
        doze(60);
        kill(own, SIGUSR1);
    });
    int got = 0;
    T(sigwait(&usr1, &got));
    T(got);
    T(waitpid(child, NULL, 0) == child);
    child = START({
        doze(60);
        kill(own, SIGUSR1);
    });
    T(sigwaitinfo(&usr1, &info));
    T(info.si_pid == child);
    T(info.si_code);
    T(info.si_uid);
    T(waitpid(child, NULL, 0) == child);
    // A mask for the time of waiting.
    handle(SIGUSR1, 0);
    caught = 0;
    raise(SIGUSR1);
    T(caught);
    T(sigsuspend(&none));
    T(caught);
    T(mask_of() >> SIGUSR1 & 1);
    raise(SIGUSR1);
    struct pollfd nothing;
    T(ppoll(&nothing, 0, NULL, &none));
    T(caught);
    raise(SIGUSR1);
    T(pselect(0, NULL, NULL, NULL, NULL, &none));
    T(caught);
    int ep = epoll_create1(0);
    struct epoll_event event;
    raise(SIGUSR1);
    T(epoll_pwait(ep, &event, 1, -1, &none));
    T(caught);
    T(mask_of() >> SIGUSR1 & 1);
    T(IN_CHILD(_exit(pending(SIGUSR1))));
    // Defaults.
    for (int i = 1; i < 32; i++) {
        if (i == SIGSTOP || i == SIGTSTP || i == SIGTTIN || i == SIGTTOU)
            continue;
        int status = IN_CHILD({
            signal(i, SIG_DFL);
            sigprocmask(SIG_SETMASK, &none, NULL);
            raise(i);
        });
        T(i * 1000 + (status & 0x7f));
    }
}

static volatile int depth, deepest, entries, masked;
static void *volatile on_stack;

static void nest(int signal) {
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (++entries < 3)
        raise(signal);
    depth--;
}

static void look(int signal) {
    char here;
    on_stack = &here;
    masked = mask_of() >> signal & 1;
    count(signal);
}

static volatile int order[8], orders;

static void record(int signal) {
    if (orders < 8)
        order[orders++] = signal;
}

void handlers(void) {
    handle(SIGUSR1, SA_RESETHAND);
    T(raise(SIGUSR1));
    struct sigaction action, old;
    T(sigaction(SIGUSR1, NULL, &old));
    T(old.sa_handler == SIG_DFL);
    action = (struct sigaction){.sa_handler = nest};
    T(sigaction(SIGUSR1, &action, NULL));
    T(raise(SIGUSR1));
    T(deepest);
    deepest = depth = entries = 0;
    action.sa_flags = SA_NODEFER;
    T(sigaction(SIGUSR1, &action, NULL));
    T(raise(SIGUSR1));
    T(deepest);
    action = (struct sigaction){.sa_handler = look};
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    T(masked);
    T(mask_of());
    // A stack for handlers.
    static char room[65536];
    stack_t stack = {.ss_sp = room, .ss_size = sizeof room}, before;
    T(sigaltstack(&stack, &before));
    T(before.ss_flags);
    raise(SIGUSR1);
    T((char *)on_stack >= room && (char *)on_stack < room + sizeof room);
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    T((char *)on_stack >= room && (char *)on_stack < room + sizeof room);
    T(sigaltstack(NULL, &before));
    T(before.ss_size);
    stack.ss_size = 100;
    T(sigaltstack(&stack, NULL));
    stack.ss_flags = SS_DISABLE;
    T(sigaltstack(&stack, NULL));
    stack.ss_flags = 77;
    T(sigaltstack(&stack, NULL));
    // Of a stack that overflows, something can still be said.
    T(IN_CHILD({
        stack = (stack_t){.ss_sp = room, .ss_size = sizeof room};
        sigaltstack(&stack, NULL);
        action.sa_handler = _exit;
        sigaction(SIGSEGV, &action, NULL);
        *(volatile char *)8 = 1;
    }));
    // The one that asks for it knows who sent it.
    handle(SIGUSR1, SA_SIGINFO);
    raise(SIGUSR1);
    T(caught_info.si_signo * 1000 + caught_info.si_code);
    T(caught_info.si_pid == getpid());
    kill(getpid(), SIGUSR1);
    T(caught_info.si_code);
    // Lower numbers first.
    sigset_t all, none = only(0);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    action = (struct sigaction){.sa_handler = record, .sa_mask = all};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    kill(getpid(), SIGUSR2);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGHUP);
    sigprocmask(SIG_SETMASK, &none, NULL);
    T(order[0] * 10000 + order[1] * 100 + order[2]);
    // The floating-point state outlives a handler.
    volatile double x = 1.5;
    double y = x * 2;
    raise(SIGUSR1);
    T(y == 3.0);
    T(kill(getpid(), SIGCHLD) + kill(getpid(), SIGURG) + kill(getpid(), SIGWINCH) + kill(getpid(), SIGCONT));
}

// Sends this process a signal in a while.
static pid_t soon(int signal, int how_often) {
    pid_t own = getpid();
    return START({
        for (int i = 0; i < how_often; i++) {
            doze(60);
            kill(own, signal);
        }
    });
}

#define INTERRUPTED(...)                                                                                               \
    do {                                                                                                               \
        caught = 0;                                                                                                    \
        pid_t sender_ = soon(SIGUSR1, 1);                                                                              \
        T(__VA_ARGS__);                                                                                                \
        T(caught);                                                                                                     \
        while (waitpid(sender_, NULL, 0) < 0 && errno == EINTR) {                                                      \
        }                                                                                                              \
    } while (0)

void interruptions(void) {
    char b[16];
    int p[2], s[2];
    pipe(p);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    handle(SIGUSR1, 0);
    struct timespec second = {3, 0}, left = {0, 0};
    struct pollfd one = {p[0], POLLIN, 0};
    struct timeval limit = {3, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p[0], &set);
    int ep = epoll_create1(0);
    struct epoll_event event;
    INTERRUPTED(read(p[0], b, 1));
    INTERRUPTED(recv(s[0], b, 1, 0));
    INTERRUPTED(poll(&one, 1, 3000));
    INTERRUPTED(select(10, &set, NULL, NULL, &limit));
    INTERRUPTED(epoll_wait(ep, &event, 1, 3000));
    INTERRUPTED(nanosleep(&second, &left));
    T(left.tv_sec * 1000 + left.tv_nsec / 1000000 > 2000);
    INTERRUPTED(clock_nanosleep(CLOCK_MONOTONIC, 0, &second, NULL));
    INTERRUPTED(pause());
    pid_t child = START(doze(1500));
    INTERRUPTED(waitpid(child, NULL, 0));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    unsigned int word = 0;
    INTERRUPTED(syscall(SYS_futex, &word, 128, 0, &second, NULL, 0));
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "s"};
    bind(l, (void *)&at, sizeof at);
    listen(l, 1);
    INTERRUPTED(accept(l, NULL, NULL));
    static char much[1 << 20];
    INTERRUPTED(write(p[1], much, sizeof much));
    // Made again, if that is wanted.
    handle(SIGUSR1, SA_RESTART);
    int q[2];
    pipe(q);
    caught = 0;
    child = soon(SIGUSR1, 1);
    pid_t writer = START({
        doze(900);
        write(q[1], "x", 1);
    });
    T(read(q[0], b, 1));
    T(caught);
    T(waitpid(child, NULL, 0) == child);
    T(waitpid(writer, NULL, 0) == writer);
    caught = 0;
    child = soon(SIGUSR1, 1);
    writer = START(doze(900); _exit(3));
    int status;
    T(waitpid(writer, &status, 0) == writer);
    T(status);
    T(caught);
    T(waitpid(child, NULL, 0) == child);
    // Never these.
    INTERRUPTED(poll(&one, 0, 3000));
    INTERRUPTED(nanosleep(&second, NULL));
    INTERRUPTED(epoll_wait(ep, &event, 1, 3000));
    INTERRUPTED(pause());
    // An ignored one disturbs nobody.
    signal(SIGUSR2, SIG_IGN);
    child = soon(SIGUSR2, 1);
    struct timespec short_time = {0, 150000000};
    T(nanosleep(&short_time, NULL));
    T(waitpid(child, NULL, 0) == child);
    // What computes is disturbed, too.
    caught = 0;
    child = soon(SIGUSR1, 1);
    while (!caught) {
    }
    T(caught);
    T(waitpid(child, NULL, 0) == child);
}

static volatile int values[256], value_count;

static void take_value(int signal, siginfo_t *info, void *context) {
    (void)context;
    (void)signal;
    if (value_count < 8)
        values[value_count++] = info->si_value.sival_int;
}

void queues(void) {
    struct sigaction action = {.sa_sigaction = take_value, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    sigset_t set = only(SIGRTMIN);
    sigaddset(&set, SIGRTMIN + 1);
    T(SIGRTMAX - SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    union sigval value = {.sival_int = 11};
    T(sigqueue(getpid(), SIGRTMIN + 1, value));
    value.sival_int = 12;
    T(sigqueue(getpid(), SIGRTMIN, value));
    value.sival_int = 13;
    T(sigqueue(getpid(), SIGRTMIN, value));
    T(value_count);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    // Each comes, in order, the lower number first.
    T(value_count);
    T(values[0] * 10000 + values[1] * 100 + values[2]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t own = getpid();
    T(IN_CHILD({
        for (int i = 0; i < 3; i++) {
            union sigval v = {.sival_int = 20 + i};
            sigqueue(own, SIGRTMIN, v);
        }
    }));
    siginfo_t info = {0};
    struct timespec second = {1, 0};
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_value.sival_int);
    T(info.si_code);
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_value.sival_int);
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_value.sival_int);
    second.tv_sec = 0;
    T(sigtimedwait(&set, &info, &second));
    T(sigqueue(1000000, SIGRTMIN, value));
    T(sigqueue(getpid(), 99, value));
    // Who sent it is said, whatever the number; of a lower one the first counts.
    sigset_t low = only(SIGUSR1);
    sigprocmask(SIG_BLOCK, &low, NULL);
    pid_t child = START(for (int i = 0; i < 3; i++) {
        union sigval v = {.sival_int = 30 + i};
        sigqueue(own, SIGUSR1, v);
    });
    T(waitpid(child, NULL, 0) == child);
    second.tv_sec = 1;
    T(sigtimedwait(&low, &info, &second));
    T(info.si_value.sival_int * 10 + (info.si_pid == child) + info.si_uid);
    T(info.si_code);
    second.tv_sec = 0;
    T(sigtimedwait(&low, &info, &second));
    // What it says itself; and for a thread.
    siginfo_t said = {.si_code = SI_MESGQ};
    said.si_value.sival_int = 41;
    T(syscall(SYS_rt_sigqueueinfo, own, SIGRTMIN, &said));
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_code * 100 - info.si_value.sival_int);
    T(syscall(SYS_rt_tgsigqueueinfo, own, own, SIGRTMIN, &said));
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(syscall(SYS_rt_tgsigqueueinfo, own, 999999, SIGRTMIN, &said));
    T(syscall(SYS_rt_tgsigqueueinfo, own, 0, SIGRTMIN, &said));
    said.si_code = SI_USER;
    T(syscall(SYS_rt_sigqueueinfo, getppid(), 0, &said));
    T(IN_CHILD({
        siginfo_t spoof = {.si_code = SI_KERNEL};
        T(syscall(SYS_rt_sigqueueinfo, own, SIGRTMIN, &spoof));
        spoof.si_code = SI_TKILL;
        T(syscall(SYS_rt_sigqueueinfo, own, SIGRTMIN, &spoof));
        T(syscall(SYS_tgkill, own, own, SIGRTMIN));
    }));
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_code);
    // More than there is room for at once, in order, from another process.
    child = START(for (int i = 0; i < 200; i++) {
        union sigval v = {.sival_int = i};
        sigqueue(own, SIGRTMIN + 1, v);
    });
    int right = 0;
    second.tv_sec = 5;
    for (int i = 0; i < 200; i++)
        right += sigtimedwait(&set, &info, &second) == SIGRTMIN + 1 && info.si_value.sival_int == i;
    T(right);
    T(waitpid(child, NULL, 0) == child);
    // A child has none of those that are pending for its parent.
    sigqueue(own, SIGRTMIN, value);
    T(IN_CHILD(_exit(pending(SIGRTMIN))));
    T(pending(SIGRTMIN));
    // One thread's own is nobody else's.
    sigwaitinfo(&set, &info);
    T(pthread_sigqueue(pthread_self(), SIGRTMIN, value));
    T(sigtimedwait(&set, &info, &second) - SIGRTMIN);
    T(info.si_code);
    T(info.si_value.sival_int);
}

void stops(void) {
    int status = 0;
    volatile int *counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = START(for (;;) {
        ++*counter;
        doze(1);
    });
    doze(50);
    T(kill(child, SIGSTOP));
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    int before = *counter;
    doze(50);
    T(*counter == before);
    T(waitpid(child, &status, WNOHANG));
    T(kill(child, SIGCONT));
    T(waitpid(child, &status, WCONTINUED) == child);
    T(status);
    doze(50);
    T(*counter > before);
    T(kill(child, SIGSTOP));
    siginfo_t info = {0};
    T(waitid(P_PID, child, &info, WSTOPPED));
    T(info.si_code * 1000 + info.si_status);
    T(kill(child, SIGTERM));
    doze(20);
    T(waitpid(child, &status, WNOHANG));
    T(kill(child, SIGCONT));
    T(waitpid(child, &status, 0) == child);
    T(status);
    child = START(for (;;));
    doze(20);
    T(kill(child, SIGSTOP));
    T(waitpid(child, &status, WUNTRACED) == child);
    T(kill(child, SIGKILL));
    T(waitpid(child, &status, 0) == child);
    T(status);
    child = START({
        raise(SIGSTOP);
        _exit(4);
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    T(kill(child, SIGCONT));
    T(waitpid(child, &status, 0) == child);
    T(status);
}

static void go_on(int signal) { count(signal); }

// Stopping by itself, and what parents hear.
void jobs(void) {
    int status = 0;
    handle(SIGCHLD, SA_SIGINFO | SA_RESTART);
    pid_t child = START({
        caught = 0;
        signal(SIGCONT, go_on);
        setpgid(0, 0);
        kill(getpid(), SIGTSTP);
        _exit(caught);
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    T(caught > 0);
    T(caught_info.si_code * 100 + caught_info.si_status);
    T(caught_info.si_pid == child);
    T(waitpid(child, &status, WUNTRACED | WNOHANG));
    T(kill(child, SIGCONT));
    T(waitpid(child, &status, 0) == child);
    T(status);
    // Whoever holds it back is not stopped, and what stops is forgotten when it is told to go on.
    child = START({
        sigset_t set = only(SIGTSTP);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGTSTP);
        int before = pending(SIGTSTP);
        raise(SIGCONT);
        _exit(before * 10 + pending(SIGTSTP));
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    // A handler in the place of stopping.
    child = START({
        caught = 0;
        handle(SIGTSTP, 0);
        raise(SIGTSTP);
        _exit(caught);
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    // A group whose parents are all in other sessions does not stop by itself.
    child = START({
        setsid();
        raise(SIGTSTP);
        raise(SIGTTIN);
        _exit(9);
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    // Of being stopped one may not want to hear.
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP};
    sigaction(SIGCHLD, &action, NULL);
    caught = 0;
    child = START(for (;;) pause());
    doze(20);
    T(kill(child, SIGSTOP));
    T(waitpid(child, &status, WUNTRACED) == child);
    T(caught);
    siginfo_t info = {0};
    T(kill(child, SIGCONT));
    T(waitid(P_PID, child, &info, WCONTINUED | WNOWAIT));
    T(info.si_code * 100 + info.si_status);
    T(waitid(P_PID, child, &info, WCONTINUED));
    T(waitid(P_PID, child, &info, WCONTINUED | WNOHANG));
    T(waitid(P_PID, child, &info, 0));
    T(kill(child, SIGKILL));
    T(waitpid(child, &status, 0) == child);
    T(caught);
    // A sleep goes on where it was; other threads stand still, too.
    signal(SIGCHLD, SIG_DFL);
    child = START({
        struct timespec t = {0, 300000000};
        _exit(nanosleep(&t, NULL) ? 1 : 0);
    });
    doze(50);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    kill(child, SIGCONT);
    T(waitpid(child, &status, 0) == child);
    T(status);
    // A whole group.
    child = START({
        setpgid(0, 0);
        pid_t inner = START(for (;;) pause());
        doze(50);
        kill(0, SIGTSTP);
        int of_inner = 0;
        waitpid(inner, &of_inner, WUNTRACED);
        kill(inner, SIGKILL);
        _exit(WSTOPSIG(of_inner));
    });
    T(waitpid(child, &status, WUNTRACED) == child);
    T(status);
    doze(20);
    T(kill(child, SIGCONT));
    T(waitpid(child, &status, 0) == child);
    T(status);
}

void interval_timers(void) {
    struct itimerval it = {{0, 0}, {0, 50000}}, old;
    handle(SIGALRM, SA_SIGINFO);
    T(getitimer(ITIMER_REAL, &old));
    T(old.it_value.tv_usec);
    T(setitimer(ITIMER_REAL, &it, NULL));
    T(getitimer(ITIMER_REAL, &old));
    T(old.it_value.tv_usec > 0 && old.it_value.tv_usec <= 50000);
    T(pause());
    T(caught);
    T(caught_signal);
    T(caught_info.si_code);
    it.it_interval.tv_usec = it.it_value.tv_usec = 10000;
    caught = 0;
    T(setitimer(ITIMER_REAL, &it, NULL));
    while (caught < 4)
        pause();
    T(caught >= 4);
    it = (struct itimerval){{0, 0}, {0, 0}};
    T(setitimer(ITIMER_REAL, &it, &old));
    T(old.it_interval.tv_usec);
    caught = 0;
    doze(30);
    T(caught);
    it.it_value.tv_usec = 2000000;
    T(setitimer(ITIMER_REAL, &it, NULL));
    T(setitimer(99, &it, NULL));
    T(alarm(10));
    T(alarm(0));
    T(alarm(0));
    T(alarm(1));
    // Not a child's.
    T(IN_CHILD(_exit(alarm(0))));
    long long begin = now();
    T(pause());
    T(now() - begin > 700000000);
    T(IN_CHILD({
        signal(SIGALRM, SIG_DFL);
        it = (struct itimerval){{0, 0}, {0, 20000}};
        setitimer(ITIMER_REAL, &it, NULL);
        pause();
    }));
    T(IN_CHILD({
        signal(SIGALRM, SIG_DFL);
        it = (struct itimerval){{0, 0}, {0, 20000}};
        setitimer(ITIMER_REAL, &it, NULL);
        for (;;) {
        }
    }));
    // By the processor's time.
    handle(SIGVTALRM, 0);
    handle(SIGPROF, 0);
    caught = 0;
    it = (struct itimerval){{0, 0}, {0, 20000}};
    T(setitimer(ITIMER_VIRTUAL, &it, NULL));
    while (!caught) {
    }
    T(caught_signal);
    T(setitimer(ITIMER_PROF, &it, NULL));
    while (caught < 2) {
    }
    T(caught_signal);
    T(ualarm(200000, 0));
    T(pause());
}

static volatile int timed;

static void from_timer(union sigval value) { timed = value.sival_int; }

void timers(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 55};
    struct itimerspec it = {{0, 0}, {0, 30000000}}, old;
    handle(SIGUSR1, SA_SIGINFO);
    T(timer_create(CLOCK_MONOTONIC, &event, &timer));
    T(timer_gettime(timer, &old));
    T(old.it_value.tv_nsec);
    T(timer_settime(timer, 0, &it, NULL));
    T(timer_gettime(timer, &old));
    T(old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 30000000);
    T(pause());
    T(caught);
    T(caught_info.si_code);
    T(caught_info.si_value.sival_int);
    it.it_interval.tv_nsec = 5000000;
    T(timer_settime(timer, 0, &it, NULL));
    caught = 0;
    while (caught < 3)
        pause();
    T(timer_getoverrun(timer) >= 0);
    T(timer_delete(timer));
    T(syscall(SYS_timer_delete, 12345));
    caught = 0;
    doze(20);
    T(caught);
    T(timer_create(CLOCK_REALTIME, NULL, &timer));
    handle(SIGALRM, 0);
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += 30000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    it = (struct itimerspec){{0, 0}, at};
    T(timer_settime(timer, TIMER_ABSTIME, &it, NULL));
    T(pause());
    T(caught_signal);
    it.it_value.tv_nsec = 2000000000;
    T(timer_settime(timer, 0, &it, NULL));
    T(timer_create(99, NULL, &timer));
    event.sigev_signo = 999;
    T(timer_create(CLOCK_REALTIME, &event, &timer));
    event.sigev_notify = SIGEV_NONE;
    T(timer_create(CLOCK_REALTIME, &event, &timer));
    it = (struct itimerspec){{0, 0}, {100, 0}};
    T(timer_settime(timer, 0, &it, NULL));
    T(timer_gettime(timer, &old));
    T(old.it_value.tv_sec);
    it.it_value.tv_sec = 0;
    T(timer_settime(timer, 0, &it, &old));
    T(old.it_value.tv_sec);
    // By a thread, as the C library does it.
    struct sigevent by_thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = from_timer};
    by_thread.sigev_value.sival_int = 77;
    T(timer_create(CLOCK_MONOTONIC, &by_thread, &timer));
    it = (struct itimerspec){{0, 0}, {0, 20000000}};
    T(timer_settime(timer, 0, &it, NULL));
    for (int i = 0; i < 400 && !timed; i++)
        doze(10);
    T(timed);
    T(timer_delete(timer));
    // For this thread.
    sigset_t set = only(SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct sigevent for_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    for_thread._sigev_un._tid = gettid();
    for_thread.sigev_value.sival_int = 88;
    T(timer_create(CLOCK_MONOTONIC, &for_thread, &timer));
    it = (struct itimerspec){{0, 10000000}, {0, 10000000}};
    T(timer_settime(timer, 0, &it, NULL));
    doze(105);
    siginfo_t info = {0};
    T(sigwaitinfo(&set, &info) - SIGRTMIN);
    T(info.si_value.sival_int);
    T(info.si_code);
    // While it was held back it was too early some times, and came once.
    T(info.si_overrun >= 3);
    T(timer_getoverrun(timer) == info.si_overrun);
    T(timer_delete(timer));
    for_thread._sigev_un._tid = 99999;
    T(timer_create(CLOCK_MONOTONIC, &for_thread, &timer));
    // By the processor's time.
    for_thread._sigev_un._tid = gettid();
    T(timer_create(CLOCK_PROCESS_CPUTIME_ID, &for_thread, &timer));
    it = (struct itimerspec){{0, 0}, {0, 60000000}};
    T(timer_settime(timer, 0, &it, NULL));
    doze(150);
    T(pending(SIGRTMIN));
    while (!pending(SIGRTMIN)) {
    }
    T(sigwaitinfo(&set, &info) - SIGRTMIN);
    T(timer_delete(timer));
    T(timer_create(CLOCK_MONOTONIC_RAW, NULL, &timer));
    T(timer_create(CLOCK_BOOTTIME, NULL, &timer));
    // Neither a child nor another program has them.
    T(IN_CHILD(T(timer_delete(timer))));
    T(timer_delete(timer));
    T(timer_gettime(timer, &old));
    T(timer_settime(timer, 0, &it, NULL));
}

void times_(void) {
    struct timespec a, b, res;
    T(clock_gettime(CLOCK_MONOTONIC, &a));
    doze(20);
    T(clock_gettime(CLOCK_MONOTONIC, &b));
    long long passed = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
    T(passed >= 20000000 && passed < 3000000000LL);
    T(clock_gettime(CLOCK_REALTIME, &a));
    T(a.tv_sec > 1600000000);
    T(labs(a.tv_sec - time(NULL)) <= 1);
    struct timeval tv;
    T(gettimeofday(&tv, NULL));
    T(labs(tv.tv_sec - a.tv_sec) <= 1);
    T(clock_gettime(99, &a));
    T(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8));
    T(clock_getres(CLOCK_MONOTONIC, &res));
    T(res.tv_nsec);
    int ids[] = {CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_TAI, CLOCK_THREAD_CPUTIME_ID};
    for (int i = 0; i < 5; i++)
        T(clock_gettime(ids[i], &a));
    T(clock_settime(CLOCK_MONOTONIC, &a));
    struct timespec wrong = {0, 1000000000};
    T(nanosleep(&wrong, NULL));
    wrong = (struct timespec){-1, 0};
    T(nanosleep(&wrong, NULL));
    T(nanosleep((void *)8, NULL));
    clock_gettime(CLOCK_MONOTONIC, &a);
    a.tv_nsec += 30000000;
    a.tv_sec += a.tv_nsec / 1000000000;
    a.tv_nsec %= 1000000000;
    long long begin = now();
    T(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &a, NULL));
    T(now() - begin > 15000000 && now() - begin < 3000000000LL);
    T(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &(struct timespec){1, 0}, NULL));
    T(clock_nanosleep(99, 0, &a, NULL));
    // The processor's time passes when something is done, and is measured.
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    begin = now();
    while (now() - begin < 100000000) {
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    long long used = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    T(used > 5000000);
    struct rusage usage;
    T(getrusage(RUSAGE_SELF, &usage));
    T(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 5000);
    T(usage.ru_maxrss > 0);
    T(getrusage(99, &usage));
    struct tms t;
    T(times(&t) > 0);
    T(t.tms_utime + t.tms_stime > 0);
    T(IN_CHILD({
        begin = now();
        while (now() - begin < 100000000) {
        }
    }));
    T(getrusage(RUSAGE_CHILDREN, &usage));
    T(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 5000);
    T(times(&t) > 0);
    T(t.tms_cutime + t.tms_cstime > 0);
    T(clock() > 0);
}

// Runs every group of cases, each in a process and a directory of its own, and prints a line for each case: what the host
// prints is right.
#include "case.h"

volatile int caught, caught_signal;
siginfo_t caught_info;

void count(int signal) {
    caught++;
    caught_signal = signal;
}

void note(int signal, siginfo_t *info, void *context) {
    (void)context;
    count(signal);
    caught_info = *info;
}

void handle(int signal, int flags) {
    struct sigaction action = {.sa_flags = flags};
    if (flags & SA_SIGINFO)
        action.sa_sigaction = note;
    else
        action.sa_handler = count;
    sigaction(signal, &action, NULL);
}

long say(const char *name, long value) {
    int error = errno;
    char line[2048];
    int length = value == -1 && error ? snprintf(line, sizeof line, "%s: %s\n", name, strerrorname_np(error))
                                      : snprintf(line, sizeof line, "%s: %ld\n", name, value);
    if (write(1, line, length) < 0)
        _exit(99);
    return value;
}

void say_text(const char *name, const char *value) {
    char line[4096];
    int length = snprintf(line, sizeof line, "%s: %s\n", name, value);
    if (write(1, line, length) < 0)
        _exit(99);
}

static const struct group {
    const char *name;
    void (*run)(void);
} GROUPS[] = {
    {"files", files},
    {"directories", directories},
    {"descriptors", descriptors},
    {"process_locks", process_locks},
    {"locks", locks},
    {"lock_waits", lock_waits},
    {"pipes", pipes},
    {"fifos", fifos},
    {"fifo_waits", fifo_waits},
    {"sockets", sockets},
    {"connections", connections},
    {"inward", inward},
    {"openings", openings},
    {"places", places},
    {"instructions", instructions},
    {"udp", udp},
    {"local_sockets", local_sockets},
    {"readiness", readiness},
    {"event_files", event_files},
    {"signal_files", signal_files},
    {"process_files", process_files},
    {"watches", watches},
    {"memory", memory},
    {"faults", faults},
    {"sharing", sharing},
    {"processes", processes},
    {"waiting", waiting},
    {"groups", groups},
    {"execution", execution},
    {"spawning", spawning},
    {"signals", signals},
    {"handlers", handlers},
    {"interruptions", interruptions},
    {"queues", queues},
    {"stops", stops},
    {"jobs", jobs},
    {"timers", timers},
    {"interval_timers", interval_timers},
    {"threads", threads},
    {"preemption", preemption},
    {"shared_locks", shared_locks},
    {"pipes_between", pipes_between},
    {"pipes_as_files", pipes_as_files},
    {"shared_words", shared_words},
    {"segments", segments},
    {"messages", messages},
    {"semaphores", semaphores},
    {"message_queues", message_queues},
    {"queue_notices", queue_notices},
    {"splices", splices},
    {"further", further},
    {"times", times_},
    {"system", system_},
    {"identity", identity},
    {"proc", proc},
    {"devices", devices},
};

static void run(const struct group *group) {
    int ends[2];
    if (pipe(ends))
        exit(99);
    pid_t child = fork();
    if (child == 0) {
        char directory[] = "/tmp/conformance.XXXXXX";
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        if (!mkdtemp(directory) || chdir(directory))
            _exit(99);
        umask(022);
        group->run();
        _exit(0);
    }
    close(ends[1]);
    char line[4096];
    size_t length = 0;
    long long end = now() + 20000000000LL;
    int late = 0;
    for (;;) {
        struct pollfd one = {ends[0], POLLIN, 0};
        long long left = (end - now()) / 1000000;
        if (left <= 0 || poll(&one, 1, left) == 0) {
            late = 1;
            break;
        }
        char byte;
        if (read(ends[0], &byte, 1) != 1)
            break;
        if (length < sizeof line - 1)
            line[length++] = byte;
        if (byte == '\n') {
            line[length] = 0;
            printf("%s/%s", group->name, line);
            length = 0;
        }
    }
    close(ends[0]);
    int status = 0;
    if (late)
        kill(child, SIGKILL);
    waitpid(child, &status, 0);
    if (late)
        printf("%s/END: it hangs\n", group->name);
    else
        printf("%s/END: %x\n", group->name, status);
    fflush(stdout);
}

// All, those that are named, or all but those that are named with a sign before them.
static int is_wanted(const char *name, char **arguments) {
    int wanted = !*arguments || **arguments == '-';
    for (; *arguments; arguments++)
        if (!strcmp(*arguments + (**arguments == '-'), name))
            wanted = **arguments != '-';
    return wanted;
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "exec"))
        return atoi(arguments[2]);
    if (count > 1 && !strcmp(arguments[1], "wait")) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(3);
        return waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : 99;
    }
    if (count > 1 && !strcmp(arguments[1], "descriptors")) {
        for (int fd = 3; fd < 64; fd++)
            if (fcntl(fd, F_GETFD) >= 0)
                printf("open %d\n", fd);
        return 0;
    }
    if (count > 1 && !strcmp(arguments[1], "signals")) {
        sigset_t set;
        struct sigaction one, two;
        sigprocmask(SIG_BLOCK, NULL, &set);
        sigaction(SIGUSR1, NULL, &one);
        sigaction(SIGUSR2, NULL, &two);
        return sigismember(&set, SIGTERM) | (one.sa_handler == SIG_IGN) << 1 | (two.sa_handler == SIG_DFL) << 2;
    }
    for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS; i++)
        if (is_wanted(GROUPS[i].name, arguments + 1))
            run(&GROUPS[i]);
    return 0;
}

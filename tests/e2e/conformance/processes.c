// Processes and what they say of themselves.
#include "case.h"
#include <dirent.h>
#include <grp.h>
#include <linux/capability.h>
#include <spawn.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>

extern char **environ;
static char *own_path = "/proc/self/exe";

void processes(void) {
    T(IN_CHILD(_exit(7)));
    T(IN_CHILD(_exit(256 + 3)));
    T(IN_CHILD(kill(getpid(), SIGTERM); pause()));
    T(IN_CHILD(raise(SIGKILL)));
    T(IN_CHILD(signal(SIGTERM, SIG_IGN); raise(SIGTERM)));
    T(getpid() == (pid_t)syscall(SYS_gettid));
    pid_t own = getpid();
    T(IN_CHILD(_exit(getppid() == own)));
    T(IN_CHILD(_exit(getpid() != own)));
    // What a child has of its parent.
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(IN_CHILD(_exit(write(3, "x", 1))));
    T(lseek(3, 0, SEEK_CUR));
    T(IN_CHILD(close(3)));
    T(fcntl(3, F_GETFD));
    T(IN_CHILD(chdir("/")));
    T(access("f", F_OK));
    T(IN_CHILD(umask(0)));
    T(umask(022));
    // Who is orphaned belongs to somebody else.
    int ends[2];
    T(pipe(ends));
    T(IN_CHILD({
        pid_t middle = getpid();
        START({
            while (getppid() == middle)
                doze(5);
            write(ends[1], "o", 1);
        });
    }));
    char byte;
    T(read(ends[0], &byte, 1));
    // Many at once.
    int alive = 0;
    for (int i = 0; i < 20; i++)
        alive += START(doze(20); _exit(i)) > 0;
    T(alive);
    int sum = 0, status, ended = 0;
    while (wait(&status) > 0) {
        sum += WEXITSTATUS(status);
        ended++;
    }
    T(ended);
    T(sum);
    T(wait(NULL));
    T(kill(1000000, 0));
    T(kill(getpid(), 0));
    T(kill(getpid(), 99));
    T(kill(getpid(), -1));
    T(getpgid(1000000));
    T(syscall(SYS_exit_group, 0) * 0);
}

void waiting(void) {
    int status = 0;
    siginfo_t info = {0};
    T(waitpid(-1, &status, 0));
    T(waitpid(1000000, &status, 0));
    T(waitpid(-1, &status, 9999));
    pid_t child = START(doze(100); _exit(3));
    T(waitpid(child, &status, WNOHANG));
    T(waitpid(-1, &status, WNOHANG));
    T(waitpid(child + 1000, &status, WNOHANG));
    T(waitpid(0, &status, 0) == child);
    T(status);
    T(waitpid(child, &status, 0));
    child = START(_exit(4));
    T(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    T(info.si_signo * 1000000 + info.si_code * 1000 + info.si_status);
    T(info.si_pid == child);
    T(waitid(P_ALL, 0, &info, WEXITED));
    T(waitid(P_ALL, 0, &info, WEXITED));
    T(waitid(P_ALL, 0, &info, 0));
    T(waitid(99, 0, &info, WEXITED));
    child = START(raise(SIGUSR1));
    T(waitid(P_PID, child, &info, WEXITED));
    T(info.si_code * 1000 + info.si_status);
    child = START(doze(100));
    info.si_pid = 5;
    T(waitid(P_PID, child, &info, WEXITED | WNOHANG));
    T(info.si_pid);
    struct rusage usage;
    T(wait4(child, &status, 0, &usage) == child);
    T(usage.ru_utime.tv_sec);
    child = START(_exit(0));
    T(waitpid(child, (int *)8, 0));
    // The group counts.
    child = START(setpgid(0, 0); doze(50); _exit(5));
    setpgid(child, child);
    T(waitpid(0, &status, 0));
    T(waitpid(-child, &status, 0) == child);
    T(status);
    // Of whom nobody wants to hear there is nothing to be heard.
    signal(SIGCHLD, SIG_IGN);
    child = START(_exit(5));
    T(waitpid(child, &status, 0));
    signal(SIGCHLD, SIG_DFL);
    // SIGCHLD says who.
    handle(SIGCHLD, SA_SIGINFO);
    child = START(_exit(9));
    while (!caught)
        doze(5);
    T(caught_info.si_pid == child);
    T(caught_info.si_code * 1000 + caught_info.si_status);
    T(waitpid(child, &status, 0) == child);
    // A thread's child may be waited for by any.
    T(caught);
}

void groups(void) {
    pid_t own = getpid();
    int status;
    T(getpgrp() == getpgid(0));
    T(getsid(0) > 0);
    T(IN_CHILD({
        T(setsid() == getpid());
        T(getsid(0) == getpid());
        T(getpgrp() == getpid());
        T(setsid());
        T(setpgid(0, 0));
    }));
    T(IN_CHILD({
        T(setpgid(0, 0));
        T(getpgrp() == getpid());
        T(setsid());
        T(setpgid(0, 999999));
    }));
    T(setpgid(1000000, 0));
    T(setpgid(0, -5));
    T(getsid(1000000));
    // A signal for a group.
    T(IN_CHILD({
        setpgid(0, 0);
        pid_t one = START(pause());
        pid_t two = START(setpgid(0, 0); pause());
        doze(50);
        signal(SIGTERM, SIG_IGN);
        T(kill(0, SIGTERM));
        T(waitpid(one, &status, 0) == one);
        T(status);
        T(waitpid(two, &status, WNOHANG));
        T(kill(-two, SIGTERM));
        T(waitpid(two, &status, 0) == two);
        T(status);
        T(kill(-two, SIGTERM));
    }));
    pid_t child = START(pause());
    doze(20);
    T(IN_CHILD(_exit(kill(child, SIGKILL))));
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(kill(child, 0));
    child = START(_exit(0));
    doze(50);
    // Who has ended and is waited for still takes signals.
    T(kill(child, 0));
    T(kill(child, SIGKILL));
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(own == getpid());
}

static int run(char *path, char *first, char *second) {
    char *arguments[] = {"conformance", first, second, NULL};
    execve(path, arguments, environ);
    return errno;
}

static void put(const char *path, const char *text, int mode) {
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
    if (write(fd, text, strlen(text)) < 0)
        _exit(98);
    close(fd);
}

void execution(void) {
    char *path = own_path;
    T(run("missing", NULL, NULL));
    T(run(".", NULL, NULL));
    put("plain", "neither\n", 0644);
    T(run("plain", NULL, NULL));
    put("text", "neither\n", 0755);
    T(run("text", NULL, NULL));
    put("empty", "", 0755);
    T(run("empty", NULL, NULL));
    put("elf", "\177ELF nonsense", 0755);
    T(run("elf", NULL, NULL));
    put("script", "#!/missing/interpreter\n", 0755);
    T(run("script", NULL, NULL));
    T(run("plain/x", NULL, NULL));
    T(run("", NULL, NULL));
    T(run((char *)8, NULL, NULL));
    T(IN_CHILD(_exit(run(path, "exec", "42"))));
    char text[PATH_MAX + 20], target[PATH_MAX] = {0};
    T(readlink("/proc/self/exe", target, sizeof target) > 0);
    snprintf(text, sizeof text, "#!%s exec\n", target);
    put("77", text, 0755);
    // The interpreter gets its argument, and then the script's path.
    T(IN_CHILD(_exit(run("77", NULL, NULL))));
    // What stays open.
    T(open("/dev/null", O_RDWR));
    T(open("/dev/null", O_RDWR | O_CLOEXEC));
    T(dup2(3, 9));
    T(IN_CHILD(run(path, "descriptors", NULL)));
    // What stays of signals: the mask, and what is ignored.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, SIG_IGN);
    handle(SIGUSR2, 0);
    T(IN_CHILD(_exit(run(path, "signals", NULL))));
    T(IN_CHILD({
        raise(SIGTERM);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
    }));
    T(IN_CHILD({
        pid_t before = getpid();
        (void)before;
        umask(027);
        _exit(run(path, "exec", "5"));
    }));
    // Another program waits for its children again.
    T(IN_CHILD({
        struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
        sigaction(SIGCHLD, &action, NULL);
        _exit(run(path, "wait", NULL));
    }));
}

void spawning(void) {
    pid_t child = 0;
    int status = 0;
    char *arguments[] = {"conformance", "exec", "21", NULL};
    T(posix_spawn(&child, own_path, NULL, NULL, arguments, environ));
    T(waitpid(child, &status, 0) == child);
    T(status);
    T(posix_spawn(&child, "missing", NULL, NULL, arguments, environ));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 7, "/dev/null", O_RDONLY, 0);
    char *list[] = {"conformance", "descriptors", NULL};
    T(posix_spawn(&child, own_path, &actions, NULL, list, environ));
    T(waitpid(child, &status, 0) == child);
    T(status);
    static volatile int changed;
    pid_t forked = vfork();
    if (forked == 0) {
        changed = 1;
        _exit(12);
    }
    T(waitpid(forked, &status, 0) == forked);
    T(status);
    forked = vfork();
    if (forked == 0) {
        execve("missing", arguments, environ);
        _exit(errno);
    }
    T(waitpid(forked, &status, 0) == forked);
    T(status);
    T(system("exit 3") == 3 << 8 || access("/bin/sh", X_OK) != 0);
    FILE *pipe = popen("echo from a shell", "r");
    char line[64] = {0};
    T(fgets(line, sizeof line, pipe) != NULL || access("/bin/sh", X_OK) != 0);
    T(pclose(pipe) == 0 || access("/bin/sh", X_OK) != 0);
    T(changed >= 0);
}

void system_(void) {
    struct rlimit limit;
    T(getrlimit(RLIMIT_NOFILE, &limit));
    T(limit.rlim_cur > 100);
    T(getrlimit(999, &limit));
    limit.rlim_cur = 64;
    T(setrlimit(RLIMIT_NOFILE, &limit));
    T(getrlimit(RLIMIT_NOFILE, &limit));
    T(limit.rlim_cur);
    T(limit.rlim_max >= 64);
    int last = 0;
    while ((last = open("/dev/null", O_RDONLY)) >= 0 && last < 200) {
    }
    T(last);
    T(errno);
    T(dup(3));
    T(dup2(3, 64));
    T(fcntl(3, F_DUPFD, 64));
    T(pipe((int[2]){0}));
    T(socket(AF_INET, SOCK_STREAM, 0));
    for (int i = 3; i < 64; i++)
        close(i);
    limit.rlim_cur = limit.rlim_max;
    T(setrlimit(RLIMIT_NOFILE, &limit));
    limit = (struct rlimit){10, 5};
    T(setrlimit(RLIMIT_NOFILE, &limit));
    T(prlimit(1000000, RLIMIT_NOFILE, NULL, &limit));
    T(getrlimit(RLIMIT_STACK, &limit));
    T(limit.rlim_cur >= 1 << 20);
    limit.rlim_cur = 1 << 20;
    T(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    T(getrlimit(RLIMIT_CORE, &limit));
    T(limit.rlim_cur);
    // A limit that was set is what is read, by children, too.
    limit = (struct rlimit){123456, RLIM_INFINITY};
    T(getrlimit(RLIMIT_CPU, &limit));
    limit.rlim_cur = 1000;
    T(setrlimit(RLIMIT_CPU, &limit));
    T(IN_CHILD({
        getrlimit(RLIMIT_CPU, &limit);
        _exit(limit.rlim_cur == 1000);
    }));
    char b[64] = {0}, c[64] = {0};
    T(getrandom(b, 64, 0));
    T(getrandom(c, 64, GRND_NONBLOCK));
    T(memcmp(b, c, 64) != 0);
    T(getrandom(b, 0, 0));
    T(getrandom(b, 8, 99));
    T(getentropy(b, 64));
    struct utsname name;
    T(uname(&name));
    S(name.sysname);
    S(name.machine);
    T(strlen(name.nodename) > 0);
    T(uname((void *)8));
    struct sysinfo info;
    T(sysinfo(&info));
    T(info.totalram > 0 && info.mem_unit > 0);
    T(sysconf(_SC_NPROCESSORS_ONLN) >= 1);
    T(prctl(PR_SET_NAME, "a name that is too long"));
    T(prctl(PR_GET_NAME, b));
    S(b);
    T(prctl(PR_SET_DUMPABLE, 1));
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_DUMPABLE, 55));
    T(prctl(PR_SET_PDEATHSIG, SIGTERM));
    int value = 0;
    T(prctl(PR_GET_PDEATHSIG, &value));
    T(value);
    T(prctl(PR_SET_PDEATHSIG, 1000));
    T(prctl(99999));
    T(prctl(PR_SET_CHILD_SUBREAPER, 1));
    T(prctl(PR_GET_CHILD_SUBREAPER, &value));
    T(value);
    // Orphans below a subreaper are its children.
    T(IN_CHILD(START(doze(30); _exit(6))));
    T(wait(&value) > 0);
    T(value);
    T(syscall(SYS_sched_getscheduler, 0));
    T(sched_get_priority_max(SCHED_FIFO));
    T(sched_get_priority_min(SCHED_OTHER));
    T(getpriority(PRIO_PROCESS, 0));
    T(setpriority(PRIO_PROCESS, 0, 5));
    T(getpriority(PRIO_PROCESS, 0));
    T(nice(2));
    cpu_set_t set;
    T(sched_getaffinity(0, sizeof set, &set));
    T(sched_getaffinity(0, 3, &set));
    T(CPU_COUNT(&set) >= 1);
    T(sched_yield());
    T(syscall(9999));
    T(syscall(-1L));
    T(syscall(SYS_membarrier, 0, 0, 0) > 0);
    T(personality(0xffffffff));
}

void identity(void) {
    uid_t r, e, s;
    T(getuid());
    T(geteuid());
    T(getgid());
    T(getresuid(&r, &e, &s));
    T(r * 100 + e * 10 + s);
    T(getgroups(0, NULL) >= 0);
    T(umask(022) >= 0);
    gid_t some[3] = {5, 6, 7}, got[8];
    T(setgroups(3, some));
    T(getgroups(8, got));
    T(got[2]);
    T(getgroups(1, got));
    T(close(creat("rootfile", 0600)));
    T(IN_CHILD({
        T(setgid(33));
        T(setuid(33));
        T(getuid() * 100 + geteuid());
        T(setuid(0));
        T(seteuid(0));
        T(setgid(0));
        T(setgroups(0, NULL));
        T(open("rootfile", O_RDONLY));
        T(access("rootfile", R_OK));
        T(kill(1, 0) == 0 || errno == EPERM || errno == ESRCH);
        T(chown("rootfile", 33, 33));
        T(chmod("rootfile", 0777));
        T(creat("not here", 0600));
    }));
    T(mkdir("open", 0777));
    T(chmod("open", 0777));
    T(IN_CHILD({
        setgid(33);
        setuid(33);
        T(close(creat("open/theirs", 0640)));
        T(mkdir("open/dir", 0755));
        T(symlink("theirs", "open/link"));
    }));
    struct stat it;
    T(stat("open/theirs", &it));
    T(it.st_uid * 1000 + it.st_gid);
    T(stat("open/dir", &it));
    T(it.st_uid * 1000 + it.st_gid);
    T(chown("rootfile", 33, 44));
    T(stat("rootfile", &it));
    T(it.st_uid * 1000 + it.st_gid);
    T(IN_CHILD({
        setgid(33);
        setuid(33);
        T(open("rootfile", O_RDONLY));
    }));
    // By the groups.
    T(chown("rootfile", 0, 55));
    T(chmod("rootfile", 0640));
    gid_t of_file = 55;
    T(setgroups(1, &of_file));
    T(IN_CHILD({
        setgid(33);
        setuid(33);
        T(close(open("rootfile", O_RDONLY)));
        T(open("rootfile", O_WRONLY));
    }));
    T(setgroups(0, NULL));
    // access goes by who it really is, all else by who it is now.
    T(IN_CHILD({
        T(setresuid(33, 0, 0));
        T(access("rootfile", R_OK));
        T(faccessat(AT_FDCWD, "rootfile", R_OK, AT_EACCESS));
        T(close(open("rootfile", O_RDONLY)));
        T(seteuid(33));
        T(open("rootfile", O_RDONLY));
        T(seteuid(0));
        T(close(open("rootfile", O_RDONLY)));
    }));
    T(IN_CHILD({
        T(setresuid(0, 33, 0));
        T(access("rootfile", R_OK));
        T(faccessat(AT_FDCWD, "rootfile", R_OK, AT_EACCESS));
        T(setreuid(33, 33));
        T(setuid(0));
    }));
    // As somebody else for files alone.
    T(setfsuid(33));
    T(open("rootfile", O_RDONLY));
    T(setfsuid(0));
    T(close(open("rootfile", O_RDONLY)));
    T(setfsgid(44));
    T(close(creat("grouped", 0600)));
    T(setfsgid(0));
    T(stat("grouped", &it));
    T(it.st_gid);
    // Where nobody may search, and what is given away.
    T(mkdir("closed", 0700));
    T(close(creat("closed/in", 0666)));
    T(IN_CHILD({
        setgid(33);
        setuid(33);
        T(open("closed/in", O_RDONLY));
        T(chdir("closed"));
        T(rename("rootfile", "other"));
        T(unlink("rootfile"));
        T(mkdir("closed/dir", 0777));
        T(chown("open/theirs", 44, -1));
        T(chown("open/theirs", 33, 33));
        T(chmod("open/theirs", 0600));
        T(truncate("rootfile", 0));
        T(utimensat(AT_FDCWD, "rootfile", NULL, 0));
        int program[2];
        T(execl("rootfile", "rootfile", NULL));
        T(kill(getppid(), 0));
        T(kill(getppid(), SIGCONT) == 0);
        char text[100];
        T(getcwd(text, sizeof text) != NULL);
    }));
    T(fchownat(AT_FDCWD, "open/link", 7, 8, AT_SYMLINK_NOFOLLOW));
    T(lstat("open/link", &it));
    T(it.st_uid * 1000 + it.st_gid);
    // What was opened before stays open.
    int kept = open("rootfile", O_RDWR);
    T(IN_CHILD({
        setuid(33);
        T(write(kept, "x", 1));
    }));
    // A file that is opened again and again is another matter after a change.
    char whole[4096];
    realpath("rootfile", whole);
    chmod("rootfile", 0600);
    chown("rootfile", 0, 0);
    for (int i = 0; i < 20; i++)
        close(open(whole, O_RDONLY));
    T(seteuid(33));
    T(open(whole, O_RDONLY));
    T(seteuid(0));
    T(close(open(whole, O_RDONLY)));
    T(setresuid(0, 33, 0));
    T(geteuid());
    T(open("/root/x", O_CREAT | O_RDWR, 0600));
    T(seteuid(0));
    T(geteuid());
    T(setfsuid(33));
    T(setfsuid(0));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    T(syscall(SYS_capget, &header, data));
    T((data[0].effective & 1) != 0);
    T(prctl(PR_CAPBSET_READ, 0));
    T(prctl(PR_CAPBSET_READ, 99));
}

static char content[100000];

static char *read_whole(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return strerror(errno);
    long got, total = 0;
    while ((got = read(fd, content + total, sizeof content - 1 - total)) > 0)
        total += got;
    content[total] = 0;
    close(fd);
    return content;
}

static char *field(char *text, const char *name) {
    char *at = strstr(text, name);
    if (!at)
        return "missing";
    at[strcspn(at, "\n")] = 0;
    return at;
}

static long entries(const char *path) {
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    long count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

void proc(void) {
    char b[PATH_MAX] = {0};
    char path[64];
    T(readlink("/proc/self/exe", b, sizeof b) > 0);
    S(b);
    T(readlink("/proc/self", b, sizeof b) == snprintf(path, sizeof path, "%d", getpid()));
    S(read_whole("/proc/self/comm"));
    T(prctl(PR_SET_NAME, "renamed"));
    S(read_whole("/proc/self/comm"));
    S(read_whole("/proc/self/cmdline"));
    S(field(read_whole("/proc/self/status"), "Name:"));
    T(atoi(field(read_whole("/proc/self/status"), "Pid:") + 4) == getpid());
    S(field(read_whole("/proc/self/status"), "Uid:"));
    S(field(read_whole("/proc/self/status"), "Threads:"));
    T(atoi(field(read_whole("/proc/self/status"), "PPid:") + 5) == getppid());
    T(atoi(field(read_whole("/proc/self/status"), "VmRSS:") + 6) > 0);
    T(atoi(read_whole("/proc/self/stat")) == getpid());
    T(strstr(read_whole("/proc/self/stat"), "(renamed)") != NULL);
    int spaces = 0;
    for (char *at = read_whole("/proc/self/stat"); *at; at++)
        spaces += *at == ' ';
    T(spaces);
    T(strlen(read_whole("/proc/self/maps")) > 100);
    void *here = (void *)proc;
    int found = 0;
    for (char *line = read_whole("/proc/self/maps"); line && *line; line = strchr(line, '\n') + 1) {
        unsigned long begin, end;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &begin, &end, rights) == 3 && (unsigned long)here >= begin &&
            (unsigned long)here < end)
            found = rights[2] == 'x';
    }
    T(found);
    T(strstr(read_whole("/proc/self/maps"), "[stack]") != NULL);
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(write(3, "abcdef", 6));
    T(readlink("/proc/self/fd/3", b, sizeof b) > 2);
    T(readlink("/proc/self/fd/99", b, sizeof b));
    T(open("/proc/self/fd/3", O_RDONLY));
    T(read(4, b, 10));
    T(open("/dev/fd/3", O_RDONLY));
    T(open("/proc/self/fd/99", O_RDONLY));
    T(close(5));
    T(close(4));
    T(entries("/proc/self/fd"));
    struct stat it;
    T(stat("/proc/self/fd/3", &it));
    T(it.st_size);
    T(stat("/proc/self/stat", &it));
    T(stat("/proc/self", &it));
    T(S_ISDIR(it.st_mode));
    T(access("/proc/self/status", R_OK));
    snprintf(path, sizeof path, "/proc/%d/stat", getpid());
    T(atoi(read_whole(path)) == getpid());
    pid_t child = START(pause());
    snprintf(path, sizeof path, "/proc/%d/stat", child);
    T(atoi(read_whole(path)) == child);
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    S(read_whole(path));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    T(open(path, O_RDONLY));
    T(strstr(read_whole("/proc/meminfo"), "MemTotal:") != NULL);
    T(strstr(read_whole("/proc/cpuinfo"), "processor") != NULL);
    T(strstr(read_whole("/proc/stat"), "cpu ") != NULL);
    T(atof(read_whole("/proc/uptime")) > 0);
    T(strstr(read_whole("/proc/version"), "Linux") != NULL);
    T(strlen(read_whole("/proc/self/mounts")) > 5);
    T(strlen(read_whole("/proc/self/limits")) > 5);
    T(strlen(read_whole("/proc/self/environ")) > 5);
    T(open("/proc/self/missing", O_RDONLY));
    T(open("/proc/self/status", O_WRONLY | O_CREAT, 0600) >= 0 || errno == EACCES || errno == EPERM);
    T(entries("/proc/self/task"));
    snprintf(path, sizeof path, "%d", getpid());
    int listed = 0;
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        listed |= !strcmp(entry->d_name, path);
    T(listed);
}

void devices(void) {
    char b[16] = {1, 2, 3};
    T(open("/dev/null", O_RDWR));
    T(read(3, b, 16));
    T(write(3, b, 16));
    T(open("/dev/zero", O_RDWR));
    T(read(4, b, 16));
    T(b[0] + b[1] + b[2]);
    T(write(4, b, 16));
    T(open("/dev/full", O_RDWR));
    T(write(5, b, 1));
    T(read(5, b, 1));
    T(open("/dev/urandom", O_RDONLY));
    T(read(6, b, 16));
    struct stat it;
    T(stat("/dev/null", &it));
    T(S_ISCHR(it.st_mode));
    T(it.st_rdev);
    T(open("/dev/missing", O_RDONLY));
    T(open("/dev/tty", O_RDWR) < 0);
    T(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 4, 0) != MAP_FAILED);
    T(access("/dev/shm", W_OK));
    T(open("/dev/shm/x", O_CREAT | O_RDWR, 0600) >= 0);
    T(unlink("/dev/shm/x"));
    T(shm_open("/named", O_CREAT | O_RDWR, 0600) >= 0);
    T(shm_unlink("/named"));
    T(lseek(3, 5, SEEK_SET));
    T(ftruncate(3, 5));
}

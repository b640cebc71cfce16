// What the groups of cases share. A case is an expression: its text is its name, its value is the result.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Says what an expression gave: its value, or the error when that is -1.
#define T(...) (errno = 0, say(#__VA_ARGS__, (long)(__VA_ARGS__)))
// Says a text.
#define S(...) say_text(#__VA_ARGS__, (__VA_ARGS__))

long say(const char *name, long value);
void say_text(const char *name, const char *value);

// Nanoseconds since whenever.
static inline long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline void doze(int milliseconds) {
    struct timespec t = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&t, &t) && errno == EINTR) {
    }
}

// Runs a piece of code in a process of its own; gives its wait status.
#define IN_CHILD(...)                                                                                                  \
    ({                                                                                                                 \
        int status_ = -1;                                                                                              \
        fflush(stdout);                                                                                                \
        pid_t child_ = fork();                                                                                         \
        if (child_ == 0) {                                                                                             \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        waitpid(child_, &status_, 0);                                                                                  \
        status_;                                                                                                       \
    })

// Starts one and gives its number.
#define START(...)                                                                                                     \
    ({                                                                                                                 \
        fflush(stdout);                                                                                                \
        pid_t started_ = fork();                                                                                       \
        if (started_ == 0) {                                                                                           \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        started_;                                                                                                      \
    })

// How often the handler ran, and of what it was told last.
extern volatile int caught;
extern volatile int caught_signal;
extern siginfo_t caught_info;
void count(int signal);
void note(int signal, siginfo_t *info, void *context);
void handle(int signal, int flags);

void files(void);
void directories(void);
void descriptors(void);
void process_locks(void);
void locks(void);
void lock_waits(void);
void pipes(void);
void fifos(void);
void fifo_waits(void);
void sockets(void);
void connections(void);
void inward(void);
void openings(void);
void places(void);
void instructions(void);
void udp(void);
void local_sockets(void);
void readiness(void);
void event_files(void);
void signal_files(void);
void process_files(void);
void watches(void);
void memory(void);
void faults(void);
void sharing(void);
void processes(void);
void waiting(void);
void groups(void);
void execution(void);
void spawning(void);
void signals(void);
void handlers(void);
void interruptions(void);
void queues(void);
void stops(void);
void jobs(void);
void timers(void);
void interval_timers(void);
void threads(void);
void preemption(void);
void shared_locks(void);
void pipes_between(void);
void pipes_as_files(void);
void shared_words(void);
void segments(void);
void messages(void);
void semaphores(void);
void message_queues(void);
void queue_notices(void);
void splices(void);
void further(void);
void times_(void);
void system_(void);
void identity(void);
void proc(void);
void devices(void);

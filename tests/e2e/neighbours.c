// Two programs that meet by what IPC there is: one serves, in a cell, and answers every number; the other asks, in another.
//
//   neighbours serve              makes everything, says "ready", answers for ever
//   neighbours ask KIND COUNT     asks that often, sometimes so slowly that each sleeps; says how often the answer was right
//   neighbours keep KIND          asks without end, and says so after the first answer
//   neighbours time KIND COUNT    the same without a pause: prints nanoseconds for each question with its answer
//   neighbours told               says "listening", and again when a message comes to a queue
//   neighbours tell               sends one
//   neighbours stay               says "here" and stays
//   neighbours hold|look          takes a mutex in shared memory and stays; says whether it can be had
//   neighbours cut|fill           makes the shared memory shorter; sends as much as there is room for
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIE(what) (perror(what), exit(9))
#define MUST(call) ({ __typeof__(call) of_it = (call); if ((long)of_it == -1) DIE(#call); of_it; })

// What lies in shared memory.
struct place {
    sem_t asked, answered;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int turn, value;
    // Nothing is one that nobody has.
    pthread_mutex_t held;
};

static struct place *place(void) {
    int file = MUST(shm_open("/place", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(file, 8192));
    struct place *it = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (it == MAP_FAILED) DIE("mmap");
    close(file);
    return it;
}

static void furnish(struct place *it) {
    sem_init(&it->asked, 1, 0);
    sem_init(&it->answered, 1, 0);
    pthread_mutexattr_t of_mutex;
    pthread_mutexattr_init(&of_mutex);
    pthread_mutexattr_setpshared(&of_mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&it->mutex, &of_mutex);
    pthread_condattr_t of_condition;
    pthread_condattr_init(&of_condition);
    pthread_condattr_setpshared(&of_condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&it->changed, &of_condition);
    it->turn = 0;
}

struct message { long kind; int value; };

// How each kind carries a number to one side: 0 is the server's, 1 the asker's.
static void say(const char *kind, int side, int value);
static int hear(const char *kind, int side);

static const char *QUEUES[] = {"/asked", "/answered"}, *FIFOS[] = {"/dev/shm/asked", "/dev/shm/answered"};
static mqd_t queues[2];
static int fifos[2], messages, set, segments;
static struct place *shared;
static volatile int *segment;

static void begin(const char *kind, int side) {
    if (!strcmp(kind, "queue")) {
        struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 16};
        for (int at = 0; at < 2; at++) queues[at] = MUST(mq_open(QUEUES[at], O_RDWR | O_CREAT, 0600, &attributes));
    } else if (!strcmp(kind, "fifo")) {
        for (int at = 0; at < 2; at++)
            fifos[at] = MUST(open(FIFOS[at], (at == side) ? O_RDONLY : O_WRONLY));
    } else if (!strcmp(kind, "message")) {
        messages = MUST(msgget(77, 0600 | IPC_CREAT));
    } else if (!strcmp(kind, "set") || !strcmp(kind, "segment")) {
        set = MUST(semget(kind[1] == 'e' && kind[2] == 't' ? 78 : 79, 2, 0600 | IPC_CREAT));
        if (kind[2] == 'g') {
            segments = MUST(shmget(80, 4096, 0600 | IPC_CREAT));
            segment = MUST(shmat(segments, NULL, 0));
        }
    }
    shared = place();
}

static void change(int at, int by) {
    struct sembuf one = {at, by, 0};
    while (semop(set, &one, 1) == -1)
        if (errno != EINTR) DIE("semop");
}

static void say(const char *kind, int side, int value) {
    if (!strcmp(kind, "queue")) MUST(mq_send(queues[side], (char *)&value, sizeof value, 0));
    if (!strcmp(kind, "fifo")) MUST(write(fifos[side], &value, sizeof value));
    if (!strcmp(kind, "semaphore")) {
        shared->value = value;
        MUST(sem_post(side ? &shared->answered : &shared->asked));
    }
    if (!strcmp(kind, "condition")) {
        pthread_mutex_lock(&shared->mutex);
        shared->value = value;
        shared->turn = side ? 2 : 1;
        pthread_cond_broadcast(&shared->changed);
        pthread_mutex_unlock(&shared->mutex);
    }
    if (!strcmp(kind, "message")) {
        struct message it = {side + 1, value};
        MUST(msgsnd(messages, &it, sizeof it.value, 0));
    }
    if (!strcmp(kind, "set")) {
        shared->value = value;
        change(side, 1);
    }
    if (!strcmp(kind, "segment")) {
        segment[side] = value;
        change(side, 1);
    }
}

static int hear(const char *kind, int side) {
    int value = -1;
    char bytes[16];
    if (!strcmp(kind, "queue")) {
        MUST(mq_receive(queues[side], bytes, sizeof bytes, NULL));
        memcpy(&value, bytes, sizeof value);
    }
    if (!strcmp(kind, "fifo")) {
        if (MUST(read(fifos[side], &value, sizeof value)) == 0) {
            printf("fifo: its other end is gone\n");
            fflush(stdout);
            _exit(0);
        }
    }
    if (!strcmp(kind, "semaphore")) {
        while (sem_wait(side ? &shared->answered : &shared->asked) == -1)
            if (errno != EINTR) DIE("sem_wait");
        value = shared->value;
    }
    if (!strcmp(kind, "condition")) {
        pthread_mutex_lock(&shared->mutex);
        while (shared->turn != (side ? 2 : 1)) pthread_cond_wait(&shared->changed, &shared->mutex);
        shared->turn = 0;
        value = shared->value;
        pthread_mutex_unlock(&shared->mutex);
    }
    if (!strcmp(kind, "message")) {
        struct message it;
        while (msgrcv(messages, &it, sizeof it.value, side + 1, 0) == -1)
            if (errno != EINTR) DIE("msgrcv");
        value = it.value;
    }
    if (!strcmp(kind, "set")) {
        change(side, -1);
        value = shared->value;
    }
    if (!strcmp(kind, "segment")) {
        change(side, -1);
        value = segment[side];
    }
    return value;
}

static long now(void) {
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return it.tv_sec * 1000000000L + it.tv_nsec;
}

static void serve(void) {
    static const char *kinds[] = {"queue", "semaphore", "condition", "fifo", "message", "set", "segment"};
    furnish(place());
    for (int at = 0; at < 2; at++) MUST(mkfifo(FIFOS[at], 0600));
    for (unsigned at = 0; at < sizeof kinds / sizeof *kinds; at++)
        if (fork() == 0) {
            const char *kind = kinds[at];
            begin(kind, 0);
            for (;;) {
                int value = hear(kind, 0);
                // Who asks sleeps, too, now and then.
                if (value % 8 == 5) usleep(20000);
                say(kind, 1, value * 2 + 1);
            }
        }
    usleep(100000);
    printf("ready\n");
    fflush(stdout);
    for (;;) pause();
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "", *kind = count > 2 ? words[2] : "";
    int times = count > 3 ? atoi(words[3]) : 1;
    if (!strcmp(what, "serve")) serve();
    if (!strcmp(what, "told") || !strcmp(what, "tell")) {
        struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 16};
        mqd_t queue = MUST(mq_open("/told", O_RDWR | O_CREAT, 0600, &attributes));
        if (!strcmp(what, "tell")) return MUST(mq_send(queue, "x", 1, 0));
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGUSR1);
        sigprocmask(SIG_BLOCK, &signals, NULL);
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
        MUST(mq_notify(queue, &event));
        printf("listening\n");
        fflush(stdout);
        siginfo_t info;
        MUST(sigwaitinfo(&signals, &info));
        printf("told %d\n", info.si_code == SI_MESGQ);
        return 0;
    }
    if (!strcmp(what, "stay")) {
        printf("here\n");
        fflush(stdout);
        for (;;) pause();
    }
    alarm(60);
    if (!strcmp(what, "ask")) {
        int right = 0;
        begin(kind, 1);
        for (int at = 0; at < times; at++) {
            if (at % 8 == 3) usleep(20000);
            say(kind, 0, at);
            right += hear(kind, 1) == at * 2 + 1;
        }
        printf("%s: %d right\n", kind, right);
    } else if (!strcmp(what, "keep")) {
        begin(kind, 1);
        for (int at = 0;; at++) {
            say(kind, 0, 0);
            hear(kind, 1);
            if (at == 0) printf("asking\n"), fflush(stdout);
        }
    } else if (!strcmp(what, "time")) {
        begin(kind, 1);
        long began = now();
        for (int at = 0; at < times; at++) {
            say(kind, 0, 0);
            hear(kind, 1);
        }
        printf("%s %ld\n", kind, (now() - began) / times);
    } else if (!strcmp(what, "hold")) {
        pthread_mutex_lock(&place()->held);
        printf("held\n");
        fflush(stdout);
        alarm(0);
        for (;;) pause();
    } else if (!strcmp(what, "look")) {
        printf("%s\n", pthread_mutex_trylock(&place()->held) == EBUSY ? "held" : "free");
    } else if (!strcmp(what, "cut")) {
        MUST(truncate("/dev/shm/place", 0));
    } else if (!strcmp(what, "fill")) {
        int sent = 0;
        mqd_t queue = MUST(mq_open(QUEUES[1], O_WRONLY | O_NONBLOCK));
        while (mq_send(queue, "x", 1, 0) == 0) sent++;
        printf("queue full after %d: %s\n", sent, strerror(errno));
    } else {
        return 2;
    }
    return 0;
}

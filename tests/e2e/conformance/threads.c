// Threads and what they wait for.
#include "case.h"
#include <linux/futex.h>
#include <semaphore.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static volatile long counter;
static __thread long own = 5;

static void *add(void *argument) {
    for (long i = 0; i < (long)argument; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    own = counter;
    return (void *)(own > 0 ? 77L : 0L);
}

static void *sleep_long(void *argument) {
    for (;;)
        doze(50);
    return argument;
}

static void *die_holding(void *argument) {
    pthread_mutex_lock(argument);
    return NULL;
}

static void *set_later(void *argument) {
    doze(60);
    pthread_mutex_lock(&mutex);
    *(volatile long *)argument = 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void *block_read(void *argument) {
    char byte;
    return (void *)read((int)(long)argument, &byte, 1);
}

static volatile pthread_t handled_in;

static void where(int signal) {
    (void)signal;
    handled_in = pthread_self();
    caught++;
}

static void *exit_all(void *argument) {
    doze(20);
    _exit((int)(long)argument);
}

static pthread_key_t key;
static volatile long destroyed;

static void destroy(void *value) { destroyed += (long)value; }

static void *use_key(void *argument) {
    pthread_setspecific(key, argument);
    return NULL;
}

static struct timespec in(int milliseconds, clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    at.tv_nsec += milliseconds * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

void threads(void) {
    pthread_t t[8];
    void *result = NULL;
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, add, (void *)1000L);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], &result);
    T(counter);
    T((long)result);
    T(own);
    T(pthread_create(&t[0], NULL, sleep_long, NULL));
    T(pthread_cancel(t[0]));
    T(pthread_join(t[0], &result));
    T(result == PTHREAD_CANCELED);
    // Waiting for a condition.
    long flag = 0;
    T(pthread_create(&t[0], NULL, set_later, &flag));
    pthread_mutex_lock(&mutex);
    while (!flag)
        pthread_cond_wait(&changed, &mutex);
    T(flag);
    struct timespec at = in(50, CLOCK_REALTIME);
    long long begin = now();
    T(pthread_cond_timedwait(&changed, &mutex, &at));
    T(now() - begin > 25000000 && now() - begin < 5000000000LL);
    pthread_mutex_unlock(&mutex);
    pthread_join(t[0], NULL);
    // Who dies with a lock leaves it to the next.
    pthread_mutexattr_t attributes;
    pthread_mutex_t robust;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&t[0], NULL, die_holding, &robust);
    pthread_join(t[0], NULL);
    T(pthread_mutex_lock(&robust));
    T(pthread_mutex_consistent(&robust));
    T(pthread_mutex_unlock(&robust));
    T(pthread_mutex_trylock(&mutex));
    T(pthread_mutex_trylock(&mutex));
    at = in(30, CLOCK_REALTIME);
    T(pthread_mutex_timedlock(&mutex, &at));
    T(pthread_mutex_unlock(&mutex));
    pthread_key_create(&key, destroy);
    pthread_create(&t[0], NULL, use_key, (void *)9L);
    pthread_join(t[0], NULL);
    T(destroyed);
    // A thread that waits in a call does not hold up the others.
    int p[2];
    pipe(p);
    pthread_create(&t[0], NULL, block_read, (void *)(long)p[0]);
    pthread_create(&t[1], NULL, add, (void *)10L);
    T(pthread_join(t[1], NULL));
    T(write(p[1], "x", 1));
    T(pthread_join(t[0], &result));
    T((long)result);
    // A signal for one of them.
    struct sigaction action = {.sa_handler = where};
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&t[0], NULL, block_read, (void *)(long)p[0]);
    doze(200);
    T(pthread_kill(t[0], SIGUSR1));
    T(pthread_join(t[0], &result));
    T((long)result);
    T(pthread_equal(handled_in, t[0]) != 0);
    T(pthread_kill(pthread_self(), 0));
    T(pthread_kill(pthread_self(), 999));
    // One for all goes to whoever takes it.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    caught = 0;
    pthread_create(&t[0], NULL, block_read, (void *)(long)p[0]);
    doze(20);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    T(kill(getpid(), SIGUSR1));
    while (!caught)
        doze(5);
    T(caught);
    // Should it have come before the read.
    write(p[1], "x", 1);
    T(pthread_join(t[0], NULL));
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    // The process ends with all of them.
    T(IN_CHILD({
        pthread_create(&t[0], NULL, exit_all, (void *)6L);
        pause();
    }));
    T(IN_CHILD({
        pthread_create(&t[0], NULL, exit_all, (void *)7L);
        pthread_exit(NULL);
    }));
    // A child of many threads has one.
    pthread_create(&t[0], NULL, block_read, (void *)(long)p[0]);
    T(IN_CHILD({
        pthread_t more;
        pthread_create(&more, NULL, add, (void *)5L);
        pthread_join(more, NULL);
        _exit(3);
    }));
    T(write(p[1], "x", 1));
    T(pthread_join(t[0], &result));
    // Futexes themselves.
    uint32_t word = 1;
    T(syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0));
    struct timespec little = {0, 20000000};
    T(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &little, NULL, 0));
    T(syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    T(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAKE, 1, NULL, NULL, 0));
    T(syscall(SYS_futex, 8, FUTEX_WAIT, 1, NULL, NULL, 0));
    T(syscall(SYS_futex, &word, 99, 1, NULL, NULL, 0));
    T(syscall(SYS_tgkill, getpid(), 1000000, SIGUSR1));
    T(syscall(SYS_tkill, 0, SIGUSR1));
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    T(pthread_attr_setstacksize(&attr, 65536));
    T(pthread_create(&t[0], &attr, add, (void *)1L));
    T(pthread_join(t[0], NULL));
    pthread_barrier_t barrier;
    T(pthread_barrier_init(&barrier, NULL, 1));
    T(pthread_barrier_wait(&barrier));
    // Many, one after the other.
    for (int i = 0; i < 200; i++) {
        pthread_create(&t[0], NULL, add, (void *)1L);
        pthread_join(t[0], NULL);
    }
    T(counter);
}

static volatile int stop;

static void *compute(void *argument) {
    while (!stop) {
    }
    return argument;
}

// A thread that computes does not starve the others.
void preemption(void) {
    pthread_t t;
    pthread_create(&t, NULL, compute, NULL);
    long long begin = now();
    for (int i = 0; i < 10; i++)
        doze(5);
    T(now() - begin < 5000000000LL);
    stop = 1;
    T(pthread_join(t, NULL));
    stop = 0;
    pthread_create(&t, NULL, compute, NULL);
    sched_yield();
    // Nobody sleeps here: both compute.
    begin = now();
    while (now() - begin < 50000000) {
    }
    stop = 1;
    T(pthread_join(t, NULL));
    // One that waits for a file gets it while the other computes.
    stop = 0;
    int p[2];
    pipe(p);
    pthread_create(&t, NULL, compute, NULL);
    pid_t child = START({
        doze(50);
        write(p[1], "x", 1);
    });
    char byte;
    T(read(p[0], &byte, 1));
    stop = 1;
    T(pthread_join(t, NULL));
    T(waitpid(child, NULL, 0) == child);
}

struct common {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    sem_t semaphore;
    int counter, ready;
    uint32_t word;
};

// Locks in memory that several processes share.
void shared_locks(void) {
    struct common *it = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t mutexes;
    pthread_condattr_t conditions;
    pthread_mutexattr_init(&mutexes);
    pthread_condattr_init(&conditions);
    pthread_mutexattr_setpshared(&mutexes, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setpshared(&conditions, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&it->mutex, &mutexes);
    pthread_cond_init(&it->changed, &conditions);
    T(sem_init(&it->semaphore, 1, 0));
    pid_t children[3];
    for (int i = 0; i < 3; i++)
        children[i] = START({
            for (int n = 0; n < 300; n++) {
                pthread_mutex_lock(&it->mutex);
                int before = it->counter;
                if (n % 50 == 0)
                    doze(1);
                it->counter = before + 1;
                pthread_mutex_unlock(&it->mutex);
            }
        });
    for (int i = 0; i < 3; i++)
        T(waitpid(children[i], NULL, 0) == children[i]);
    T(it->counter);
    pid_t child = START({
        doze(60);
        sem_post(&it->semaphore);
    });
    T(sem_wait(&it->semaphore));
    T(waitpid(child, NULL, 0) == child);
    child = START({
        doze(60);
        pthread_mutex_lock(&it->mutex);
        it->ready = 1;
        pthread_cond_broadcast(&it->changed);
        pthread_mutex_unlock(&it->mutex);
    });
    pthread_mutex_lock(&it->mutex);
    while (!it->ready)
        pthread_cond_wait(&it->changed, &it->mutex);
    pthread_mutex_unlock(&it->mutex);
    T(it->ready);
    T(waitpid(child, NULL, 0) == child);
    struct timespec little = {0, 30000000};
    T(syscall(SYS_futex, &it->word, FUTEX_WAIT, 0, &little, NULL, 0));
    child = START({
        doze(60);
        it->word = 1;
        _exit(syscall(SYS_futex, &it->word, FUTEX_WAKE, 10, NULL, NULL, 0));
    });
    struct timespec long_time = {5, 0};
    T(syscall(SYS_futex, &it->word, FUTEX_WAIT, 0, &long_time, NULL, 0));
    int status = 0;
    T(waitpid(child, &status, 0) == child);
    T(status);
    // In a file that both mapped by themselves.
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    T(ftruncate(fd, 4096));
    uint32_t *mine = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    child = START({
        uint32_t *theirs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open("f", O_RDWR), 0);
        doze(60);
        *theirs = 1;
        _exit(syscall(SYS_futex, theirs, FUTEX_WAKE, 10, NULL, NULL, 0));
    });
    T(syscall(SYS_futex, mine, FUTEX_WAIT, 0, &long_time, NULL, 0));
    T(waitpid(child, &status, 0) == child);
    T(status);
    int *robust_state = &it->counter;
    pthread_mutexattr_setrobust(&mutexes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&it->mutex, &mutexes);
    T(IN_CHILD({
        pthread_mutex_lock(&it->mutex);
        *robust_state = 5;
    }));
    T(pthread_mutex_lock(&it->mutex));
}

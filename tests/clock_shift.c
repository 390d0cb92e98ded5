/* A wall clock that can be set, for one process: preload this library.
 *
 * Adds the nanoseconds in the file CLOCK_SHIFT_FILE to CLOCK_REALTIME. As after
 * settimeofday, waits until a time of that clock end when the new time is reached,
 * also those that have begun: they wait in slices. Other clocks stay as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE 10000000LL
#define TIMERS 64
#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

typedef struct timespec Time;

static volatile int64_t *shift;

__attribute__((constructor)) static void open_shift(void) {
    const char *path = getenv("CLOCK_SHIFT_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) shift = page;
    close(file);
}

static int64_t shift_ns(void) { return shift ? *shift : 0; }
static int64_t ns_from(const Time *t) { return t->tv_sec * SECOND + t->tv_nsec; }
static Time time_from(int64_t ns) {
    if (ns < 1) ns = 1; /* a time of 0 would disarm a timer */
    return (Time){ns / SECOND, ns % SECOND};
}

static int get_time(clockid_t clock, Time *now) {
    REAL(clock_gettime);
    return real(clock, now);
}

int clock_gettime(clockid_t clock, Time *now) {
    int status = get_time(clock, now);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *now = time_from(ns_from(now) + shift_ns());
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    Time time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    *now = (struct timeval){time.tv_sec, time.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out) {
    Time now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* The end of the next slice of a wait, in the kernel's time; 0 if it is the last. */
static int next_slice(const Time *deadline, Time *end) {
    Time now;
    get_time(CLOCK_REALTIME, &now);
    int64_t true_end = ns_from(deadline) - shift_ns();
    int64_t slice_end = ns_from(&now) + SLICE;
    *end = time_from(true_end < slice_end ? true_end : slice_end);
    return true_end >= slice_end;
}

int sem_timedwait(sem_t *semaphore, const Time *deadline) {
    REAL(sem_timedwait);
    for (Time end;;) {
        int more = next_slice(deadline, &end), status = real(semaphore, &end);
        if (status == 0 || errno != ETIMEDOUT || !more) return status;
    }
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const Time *deadline) {
    REAL(pthread_mutex_timedlock);
    for (Time end;;) {
        int more = next_slice(deadline, &end), status = real(mutex, &end);
        if (status != ETIMEDOUT || !more) return status;
    }
}

/* Futexes of Abseil's mutexes, which gRPC uses. */
long syscall(long number, ...) {
    REAL(syscall);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    int is_wait = number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3];
    for (Time end; is_wait;) {
        int more = next_slice((const Time *)a[3], &end);
        long status = real(number, a[0], a[1], a[2], &end, a[4], a[5]);
        if (status == 0 || errno != ETIMEDOUT || !more) return status;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static struct { timer_t id; int64_t deadline; int known; } timers[TIMERS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int find(timer_t id) {
    for (int i = 0; i < TIMERS; i++)
        if (timers[i].known && timers[i].id == id) return i;
    return -1;
}

static int set_timer(timer_t id, int flags, const struct itimerspec *new,
                     struct itimerspec *old) {
    REAL(timer_settime);
    return real(id, flags, new, old);
}

static void set_to_deadline(int i) {
    struct itimerspec setting = {{0, 0}, time_from(timers[i].deadline - shift_ns())};
    set_timer(timers[i].id, TIMER_ABSTIME, &setting, NULL);
}

static void *follow_shift(void *unused) {
    for (int64_t known = shift_ns();; usleep(2000)) {
        if (known == shift_ns()) continue;
        pthread_mutex_lock(&lock);
        known = shift_ns();
        for (int i = 0; i < TIMERS; i++)
            if (timers[i].known && timers[i].deadline) set_to_deadline(i);
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

int timer_create(clockid_t clock, struct sigevent *event, timer_t *id) {
    static int is_following;
    REAL(timer_create);
    int status = real(clock, event, id);
    if (status || clock != CLOCK_REALTIME) return status;
    pthread_mutex_lock(&lock);
    pthread_t thread;
    if (!is_following) is_following = !pthread_create(&thread, NULL, follow_shift, NULL);
    for (int i = 0; i < TIMERS; i++)
        if (!timers[i].known) {
            timers[i].id = *id, timers[i].deadline = 0, timers[i].known = 1;
            break;
        }
    pthread_mutex_unlock(&lock);
    return 0;
}

int timer_settime(timer_t id, int flags, const struct itimerspec *new,
                  struct itimerspec *old) {
    pthread_mutex_lock(&lock);
    int i = find(id), status = 0;
    int is_end = i >= 0 && (flags & TIMER_ABSTIME) && ns_from(&new->it_value);
    if (i >= 0) timers[i].deadline = is_end ? ns_from(&new->it_value) : 0;
    struct itimerspec setting = *new;
    if (is_end) setting.it_value = time_from(timers[i].deadline - shift_ns());
    status = set_timer(id, flags, &setting, old);
    pthread_mutex_unlock(&lock);
    return status;
}

int timer_delete(timer_t id) {
    REAL(timer_delete);
    pthread_mutex_lock(&lock);
    int i = find(id);
    if (i >= 0) timers[i].known = 0;
    pthread_mutex_unlock(&lock);
    return real(id);
}

/* A process whose functions are called from outside, and whose threads wait in places good and bad for that.

   It says the addresses of its functions and the ids of its threads. Commands: `l` has a thread take the lock that `locked`
   wants, `u` has it given back, `?` says how often each function ended, and what went wrong. */

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>

#include "target.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t take, give, done;
static atomic_long locked_ended, many_ended, faults, sleeps;
static atomic_int started;
static uint32_t word;

long locked(long value)
{
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    atomic_fetch_add(&locked_ended, 1);
    return value + 1;
}

long many(long count)
{
    for (long n = 0; n < count; n++)
        syscall(SYS_getppid);
    atomic_fetch_add(&many_ended, 1);
    return 2 * count;
}

long crash(long value)
{
    *(volatile long *)value = value;
    return value;
}

/* Makes the deepest use of the stack that may be made of it. */
long deep(long bytes)
{
    volatile char room[bytes];
    memset((char *)room, 0x55, bytes);
    return room[bytes / 2];
}

static void on_fault(int number)
{
    (void)number;
    atomic_fetch_add(&faults, 1);
    _exit(99);
}

static void say(const char *name)
{
    printf("%s %ld\n", name, syscall(SYS_gettid));
    fflush(stdout);
    atomic_fetch_add(&started, 1);
}

static void wait_in_handler(int number)
{
    (void)number;
    say("handler");
    for (;;)
        poll(NULL, 0, -1);
}

static void wait_on_signal_stack(int number)
{
    (void)number;
    say("signal_stack");
    for (;;)
        poll(NULL, 0, -1);
}

static void *interrupted(void *unused)
{
    pthread_kill(pthread_self(), SIGUSR1);
    return unused;
}

static void *interrupted_elsewhere(void *unused)
{
    stack_t other = {.ss_sp = malloc(1 << 17), .ss_size = 1 << 17};
    sigaltstack(&other, NULL);
    pthread_kill(pthread_self(), SIGUSR2);
    return unused;
}

static void in_coroutine(void)
{
    say("coroutine");
    for (;;)
        poll(NULL, 0, -1);
}

static void *coroutine(void *unused)
{
    static ucontext_t here, there;
    getcontext(&there);
    there.uc_stack.ss_sp = malloc(1 << 17);
    there.uc_stack.ss_size = 1 << 17;
    there.uc_link = &here;
    makecontext(&there, in_coroutine, 0);
    swapcontext(&here, &there);
    return unused;
}

static void *wait_plainly(void *unused)
{
    say("plain_futex");
    for (;;)
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return unused;
}

static void *spin(void *unused)
{
    say("spinning");
    for (volatile long n = 0;; n++)
        ;
    return unused;
}

static void *sleep_for_ever(void *unused)
{
    say("sleeper");
    for (;; atomic_fetch_add(&sleeps, 1)) {
        struct timespec brief = {0, 3000000}, before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (nanosleep(&brief, NULL))
            count_error("nanosleep", &brief);
        clock_gettime(CLOCK_MONOTONIC, &after);
        if ((after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec < 3000000)
            count_error("nanosleep ended early", &brief);
    }
    return unused;
}

static void *hold_lock(void *unused)
{
    say("holder");
    for (;;) {
        while (sem_wait(&take))
            ;
        pthread_mutex_lock(&lock);
        sem_post(&done);
        while (sem_wait(&give))
            ;
        pthread_mutex_unlock(&lock);
        sem_post(&done);
    }
    return unused;
}

static void start(void *(*routine)(void *))
{
    pthread_t thread;
    int before = atomic_load(&started);
    pthread_create(&thread, NULL, routine, NULL);
    while (atomic_load(&started) == before)
        usleep(100);
}

int main(int count, char **words)
{
    struct sigaction fault = {.sa_handler = on_fault}, plain = {.sa_handler = wait_in_handler};
    struct sigaction elsewhere = {.sa_handler = wait_on_signal_stack, .sa_flags = SA_ONSTACK};
    (void)words;
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGUSR1, &plain, NULL);
    sigaction(SIGUSR2, &elsewhere, NULL);
    sem_init(&take, 0, 0);
    sem_init(&give, 0, 0);
    sem_init(&done, 0, 0);
    printf("locked %lu\nmany %lu\ncrash %lu\ndeep %lu\n", (unsigned long)locked, (unsigned long)many, (unsigned long)crash,
           (unsigned long)deep);
    start(interrupted);
    start(interrupted_elsewhere);
    start(coroutine);
    start(wait_plainly);
    start(sleep_for_ever);
    start(hold_lock);
    if (count > 1)
        start(spin);
    for (char command; (command = next_command());)
        if (command == 'l' || command == 'u') {
            sem_post(command == 'l' ? &take : &give);
            sem_wait(&done);
        } else {
            printf("locked %ld\nmany %ld\nfaults %ld\nsleeps %ld\nerrors %lu\n", locked_ended, many_ended, faults, sleeps,
                   errors);
        }
    return 0;
}

/* A process in a storm of signals that counts each of them.

   One thread sends queued signals to the process and to single threads, a thousand a second, and others one by one, each
   only when the one before was handled. A timer adds its own. The workers compute, sleep, and wait for descriptors. On a
   line of input it ends, and says what was sent and what came, for each kind; and how often a call was interrupted though
   no handler had run. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

#include "target.h"

#define WORKERS 4

static atomic_int ending;
static atomic_long queued_sent, queued_handled, single_sent, single_handled, expirations, calls_interrupted;
static pthread_t workers[WORKERS];
static _Thread_local volatile sig_atomic_t handled_here;

static void on_queued(int number, siginfo_t *information, void *context)
{
    (void)number, (void)context;
    if (information->si_code != SI_QUEUE)
        atomic_fetch_add(&errors, 1);
    handled_here++;
    atomic_fetch_add(&queued_handled, 1);
}

static void on_single(int number)
{
    (void)number;
    handled_here++;
    atomic_fetch_add(&single_handled, 1);
}

static void on_timer(int number, siginfo_t *information, void *context)
{
    (void)number, (void)context;
    handled_here++;
    atomic_fetch_add(&expirations, 1 + information->si_overrun);
}

/* A call that may be interrupted, but only by a handler of ours. */
static void check_interruption(long result, int before)
{
    if (result == -1 && errno == EINTR && handled_here == before)
        atomic_fetch_add(&calls_interrupted, 1);
}

static void *work(void *argument)
{
    long kind = (long)argument, expected = 0;
    int queue = epoll_create1(0);
    while (!atomic_load(&ending)) {
        int before = handled_here;
        struct epoll_event event;
        struct timespec brief = {0, 1000000};
        if (kind == 0) {
            long sum = 0;
            for (long i = 0; i < 100000; i++)
                sum += i * i % 7;
            expected = expected ? expected : sum;
            if (sum != expected)
                count_error("sum", &sum);
        } else if (kind == 1) {
            check_interruption(nanosleep(&brief, NULL), before);
        } else {
            epoll_wait(queue, &event, 1, 2); /* says EINTR also for a signal that another thread then took */
        }
    }
    return NULL;
}

static void *send(void *unused)
{
    for (long turn = 0; !atomic_load(&ending); turn++) {
        struct timespec brief = {0, 1000000};
        union sigval value = {.sival_int = (int)turn};
        int failed = turn % 2 ? sigqueue(getpid(), SIGRTMIN + 1, value)
                              : pthread_sigqueue(workers[turn / 2 % WORKERS], SIGRTMIN + 1, value);
        if (!failed)
            atomic_fetch_add(&queued_sent, 1);
        if (atomic_load(&single_handled) == atomic_load(&single_sent)) {
            atomic_fetch_add(&single_sent, 1);
            kill(getpid(), SIGUSR1);
        }
        nanosleep(&brief, NULL);
    }
    return unused;
}

int main(void)
{
    struct sigaction queued = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO};
    struct sigaction single = {.sa_handler = on_single, .sa_flags = SA_RESTART};
    struct sigaction timed = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGRTMIN + 1, &queued, NULL);
    sigaction(SIGUSR1, &single, NULL);
    sigaction(SIGALRM, &timed, NULL);
    for (long n = 0; n < WORKERS; n++)
        pthread_create(&workers[n], NULL, work, (void *)n);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    pthread_t sender;
    pthread_create(&sender, NULL, send, NULL);
    timer_t timer;
    struct sigevent by_signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    struct timespec settle = {0, 50000000};
    timer_create(CLOCK_MONOTONIC, &by_signal, &timer);
    timer_settime(timer, 0, &every, NULL);

    next_command();
    timer_delete(timer);
    nanosleep(&settle, NULL);
    atomic_store(&ending, 1);
    pthread_join(sender, NULL);
    nanosleep(&settle, NULL);
    printf("queued %ld %ld\nsingle %ld %ld\n", queued_sent, queued_handled, single_sent, single_handled);
    printf("timer %ld\ninterrupted %ld\nerrors %lu\n", expirations, calls_interrupted, errors);
    next_command();
    return 0;
}

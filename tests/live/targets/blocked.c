/* A process with a thread in every kind of system call that blocks, with and without a timeout.

   Each thread calls in a loop and checks each result: the value, errno, and that a timeout did not end early. What comes
   without a timeout is fed by one thread every few milliseconds. A byte on standard input ends it all, and then it says of
   each thread: its name, how often it called, how many results were wrong, and the first of those. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_NS 4000000L
#define MOST_THREADS 64

static atomic_int ending;

struct waiter {
    const char *name;
    void (*turn)(struct waiter *);
    void (*feed)(struct waiter *);
    int ends[2], queue, files[2];
    sem_t semaphore;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    uint32_t word;
    long given, taken;
    pthread_t thread;
    long count, wrong;
    char first[160];
};

static struct waiter waiters[MOST_THREADS];
static int waiter_count;

static long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void wrong(struct waiter *me, const char *what, long got, int number, long elapsed_ns)
{
    if (atomic_load(&ending))
        return;
    if (!me->wrong++)
        snprintf(me->first, sizeof me->first, "%s: %ld errno %d (%s) after %ld us", what, got, number, strerror(number),
                 elapsed_ns / 1000);
}

/* A call that times out: with this result and errno, and not early. */
#define EXPECT_TIMEOUT(me, call, result, number) EXPECT_TIMEOUT_SINCE(now_ns(), me, call, result, number)

/* The same, where the time at which it ends was set earlier. */
#define EXPECT_TIMEOUT_SINCE(since, me, call, result, number)                             \
    do {                                                                                  \
        errno = 0;                                                                        \
        long begun = (since), got = (call), elapsed = now_ns() - begun, seen = errno;     \
        if (got != (result) || (got == -1 && seen != (number)) || elapsed < TIMEOUT_NS)   \
            wrong(me, "timeout", got, seen, elapsed);                                     \
    } while (0)

/* A call that is fed: with this result. */
#define EXPECT(me, call, result)                                                          \
    do {                                                                                  \
        errno = 0;                                                                        \
        long begun = now_ns(), got = (call), seen = errno;                                \
        if (got != (result))                                                              \
            wrong(me, "fed", got, seen, now_ns() - begun);                                \
    } while (0)

static struct timespec span(void) { return (struct timespec){0, TIMEOUT_NS}; }

static struct timespec from_now(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    at.tv_nsec += TIMEOUT_NS;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

/* Blocked for the time of ppoll and its kin: all that is blocked anyway, but for one signal that never comes. */
static sigset_t other_mask(void)
{
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    sigdelset(&mask, SIGRTMIN + 5);
    sigaddset(&mask, SIGUSR2);
    return mask;
}

/* Sleeps */

static void turn_nanosleep(struct waiter *me)
{
    struct timespec time = span(), left;
    EXPECT_TIMEOUT(me, nanosleep(&time, &left), 0, 0);
}
static void turn_clock_nanosleep(struct waiter *me)
{
    struct timespec time = span();
    EXPECT_TIMEOUT(me, clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL), 0, 0);
}
static void turn_clock_nanosleep_until(struct waiter *me)
{
    long set = now_ns();
    struct timespec at = from_now(CLOCK_MONOTONIC);
    EXPECT_TIMEOUT_SINCE(set, me, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL), 0, 0);
}

/* Waiting for descriptors */

static void feed_byte(struct waiter *me)
{
    if (write(me->ends[1], "x", 1) == 1)
        me->given++;
}
static void take_byte(struct waiter *me)
{
    char byte;
    EXPECT(me, read(me->ends[0], &byte, 1), 1);
}
static void turn_poll_timeout(struct waiter *me)
{
    struct pollfd one = {me->ends[0], POLLIN, 0};
    EXPECT_TIMEOUT(me, poll(&one, 1, TIMEOUT_NS / 1000000), 0, 0);
}
static void turn_poll(struct waiter *me)
{
    struct pollfd one = {me->ends[0], POLLIN, 0};
    EXPECT(me, poll(&one, 1, -1), 1);
    take_byte(me);
}
static void turn_ppoll_timeout(struct waiter *me)
{
    struct pollfd one = {me->ends[0], POLLIN, 0};
    struct timespec time = span();
    sigset_t mask = other_mask();
    EXPECT_TIMEOUT(me, ppoll(&one, 1, &time, &mask), 0, 0);
}
static void turn_ppoll(struct waiter *me)
{
    struct pollfd one = {me->ends[0], POLLIN, 0};
    sigset_t mask = other_mask();
    EXPECT(me, ppoll(&one, 1, NULL, &mask), 1);
    take_byte(me);
}
static void turn_select_timeout(struct waiter *me)
{
    fd_set set;
    struct timeval time = {0, TIMEOUT_NS / 1000};
    FD_ZERO(&set);
    FD_SET(me->ends[0], &set);
    EXPECT_TIMEOUT(me, select(me->ends[0] + 1, &set, NULL, NULL, &time), 0, 0);
}
static void turn_select(struct waiter *me)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(me->ends[0], &set);
    EXPECT(me, select(me->ends[0] + 1, &set, NULL, NULL, NULL), 1);
    take_byte(me);
}
static void turn_pselect_timeout(struct waiter *me)
{
    struct timespec time = span();
    sigset_t mask = other_mask();
    EXPECT_TIMEOUT(me, pselect(0, NULL, NULL, NULL, &time, &mask), 0, 0);
}
static int epoll_of(struct waiter *me)
{
    if (!me->queue) {
        struct epoll_event in = {.events = EPOLLIN};
        me->queue = epoll_create1(0);
        epoll_ctl(me->queue, EPOLL_CTL_ADD, me->ends[0], &in);
    }
    return me->queue;
}
static void turn_epoll_wait_timeout(struct waiter *me)
{
    struct epoll_event event;
    EXPECT_TIMEOUT(me, epoll_wait(epoll_of(me), &event, 1, TIMEOUT_NS / 1000000), 0, 0);
}
static void turn_epoll_wait(struct waiter *me)
{
    struct epoll_event event;
    EXPECT(me, epoll_wait(epoll_of(me), &event, 1, -1), 1);
    take_byte(me);
}
static void turn_epoll_pwait(struct waiter *me)
{
    struct epoll_event event;
    sigset_t mask = other_mask();
    EXPECT(me, epoll_pwait(epoll_of(me), &event, 1, -1, &mask), 1);
    take_byte(me);
}
static void turn_epoll_pwait2_timeout(struct waiter *me)
{
    struct epoll_event event;
    struct timespec time = span();
    errno = 0;
    long begun = now_ns(), got = syscall(441, epoll_of(me), &event, 1, &time, NULL, 8), elapsed = now_ns() - begun;
    if (got == -1 && errno == ENOSYS) {
        nanosleep(&time, NULL);
        return;
    }
    if (got != 0 || elapsed < TIMEOUT_NS)
        wrong(me, "timeout", got, errno, elapsed);
}

/* Reading and writing */

static void turn_read_pipe(struct waiter *me) { take_byte(me); }
static void turn_write_pipe(struct waiter *me)
{
    static char page[4096];
    EXPECT(me, write(me->ends[1], page, sizeof page), (long)sizeof page);
}
static void feed_drain(struct waiter *me)
{
    char page[4096];
    struct pollfd one = {me->ends[0], POLLIN, 0};
    while (poll(&one, 1, 0) == 1 && read(me->ends[0], page, sizeof page) > 0)
        ;
}
static void turn_recv(struct waiter *me)
{
    char byte;
    EXPECT(me, recv(me->ends[0], &byte, 1, 0), 1);
}
static void turn_recvmsg(struct waiter *me)
{
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    EXPECT(me, recvmsg(me->ends[0], &message, 0), 1);
}
/* These count in ticks of the system's clock, and an interruption may cost one: 10 ms where HZ is 100. */
static void set_timeout(int socket, int option)
{
    struct timeval time = {0, TIMEOUT_NS / 1000 + 10000};
    setsockopt(socket, SOL_SOCKET, option, &time, sizeof time);
}
static void turn_recv_timeout(struct waiter *me)
{
    char byte;
    set_timeout(me->ends[0], SO_RCVTIMEO);
    EXPECT_TIMEOUT(me, recv(me->ends[0], &byte, 1, 0), -1, EAGAIN);
}
static void turn_read_socket_timeout(struct waiter *me)
{
    char byte;
    set_timeout(me->ends[0], SO_RCVTIMEO);
    EXPECT_TIMEOUT(me, read(me->ends[0], &byte, 1), -1, EAGAIN);
}
static void turn_send_timeout(struct waiter *me)
{
    static char much[1 << 16];
    set_timeout(me->ends[1], SO_SNDTIMEO);
    while (send(me->ends[1], much, sizeof much, MSG_DONTWAIT) > 0)
        ;
    EXPECT_TIMEOUT(me, send(me->ends[1], much, 1, 0), -1, EAGAIN);
}
static void turn_recvmmsg(struct waiter *me)
{
    char byte;
    struct iovec part = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    EXPECT(me, recvmmsg(me->ends[0], &message, 1, 0, NULL), 1);
}
static void turn_eventfd(struct waiter *me)
{
    uint64_t value;
    EXPECT(me, read(me->ends[0], &value, sizeof value), (long)sizeof value);
}
static void feed_eventfd(struct waiter *me)
{
    uint64_t one = 1;
    if (write(me->ends[0], &one, sizeof one) > 0)
        me->given++;
}
static void turn_timerfd(struct waiter *me)
{
    uint64_t ticks;
    struct itimerspec once = {.it_value = span()};
    long set = now_ns();
    timerfd_settime(me->ends[0], 0, &once, NULL);
    EXPECT_TIMEOUT_SINCE(set, me, read(me->ends[0], &ticks, sizeof ticks), (long)sizeof ticks, 0);
}

/* Connections */

static int listening(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(socket_, (struct sockaddr *)&address, sizeof address) || listen(socket_, 64))
        perror("listen");
    return socket_;
}
static void turn_accept(struct waiter *me)
{
    errno = 0;
    int got = accept(me->ends[0], NULL, NULL), number = errno;
    if (got < 0)
        wrong(me, "fed", got, number, 0);
    else
        close(got);
}
static void feed_connect(struct waiter *me)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    getsockname(me->ends[0], (struct sockaddr *)&address, &size);
    connect(socket_, (struct sockaddr *)&address, size);
    close(socket_);
}
static void turn_accept_timeout(struct waiter *me)
{
    set_timeout(me->ends[0], SO_RCVTIMEO);
    EXPECT_TIMEOUT(me, accept(me->ends[0], NULL, NULL), -1, EAGAIN);
}

/* Locks */

static void turn_futex(struct waiter *me)
{
    errno = 0;
    long got = syscall(SYS_futex, &me->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), number = errno;
    if (got && number != EAGAIN)
        wrong(me, "fed", got, number, 0);
    atomic_store((_Atomic uint32_t *)&me->word, 0);
}
static void feed_futex(struct waiter *me)
{
    atomic_store((_Atomic uint32_t *)&me->word, 1);
    syscall(SYS_futex, &me->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static void turn_futex_timeout(struct waiter *me)
{
    struct timespec time = span();
    EXPECT_TIMEOUT(me, syscall(SYS_futex, &me->word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0), -1, ETIMEDOUT);
}
static void turn_futex_bitset_timeout(struct waiter *me)
{
    long set = now_ns();
    struct timespec at = from_now(CLOCK_MONOTONIC);
    EXPECT_TIMEOUT_SINCE(set, me, syscall(SYS_futex, &me->word, FUTEX_WAIT_BITSET_PRIVATE, 0, &at, NULL, ~0), -1, ETIMEDOUT);
}
static void turn_futex_waitv_timeout(struct waiter *me)
{
    struct { uint64_t value, address; uint32_t flags, reserved; } one = {0, (uintptr_t)&me->word, 0x82, 0};
    long begun = now_ns();
    struct timespec at = from_now(CLOCK_MONOTONIC), time = span();
    errno = 0;
    long got = syscall(449, &one, 1, 0, &at, CLOCK_MONOTONIC), elapsed = now_ns() - begun;
    if (errno == ENOSYS)
        nanosleep(&time, NULL);
    else if (got != -1 || errno != ETIMEDOUT || elapsed < TIMEOUT_NS)
        wrong(me, "timeout", got, errno, elapsed);
}
static void turn_sem_wait(struct waiter *me) { EXPECT(me, sem_wait(&me->semaphore), 0); }
static void feed_sem(struct waiter *me) { sem_post(&me->semaphore); }
static void turn_sem_timedwait(struct waiter *me)
{
    long set = now_ns();
    struct timespec at = from_now(CLOCK_REALTIME);
    EXPECT_TIMEOUT_SINCE(set, me, sem_timedwait(&me->semaphore, &at), -1, ETIMEDOUT);
}
static void turn_cond_wait(struct waiter *me)
{
    pthread_mutex_lock(&me->mutex);
    while (me->given == me->taken && !atomic_load(&ending))
        EXPECT(me, pthread_cond_wait(&me->condition, &me->mutex), 0);
    me->taken = me->given;
    pthread_mutex_unlock(&me->mutex);
}
static void feed_cond(struct waiter *me)
{
    pthread_mutex_lock(&me->mutex);
    me->given++;
    pthread_cond_signal(&me->condition);
    pthread_mutex_unlock(&me->mutex);
}
static void turn_cond_timedwait(struct waiter *me)
{
    long set = now_ns();
    struct timespec at = from_now(CLOCK_REALTIME);
    pthread_mutex_lock(&me->mutex);
    EXPECT_TIMEOUT_SINCE(set, me, pthread_cond_timedwait(&me->condition, &me->mutex, &at), ETIMEDOUT, 0);
    pthread_mutex_unlock(&me->mutex);
}
static void turn_mutex(struct waiter *me)
{
    EXPECT(me, pthread_mutex_lock(&me->mutex), 0);
    me->taken++;
    pthread_mutex_unlock(&me->mutex);
    usleep(500);
}
static void feed_mutex(struct waiter *me)
{
    pthread_mutex_lock(&me->mutex);
    usleep(2000);
    pthread_mutex_unlock(&me->mutex);
}
static void turn_flock(struct waiter *me)
{
    EXPECT(me, flock(me->files[0], LOCK_EX), 0);
    flock(me->files[0], LOCK_UN);
    usleep(500);
}
static void feed_flock(struct waiter *me)
{
    flock(me->files[1], LOCK_EX);
    usleep(1000);
    flock(me->files[1], LOCK_UN);
}
static void turn_file_lock(struct waiter *me)
{
    struct flock lock = {.l_type = F_WRLCK}, unlock = {.l_type = F_UNLCK};
    EXPECT(me, fcntl(me->files[0], F_OFD_SETLKW, &lock), 0);
    fcntl(me->files[0], F_OFD_SETLK, &unlock);
    usleep(500);
}
static void feed_file_lock(struct waiter *me)
{
    struct flock lock = {.l_type = F_WRLCK}, unlock = {.l_type = F_UNLCK};
    fcntl(me->files[1], F_OFD_SETLKW, &lock);
    usleep(1000);
    fcntl(me->files[1], F_OFD_SETLK, &unlock);
}

/* System V and POSIX queues, asynchronous I/O */

static void turn_semtimedop(struct waiter *me)
{
    struct sembuf down = {0, -1, 0};
    struct timespec time = span();
    EXPECT_TIMEOUT(me, semtimedop(me->queue, &down, 1, &time), -1, EAGAIN);
}
static void turn_semop(struct waiter *me)
{
    struct sembuf down = {0, -1, 0};
    EXPECT(me, semop(me->queue, &down, 1), 0);
}
static void feed_semop(struct waiter *me)
{
    struct sembuf up = {0, 1, 0};
    semop(me->queue, &up, 1);
}
static void turn_msgrcv(struct waiter *me)
{
    struct { long type; char byte; } message;
    EXPECT(me, msgrcv(me->queue, &message, 1, 0, 0), 1);
}
static void feed_msgsnd(struct waiter *me)
{
    struct { long type; char byte; } message = {1, 'x'};
    msgsnd(me->queue, &message, 1, IPC_NOWAIT);
}
static void turn_mq_timedreceive(struct waiter *me)
{
    char byte;
    long set = now_ns();
    struct timespec at = from_now(CLOCK_REALTIME);
    EXPECT_TIMEOUT_SINCE(set, me, syscall(SYS_mq_timedreceive, me->queue, &byte, 1L, NULL, &at), -1, ETIMEDOUT);
}
static void turn_io_getevents(struct waiter *me)
{
    static aio_context_t context;
    struct io_event event;
    struct timespec time = span();
    if (!context)
        syscall(SYS_io_setup, 1, &context);
    EXPECT_TIMEOUT(me, syscall(SYS_io_getevents, context, 1, 1, &event, &time), 0, 0);
}

/* Children and signals */

static void turn_wait4(struct waiter *me)
{
    int status;
    pid_t child = fork();
    if (!child) {
        usleep(TIMEOUT_NS / 1000);
        _exit(7);
    }
    EXPECT(me, wait4(child, &status, 0, NULL), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
        wrong(me, "status", status, 0, 0);
}
static void turn_waitid(struct waiter *me)
{
    siginfo_t information;
    pid_t child = fork();
    if (!child) {
        usleep(TIMEOUT_NS / 1000);
        _exit(9);
    }
    EXPECT(me, waitid(P_PID, child, &information, WEXITED), 0);
    if (information.si_status != 9)
        wrong(me, "status", information.si_status, 0, 0);
}
static atomic_long handled;
static void handler(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
}
static void turn_pause(struct waiter *me)
{
    errno = 0;
    long before = atomic_load(&handled);
    long got = pause(), number = errno;
    if (got != -1 || number != EINTR || atomic_load(&handled) == before)
        wrong(me, "signal", got, number, 0);
}
static void feed_signal(struct waiter *me) { pthread_kill(me->thread, SIGUSR2); }
static void turn_sigsuspend(struct waiter *me)
{
    sigset_t mask, after;
    sigfillset(&mask);
    sigdelset(&mask, SIGRTMIN + 1);
    EXPECT(me, sigsuspend(&mask), -1);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    if (!sigismember(&after, SIGRTMIN + 1) || sigismember(&after, SIGTERM))
        wrong(me, "mask", 0, 0, 0);
}
static void feed_real_time_signal(struct waiter *me) { pthread_kill(me->thread, SIGRTMIN + 1); }
static void turn_sigtimedwait(struct waiter *me)
{
    sigset_t set;
    struct timespec time = span();
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 2);
    EXPECT_TIMEOUT(me, sigtimedwait(&set, NULL, &time), -1, EAGAIN);
}
static void turn_sigwaitinfo(struct waiter *me)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    EXPECT(me, sigwaitinfo(&set, NULL), SIGRTMIN + 3);
}
static void feed_waited_signal(struct waiter *me) { pthread_kill(me->thread, SIGRTMIN + 3); }

/* One that never blocks: its vector registers and its counter stay as they are. */

static void turn_compute(struct waiter *me)
{
    static double expected;
    double sum = 0;
    for (int i = 1; i <= 20000; i++)
        sum += 1.0 / i;
    expected = expected ? expected : sum;
    if (sum != expected)
        wrong(me, "sum", (long)(sum * 1e15), 0, 0);
}

/* The threads */

static void *run(void *argument)
{
    struct waiter *me = argument;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    if (me->feed != feed_signal)
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    while (!atomic_load(&ending)) {
        me->turn(me);
        me->count++;
    }
    return NULL;
}

static struct waiter *add(const char *name, void (*turn)(struct waiter *), void (*feed)(struct waiter *))
{
    struct waiter *one = &waiters[waiter_count++];
    one->name = name;
    one->turn = turn;
    one->feed = feed;
    sem_init(&one->semaphore, 0, 0);
    pthread_mutex_init(&one->mutex, NULL);
    pthread_cond_init(&one->condition, NULL);
    return one;
}
static void with_pipe(struct waiter *one) { if (pipe(one->ends)) perror("pipe"); }
static void with_sockets(struct waiter *one) { if (socketpair(AF_UNIX, SOCK_STREAM, 0, one->ends)) perror("socketpair"); }
static void with_files(struct waiter *one)
{
    char path[] = "/tmp/blockedXXXXXX";
    one->files[0] = mkstemp(path);
    one->files[1] = open(path, O_RDWR);
    unlink(path);
}

static int in_feeder;
static void *feed_all(void *argument)
{
    (void)argument;
    while (in_feeder) {
        for (int i = 0; i < waiter_count; i++)
            if (waiters[i].feed)
                waiters[i].feed(&waiters[i]);
        usleep(2000);
    }
    return NULL;
}

int main(void)
{
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    /* SIGCHLD is blocked by all. It would be ignored, and thrown away when it is sent, but not while the thread that it is
       sent to is traced: then another thread is woken for it, and EINTR is what sigwaitinfo and its kin say of that. */
    sigset_t waited;
    sigemptyset(&waited);
    sigaddset(&waited, SIGCHLD);
    for (int number = 1; number <= 3; number++)
        sigaddset(&waited, SIGRTMIN + number);
    pthread_sigmask(SIG_BLOCK, &waited, NULL);

    add("nanosleep", turn_nanosleep, NULL);
    add("clock_nanosleep", turn_clock_nanosleep, NULL);
    add("clock_nanosleep_until", turn_clock_nanosleep_until, NULL);
    with_pipe(add("poll_timeout", turn_poll_timeout, NULL));
    with_pipe(add("poll", turn_poll, feed_byte));
    with_pipe(add("ppoll_timeout", turn_ppoll_timeout, NULL));
    with_pipe(add("ppoll", turn_ppoll, feed_byte));
    with_pipe(add("select_timeout", turn_select_timeout, NULL));
    with_pipe(add("select", turn_select, feed_byte));
    add("pselect_timeout", turn_pselect_timeout, NULL);
    with_pipe(add("epoll_wait_timeout", turn_epoll_wait_timeout, NULL));
    with_pipe(add("epoll_wait", turn_epoll_wait, feed_byte));
    with_pipe(add("epoll_pwait", turn_epoll_pwait, feed_byte));
    with_pipe(add("epoll_pwait2_timeout", turn_epoll_pwait2_timeout, NULL));
    with_pipe(add("read_pipe", turn_read_pipe, feed_byte));
    with_pipe(add("write_pipe", turn_write_pipe, feed_drain));
    with_sockets(add("read_socket", turn_read_pipe, feed_byte));
    with_sockets(add("recv", turn_recv, feed_byte));
    with_sockets(add("recvmsg", turn_recvmsg, feed_byte));
    with_sockets(add("recvmmsg", turn_recvmmsg, feed_byte));
    with_sockets(add("recv_timeout", turn_recv_timeout, NULL));
    with_sockets(add("read_socket_timeout", turn_read_socket_timeout, NULL));
    with_sockets(add("send_timeout", turn_send_timeout, NULL));
    add("eventfd", turn_eventfd, feed_eventfd)->ends[0] = eventfd(0, 0);
    add("timerfd", turn_timerfd, NULL)->ends[0] = timerfd_create(CLOCK_MONOTONIC, 0);
    add("accept", turn_accept, feed_connect)->ends[0] = listening();
    add("accept_timeout", turn_accept_timeout, NULL)->ends[0] = listening();
    add("futex", turn_futex, feed_futex);
    add("futex_timeout", turn_futex_timeout, NULL);
    add("futex_bitset_timeout", turn_futex_bitset_timeout, NULL);
    add("futex_waitv_timeout", turn_futex_waitv_timeout, NULL);
    add("sem_wait", turn_sem_wait, feed_sem);
    add("sem_timedwait", turn_sem_timedwait, NULL);
    add("cond_wait", turn_cond_wait, feed_cond);
    add("cond_timedwait", turn_cond_timedwait, NULL);
    add("mutex", turn_mutex, feed_mutex);
    with_files(add("flock", turn_flock, feed_flock));
    with_files(add("file_lock", turn_file_lock, feed_file_lock));
    struct waiter *timed = add("semtimedop", turn_semtimedop, NULL);
    timed->queue = semget(IPC_PRIVATE, 1, 0600);
    struct waiter *fed = add("semop", turn_semop, feed_semop);
    fed->queue = semget(IPC_PRIVATE, 1, 0600);
    struct waiter *messages = add("msgrcv", turn_msgrcv, feed_msgsnd);
    messages->queue = msgget(IPC_PRIVATE, 0600);
    struct mq_attr size = {.mq_maxmsg = 1, .mq_msgsize = 1};
    char queue_name[32];
    snprintf(queue_name, sizeof queue_name, "blocked%d", getpid());
    int queue = syscall(SYS_mq_open, queue_name, O_CREAT | O_RDWR, 0600, &size);
    if (queue >= 0) {
        syscall(SYS_mq_unlink, queue_name);
        add("mq_timedreceive", turn_mq_timedreceive, NULL)->queue = queue;
    }
    add("io_getevents", turn_io_getevents, NULL);
    add("wait4", turn_wait4, NULL);
    add("waitid", turn_waitid, NULL);
    add("pause", turn_pause, feed_signal);
    add("sigsuspend", turn_sigsuspend, feed_real_time_signal);
    add("sigtimedwait", turn_sigtimedwait, NULL);
    add("sigwaitinfo", turn_sigwaitinfo, feed_waited_signal);
    add("compute", turn_compute, NULL);

    in_feeder = 1;
    pthread_t feeder;
    for (int i = 0; i < waiter_count; i++)
        pthread_create(&waiters[i].thread, NULL, run, &waiters[i]);
    sigaddset(&waited, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &waited, NULL);
    pthread_create(&feeder, NULL, feed_all, NULL);

    puts("ready");
    fflush(stdout);
    char byte;
    long got = read(0, &byte, 1);
    printf("main 1 %d %s\n", got < 0, got < 0 ? strerror(errno) : "");
    atomic_store(&ending, 1);
    for (int i = 0; i < waiter_count; i++) {
        pthread_join(waiters[i].thread, NULL);
        printf("%s %ld %ld %s\n", waiters[i].name, waiters[i].count, waiters[i].wrong, waiters[i].first);
        waiters[i].feed = NULL;
    }
    in_feeder = 0;
    pthread_join(feeder, NULL);
    semctl(timed->queue, 0, IPC_RMID);
    semctl(fed->queue, 0, IPC_RMID);
    msgctl(messages->queue, IPC_RMID, NULL);
    puts("ready");
    fflush(stdout);
    return 0;
}

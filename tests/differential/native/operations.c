/* The operations, and the threads that issue them. */
#define _GNU_SOURCE
#include "executor.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Numbers that the headers of an older libc lack. */
#ifndef SYS_mlock2
#define SYS_mlock2 325
#endif
#define SYS_PIDFD_OPEN 434
#define SYS_PROCESS_MADVISE 440
#define SYS_MSEAL 462
#define PIDFD_OF_SELF (-10001) /* PIDFD_SELF_THREAD_GROUP */

enum { MAX_THREADS = 3, ELSEWHERE = -1 };
enum backing { PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE };

/* Touching pages, and living on. */

static sigjmp_buf back_from_signal;

static void leave_touch(int signal) { siglongjmp(back_from_signal, signal); }

void catch_signals(void)
{
    struct sigaction action = {.sa_handler = leave_touch, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

struct outcome touch(char *at, int write, int value)
{
    int raised = sigsetjmp(back_from_signal, 0); /* the handler is SA_NODEFER: no mask to save */
    if (raised)
        return (struct outcome){.error = SIGNALLED + raised};
    if (write)
        *(volatile char *)at = value;
    return (struct outcome){.value = write ? 0 : *(volatile unsigned char *)at};
}

/* The operations. */

static char *address(int32_t offset) { return arena + offset; }

/* Of the page. */
static char *first_byte(int32_t offset) { return arena + (offset & -PAGE); }

/* Sign-extended: -4096 is a length just below 2**64. */
static size_t length(int32_t bytes) { return (size_t)(int64_t)bytes; }

static int mapping_flags(const int32_t *argument)
{
    static const int kinds[] = {MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED};
    return MAP_FIXED | kinds[argument[3] & 3] | argument[5];
}

static long map(const int32_t *argument)
{
    int of_file = argument[3] >= PRIVATE_FILE;
    void *got = mmap(address(argument[0]), length(argument[1]), argument[2], mapping_flags(argument),
                     of_file ? file : -1, of_file ? (off_t)argument[4] * PAGE : 0);
    return got == MAP_FAILED ? -1 : 0;
}

/* A mapping that the kernel moved out of the arena is of no further interest. */
static long remap(const int32_t *argument)
{
    char *got = mremap(address(argument[0]), length(argument[1]), length(argument[2]), argument[3], address(argument[4]));
    if (got == MAP_FAILED)
        return -1;
    if (got >= arena && got < arena + (size_t)header.pages * PAGE)
        return got - arena;
    munmap(got, length(argument[2]));
    errno = 0;
    return ELSEWHERE;
}

static long process_advise(const int32_t *argument)
{
    struct iovec ranges[4];
    for (int i = 0; i < 4; i++)
        ranges[i] = (struct iovec){address(argument[2 + 2 * i]), length(argument[3 + 2 * i])};
    long got = syscall(SYS_PROCESS_MADVISE, PIDFD_OF_SELF, ranges, (long)argument[1], (long)argument[0], 0L);
    if (got >= 0 || errno != EBADF)
        return got;
    int self = syscall(SYS_PIDFD_OPEN, getpid(), 0); /* older kernels know no other name for it */
    errno = 0;
    got = syscall(SYS_PROCESS_MADVISE, self, ranges, (long)argument[1], (long)argument[0], 0L);
    int failed = errno;
    close(self);
    errno = failed;
    return got;
}

static struct outcome called(const struct operation *operation)
{
    const int32_t *argument = operation->argument;
    char *at = address(argument[0]);
    size_t bytes = length(argument[1]);
    long got = 0;
    errno = 0;
    switch (operation->code) {
    case MAP: got = map(argument); break;
    case UNMAP: got = munmap(at, bytes); break;
    case PROTECT: got = mprotect(at, bytes, argument[2]); break;
    case ADVISE: got = madvise(at, bytes, argument[2]); break;
    case LOCK: got = argument[2] ? syscall(SYS_mlock2, at, bytes, (long)argument[2]) : mlock(at, bytes); break;
    case UNLOCK: got = munlock(at, bytes); break;
    case FORK: got = fork_and_go_on(operation); break;
    case REMAP: got = remap(argument); break;
    case BREAK: got = syscall(SYS_brk, at) - (long)arena; break;
    case PROCESS_ADVISE: got = process_advise(argument); break;
    case SEAL: got = syscall(SYS_MSEAL, at, bytes, 0L); break;
    case TRUNCATE: got = ftruncate(file, argument[0]); break;
    default: give_up();
    }
    return (struct outcome){.error = errno, .value = errno ? 0 : got};
}

static struct outcome perform(const struct operation *operation)
{
    switch (operation->code) {
    case READ: return touch(first_byte(operation->argument[0]), 0, 0);
    case WRITE: return touch(first_byte(operation->argument[0]), 1, operation->argument[1]);
    default: return called(operation);
    }
}

static char untouched[PAGE] __attribute__((aligned(PAGE)));

/*
 * Pages that mlock(2) or MADV_FREE had to do with lately wait in a list of this CPU, and what waits counts as in use: a
 * write after a fork copies it. When a list is emptied depends on what else the CPU does, so have it done now: MADV_COLD
 * begins with it (lru_add_drain), and before there was that, every discard did.
 */
void empty_lists(void)
{
    madvise(untouched, sizeof untouched, MADV_DONTNEED);
    madvise(untouched, sizeof untouched, 20 /* MADV_COLD */);
}

/*
 * Whether a sequence decides how many faults an operation takes. Not so a write to a huge page: the first one after a
 * fork makes all of it writable, and the processor is not told to forget what it knew of the other parts
 * (do_huge_pmd_wp_page(), and ptep_set_access_flags() of x86). Where the host maps our memory by small pages it knows
 * each part by itself, and a part that was read before faults once more; or not, if it has been forgotten.
 */
static int decides_faults(const struct operation *operation)
{
    return operation->code != FORK && !(operation->code == WRITE && header.parts & HUGE);
}

static struct outcome perform_counting_faults(const struct operation *operation)
{
    struct rusage before, after;
    empty_lists();
    getrusage(RUSAGE_SELF, &before);
    struct outcome outcome = perform(operation);
    getrusage(RUSAGE_SELF, &after);
    outcome.faults = decides_faults(operation) ? after.ru_minflt - before.ru_minflt : 0;
    return outcome;
}

/* Threads take turns: whose number `turn` bears works on `task`, all others sleep. */

int threads;
static int turn;
static const struct operation *task;
static struct outcome result;

static void pass_turn(int to)
{
    __atomic_store_n(&turn, to, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &turn, 1 /* FUTEX_WAKE */, MAX_THREADS + 1, NULL, NULL, 0);
}

static void wait_for_turn(int number)
{
    for (int now; (now = __atomic_load_n(&turn, __ATOMIC_SEQ_CST)) != number;)
        syscall(SYS_futex, &turn, 0 /* FUTEX_WAIT */, now, NULL, NULL, 0);
}

static void *work(void *number)
{
    for (;;) {
        wait_for_turn((intptr_t)number);
        result = perform_counting_faults(task);
        pass_turn(0);
    }
    return NULL;
}

struct outcome perform_on_thread(const struct operation *operation, int number)
{
    if (!number)
        return perform_counting_faults(operation);
    task = operation;
    pass_turn(number);
    wait_for_turn(0);
    return result;
}

static char stacks[MAX_THREADS][16 * PAGE] __attribute__((aligned(PAGE)));

/* Write to the stacks, down to where a signal's frame will ever reach: where that begins is random. */
void use_stacks(void)
{
    char deep[16 * PAGE];
    memset(deep, 0, sizeof deep);
    __asm__ volatile("" : : "r"(deep) : "memory");
    for (size_t at = 0; at < sizeof stacks; at += PAGE)
        ((volatile char *)stacks)[at] = ((volatile char *)stacks)[at];
}

/* What an operation touches of ourselves is touched before the next one counts: after a fork all of it faults again. */
void rehearse(void)
{
    static const struct operation fault = {.code = READ};
    char *real = arena;
    if (!(header.parts & FAULTS))
        return;
    use_stacks();
    arena = NULL; /* nothing is mapped there: a signal, and back */
    for (int number = 0; number <= threads; number++)
        perform_on_thread(&fault, number);
    arena = real;
}

void start_threads(void)
{
    for (uint32_t i = 0; i < header.threads && i < MAX_THREADS; i++) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstack(&attributes, stacks[i], sizeof stacks[i]);
        if (pthread_create(&thread, &attributes, work, (void *)(intptr_t)(i + 1)))
            give_up();
        threads++;
    }
}


/* A process that knows every register it has, and notices when one changes.

   Each thread loads all its registers with numbers that nobody else knows, general and vector ones and the 128 bytes below
   the stack pointer, then waits in a system call or spins, and compares. It also checks what the call returned, that a
   timeout did not end early, its signal mask and its alternate signal stack. The functions at the end are there
   to be called from outside; they spoil whatever the ABI lets them. For each line on standard input it says how many turns
   it made, how many were wrong, how many calls were interrupted (EINTR), how often the functions began and finished, and
   the first thing that was wrong. The end of the input ends it.

   whole [threads] [amx] */

#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, GENERAL };
enum { RED_ZONE_WORDS = 16, VECTOR_BYTES = 16384 };
static const char *names[GENERAL] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                     "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* Offsets are known to the assembler below. */
struct context {
    uint64_t in[GENERAL], out[GENERAL];             /* 0, 120 */
    uint64_t zone_in[RED_ZONE_WORDS];               /* 240 */
    uint64_t zone_out[RED_ZONE_WORDS];              /* 368 */
    uint64_t spins, mask, unused[2];                /* 496, 504 */
    uint64_t padding[2];                            /* 528 */
    unsigned char vector_in[VECTOR_BYTES] __attribute__((aligned(64)));   /* 576 */
    unsigned char vector_out[VECTOR_BYTES] __attribute__((aligned(64)));  /* 16960 */
};
_Static_assert(offsetof(struct context, out) == 120, "out");
_Static_assert(offsetof(struct context, zone_in) == 240, "zone_in");
_Static_assert(offsetof(struct context, zone_out) == 368, "zone_out");
_Static_assert(offsetof(struct context, spins) == 496, "spins");
_Static_assert(offsetof(struct context, mask) == 504, "mask");
_Static_assert(offsetof(struct context, vector_in) == 576, "vector_in");
_Static_assert(offsetof(struct context, vector_out) == 16960, "vector_out");

void turn_waiting(struct context *);
void turn_spinning(struct context *);

/* The context's address is kept at the stack pointer, and the registers hold nothing but their numbers meanwhile. */
__asm__(
    ".pushsection .text\n"
    ".macro enter\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi\n"
    "  mov 504(%rdi), %eax; mov 508(%rdi), %edx; xrstor64 576(%rdi)\n"
    "  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "    mov 240+8*\\n(%rdi), %rax; mov %rax, -8-8*\\n(%rsp)\n"
    "  .endr\n"
    "  mov 0(%rdi), %rax; mov 8(%rdi), %rbx; mov 16(%rdi), %rcx; mov 24(%rdi), %rdx; mov 32(%rdi), %rsi\n"
    "  mov 48(%rdi), %rbp; mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11\n"
    "  mov 88(%rdi), %r12; mov 96(%rdi), %r13; mov 104(%rdi), %r14; mov 112(%rdi), %r15; mov 40(%rdi), %rdi\n"
    ".endm\n"
    ".macro leave_\n" /* the context is in rcx, whose own value is stored already */
    "  mov %rax, 120(%rcx); mov %rbx, 128(%rcx); mov %rdx, 144(%rcx); mov %rsi, 152(%rcx); mov %rdi, 160(%rcx)\n"
    "  mov %rbp, 168(%rcx); mov %r8, 176(%rcx); mov %r9, 184(%rcx); mov %r10, 192(%rcx); mov %r11, 200(%rcx)\n"
    "  mov %r12, 208(%rcx); mov %r13, 216(%rcx); mov %r14, 224(%rcx); mov %r15, 232(%rcx)\n"
    "  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "    mov -8-8*\\n(%rsp), %rax; mov %rax, 368+8*\\n(%rcx)\n"
    "  .endr\n"
    "  mov 504(%rcx), %eax; mov 508(%rcx), %edx; xsave64 16960(%rcx)\n"
    "  fninit; vzeroupper_if_there\n"
    "  pop %rdi; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".endm\n"
    ".macro vzeroupper_if_there\n"
    "  movl $0x1f80, -4(%rsp); ldmxcsr -4(%rsp)\n"
    ".endm\n"
    ".globl turn_waiting\n"
    "turn_waiting: enter\n"
    "  syscall\n"
    "  mov (%rsp), %rcx\n"
    "  leave_\n"
    ".globl turn_spinning\n"
    "turn_spinning: enter\n"
    /* The count is above the stack pointer's word: in the context itself, through a register that has no number. */
    "  xchg %rdi, (%rsp)\n"
    "1: decq 496(%rdi); jnz 1b\n"
    "  xchg %rdi, (%rsp)\n"
    "  xchg %rcx, (%rsp); mov %rax, 120(%rcx); mov (%rsp), %rax; mov %rax, 136(%rcx); mov %rcx, (%rsp)\n"
    "  mov 120(%rcx), %rax\n"
    "  leave_\n"
    ".popsection\n");

static atomic_int ending;
static uint64_t components;
static struct { uint32_t start, size; } places[64];

struct thread {
    struct context *context;
    pthread_t id;
    int timer, queue, semaphores;
    uint32_t word;
    uint64_t random;
    sigset_t mask;
    stack_t alternate;
    long turns, wrong, interrupted;
    char first[160];
};

static long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static uint64_t next_random(struct thread *me)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return me->random;
}

static void wrong(struct thread *me, const char *call, const char *what, long expected, long got)
{
    if (!me->wrong++)
        snprintf(me->first, sizeof me->first, "%s: %s is %#lx, not %#lx", call, what, got, expected);
}

static void fill_vector(struct thread *me)
{
    unsigned char *area = me->context->vector_in;
    memset(area, 0, VECTOR_BYTES);
    for (int component = 0; component < 18; component++)
        if (components >> component & 1)
            for (uint32_t at = 0; at < places[component].size; at += 8) {
                uint64_t word = next_random(me);
                memcpy(area + places[component].start + at, &word, 8);
            }
    if (components >> 18 & 1) {
        unsigned char *tiles = area + places[17].start;
        memset(tiles, 0, 64);
        tiles[0] = 1; /* palette */
        for (int tile = 0; tile < 8; tile++) {
            tiles[16 + 2 * tile] = 64; /* bytes a row */
            tiles[48 + tile] = 16;     /* rows */
        }
        for (uint32_t at = 0; at < places[18].size; at += 8) {
            uint64_t word = next_random(me);
            memcpy(area + places[18].start + at, &word, 8);
        }
    }
    uint16_t control = 0x037f;
    uint32_t status = 0x1f80 | (next_random(me) & 0x6000); /* a rounding mode that is not the usual one */
    memset(area, 0, 32);
    memcpy(area, &control, 2);
    memcpy(area + 24, &status, 4);
    for (int st = 0; st < 8; st++)
        memset(area + 32 + 16 * st + 10, 0, 6);
    memset(area + 416, 0, 96);
    memcpy(area + 512, &components, 8);
}

static void compare(struct thread *me, const char *call, int spinning, long result)
{
    struct context *c = me->context;
    for (int n = 0; n < GENERAL; n++) {
        if (!spinning && (n == RAX || n == RCX || n == R11))
            continue;
        if (c->in[n] != c->out[n])
            wrong(me, call, names[n], c->in[n], c->out[n]);
    }
    if (!spinning && (long)c->out[RAX] == -EINTR)
        me->interrupted++;
    else if (!spinning && (long)c->out[RAX] != result)
        wrong(me, call, "result", result, c->out[RAX]);
    if (memcmp(c->zone_in, c->zone_out, sizeof c->zone_in))
        wrong(me, call, "red zone", 0, 1);
    if (memcmp(c->vector_in + 24, c->vector_out + 24, 4))
        wrong(me, call, "mxcsr", *(uint32_t *)(c->vector_in + 24), *(uint32_t *)(c->vector_out + 24));
    for (int st = 0; st < 8; st++)
        if (memcmp(c->vector_in + 32 + 16 * st, c->vector_out + 32 + 16 * st, 10))
            wrong(me, call, "x87", 0, st);
    for (int component = 1; component < 19; component++)
        if (components >> component & 1 &&
            memcmp(c->vector_in + places[component].start, c->vector_out + places[component].start, places[component].size))
            wrong(me, call, "vector component", 0, component);
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    if (memcmp(&mask, &me->mask, 8))
        wrong(me, call, "signal mask", *(long *)&me->mask, *(long *)&mask);
    stack_t alternate;
    sigaltstack(NULL, &alternate);
    if (alternate.ss_sp != me->alternate.ss_sp || alternate.ss_flags != me->alternate.ss_flags)
        wrong(me, call, "signal stack", (long)me->alternate.ss_sp, (long)alternate.ss_sp);
}

static void make(struct thread *me, const char *call, long result, long number, long a, long b, long c, long d, long e)
{
    struct context *context = me->context;
    for (int n = 0; n < GENERAL; n++)
        context->in[n] = next_random(me);
    for (int n = 0; n < RED_ZONE_WORDS; n++)
        context->zone_in[n] = next_random(me);
    fill_vector(me);
    context->mask = components;
    if (number < 0) {
        context->spins = 200000;
        turn_spinning(context);
        compare(me, call, 1, 0);
        return;
    }
    uint64_t arguments[] = {number, a, b, c, d, e};
    static const int where[] = {RAX, RDI, RSI, RDX, R10, R8};
    for (int n = 0; n < 6; n++)
        context->in[where[n]] = arguments[n];
    long begun = now_ns();
    turn_waiting(context);
    long elapsed = now_ns() - begun;
    compare(me, call, 0, result);
    if (elapsed < 2000000 && (long)context->out[RAX] != -EINTR)
        wrong(me, call, "nanoseconds", 2000000, elapsed);
}

static void *run(void *argument)
{
    struct thread *me = argument;
    sigemptyset(&me->mask);
    sigaddset(&me->mask, SIGUSR1);
    sigaddset(&me->mask, SIGRTMIN + 3);
    pthread_sigmask(SIG_SETMASK, &me->mask, NULL);
    me->alternate.ss_sp = malloc(1 << 16);
    me->alternate.ss_size = 1 << 16;
    me->alternate.ss_flags = 0;
    sigaltstack(&me->alternate, NULL);
    me->context = aligned_alloc(64, sizeof *me->context);
    memset(me->context, 0, sizeof *me->context);
    me->timer = timerfd_create(CLOCK_MONOTONIC, 0);
    me->queue = epoll_create1(0);
    me->semaphores = semget(IPC_PRIVATE, 1, 0600);
    while (!atomic_load(&ending)) {
        struct timespec span = {0, 2000000};
        struct timeval brief = {0, 2000};
        struct itimerspec once = {.it_value = {0, 3000000}};
        struct sembuf down = {0, -1, 0};
        struct epoll_event event;
        uint64_t ticks;
        make(me, "nanosleep", 0, SYS_nanosleep, (long)&span, 0, 0, 0, 0);
        make(me, "poll", 0, SYS_poll, 0, 0, 2, 0, 0);
        make(me, "clock_nanosleep", 0, SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&span, 0, 0);
        make(me, "spinning", 0, -1, 0, 0, 0, 0, 0);
        make(me, "epoll_wait", 0, SYS_epoll_wait, me->queue, (long)&event, 1, 2, 0);
        make(me, "select", 0, SYS_select, 0, 0, 0, 0, (long)&brief);
        make(me, "futex", -ETIMEDOUT, SYS_futex, (long)&me->word, FUTEX_WAIT_PRIVATE, 0, (long)&span, 0);
        make(me, "semtimedop", -EAGAIN, SYS_semtimedop, me->semaphores, (long)&down, 1, (long)&span, 0);
        timerfd_settime(me->timer, 0, &once, NULL);
        make(me, "spinning", 0, -1, 0, 0, 0, 0, 0);
        me->turns++;
        if (read(me->timer, &ticks, 8) != 8)
            wrong(me, "read", "result", 8, 0);
    }
    semctl(me->semaphores, 0, IPC_RMID);
    return NULL;
}

/* What is called from outside. It spoils vector registers, makes system calls, and sleeps. */

static atomic_long begun, finished, tails, argument_sum;

long clobber(long a, long b, long c, long d, long e, long f)
{
    atomic_fetch_add(&begun, 1);
    double x = a + 0.5, y[32];
    for (int i = 0; i < 32; i++)
        y[i] = x = x * 1.25 + b;
    __asm__ volatile("pxor %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pcmpeqd %%xmm15, %%xmm15" ::: "xmm0", "xmm1", "xmm15");
    __asm__ volatile("fldpi; fldpi; fstp %%st(0); fstp %%st(0)" ::: "st");
    getppid();
    struct timespec brief = {0, 100000 + (y[7] > 1e300)};
    nanosleep(&brief, NULL);
    atomic_fetch_add(&finished, 1);
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f;
}

long many(long count)
{
    atomic_fetch_add(&begun, 1);
    for (long n = 0; n < count; n++)
        syscall(SYS_getppid);
    atomic_fetch_add(&finished, 1);
    return 2 * count;
}

long tail(long value)
{
    if (((uintptr_t)__builtin_frame_address(0) & 15) != 0)
        abort();
    atomic_fetch_add(&argument_sum, value);
    atomic_fetch_add(&tails, 1);
    return 0;
}

static struct thread threads[64];
static int thread_count;

static void *answer(void *unused)
{
    char line[16];
    while (read(0, line, sizeof line) > 0) {
        long turns = 0, bad = 0, interrupted = 0;
        const char *first = "";
        for (int n = 0; n < thread_count; n++) {
            turns += threads[n].turns;
            bad += threads[n].wrong;
            interrupted += threads[n].interrupted;
            first = *first ? first : threads[n].first;
        }
        printf("%ld %ld %ld %ld %ld %ld %ld %s\nready\n", turns, bad, interrupted, (long)begun, (long)finished, (long)tails,
               (long)argument_sum, first);
        fflush(stdout);
    }
    atomic_store(&ending, 1);
    return unused;
}

int main(int count, char **words)
{
    pthread_t answers;
    thread_count = count > 1 ? atoi(words[1]) : 1;
    uint32_t a, b, c, d, low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    components = low & 0xe7;
    if (count > 2 && !syscall(SYS_arch_prctl, 0x1023, 18))
        components |= low & 0x60000;
    places[0].start = 32;
    places[0].size = 128;
    places[1].start = 160;
    places[1].size = 256;
    for (int component = 2; component < 19; component++)
        if (components >> component & 1) {
            __cpuid_count(0xd, component, a, b, c, d);
            places[component].size = a;
            places[component].start = b;
        }
    printf("%lu %lu %lu %#lx\nready\n", (unsigned long)clobber, (unsigned long)many, (unsigned long)tail,
           (unsigned long)components);
    fflush(stdout);
    for (int n = 0; n < thread_count; n++) {
        threads[n].random = 88172645463325252ULL + n;
        if (n)
            pthread_create(&threads[n].id, NULL, run, &threads[n]);
    }
    pthread_create(&answers, NULL, answer, NULL);
    run(&threads[0]);
    pthread_join(answers, NULL);
    for (int n = 1; n < thread_count; n++)
        pthread_join(threads[n].id, NULL);
    return 0;
}

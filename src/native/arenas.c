/* arena(state, offsets of top, bins and system_mem, is_main, position, rows, row_count, pidfd, nanoseconds, patience)
 *     -> (outcome, position, rows filled, nanoseconds for which the lock was held)
 *
 * Gives back the whole pages inside free chunks of an arena of glibc's malloc: its top first, which malloc_trim returns
 * of no arena but the main one, then what is in its bins. The arena's lock is held meanwhile, taken the way glibc takes
 * it, so that its chunks are what they say. The GIL is not: nothing of Python's is touched. All signals are blocked from
 * before the lock until after it, since a handler that allocates would wait for us for ever.
 *
 * A process that never had a second thread takes no locks in malloc; then ours is the only thread, and it is here.
 *
 *     state         address of the arena's malloc_state; arenas are never given back, so it stays one
 *     is_main       whether it is the main arena, whose chunks lie in no heaps
 *     position      where to go on: 0 at first, then as returned
 *     rows          struct iovec[row_count]: receives what was given up
 *     pidfd         see struct rows
 *     nanoseconds   after which no more is given up in this hold, from the first on: every hold gets further
 *     patience      nanoseconds to wait for the lock
 *
 * The outcome is MORE, DONE, BUSY (the lock was not to be had), or STRANGE: something is not what it should be; nothing
 * was done from there on.
 *
 * The layout is that of src/dontneed/abi/glibc_malloc.py; where its fields are is told by the caller.
 */
#include "native.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HEAP_BYTES ((uintptr_t)64 << 20)
#define CHUNK_HEADER_BYTES 48u
#define LEAST_CHUNK_BYTES 32u
#define PREV_INUSE 1u
#define FLAG_BITS 7u
#define NONCONTIGUOUS 2u
#define KNOWN_FLAGS 3u
#define MOST_HEAPS 65536

#define UNSORTED_BIN 1
#define FIRST_PAGE_BIN 99 /* bins below hold chunks in which no whole page lies behind the header */
#define BINS_END 128

#define PIECE_BYTES ((uintptr_t)4 << 20)
#define PIECE_PAGES (PIECE_BYTES / PAGE_BYTES)
#define ROWS_A_DROP 256u

enum outcome { MORE = 0, DONE = 1, BUSY = 2, STRANGE = 3 };

struct heap {
    uintptr_t arena;
    const struct heap *prev;
    uintptr_t size;
    uintptr_t mprotect_size;
};

struct chunk {
    uintptr_t prev_size;
    uintptr_t size;
    const struct chunk *fd;
    const struct chunk *bk;
};

/* The beginning of a malloc_state. */
struct state {
    uint32_t mutex;
    uint32_t flags;
};

struct hold {
    struct state *state;
    size_t top;
    size_t bins;
    size_t system_mem;
    int is_main;
    uint32_t bin; /* where to go on: 0 is the top */
    uint32_t nth; /* and how many chunks of the bin are done */
    struct rows rows;
    int64_t nanoseconds;
    int64_t until;
};

static uintptr_t
word_at(const struct hold *hold, size_t offset)
{
    return *(const uintptr_t *)((const uint8_t *)hold->state + offset);
}

/* The bin as its chunks see it: where it is, its links stand where those of a chunk would. */
static const struct chunk *
bin_at(const struct hold *hold, uint32_t number)
{
    return (const struct chunk *)((const uint8_t *)hold->state + hold->bins + 16 * (number - 1) - 16);
}

static uintptr_t
size_of(const struct chunk *chunk)
{
    return chunk->size & ~(uintptr_t)FLAG_BITS;
}

static const struct chunk *
behind(const struct chunk *chunk)
{
    return (const struct chunk *)((uintptr_t)chunk + size_of(chunk));
}

static const struct heap *
heap_of(const struct chunk *chunk)
{
    return (const struct heap *)((uintptr_t)chunk & ~(HEAP_BYTES - 1));
}

/* lll_lock: 0 is free, 1 taken, 2 taken with others perhaps waiting. But we do not wait for ever. */
static int
lock(uint32_t *mutex, int64_t patience)
{
    uint32_t free = 0;
    if (__atomic_compare_exchange_n(mutex, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return 1;
    int64_t until = now() + patience;
    while (__atomic_exchange_n(mutex, 2, __ATOMIC_ACQUIRE) != 0) {
        int64_t left = until - now();
        if (left <= 0)
            return 0;
        struct timespec time = {left / 1000000000, left % 1000000000};
        syscall(SYS_futex, mutex, FUTEX_WAIT_PRIVATE, 2, &time, NULL, 0);
    }
    return 1;
}

static void
unlock(uint32_t *mutex)
{
    if (__atomic_exchange_n(mutex, 0, __ATOMIC_RELEASE) > 1)
        syscall(SYS_futex, mutex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Gives back what is present in [start, end), piece by piece. Returns whether all of it was done in time. */
static int
give_up(struct hold *hold, uintptr_t start, uintptr_t end)
{
    while (start < end) {
        unsigned char present[PIECE_PAGES];
        uintptr_t bytes = end - start < PIECE_BYTES ? end - start : PIECE_BYTES;
        size_t first = 0, upto = bytes / PAGE_BYTES;
        if (mincore((void *)start, bytes, present) == 0) { /* where a filter forbids to ask, all of it is */
            while (first < upto && !(present[first] & 1))
                first++;
            while (first < upto && !(present[upto - 1] & 1))
                upto--;
        }
        if (first < upto) {
            if (hold->rows.filled == 0)
                hold->until = now() + hold->nanoseconds;
            else if (hold->rows.filled == hold->rows.size || now() >= hold->until)
                return 0;
            add_row(&hold->rows, start + first * PAGE_BYTES, start + upto * PAGE_BYTES);
            if (hold->rows.filled - hold->rows.told >= ROWS_A_DROP || untold_bytes(&hold->rows) >= PIECE_BYTES)
                drop(&hold->rows);
        }
        start += bytes;
    }
    return 1;
}

/* Whether the arena's heaps, from the newest on, are what the arena says of them, down to the one that it stands in. */
static int
are_heaps_sound(const struct hold *hold, const struct heap *heap)
{
    uintptr_t total = 0;
    for (int count = 0; count < MOST_HEAPS; heap = heap->prev, count++) {
        if (heap->arena != (uintptr_t)hold->state || (uintptr_t)heap->prev % HEAP_BYTES)
            return 0;
        if (heap->size % PAGE_BYTES || heap->mprotect_size % PAGE_BYTES)
            return 0;
        if (heap->size > heap->mprotect_size || heap->mprotect_size > HEAP_BYTES)
            return 0;
        total += heap->size;
        if (heap->prev == NULL) {
            uintptr_t offset = (uintptr_t)hold->state - (uintptr_t)heap;
            return (offset == 32 || offset == 48) && total == word_at(hold, hold->system_mem);
        }
    }
    return 0;
}

/* Whether the arena is what it should be, its top above all. */
static int
is_arena_sound(const struct hold *hold)
{
    const struct chunk *top = (const struct chunk *)word_at(hold, hold->top);
    if (hold->state->flags & ~KNOWN_FLAGS || (uintptr_t)top % ALIGNMENT)
        return 0;
    if (hold->is_main) {
        if (top == bin_at(hold, UNSORTED_BIN)) /* never used */
            return 1;
        if (size_of(top) > word_at(hold, hold->system_mem) || (uintptr_t)behind(top) % PAGE_BYTES)
            return 0;
    } else {
        const struct heap *newest = heap_of(top);
        if (!(hold->state->flags & NONCONTIGUOUS) || newest == NULL || !are_heaps_sound(hold, newest))
            return 0;
        if ((uintptr_t)top + LEAST_CHUNK_BYTES > (uintptr_t)newest + newest->size)
            return 0;
        if ((uintptr_t)behind(top) != (uintptr_t)newest + newest->size)
            return 0;
    }
    return (top->size & FLAG_BITS) == PREV_INUSE;
}

static int
give_up_inside(struct hold *hold, const struct chunk *chunk)
{
    uintptr_t start = round_up((uintptr_t)chunk + CHUNK_HEADER_BYTES, PAGE_BYTES);
    return give_up(hold, start, (uintptr_t)behind(chunk) & ~(uintptr_t)(PAGE_BYTES - 1));
}

/* Whether a chunk that a bin, or the chunk before it, leads to is a free one of this arena. */
static int
is_free_chunk(const struct hold *hold, const struct chunk *chunk, const struct chunk *before)
{
    if ((uintptr_t)chunk % ALIGNMENT || chunk == NULL)
        return 0;
    if (!hold->is_main && heap_of(chunk)->arena != (uintptr_t)hold->state)
        return 0;
    if (chunk->bk != before || (chunk->size & FLAG_BITS) != PREV_INUSE)
        return 0;
    if (!hold->is_main && (uintptr_t)behind(chunk) + ALIGNMENT > (uintptr_t)heap_of(chunk) + heap_of(chunk)->size)
        return 0;
    return behind(chunk)->prev_size == size_of(chunk) && !(behind(chunk)->size & PREV_INUSE);
}

/* Gives back what is inside the chunks of a bin, from the `nth` on. */
static enum outcome
empty_bin(struct hold *hold)
{
    const struct chunk *bin = bin_at(hold, hold->bin), *before = bin;
    uint32_t nth = 0;
    for (const struct chunk *chunk = bin->fd; chunk != bin; before = chunk, chunk = chunk->fd, nth++) {
        if (!is_free_chunk(hold, chunk, before))
            return STRANGE;
        if (nth < hold->nth)
            continue;
        if (!give_up_inside(hold, chunk))
            return MORE;
        hold->nth++;
    }
    hold->nth = 0;
    return DONE;
}

static enum outcome
empty_arena(struct hold *hold)
{
    if (!is_arena_sound(hold))
        return STRANGE;
    const struct chunk *top = (const struct chunk *)word_at(hold, hold->top);
    if (hold->bin == 0) {
        if (top != bin_at(hold, UNSORTED_BIN) && !give_up_inside(hold, top))
            return MORE;
        hold->bin = UNSORTED_BIN;
    }
    while (hold->bin < BINS_END) {
        enum outcome outcome = empty_bin(hold);
        if (outcome != DONE)
            return outcome;
        hold->bin = hold->bin == UNSORTED_BIN ? FIRST_PAGE_BIN : hold->bin + 1;
    }
    return DONE;
}

PyObject *
native_arena(PyObject *self, PyObject *arguments)
{
    unsigned long long state, position, rows;
    Py_ssize_t top, bins, system_mem, row_count;
    long long nanoseconds, patience;
    int is_main, pidfd;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KnnnpKKniLL", &state, &top, &bins, &system_mem, &is_main, &position, &rows,
                          &row_count, &pidfd, &nanoseconds, &patience))
        return NULL;
    struct hold hold = {
        .state = (struct state *)(uintptr_t)state,
        .top = (size_t)top,
        .bins = (size_t)bins,
        .system_mem = (size_t)system_mem,
        .is_main = is_main,
        .bin = (uint32_t)(position >> 32),
        .nth = (uint32_t)position,
        .rows = {(struct iovec *)(uintptr_t)rows, (size_t)row_count, 0, 0, pidfd, 0},
        .nanoseconds = nanoseconds,
    };
    enum outcome outcome = BUSY;
    int64_t held = 0;
    PyThreadState *thread = PyEval_SaveThread();
    uint64_t all = ~UINT64_C(0), before = 0; /* the C library would leave out the two signals that are its own */
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof all);
    if (lock(&hold.state->mutex, patience)) {
        int64_t began = now();
        outcome = empty_arena(&hold);
        drop(&hold.rows);
        unlock(&hold.state->mutex);
        held = now() - began;
    }
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    PyEval_RestoreThread(thread);
    position = (unsigned long long)hold.bin << 32 | hold.nth;
    return Py_BuildValue("iKnL", (int)outcome, position, (Py_ssize_t)hold.rows.filled, (long long)held);
}

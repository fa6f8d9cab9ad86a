/* pools(array, holders, holder_count, numbers, count, rows, row_count, pidfd, nanoseconds, is_survey)
 *     -> (arenas looked at, rows filled, arenas that are not what they should be)
 *
 * Gives back the pages of CPython's pools that hold nothing: all but the first of pools that are free, and those behind
 * the last block in use of others. The GIL is held meanwhile, as it is by any extension function, so that no object can
 * be made or die. Every arena is checked as a whole before a word of it is changed; of one that is not what it should be
 * nothing is given up, or, where a free list is wrong, nothing of that pool.
 *
 *     array         address of the interpreter's array of arena objects
 *     holders       addresses of words, one of which is the interpreter's own pointer to it: if any says otherwise, the
 *                   array has moved; then nothing is touched, and `arenas looked at` is -1
 *     numbers       uint32[count]: the places in the array of the arenas to look at
 *     rows          struct iovec[row_count]: receives what was given up
 *     pidfd         see struct rows
 *     nanoseconds   after which no other arena is begun
 *     is_survey     see struct rows
 *
 * The layout is that of src/dontneed/abi/pymalloc.py.
 */
#include "native.h"

#include <string.h>
#include <sys/mman.h>

#define ARENA_BYTES (1u << 20)
#define POOL_BYTES (16u << 10)
#define HEADER_BYTES 48u
#define SIZE_CLASSES 32u
#define NEVER_USED 0xffffu
#define POOLS_IN_ARENA (ARENA_BYTES / POOL_BYTES)
#define PAGES_IN_ARENA (ARENA_BYTES / PAGE_BYTES)
#define PAGES_IN_POOL (POOL_BYTES / PAGE_BYTES)
#define MOST_BLOCKS ((POOL_BYTES - HEADER_BYTES) / ALIGNMENT)
#define ROWS_A_DROP 256u

struct pool {
    uint32_t count;
    uint32_t padding;
    uint8_t *freeblock;
    struct pool *nextpool;
    struct pool *prevpool;
    uint32_t arenaindex;
    uint32_t szidx;
    uint32_t nextoffset;
    uint32_t maxnextoffset;
};

struct arena {
    uintptr_t address;
    uintptr_t pool_address;
    uint32_t nfreepools;
    uint32_t ntotalpools;
    struct pool *freepools;
    struct arena *nextarena;
    struct arena *prevarena;
};

/* An arena that has been checked: where its pools begin, how many were cut off, and which of those are free. */
struct pools {
    uint8_t *base;
    uint32_t count;
    uint64_t is_free;
};

static uint32_t
block_bytes(const struct pool *pool)
{
    return (pool->szidx + 1) * ALIGNMENT;
}

/* Whether a pool that is not on the list of free ones can be what it says it is. */
static int
is_pool_in_use(const struct pool *pool, uint32_t number)
{
    if (pool->arenaindex != number || pool->szidx >= SIZE_CLASSES || pool->count == 0)
        return 0;
    uint32_t size = block_bytes(pool);
    if (pool->maxnextoffset != POOL_BYTES - size || pool->nextoffset > POOL_BYTES)
        return 0;
    if (pool->nextoffset < HEADER_BYTES + size || (pool->nextoffset - HEADER_BYTES) % size)
        return 0;
    return pool->count <= (pool->nextoffset - HEADER_BYTES) / size;
}

/* Checks an arena and the headers of all its pools: the list of free pools must be exactly those that the arena counts,
 * and every other one in use. No pointer is followed before it is known to lead to a pool of this arena. */
static int
check_arena(const struct arena *arena, uint32_t number, struct pools *found)
{
    uintptr_t base = round_up(arena->address, POOL_BYTES);
    uint32_t total = base == arena->address ? POOLS_IN_ARENA : POOLS_IN_ARENA - 1;
    uintptr_t cut = arena->pool_address - base; /* wraps, and is far too much, if that is before */
    if (arena->address % PAGE_BYTES || arena->ntotalpools != total)
        return 0;
    if (cut % POOL_BYTES || cut / POOL_BYTES > total)
        return 0;
    found->base = (uint8_t *)base;
    found->count = (uint32_t)(cut / POOL_BYTES);
    found->is_free = 0;
    uint32_t listed = 0;
    for (const struct pool *pool = arena->freepools; pool != NULL; pool = pool->nextpool) {
        uintptr_t offset = (uintptr_t)pool - base;
        uint64_t bit = UINT64_C(1) << (offset / POOL_BYTES % POOLS_IN_ARENA);
        if (offset >= cut || offset % POOL_BYTES || found->is_free & bit)
            return 0;
        if (pool->count != 0 || pool->arenaindex != number)
            return 0;
        found->is_free |= bit;
        listed++;
    }
    if (listed + (total - found->count) != arena->nfreepools)
        return 0;
    for (uint32_t i = 0; i < found->count; i++) {
        const struct pool *pool = (const struct pool *)(found->base + i * POOL_BYTES);
        if (!(found->is_free >> i & 1) && !is_pool_in_use(pool, number))
            return 0;
    }
    return 1;
}

/* Which blocks of a pool in use are on its free list, a bit each. Returns how many; -1 if the list is not sound, or does
 * not agree with the count of those in use. */
static int
read_free_list(const struct pool *pool, uint32_t cut, uint64_t is_free[])
{
    uint32_t size = block_bytes(pool), listed = 0;
    for (const uint8_t *block = pool->freeblock; block != NULL; block = *(uint8_t *const *)block) {
        uintptr_t offset = (uintptr_t)block - (uintptr_t)pool - HEADER_BYTES, nth = offset / size;
        if (nth >= cut || offset % size || is_free[nth / 64] >> (nth % 64) & 1)
            return -1;
        is_free[nth / 64] |= UINT64_C(1) << (nth % 64);
        listed++;
    }
    return listed + pool->count == cut ? (int)listed : -1;
}

/* Takes the last blocks of a pool in use off its free list if all of them are free, as if they had never been cut off.
 * Returns the offset behind which the pool then holds nothing; 0 if its list is not sound, and nothing was changed. */
static uint32_t
end_of_use(struct pool *pool, int is_survey)
{
    uint64_t is_free[MOST_BLOCKS / 64 + 1] = {0};
    uint32_t size = block_bytes(pool), cut = (pool->nextoffset - HEADER_BYTES) / size, kept = cut;
    int listed = read_free_list(pool, cut, is_free);
    if (listed < 0)
        return 0;
    while (is_free[(kept - 1) / 64] >> ((kept - 1) % 64) & 1) /* ends: a block is in use */
        kept--;
    int is_bare = cut > kept && (uint32_t)listed == cut - kept; /* nothing else is free: the first of them stays */
    uint32_t end = HEADER_BYTES + (kept + is_bare) * size;
    if (round_up(end, PAGE_BYTES) >= round_up(pool->nextoffset, PAGE_BYTES))
        return pool->nextoffset;
    if (is_survey)
        return end;
    uint8_t *gone = (uint8_t *)pool + end, **link = &pool->freeblock;
    for (uint8_t *block = pool->freeblock; block != NULL; block = *(uint8_t **)block) {
        if (block < gone) { /* it stays, and so does the order */
            *link = block;
            link = (uint8_t **)block;
        }
    }
    *link = NULL;
    pool->nextoffset = end;
    return end;
}

static int
is_any_present(const unsigned char pages[], uint32_t first)
{
    for (uint32_t page = first; page < PAGES_IN_POOL; page++)
        if (pages[page] & 1)
            return 1;
    return 0;
}

/* Gives back what can go of the pools of one arena, a row each at most. Returns whether every free list was sound. */
static int
empty_pools(const struct pools *pools, struct rows *rows)
{
    unsigned char present[PAGES_IN_ARENA];
    int is_sound = 1;
    if (mincore(pools->base, (size_t)pools->count * POOL_BYTES, present) != 0)
        memset(present, 1, sizeof present); /* a filter forbids to ask */
    for (uint32_t i = 0; i < pools->count; i++) {
        struct pool *pool = (struct pool *)(pools->base + i * POOL_BYTES);
        const unsigned char *pages = present + i * PAGES_IN_POOL;
        int is_free = pools->is_free >> i & 1;
        if (!is_any_present(pages, 1))
            continue; /* the first page has the header: it stays */
        uint32_t end = is_free ? PAGE_BYTES : end_of_use(pool, rows->is_survey);
        uintptr_t keep = round_up(end, PAGE_BYTES);
        is_sound &= end != 0;
        if (end == 0 || !is_any_present(pages, (uint32_t)(keep / PAGE_BYTES)))
            continue;
        if (is_free && !rows->is_survey)
            pool->szidx = NEVER_USED; /* else its next user of the same size would go on with the list it had */
        add_row(rows, (uintptr_t)pool + keep, (uintptr_t)pool + POOL_BYTES);
    }
    return is_sound;
}

static int
has_moved(uintptr_t array, const uintptr_t *const *holders, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (*holders[i] != array)
            return 1;
    return 0;
}

PyObject *
native_pools(PyObject *self, PyObject *arguments)
{
    unsigned long long array, holders, numbers, address;
    Py_ssize_t holder_count, count, row_count, done = 0, strange = 0;
    long long nanoseconds;
    int pidfd, is_survey;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KKnKnKniLp", &array, &holders, &holder_count, &numbers, &count, &address,
                          &row_count, &pidfd, &nanoseconds, &is_survey))
        return NULL;
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "the pools are the main interpreter's, and so is the GIL that guards them");
        return NULL;
    }
    int64_t began = now();
    struct rows rows = {(struct iovec *)(uintptr_t)address, (size_t)row_count, 0, 0, pidfd, is_survey};
    if (has_moved((uintptr_t)array, (const uintptr_t *const *)(uintptr_t)holders, (size_t)holder_count))
        return Py_BuildValue("nnn", (Py_ssize_t)-1, (Py_ssize_t)0, (Py_ssize_t)0);
    while (done < count && rows.filled + POOLS_IN_ARENA <= rows.size) {
        uint32_t number = ((const uint32_t *)(uintptr_t)numbers)[done++];
        const struct arena *arena = (const struct arena *)(uintptr_t)array + number;
        struct pools pools;
        int is_there = arena->address != 0; /* else it was given back since it was seen */
        if (is_there && (!check_arena(arena, number, &pools) || !empty_pools(&pools, &rows)))
            strange++;
        if (rows.filled - rows.told >= ROWS_A_DROP)
            drop(&rows);
        if (now() - began >= nanoseconds)
            break;
    }
    drop(&rows);
    return Py_BuildValue("nnn", done, (Py_ssize_t)rows.filled, strange);
}

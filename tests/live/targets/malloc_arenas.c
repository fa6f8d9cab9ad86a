/* Arenas full of freed memory, with some blocks alive in between: THREADS BLOCKS BLOCK_BYTES ALIVE.

   Every thread has an arena of its own, fills it with BLOCKS blocks, and frees all but each ALIVE-th of them (0: all but
   the first, which then lies just below the top). Without threads, the main one does the same.

   It says `arenas`, how many there are. Commands: `check` whether all live blocks hold what they should; `trim`:
   malloc_trim(0); `use` the memory again: allocate, fill, check and free as before. */

#include <malloc.h> /* malloc_trim, mallopt */
#include <semaphore.h>

#include "target.h"

static long threads, blocks, block_bytes, alive;
static sem_t go[64], done;
static char command;

struct owner {
    unsigned long seed;
    uint64_t **held;
};

static int is_alive(long block)
{
    return alive ? block % alive == 0 : block == 0;
}

/* What stands in a block, word by word: it depends on whose block it is, and where. */
static uint64_t word_of(struct owner *owner, long block, long at)
{
    return (owner->seed + block) * 0x9e3779b97f4a7c15 + at;
}

static void allocate(struct owner *owner, long block)
{
    uint64_t *made = malloc(block_bytes);
    for (long at = 0; at < block_bytes / 8; at++)
        made[at] = word_of(owner, block, at);
    owner->held[block] = made;
}

static void check(struct owner *owner, long block)
{
    uint64_t *held = owner->held[block];
    for (long at = 0; at < block_bytes / 8; at++)
        if (held[at] != word_of(owner, block, at)) {
            count_error("a block", held + at);
            return;
        }
}

static void fill_and_free(struct owner *owner, int again)
{
    for (long block = 0; block < blocks; block++)
        if (!again || !is_alive(block))
            allocate(owner, block);
    for (long block = 0; block < blocks; block++)
        check(owner, block);
    for (long block = 0; block < blocks; block++)
        if (!is_alive(block))
            free(owner->held[block]);
}

static void obey(struct owner *owner)
{
    if (command == 'u')
        fill_and_free(owner, 1);
    if (command == 'c')
        for (long block = 0; block < blocks; block++)
            if (is_alive(block))
                check(owner, block);
}

static void *live(void *argument)
{
    struct owner owner = {.seed = (unsigned long)argument * 1000003};
    owner.held = mmap(NULL, blocks * sizeof *owner.held, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill_and_free(&owner, 0);
    for (;;) {
        sem_post(&done);
        sem_wait(&go[(unsigned long)argument]);
        obey(&owner);
    }
    return NULL;
}

static void everybody_done(void)
{
    for (long thread = 0; thread < threads; thread++)
        sem_wait(&done);
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    threads = atol(words[1]), blocks = atol(words[2]), block_bytes = atol(words[3]), alive = atol(words[4]);
    free(malloc(30 * MIB)); /* from now on up to 60 MiB of a top are kept: M_TRIM_THRESHOLD is dynamic */
#ifdef M_ARENA_MAX /* of glibc */
    mallopt(M_ARENA_MAX, 64);
#endif
    struct owner self = {.seed = 7, .held = calloc(blocks, sizeof *self.held)};
    sem_init(&done, 0, 0);
    for (long thread = 0; thread < threads; thread++) {
        pthread_t made;
        sem_init(&go[thread], 0, 0);
        pthread_create(&made, NULL, live, (void *)thread);
    }
    if (!threads)
        fill_and_free(&self, 0);
    everybody_done();
    printf("arenas %ld\n", threads + 1);
    while ((command = next_command())) {
#ifdef M_ARENA_MAX
        if (command == 't')
            malloc_trim(0);
#endif
        if (!threads)
            obey(&self);
        for (long thread = 0; thread < threads; thread++)
            sem_post(&go[thread]);
        everybody_done();
        printf("errors %lu\n", atomic_load(&errors));
    }
}

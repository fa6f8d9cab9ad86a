/* Threads that are inside malloc nearly all the time, and look at every byte that they get back: THREADS.

   Each keeps 32 blocks of up to 128 KiB, allocates, resizes and frees them at random, and frees all of them now and
   then, so that tops grow. Every command is answered with how many operations there were, and how many errors. */

#include "target.h"

#define SLOTS 32

static atomic_ulong operations;

struct block {
    unsigned char *bytes;
    unsigned long length, seed;
};

static unsigned long next_random(unsigned long *state)
{
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static void check(const struct block *block, unsigned long length)
{
    unsigned long word;
    for (unsigned long at = 0; at + sizeof word <= length; at += sizeof word) {
        memcpy(&word, block->bytes + at, sizeof word);
        if (word != (block->seed ^ at)) {
            count_error("a block", block->bytes + at);
            return;
        }
    }
}

static void fill(struct block *block)
{
    unsigned long word;
    for (unsigned long at = 0; at + sizeof word <= block->length; at += sizeof word) {
        word = block->seed ^ at;
        memcpy(block->bytes + at, &word, sizeof word);
    }
}

static void check_zero(const unsigned char *bytes, unsigned long length)
{
    for (unsigned long at = 0; at < length; at++)
        if (bytes[at]) {
            count_error("calloc", bytes + at);
            return;
        }
}

static void drop(struct block *block)
{
    check(block, block->length);
    free(block->bytes);
    block->bytes = NULL;
}

static void one_operation(struct block *block, unsigned long random)
{
    unsigned long length = random >> 20 & 3 ? random >> 24 & 0xfff : random >> 24 & 0x1ffff;
    if (!block->bytes) {
        block->bytes = random & 1 ? malloc(length) : calloc(1, length);
        if (!(random & 1))
            check_zero(block->bytes, length);
    } else if (random & 6) {
        drop(block);
        return;
    } else {
        unsigned long kept = block->length < length ? block->length : length;
        block->bytes = realloc(block->bytes, length + !length);
        check(block, kept);
    }
    block->length = length, block->seed = random;
    fill(block);
}

static void *allocate_for_ever(void *argument)
{
    struct block blocks[SLOTS] = {0};
    unsigned long state = (unsigned long)argument * 0x9e3779b97f4a7c15 + 1;
    for (unsigned long turn = 1;; turn++) {
        unsigned long random = next_random(&state);
        one_operation(&blocks[random >> 8 & (SLOTS - 1)], random);
        if (turn % 512 == 0)
            for (int slot = 0; slot < SLOTS; slot++)
                if (blocks[slot].bytes)
                    drop(&blocks[slot]);
        atomic_fetch_add(&operations, 1);
    }
    return NULL;
}

int main(int count, char **words)
{
    free(malloc(30 * MIB)); /* from now on up to 60 MiB of a top are kept */
    for (long thread = 0; thread < (count > 1 ? atol(words[1]) : 4); thread++) {
        pthread_t made;
        pthread_create(&made, NULL, allocate_for_ever, (void *)(thread + 1));
    }
    while (next_command())
        printf("operations %lu\nerrors %lu\n", atomic_load(&operations), atomic_load(&errors));
}

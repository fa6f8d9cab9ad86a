/* arenas THREADS BYTES: each thread has filled and freed BYTES in blocks of its own arena, above some that it keeps.
 *
 * What is free is the top of the arena. It stays, because a large block was freed before: that raised the threshold
 * from which on free() trims (mallopt(3), "dynamic mmap threshold"), and malloc_trim(0) leaves the tops of threads alone.
 *
 *     tidy     malloc_trim(0)
 *     check    the blocks that are kept: each byte must be as written; answers a sum over all
 *     use      each thread fills and frees as much again
 */

#include "crew.h"

enum { KEPT_BLOCKS = 256, KEPT_BYTES = 3000, LARGE = 30 << 20, MOST_BLOCK = 24000, LEAST_BLOCK = 2000 };

static size_t wanted;

/* Fill `wanted` bytes in blocks of many sizes, and free them, the last one first. */
static void churn(long thread)
{
    size_t most = wanted / LEAST_BLOCK + 1, count = 0, filled = 0;
    unsigned int seed = (unsigned int)thread + 1;
    /* The list of blocks must not lie between them and the top. */
    unsigned char **blocks = mmap(NULL, most * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (blocks == MAP_FAILED)
        fail("mmap");
    while (filled < wanted) {
        size_t size = LEAST_BLOCK + (size_t)rand_r(&seed) % (MOST_BLOCK - LEAST_BLOCK);
        unsigned char *block = malloc(size);
        if (!block)
            fail("malloc");
        memset(block, (int)(count % 255) + 1, size);
        blocks[count++] = block;
        filled += size;
    }
    for (size_t nth = count; nth-- > 0;) {
        if (blocks[nth][LEAST_BLOCK - 1] != (unsigned char)(nth % 255 + 1))
            abort();
        free(blocks[nth]);
    }
    munmap(blocks, most * sizeof *blocks);
}

static void *body(void *argument)
{
    long thread = (long)argument;
    unsigned char *kept[KEPT_BLOCKS];
    char word[16];
    for (int nth = 0; nth < KEPT_BLOCKS; nth++) {
        kept[nth] = malloc(KEPT_BYTES);
        write_pattern(kept[nth], KEPT_BYTES, thread + nth);
    }
    churn(thread);
    crew_finish(0, 0);
    for (int call = 0;; call++) {
        crew_wait(call, word);
        long long began = now_ns();
        uint64_t sum = 0;
        if (strcmp(word, "use") == 0)
            churn(thread);
        else
            for (int nth = 0; nth < KEPT_BLOCKS; nth++)
                sum += sum_pattern(kept[nth], KEPT_BYTES, thread + nth);
        crew_finish(now_ns() - began, sum);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    end_with_parent();
    int threads = atoi(argv[1]);
    wanted = strtoull(argv[2], NULL, 10);
    mallopt(M_ARENA_MAX, threads + 1); /* one each, however few the processors are */
    char *volatile large = malloc(LARGE);
    free(large);
    crew_start(threads, body);
    crew_serve();
    return 0;
}

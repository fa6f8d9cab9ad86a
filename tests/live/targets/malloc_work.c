/* Work for malloc inside a Python process, called without the GIL: memory that is filled, checked and freed. */
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 256 };

static unsigned
next(unsigned *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

static int
is_whole(const unsigned char *block, size_t length, unsigned char value)
{
    for (size_t i = 0; i < length; i++)
        if (block[i] != value)
            return 0;
    return 1;
}

/* Takes, fills, checks and frees blocks of all sizes until `*ends`; how many were not as they had been left. */
long
hammer(volatile int *ends, unsigned seed, long *rounds)
{
    unsigned char *blocks[BLOCKS] = {0};
    size_t lengths[BLOCKS] = {0};
    long broken = 0;
    while (!*ends) {
        unsigned i = next(&seed) >> 8 & (BLOCKS - 1);
        unsigned char value = (unsigned char)(i + 1);
        if (blocks[i] != NULL) {
            broken += !is_whole(blocks[i], lengths[i], value);
            free(blocks[i]);
            blocks[i] = NULL;
        } else {
            lengths[i] = (size_t)16 << (next(&seed) >> 8) % 13; /* up to 64 KiB */
            lengths[i] += next(&seed) >> 8 & 15;
            blocks[i] = next(&seed) & 64 ? calloc(1, lengths[i]) : malloc(lengths[i]);
            memset(blocks[i], value, lengths[i]);
        }
        ++*rounds;
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    return broken;
}

/* Takes and fills blocks, and frees all but the first, which is returned: what was behind it is the top then. */
unsigned char *
leave_top(int count, size_t length)
{
    unsigned char **blocks = calloc((size_t)count, sizeof *blocks);
    for (int i = 0; i < count; i++)
        memset(blocks[i] = malloc(length), 7, length);
    unsigned char *first = blocks[0];
    while (--count)
        free(blocks[count]);
    free(blocks);
    return first;
}

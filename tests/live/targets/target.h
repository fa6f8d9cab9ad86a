/* What every target has: it says `ready`, waits for a command, and counts what it finds wrong with its memory. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define MIB (1UL << 20)

static atomic_ulong errors;

static void count_error(const char *what, const void *where)
{
    if (atomic_fetch_add(&errors, 1) < 10)
        fprintf(stderr, "wrong: %s at %p\n", what, where);
}

/* Say that we are ready, and wait for a command; its first letter, or 0 when nobody is there any more. */
static char next_command(void)
{
    static char line[256];

    printf("ready\n");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) ? line[0] : 0;
}

/* A byte that depends on where it is, and is never zero. */
static inline unsigned char pattern(unsigned long seed, unsigned long index)
{
    return (unsigned char)(1 + (seed * 31 + index * 7) % 251);
}

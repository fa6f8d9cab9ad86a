/* What every program here needs: a clock, private anonymous memory with pages of one size, and frames behind it. */

#ifndef GROUND_H
#define GROUND_H

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)sysconf(_SC_PAGESIZE))

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since 5.14; glibc 2.35 */
#endif

static inline long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* A process that outlived the benchmark would hold gigabytes: end with the parent, also where no pipe tells us. */
static inline void end_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static inline char *map_private(size_t length, int huge)
{
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    madvise(memory, length, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* EINVAL: no huge pages in this kernel */
    return memory;
}

/* Put a frame behind every page that has none. */
static inline void fill_pages(char *memory, size_t length)
{
    if (madvise(memory, length, MADV_POPULATE_WRITE) == 0)
        return;
    for (size_t at = 0; at < length; at += PAGE_BYTES)
        ((volatile char *)memory)[at] = 1;
}

#endif

/* hotset BYTES PAGES HOW: holds resident 4 KiB pages, and touches the first PAGES of them over and over: HOW is `read`
 * or `write`. A pass over fewer than 4096 pages is repeated until as many touches are made: a pass is never too short
 * to be counted.
 *
 * Says "ADDRESS"; then, for each number of seconds on standard input, how many passes were begun within them.
 */

#include "ground.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static atomic_ulong passes;
static volatile char *memory;
static size_t pages;
static int writes;

static void *touch(void *unused)
{
    size_t page_bytes = PAGE_BYTES, repeats = pages < 4096 ? 4096 / pages : 1;
    char sum = 0;
    for (;; atomic_fetch_add(&passes, 1))
        for (size_t repeat = 0; repeat < repeats; repeat++)
            for (size_t page = 0; page < pages; page++)
                if (writes)
                    memory[page * page_bytes]++;
                else
                    sum += memory[page * page_bytes];
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    double seconds;
    if (argc != 4)
        return 2;
    end_with_parent();
    size_t length = strtoull(argv[1], NULL, 10);
    pages = strtoull(argv[2], NULL, 10);
    writes = !strcmp(argv[3], "write");
    char *ground = map_private(length + 2 * PAGE_BYTES, 0);
    if (mprotect(ground, PAGE_BYTES, PROT_NONE) || mprotect(ground + length + PAGE_BYTES, PAGE_BYTES, PROT_NONE))
        fail("mprotect"); /* fences, so that nothing else is part of its mapping */
    memory = ground + PAGE_BYTES;
    fill_pages((char *)memory, length);
    if (pthread_create(&thread, NULL, touch, NULL))
        fail("pthread_create");
    printf("%p\n", (void *)memory);
    fflush(stdout);
    while (scanf("%lf", &seconds) == 1) {
        unsigned long before = atomic_load(&passes);
        long long began = now_ns();
        struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        nanosleep(&pause, NULL);
        unsigned long count = atomic_load(&passes) - before;
        printf("%.9g\n", (now_ns() - began) * 1e-9 / (count ? count : 1));
        fflush(stdout);
    }
    return 0;
}

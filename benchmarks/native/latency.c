/* latency BYTES: holds resident 4 KiB pages, and measures how long its own mmap and munmap take while others look.
 *
 * Says "ready"; then for each number of seconds on standard input maps and unmaps a page all that time, and answers
 * "COUNT P50 P99 MAX", in nanoseconds for one mmap with its munmap.
 */

#include "ground.h"

enum { MOST_SAMPLES = 4 << 20 };

static unsigned samples[MOST_SAMPLES];

static int by_size(const void *one, const void *other)
{
    unsigned a = *(const unsigned *)one, b = *(const unsigned *)other;
    return (a > b) - (a < b);
}

static size_t measure(double seconds)
{
    long long end = now_ns() + (long long)(seconds * 1e9);
    size_t count = 0;
    for (long long began = now_ns(); began < end && count < MOST_SAMPLES; count++) {
        void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(page, PAGE_BYTES);
        long long done = now_ns();
        samples[count] = (unsigned)(done - began);
        began = done;
    }
    return count;
}

int main(int argc, char **argv)
{
    double seconds;
    if (argc != 2)
        return 2;
    end_with_parent();
    size_t length = strtoull(argv[1], NULL, 10);
    fill_pages(map_private(length, 0), length);
    fill_pages((char *)samples + PAGE_BYTES - (size_t)samples % PAGE_BYTES, sizeof samples - PAGE_BYTES);
    puts("ready");
    fflush(stdout);
    while (scanf("%lf", &seconds) == 1) {
        size_t count = measure(seconds);
        qsort(samples, count, sizeof *samples, by_size);
        printf("%zu %u %u %u\n", count, samples[count / 2], samples[count / 100 * 99], samples[count - 1]);
        fflush(stdout);
    }
    return 0;
}

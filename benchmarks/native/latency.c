/* latency BYTES: holds resident 4 KiB pages, and measures how long its own mmap and munmap take while others look.
 *
 * Says "ready"; then for each number of seconds on standard input it maps and unmaps a page every 200 us, and answers
 * "COUNT P50 P99 MAX": nanoseconds for one mmap with its munmap.
 *
 * A call that waits 50 ms keeps 250 others from being made. They count too, each from the moment when it was due: else
 * the worst readers would show the fewest bad samples. So a percentile is of callers who come at any moment.
 */

#include "ground.h"

#define INTERVAL_NS 200000LL

enum { MOST_SAMPLES = 1 << 18 };

static long long samples[MOST_SAMPLES];

static int by_size(const void *one, const void *other)
{
    long long a = *(const long long *)one, b = *(const long long *)other;
    return (a > b) - (a < b);
}

static void sleep_until(long long due)
{
    struct timespec then = {due / 1000000000, due % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL);
}

/* When the call that is due begins: when it is due if that has passed, else when we have slept until then. Waking up
 * late is the scheduler's doing, and nobody's who looks. */
static long long begin(long long due)
{
    if (now_ns() >= due)
        return due;
    sleep_until(due);
    return now_ns();
}

static size_t measure(double seconds)
{
    size_t count = 0;
    long long due = now_ns(), end = due + (long long)(seconds * 1e9);
    for (; due < end && count < MOST_SAMPLES; due += INTERVAL_NS) {
        long long began = begin(due);
        void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(page, PAGE_BYTES);
        samples[count++] = now_ns() - began;
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
        printf("%zu %lld %lld %lld\n", count, samples[count / 2], samples[count / 100 * 99], samples[count - 1]);
        fflush(stdout);
    }
    return 0;
}

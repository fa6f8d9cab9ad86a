/* advise: madvise(MADV_DONTNEED) as a C program would call it, the peer of `dontneed.discard` and `dontneed.advise`.
 *
 *     advise pages BYTES         one range of 4 KiB pages
 *     advise huge BYTES          one range of huge pages
 *     advise scattered COUNT     a call for each second one of 4 KiB pages
 *
 * Says "ready"; then for each line on standard input fills its memory, drops it, and answers the nanoseconds that the
 * dropping took. Built as a shared object it is the same functions for a process that brings its own memory.
 */

#include "ground.h"
#include <string.h>

void fill(char *memory, size_t length)
{
    fill_pages(memory, length);
}

long long drop_range(char *memory, size_t length)
{
    long long began = now_ns();
    if (madvise(memory, length, MADV_DONTNEED) == -1)
        return -1;
    return now_ns() - began;
}

long long drop_each_second(char *memory, size_t count)
{
    size_t page = PAGE_BYTES;
    long long began = now_ns();
    for (size_t nth = 0; nth < count; nth++)
        if (madvise(memory + 2 * nth * page, page, MADV_DONTNEED) == -1)
            return -1;
    return now_ns() - began;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    end_with_parent();
    size_t amount = strtoull(argv[2], NULL, 10);
    int scattered = !strcmp(argv[1], "scattered");
    size_t length = scattered ? 2 * amount * PAGE_BYTES : amount;
    char *memory = map_private(length, !strcmp(argv[1], "huge"));
    puts("ready");
    fflush(stdout);
    for (int next = getchar(); next != EOF; next = getchar()) {
        if (next != '\n')
            continue;
        fill(memory, length);
        printf("%lld\n", scattered ? drop_each_second(memory, amount) : drop_range(memory, length));
        fflush(stdout);
    }
    return 0;
}

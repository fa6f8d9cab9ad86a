/* stacks THREADS BYTES: each thread has been BYTES deep in its stack, came back, and waits; what lies below is dead.
 *
 *     tidy     malloc_trim(0)
 *     check    what each thread has on its stack: each byte must be as written; answers a sum over all
 *     use      each thread goes as deep again
 *     drop     each thread gives its dead stack up by itself: answers the longest madvise
 */

#include "crew.h"

enum { KEPT_BYTES = 6000, FRAME_BYTES = 16384, SPARED_BYTES = 2 * 4096 };

static size_t wanted;
static int depth_cost; /* keeps the recursion from becoming a loop */

/* How far down the deepest frame was. No address: a thread that holds one below its stack pointer might be using it. */
static __attribute__((noinline)) uintptr_t descend(size_t bytes, uintptr_t top)
{
    volatile unsigned char frame[FRAME_BYTES];
    for (size_t at = 0; at < FRAME_BYTES; at += 512)
        frame[at] = (unsigned char)(at + bytes + 1);
    if (bytes <= FRAME_BYTES)
        return top - (uintptr_t)frame;
    uintptr_t depth = descend(bytes - FRAME_BYTES, top);
    depth_cost += frame[FRAME_BYTES / 2] == 0;
    return depth;
}

static void drop(uintptr_t depth, uintptr_t top)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t start = (top - depth + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    uintptr_t end = (here - SPARED_BYTES) & ~(PAGE_BYTES - 1);
    if (madvise((void *)start, end - start, MADV_DONTNEED))
        fail("madvise");
}

static void *body(void *argument)
{
    long thread = (long)argument;
    unsigned char kept[KEPT_BYTES];
    char word[16];
    write_pattern(kept, sizeof kept, thread);
    uintptr_t top = (uintptr_t)__builtin_frame_address(0);
    uintptr_t depth = descend(wanted, top);
    crew_finish(0, 0);
    for (int call = 0;; call++) {
        crew_wait(call, word);
        long long began = now_ns();
        uint64_t sum = 0;
        if (strcmp(word, "use") == 0)
            depth = descend(wanted, top);
        else if (strcmp(word, "drop") == 0)
            drop(depth, top);
        else
            sum = sum_pattern(kept, sizeof kept, thread);
        crew_finish(now_ns() - began, sum);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    end_with_parent();
    wanted = strtoull(argv[2], NULL, 10);
    crew_start(atoi(argv[1]), body);
    crew_serve();
    return 0;
}

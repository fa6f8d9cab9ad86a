/* Stacks: frames that stay alive and know what is in them, and frames that come and go. */
#include "target.h"

#define FRAME_BYTES 1024

/* Call `inside` below `depth` frames full of a pattern, and see afterwards that each still holds it. */
static void below_live_frames(int depth, unsigned long seed, void (*inside)(void *), void *argument)
{
    volatile unsigned char frame[FRAME_BYTES];

    for (unsigned index = 0; index < FRAME_BYTES; index++)
        frame[index] = pattern(seed + depth, index);
    if (depth)
        below_live_frames(depth - 1, seed, inside, argument);
    else
        inside(argument);
    for (unsigned index = 0; index < FRAME_BYTES; index++)
        if (frame[index] != pattern(seed + depth, index)) {
            count_error("a live frame", (const void *)frame);
            break;
        }
}

/* Use so much more stack, frame by frame, and come back; each frame sees that it holds what it wrote. */
static void recurse(long bytes)
{
    volatile unsigned char frame[4000];

    for (unsigned index = 0; index < sizeof frame; index += 200)
        frame[index] = pattern(bytes, index);
    if (bytes > 4096)
        recurse(bytes - 4096);
    for (unsigned index = 0; index < sizeof frame; index += 200)
        if (frame[index] != pattern(bytes, index)) {
            count_error("a frame of a recursion", (const void *)frame);
            break;
        }
}

/*
 * The live side of the differential engine: carries out sequences of memory operations, and says after every single one
 * what became of an arena of a few pages.
 *
 *     cc -static -O2 -Wall -Wextra -pthread -o executor main.c operations.c record.c
 *     executor [CPU] < sequences > records
 *
 * Little-endian, without padding; records.py and sequences.py are the other end of it.
 *
 *     sequence := header, operation*           each runs in a fresh child of this process
 *     answer   := u32 length, record*          length FAILED, and nothing after it: the child came to grief
 *     record   := u16 operation, u8 depth, i32 error, i64 value, part*
 *     part     := states, then those that the header asks for, in the order of their bits
 *
 * `depth` counts forks: a forked child says what it has to say before its parent goes on. `error` is an errno, or
 * SIGNALLED + the signal that a touch raised. `value` is what a call or a read returned, addresses counted from the
 * start of the arena. The last record, operation LAST, comes after every page was read once, and starts with CONTENTS.
 *
 * What makes the answers the same each time: one CPU (the kernel keeps freshly used pages in lists of a CPU), no huge
 * pages unless asked for, files of order-0 pages that are in memory, an arena at a fixed address and far from anything
 * else, and a process that touches nothing new of its own once the sequence has begun (see settle() and rehearse()).
 */
#ifndef EXECUTOR_H
#define EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096, HUGE_PAGE = 512 * PAGE };
enum { MAX_PAGES = 4096, SIGNALLED = 1000, LAST = 0xFFFF };

enum code { MAP, UNMAP, PROTECT, ADVISE, LOCK, UNLOCK, READ, WRITE, FORK, REMAP, BREAK, PROCESS_ADVISE, SEAL, TRUNCATE };
enum part { MAPPINGS = 1, COUNTERS = 2, FAULTS = 4, CONTENTS = 8, SMAPS = 16, FRAMES = 32, HUGE = 64 };

struct header {
    uint64_t base; /* where the arena begins; 0: at the program break */
    uint32_t operations, pages, file_pages, parts, setup, threads;
};

struct operation {
    int32_t code, thread, argument[10];
};

struct outcome {
    int32_t error;
    int64_t value;
    int32_t faults;
};

extern struct header header;
extern char *arena;
extern int file; /* what file mappings map */

/* main.c */
void give_up(void);
long fork_and_go_on(const struct operation *here); /* how many operations were the forked child's */

/* operations.c */
extern int threads; /* that can take turns with the first one */
struct outcome perform_on_thread(const struct operation *operation, int number);
struct outcome touch(char *at, int write, int value);
void catch_signals(void);
void empty_lists(void);
void start_threads(void);
void use_stacks(void);
void rehearse(void);

/* record.c */
extern int depth;
void open_proc(void);
const char *read_maps(void);
const char *next_line(const char *line);
void find_zero_frame(void);
void start_counting(void);
void record(uint16_t operation, struct outcome outcome);
void forget_said(void);
size_t bytes_said(void);
void say_what_comes_from(int child);
void write_said(int to);
void write_all(int to, const void *what, size_t bytes);

#endif

/* Reads sequences, and has each carried out in a child of its own. */
#define _GNU_SOURCE
#include "executor.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_memfd_create
#define SYS_memfd_create 319
#endif
#define MEMFD_OF_HUGE_PAGES 4 /* MFD_HUGETLB */

enum { MAX_OPERATIONS = 4096, FAILED = -1, FIRST_FILE_BYTE = 0x40 };
enum setup { HUGE_PAGES_ALLOWED = 1, FILE_OF_HUGE_PAGES = 2 };

struct header header;
char *arena;
int file;
static struct operation operations[MAX_OPERATIONS];

void give_up(void) { _exit(1); }

/* A process that touches nothing new of its own, so that counters tell of the arena alone. */

static struct { char *first, *end; } read_only[32];

/* Touch what we have: once for good what is writable; `read_only` again in each child, for fork leaves it behind. */
static void settle(void)
{
    use_stacks();
    size_t count = 0;
    for (const char *line = read_maps(); *line; line = next_line(line)) {
        char *rest, *first = (char *)strtoul(line, &rest, 16), *end = (char *)strtoul(rest + 1, &rest, 16);
        if (strstr(rest, "[v") && strstr(rest, "[v") < next_line(line)) /* vvar, vdso, vsyscall */
            continue;
        if (rest[2] != 'w' && rest[1] == 'r' && count < sizeof read_only / sizeof *read_only)
            read_only[count].first = first, read_only[count++].end = end;
        else if (rest[2] == 'w' && rest[4] == 'p')
            for (volatile char *at = first; at < end; at += PAGE)
                *at = *at;
    }
    empty_lists(); /* the page that it discards is never touched again */
}

static void settle_again(void)
{
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++)
        for (volatile char *at = read_only[i].first; at < read_only[i].end; at += PAGE)
            (void)*at;
}

/* The course of a sequence. */

static void carry_out(const struct operation *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct operation *operation = from + i;
        struct outcome outcome = perform_on_thread(operation, threads ? operation->thread % (threads + 1) : 0);
        record(operation - operations, outcome);
        if (operation->code == FORK) {
            i += outcome.value;
            rehearse();
        }
    }
}

static int read_all(int from, void *what, size_t bytes)
{
    for (ssize_t done; bytes; what = (char *)what + done, bytes -= done)
        if ((done = read(from, what, bytes)) <= 0)
            return 0;
    return 1;
}

/* The operations after a FORK, as many as it says, are the forked child's; how many they were. */
long fork_and_go_on(const struct operation *here)
{
    long left = operations + header.operations - here - 1;
    long count = here->argument[0] < left ? here->argument[0] : left;
    int pipe_of_child[2], ended;
    if (pipe(pipe_of_child))
        give_up();
    pid_t child = fork();
    if (child == 0) {
        threads = 0; /* they stayed behind */
        depth++;
        forget_said();
        open_proc();
        settle_again();
        rehearse();
        record(here - operations, (struct outcome){0});
        carry_out(here + 1, count);
        write_said(pipe_of_child[1]);
        _exit(0);
    }
    close(pipe_of_child[1]);
    say_what_comes_from(pipe_of_child[0]);
    close(pipe_of_child[0]);
    if (child < 0 || waitpid(child, &ended, 0) != child || ended)
        give_up();
    errno = 0;
    return count;
}

/* The program break, moved to where the arena's page tables are cut alike each time, and off the heap before it. */
static char *arena_at_break(void)
{
    uint64_t now = ((uint64_t)syscall(SYS_brk, 0) + PAGE - 1) / PAGE * PAGE;
    uint64_t base = (now + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE - header.pages / 2 * PAGE;
    if ((uint64_t)syscall(SYS_brk, base) != base || munmap((void *)now, base - now))
        give_up();
    return (char *)base;
}

/* Every page of the file tells its number, and is in memory. */
static int create_file(void)
{
    int huge = header.setup & FILE_OF_HUGE_PAGES ? 512 : 1;
    int created = syscall(SYS_memfd_create, "file", huge > 1 ? MEMFD_OF_HUGE_PAGES : 0);
    if (created < 0 || ftruncate(created, (off_t)header.file_pages * PAGE))
        give_up();
    size_t bytes = (size_t)header.file_pages * PAGE;
    char *all = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, created, 0);
    if (all == MAP_FAILED)
        give_up();
    for (uint32_t page = 0; page < header.file_pages; page += huge)
        all[(size_t)page * PAGE] = FIRST_FILE_BYTE + page / huge;
    munmap(all, bytes);
    return created;
}

static void run(void)
{
    open_proc();
    if (header.setup & HUGE_PAGES_ALLOWED)
        prctl(PR_SET_THP_DISABLE, 0L, 0L, 0L, 0L);
    file = header.file_pages ? create_file() : -1;
    arena = header.base ? (char *)header.base : arena_at_break();
    start_threads();
    settle_again();
    rehearse();
    start_counting();
    carry_out(operations, header.operations);
    record(LAST, (struct outcome){0});
    uint32_t bytes = bytes_said();
    write_all(STDOUT_FILENO, &bytes, sizeof bytes);
    write_said(STDOUT_FILENO);
    _exit(0);
}

int main(int count, char **arguments)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(count > 1 ? atoi(arguments[1]) : sched_getcpu(), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    prctl(PR_SET_THP_DISABLE, 1L, 0L, 0L, 0L);
    catch_signals();
    open_proc();
    find_zero_frame();
    settle();
    while (read_all(STDIN_FILENO, &header, sizeof header)) {
        int32_t failed = FAILED;
        int ended = 0;
        if (header.operations > MAX_OPERATIONS || header.pages > MAX_PAGES
            || !read_all(STDIN_FILENO, operations, header.operations * sizeof *operations))
            return 1;
        pid_t child = fork();
        if (child == 0)
            run();
        if (child < 0 || waitpid(child, &ended, 0) != child || ended)
            write_all(STDOUT_FILENO, &failed, sizeof failed);
    }
    return 0;
}

/* What is said after an operation: see executor.h for the form. */
#define _GNU_SOURCE
#include "executor.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGEMAP_SCAN_IOCTL 0xC0606610UL
#define SCAN_ZERO (1 << 5)
#define SCAN_HUGE (1 << 6)

enum { OUTPUT_BYTES = 1 << 20, TEXT_BYTES = 1 << 17 };

int depth;

/* What is said. */

static char output[OUTPUT_BYTES];
static size_t said;

void forget_said(void) { said = 0; }

void write_all(int to, const void *what, size_t bytes)
{
    for (ssize_t done; bytes; what = (const char *)what + done, bytes -= done)
        if ((done = write(to, what, bytes)) <= 0)
            give_up();
}

void write_said(int to) { write_all(to, output, said); }

size_t bytes_said(void) { return said; }

/* What a forked child writes into a pipe becomes part of what we say. */
void say_what_comes_from(int child)
{
    for (ssize_t got; (got = read(child, output + said, sizeof output - said)) > 0;)
        said += got;
}

static void say(const void *what, size_t bytes)
{
    if (said + bytes > sizeof output)
        give_up();
    memcpy(output + said, what, bytes);
    said += bytes;
}

/* A list whose length is only known at its end: begin_list() leaves room for it, end_list() fills it in. */
static size_t begin_list(void)
{
    uint16_t none = 0;
    say(&none, sizeof none);
    return said - sizeof none;
}

static void end_list(size_t place, uint16_t length) { memcpy(output + place, &length, sizeof length); }

/* Pages alike are said once, with their number. */
static void say_runs(const uint16_t *of_page, size_t bytes_each)
{
    size_t list = begin_list();
    uint16_t runs = 0;
    for (uint32_t first = 0, next; first < header.pages; first = next, runs++) {
        for (next = first + 1; next < header.pages && of_page[next] == of_page[first];)
            next++;
        uint16_t length = next - first;
        say(&length, sizeof length);
        say(&of_page[first], bytes_each);
    }
    end_list(list, runs);
}

/* Reading /proc/self: the files stay open, and are opened again in each forked child. */

static int pagemap, maps, status, smaps;
static char text[TEXT_BYTES];

static int reopened(int old, const char *path)
{
    if (old > 0)
        close(old);
    return open(path, O_RDONLY | O_CLOEXEC);
}

void open_proc(void)
{
    pagemap = reopened(pagemap, "/proc/self/pagemap");
    maps = reopened(maps, "/proc/self/maps");
    status = reopened(status, "/proc/self/status");
    smaps = reopened(smaps, "/proc/self/smaps");
}

static const char *read_text(int from)
{
    size_t have = 0;
    for (ssize_t got; (got = pread(from, text + have, sizeof text - 1 - have, have)) > 0;)
        have += got;
    text[have] = 0;
    return text;
}

const char *next_line(const char *line)
{
    const char *end = strchr(line, '\n');
    return end ? end + 1 : line + strlen(line);
}

const char *read_maps(void) { return read_text(maps); }

/* The states of the pages, as pagemap has them. */

enum state { PRESENT = 1, SWAPPED = 2, OF_FILE = 4, EXCLUSIVE = 8, GUARD = 16, ZERO = 32, IS_HUGE = 64, MOVED = 128 };

static uint64_t zero_frame;

static void read_pagemap(uint64_t *entries)
{
    ssize_t bytes = header.pages * sizeof *entries;
    if (pread(pagemap, entries, bytes, (uint64_t)arena / PAGE * sizeof *entries) != bytes)
        give_up();
}

static int is_present(uint64_t entry) { return entry >> 63; }
static uint64_t frame_of(uint64_t entry) { return is_present(entry) ? entry & ((1ULL << 55) - 1) : 0; }

/* Those who may not see frames learn that it is 0, which none is. */
void find_zero_frame(void)
{
    volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t entry = 0;
    if (page != MAP_FAILED && !*page && pread(pagemap, &entry, sizeof entry, (uint64_t)page / PAGE * sizeof entry) > 0)
        zero_frame = frame_of(entry);
    munmap((void *)page, PAGE);
}

struct region {
    uint64_t start, end, categories;
};

/* Which pages are mapped huge, and which are the zero page: the second also where frames are hidden from us. */
static void add_scanned(uint16_t *states)
{
    static struct region regions[MAX_PAGES];
    uint64_t any = SCAN_HUGE | SCAN_ZERO;
    uint64_t start = (uint64_t)arena, end = start + (uint64_t)header.pages * PAGE;
    uint64_t argument[12] = {sizeof argument, 0, start, end, 0, (uint64_t)regions, MAX_PAGES, 0, 0, 0, any, any};
    long found = ioctl(pagemap, PAGEMAP_SCAN_IOCTL, argument);
    for (long i = 0; i < found; i++)
        for (uint64_t at = regions[i].start; at < regions[i].end; at += PAGE) {
            uint16_t *state = &states[(at - start) / PAGE];
            if (regions[i].categories & SCAN_HUGE && *state & PRESENT) /* said of hugetlb mappings with no page, too */
                *state |= IS_HUGE;
            if (regions[i].categories & SCAN_ZERO)
                *state = (*state & (PRESENT | IS_HUGE)) | ZERO;
        }
}

static void say_states(void)
{
    static uint64_t entries[MAX_PAGES], frames[MAX_PAGES];
    static uint16_t states[MAX_PAGES];
    read_pagemap(entries);
    for (uint32_t i = 0; i < header.pages; i++) {
        uint64_t entry = entries[i], frame = frame_of(entry);
        states[i] = is_present(entry) * PRESENT | (entry >> 62 & 1) * SWAPPED | (entry >> 61 & 1) * OF_FILE
            | (entry >> 56 & 1) * EXCLUSIVE | (entry >> 58 & 1) * GUARD;
        if (frame && frame == zero_frame)
            states[i] = PRESENT | ZERO;
        else if (header.parts & FRAMES && frame && frames[i] && frame != frames[i])
            states[i] |= MOVED;
        frames[i] = frame;
    }
    if (header.parts & HUGE || !zero_frame)
        add_scanned(states);
    say_runs(states, sizeof(uint8_t));
}

/* The mappings that meet the arena, as far as they do. */

struct mapping {
    uint16_t first, last;
    uint8_t permissions;
    uint32_t file_page;
} __attribute__((packed));

/* Reads "START-END rwxp OFFSET …"; whether it meets the arena. */
static int parse_mapping(const char *line, struct mapping *mapping)
{
    char *rest;
    uint64_t from = (uint64_t)arena, to = from + (uint64_t)header.pages * PAGE;
    uint64_t start = strtoul(line, &rest, 16), end = strtoul(rest + 1, &rest, 16);
    uint64_t first = start > from ? start : from, last = end < to ? end : to;
    if (first >= last)
        return 0;
    uint32_t file_page = strtoul(rest + 5, NULL, 16) / PAGE;
    mapping->first = (first - from) / PAGE;
    mapping->last = (last - from) / PAGE;
    mapping->permissions = (rest[1] == 'r') | (rest[2] == 'w') << 1 | (rest[3] == 'x') << 2 | (rest[4] == 's') << 3;
    mapping->file_page = file_page + (file_page ? (first - start) / PAGE : 0);
    return 1;
}

static void say_mappings(void)
{
    struct mapping mapping;
    size_t list = begin_list();
    uint16_t count = 0;
    for (const char *line = read_text(maps); *line; line = next_line(line))
        if (parse_mapping(line, &mapping)) {
            say(&mapping, sizeof mapping);
            count++;
        }
    end_list(list, count);
}

static int starts_with(const char *line, const char *word) { return !strncmp(line, word, strlen(word)); }

/* Lines of smaps that are not decided by the sequence alone: some processors have no protection keys. */
static int is_unsaid(const char *line)
{
    return starts_with(line, "Referenced:") || starts_with(line, "LazyFree:") || starts_with(line, "ProtectionKey:");
}

/* The smaps entries of those mappings. */
static void say_smaps(void)
{
    struct mapping mapping;
    size_t list = begin_list(), before = said;
    int inside = 0;
    for (const char *line = read_text(smaps), *next; *line; line = next) {
        next = next_line(line);
        if (*line < 'A' || *line > 'Z')
            inside = parse_mapping(line, &mapping);
        else if (inside && !is_unsaid(line))
            say(line, next - line);
    }
    end_list(list, said - before);
}

/* The counters of the process, as far as the sequence moved them. */

static const char *const counter_names[] = {
    "\nVmSize:", "\nVmLck:", "\nRssAnon:", "\nRssFile:", "\nRssShmem:", "\nVmData:", "\nVmPTE:", "\nVmSwap:", "\nHugetlbPages:",
};
enum { COUNTER_NAMES = sizeof counter_names / sizeof *counter_names };
static int32_t counters_at_start[COUNTER_NAMES];

static void read_counters(int32_t *kilobytes)
{
    const char *at = read_text(status);
    for (int i = 0; i < COUNTER_NAMES; i++) {
        const char *found = strstr(at, counter_names[i]); /* in the order of the file */
        kilobytes[i] = found ? atoi(found + strlen(counter_names[i])) : 0;
        at = found ? found : at;
    }
}

void start_counting(void) { read_counters(counters_at_start); }

static void say_counters(void)
{
    int32_t counters[COUNTER_NAMES];
    read_counters(counters);
    for (int i = 0; i < COUNTER_NAMES; i++)
        counters[i] -= counters_at_start[i];
    say(counters, sizeof counters);
}

/* What the pages hold. */

enum { NOT_PRESENT = 0xFFFF };

/* The first byte of each page; with `all` false only of those present, which disturbs nothing. */
static void say_contents(int all)
{
    static uint64_t entries[MAX_PAGES];
    static uint16_t contents[MAX_PAGES];
    read_pagemap(entries);
    for (uint32_t i = 0; i < header.pages; i++) {
        struct outcome got = {.value = NOT_PRESENT};
        if (all || is_present(entries[i]))
            got = touch(arena + (size_t)i * PAGE, 0, 0);
        contents[i] = got.error ? got.error : got.value;
    }
    say_runs(contents, sizeof(uint16_t));
}

/* One record. */

void record(uint16_t operation, struct outcome outcome)
{
    uint8_t at_depth = depth;
    say(&operation, sizeof operation);
    say(&at_depth, sizeof at_depth);
    say(&outcome.error, sizeof outcome.error);
    say(&outcome.value, sizeof outcome.value);
    if (operation == LAST)
        say_contents(1);
    say_states();
    if (header.parts & MAPPINGS)
        say_mappings();
    if (header.parts & COUNTERS)
        say_counters();
    if (header.parts & FAULTS)
        say(&outcome.faults, sizeof outcome.faults);
    if (header.parts & CONTENTS)
        say_contents(0);
    if (header.parts & SMAPS)
        say_smaps();
}


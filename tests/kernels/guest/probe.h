/* What a probe is written with.
 *
 * A probe asks the kernel one thing and says a line: `probe NAME VALUE`. Each group of probes runs in a process of its
 * own, so that one that is killed takes no other with it. Nothing here may need a C library newer than the kernels.
 */
#ifndef PROBE_H
#define PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define GIB (1UL << 30)
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)

enum {
	NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED,
	FREE = 8, REMOVE, DONTFORK, DOFORK, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP,
	WIPEONFORK, KEEPONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE,
	HWPOISON = 100, SOFT_OFFLINE, GUARD_INSTALL, GUARD_REMOVE,
};

/* By number: the headers may be older than the kernel. */
enum {
	SYS_MEMFD_CREATE = 319,
	SYS_MLOCK2 = 325,
	SYS_PIDFD_OPEN = 434,
	SYS_PROCESS_MADVISE = 440,
	SYS_MEMFD_SECRET = 447,
	SYS_MSEAL = 462,
};

struct group {
	const char *name;
	void (*probe)(void);
};

/* All groups, in the order in which they run; one without a name ends them. */
extern const struct group groups[];

/* say.c: what was found */
void say(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *error_name(int error);
/* The name of the error of a call that returned `result`; `ok` for none. */
const char *outcome(long result);
/* Says how the call ended, and then what is seen after it: C leaves open which argument is evaluated first. */
#define SAY_AFTER(name, call, format, ...)                              \
	do {                                                            \
		const char *answer = outcome(call);                     \
		say(name, "%s " format, answer, __VA_ARGS__);           \
	} while (0)

/* memory.c: memory to try things on; each ends the process if it cannot be had */
char *map(size_t size, int protection, int flags);
char *map_file(size_t size, int protection, int flags, int file);
/* A mapping between two that nothing merges with. */
char *map_fenced(size_t size, int protection, int flags);
char *map_aligned(size_t size, size_t alignment, int flags);
int make_file(size_t size);
/* Four pages of such a file, none of them touched, all in one window of what a fault maps around it. */
char *map_four(int flags);
void touch_all(char *start, size_t size);
char read_byte(const char *address);
/* The signal that a store or a load ends with, 0 for none; `signal_code` says why. */
int signal_of_store(char *address);
int signal_of_load(const char *address);
extern int signal_code;
/* Runs in a child and says what it returns, 0 to 255; below 0: minus the signal that killed it. */
int in_child(int (*question)(void *), void *about);
void write_file(const char *path, const char *text);

/* told.c: what the kernel tells of memory */
uint64_t pagemap_entry(const char *address);
/* One letter a page: X exclusive, P present, F file or shared, Z zero page, S swap, G guard, - nothing. */
const char *letters(const char *start, size_t pages);
uint64_t kernel_page_flags(const char *address);
long status_kib(const char *key);
long smaps_kib(const char *address, const char *key);
const char *smaps_flags(const char *address);
/* The keys of all lines, in order. */
const char *keys_of(const char *path);
/* Of a file; `none` if it cannot be read. */
const char *first_line(const char *path);
int mappings_in(const char *start, size_t size);
long minor_faults(void);

/* The groups. */
void probe_errnos(void);
void probe_arguments(void);
void probe_walk(void);
void probe_process_madvise(void);
void probe_seal(void);
void probe_guard(void);
void probe_zero_page(void);
void probe_pagemap(void);
void probe_page_tables(void);
void probe_counters(void);
void probe_free(void);
void probe_fork(void);
void probe_faults(void);
void probe_lock(void);
void probe_recency(void);
void probe_huge(void);
void probe_huge_pool(void);
void probe_mappings(void);
void probe_files(void);
void probe_keys(void);

#endif

/* The optional native part of dontneed: what Python code cannot do to its own process, which is to hold the GIL, or the
 * lock of one of malloc's arenas, from a check to the edit and the drop that rest on it.
 *
 * src/dontneed/kernel/native.py is the only caller. It brings every address: which memory may be edited at all, of which
 * build of which allocator, is found and proven in Python; here it is looked at once more, edited, and dropped.
 *
 *   pools.c     pages of CPython's pools that hold nothing, with the GIL held
 *   arenas.c    pages of free chunks in an arena of glibc's malloc, with the arena's lock held
 *   module.c    the module, and what both need
 *
 * While either works it allocates nothing, and calls nothing but the kernel. Nothing is kept between two calls, so that
 * a fork finds nothing to repair.
 *
 * Given up is memory that its allocator counts as free. So a drop may be made twice, and if the kernel refuses one
 * (locked memory), nothing is wrong but that the pages stay.
 */
#ifndef DONTNEED_NATIVE_H
#define DONTNEED_NATIVE_H

#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <sys/uio.h>

#if !defined(__linux__) || !defined(__x86_64__) || !defined(__LP64__)
#error "known for 64-bit Linux on x86-64 only; elsewhere the pure package does"
#endif

/* Changes with the arguments and results of any function, so that native.py never calls an older build. */
#define CONTRACT 1

#define PAGE_BYTES 4096u
#define ALIGNMENT 16u

/* What is given up, in memory of the caller's: an array of struct iovec. */
struct rows {
    struct iovec *rows;
    size_t size;   /* how many there can be */
    size_t filled; /* how many there are */
    size_t told;   /* how many of those the kernel has been told of */
    int pidfd;     /* of this process, by which process_madvise takes DONTNEED; -1: range by range */
    int is_survey; /* nothing is edited, and nothing dropped: the rows say what would be */
};

/* One more row; there must be room. */
void add_row(struct rows *rows, uintptr_t start, uintptr_t end);

/* How many bytes the kernel does not know of yet. */
size_t untold_bytes(const struct rows *rows);

/* Tells the kernel of all that it does not know of. A row that it refuses gets the length 0. */
void drop(struct rows *rows);

/* Nanoseconds of the monotonic clock. */
int64_t now(void);

static inline uintptr_t
round_up(uintptr_t value, uintptr_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

PyObject *native_pools(PyObject *self, PyObject *arguments);
PyObject *native_arena(PyObject *self, PyObject *arguments);

#endif

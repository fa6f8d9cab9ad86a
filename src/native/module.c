/* The module `dontneed.kernel._native`, and what its functions share: rows of memory to drop, and the clock. */
#include "native.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

int64_t
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

void
add_row(struct rows *rows, uintptr_t start, uintptr_t end)
{
    rows->rows[rows->filled].iov_base = (void *)start;
    rows->rows[rows->filled++].iov_len = end - start;
}

size_t
untold_bytes(const struct rows *rows)
{
    size_t bytes = 0;
    for (size_t i = rows->told; i < rows->filled; i++)
        bytes += rows->rows[i].iov_len;
    return bytes;
}

void
drop(struct rows *rows)
{
    struct iovec *first = rows->rows + rows->told;
    size_t count = rows->filled - rows->told, bytes = untold_bytes(rows);
    rows->told = rows->filled;
    if (count == 0 || rows->is_survey)
        return;
    if (rows->pidfd != -1 && syscall(SYS_process_madvise, rows->pidfd, first, count, MADV_DONTNEED, 0) == (long)bytes)
        return;
    for (size_t i = 0; i < count; i++) /* some may be gone already: once more does no harm */
        if (madvise(first[i].iov_base, first[i].iov_len, MADV_DONTNEED) != 0)
            first[i].iov_len = 0;
}

static PyMethodDef methods[] = {
    {"pools", native_pools, METH_VARARGS, "Give back the pages of CPython's pools that hold nothing; see pools.c."},
    {"arena", native_arena, METH_VARARGS, "Give back the pages of free chunks of an arena of malloc; see arenas.c."},
    {NULL, NULL, 0, NULL},
};

static int
fill_module(PyObject *module)
{
    if (sysconf(_SC_PAGESIZE) != PAGE_BYTES) {
        PyErr_SetString(PyExc_ImportError, "it is for pages of 4 KiB");
        return -1;
    }
    return PyModule_AddIntConstant(module, "CONTRACT", CONTRACT);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)fill_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The native part of dontneed; see native.h.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}

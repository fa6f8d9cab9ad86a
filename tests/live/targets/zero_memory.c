/* Memory of many kinds that is zero, and some that is not; what each holds is known, and looked at again.

   zero_memory [ring]
   `NAME START END` is said of each; with `ring`, `ring PINNED` too: an io_uring has the first one pinned, or cannot.  c(heck): all is compared with what it was; `errors N` is said.
   f(ork): a child that shares everything from now on lives until the end. */
#include "target.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#define SIZE MIB
#define HUGE_SIZE (2 * MIB)
#define MSEAL 462
#define COLLAPSE 25

struct region {
    const char *name;
    unsigned char *start;
    unsigned long size;
    unsigned long data_every; /* which pages hold data: every so many; 0: none */
};

static struct region regions[32];
static int count;

static int holds_data(const struct region *region, unsigned long page)
{
    return region->data_every && page % region->data_every == 0;
}

static unsigned char *map(unsigned long size, int flags, int fd)
{
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/* Zeros first, so that every page is there; then a page of data here and there. */
static void fill(const struct region *region)
{
    memset(region->start, 1, region->size);
    memset(region->start, 0, region->size);
    for (unsigned long page = 0; page < region->size / PAGE; page++)
        if (holds_data(region, page))
            region->start[page * PAGE + page % PAGE] = pattern(page, 5);
}

static void check(const struct region *region)
{
    for (unsigned long at = 0; at < region->size; at++) {
        unsigned long page = at / PAGE;
        int is_data = holds_data(region, page) && at % PAGE == page % PAGE;

        if (region->start[at] != (is_data ? pattern(page, 5) : 0)) {
            count_error(region->name, region->start + at);
            return;
        }
    }
}

static struct region *add(const char *name, unsigned char *start, unsigned long size, unsigned long data_every)
{
    struct region *region = &regions[count];

    if (!start)
        return NULL;
    *region = (struct region){name, start, size, data_every};
    fill(region);
    printf("%s 0x%lx 0x%lx\n", name, (unsigned long)start, (unsigned long)start + size);
    count++;
    return region;
}

/* A gap before each, so that none is one mapping with the next. */
static unsigned char *apart(unsigned long size)
{
    unsigned char *memory = map(size + 2 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

    mprotect(memory, PAGE, PROT_NONE);
    mprotect(memory + PAGE + size, PAGE, PROT_NONE);
    madvise(memory, size + 2 * PAGE, MADV_NOHUGEPAGE);
    return memory + PAGE;
}

static unsigned char *huge(void)
{
    unsigned char *memory = map(2 * HUGE_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

    return (unsigned char *)(((uintptr_t)memory + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
}

static void add_huge(const char *name, unsigned long data_every)
{
    struct region *region = add(name, huge(), HUGE_SIZE, data_every);

    if (madvise(region->start, HUGE_SIZE, COLLAPSE))
        printf("no-huge 0\n");
    madvise(region->start, HUGE_SIZE, MADV_NOHUGEPAGE); /* khugepaged is to leave it alone */
}

static void add_of_file(void)
{
    char path[] = "/tmp/zero-memory-XXXXXX";
    char page[PAGE];
    int fd = mkstemp(path);

    memset(page, 'f', PAGE);
    for (unsigned long at = 0; at < SIZE; at += PAGE)
        if (write(fd, page, PAGE) != (ssize_t)PAGE)
            exit(3);
    unlink(path);
    add("file", map(SIZE, MAP_PRIVATE, fd), SIZE, 0); /* zeros written over it: dropped, they would be 'f' again */
}

static void add_registered(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct region *region;
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        return;
    region = add("userfaultfd", apart(SIZE), SIZE, 0);
    struct uffdio_register wanted = {
        .range = {(unsigned long)region->start, SIZE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ioctl(fd, UFFDIO_REGISTER, &wanted); /* a page that went would be waited for, for ever */
}

static void pin(const struct region *region)
{
    struct io_uring_params parameters = {0};
    struct iovec buffer = {region->start, region->size};
    int ring = syscall(SYS_io_uring_setup, 4, &parameters);

    printf("ring %d\n", ring >= 0 && !syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1));
}

int main(int argc, char **argv)
{
    struct region *region;
    char command;

    (void)argv;

    add("zeros", apart(SIZE), SIZE, 0);
    add("every-third", apart(SIZE), SIZE, 3);
    add("heap", sbrk(SIZE), SIZE, 0);
    add("data", apart(SIZE), SIZE, 1);
    add("shared", map(SIZE, MAP_SHARED | MAP_ANONYMOUS, -1), SIZE, 0);
    add_of_file();
    region = add("locked", apart(SIZE), SIZE, 0);
    mlock(region->start, SIZE);
    region = add("read-only", apart(SIZE), SIZE, 0);
    mprotect(region->start, SIZE, PROT_READ);
    region = add("sealed", apart(SIZE), SIZE, 0);
    mprotect(region->start, SIZE, PROT_READ);
    syscall(MSEAL, region->start, SIZE, 0);
    add_registered();
    add("hugetlb", map(HUGE_SIZE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1), HUGE_SIZE, 0);
    add_huge("huge-zeros", 0);
    add_huge("huge-data", 7);
    if (argc > 1)
        pin(&regions[0]);
    while ((command = next_command())) {
        if (command == 'f' && fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pause();
            return 0;
        }
        for (int each = 0; each < count; each++)
            check(&regions[each]);
        printf("errors %lu\n", atomic_load(&errors));
    }
    return 0;
}

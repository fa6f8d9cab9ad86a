/* A program whose working set is known: a thread touches the first pages of its memory, over and over, and checks each.

   Arguments: how many MiB, all written to at the beginning; how many pages are touched; `read`, `write` or `idle`; and,
   if there is a fourth, in huge pages. It says where its memory is.

   Commands: `r N`, `w N`: read, or write to, the first N pages from now on; `?`: turns and errors; `i`: sleep; `n N`: map
   N pages anew and write to them; `k N`: have the kernel write to N pages from number 4096 on, by read(2); `f`: a child
   checks and writes to all from there on, and so do we; `e`: become another program; `u N`: have a userfaultfd and,
   if N is not 0, ask for its features; `x`: end.
   What is touched over and over lies before number 4096. */

#include "target.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

static volatile unsigned long *memory;
static unsigned char *expected;
static size_t pages;
static atomic_ulong turns, hot;
static atomic_int mode = 'i';

#define WORDS (PAGE / sizeof(long))

static void touch_page(size_t page, int how)
{
    unsigned long found = memory[page * WORDS];

    if ((unsigned char)found != expected[page])
        count_error("a page is not what was written to it", (void *)&memory[page * WORDS]);
    if (how == 'w')
        memory[page * WORDS] = ++expected[page];
}

static void *touch(void *unused)
{
    for (;;) {
        int how = atomic_load(&mode);
        if (how == 'i') {
            usleep(1000);
            atomic_fetch_add(&turns, 1);
            continue;
        }
        for (size_t page = 0, count = atomic_load(&hot); page < count; page++)
            touch_page(page, how);
        atomic_fetch_add(&turns, 1);
    }
    return unused;
}

static void touch_everything(void)
{
    for (size_t page = 4096; page < pages; page++)
        touch_page(page, 'w');
}

static void let_kernel_write(size_t count)
{
    int file = open("/dev/zero", O_RDONLY);

    for (size_t page = 4096; page < 4096 + count; page++) {
        if (read(file, (void *)&memory[page * WORDS], PAGE) != PAGE)
            count_error("read(2) failed", (void *)&memory[page * WORDS]);
        expected[page] = 0;
        touch_page(page, 'r');
    }
    close(file);
}

static void check_in_child(void)
{
    int status;
    pid_t child = fork();

    if (!child) {
        touch_everything();
        _exit(atomic_load(&errors) ? 1 : 0);
    }
    touch_everything();
    if (waitpid(child, &status, 0) != child || status)
        count_error("a child found its memory wrong", NULL);
}

int main(int count, char **arguments)
{
    pthread_t thread;
    size_t length = strtoul(arguments[1], NULL, 10) * MIB;
    char *where = mmap(NULL, length + 4 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    /* A mapping that nothing else is part of. */
    where = (char *)(((unsigned long)where + 4 * MIB - 1) & -(2 * MIB));
    mprotect(where, length, PROT_READ | PROT_WRITE);
    madvise(where, length, count > 4 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    pages = length / PAGE;
    memory = (void *)where;
    expected = mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t page = 0; page < pages; page++)
        memory[page * WORDS] = expected[page] = pattern(7, page);
    atomic_store(&hot, strtoul(arguments[2], NULL, 10));
    atomic_store(&mode, arguments[3][0]);
    pthread_create(&thread, NULL, touch, NULL);
    printf("memory %p\n", (void *)memory);
    (void)next_command; /* ours has a number behind its letter */
    for (;;) {
        char line[256];
        printf("ready\n");
        fflush(stdout);
        if (!fgets(line, sizeof line, stdin))
            return 0;
        size_t number = strtoul(line + 1, NULL, 10);
        switch (line[0]) {
        case 'r':
        case 'w':
            atomic_store(&hot, number);
            /* fall through */
        case 'i':
            atomic_store(&mode, line[0]);
            break;
        case '?':
            printf("%lu %lu\n", atomic_load(&turns), atomic_load(&errors));
            break;
        case 'n': {
            char *fresh = mmap(NULL, number * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(fresh, number * PAGE, MADV_NOHUGEPAGE);
            for (size_t page = 0; page < number; page++)
                fresh[page * PAGE] = 1;
            printf("%p\n", (void *)fresh);
            break;
        }
        case 'k':
            let_kernel_write(number);
            break;
        case 'f':
            check_in_child();
            break;
        case 'e':
            execlp("sleep", "sleep", "60", NULL);
            return 1;
        case 'u': {
            long descriptor = syscall(SYS_userfaultfd, 1 | O_CLOEXEC);
            struct uffdio_api asked = {.api = UFFD_API};
            if (number && ioctl(descriptor, UFFDIO_API, &asked))
                count_error("a userfaultfd was refused", NULL);
            printf("%ld\n", descriptor);
            break;
        }
        case 'x':
            return 0;
        }
    }
}

/* A process that reads by io_uring: the kernel makes a thread for it, which is in the list of its threads like any other.

   Each read waits for a byte that comes some milliseconds later. A line of input ends it, and then it says how many reads
   there were and how many went wrong; or `absent` at once where there is no io_uring. */

#include <linux/io_uring.h>
#include <poll.h>

#include "target.h"

enum { SETUP = 425, ENTER = 426 };

int main(void)
{
    struct io_uring_params setup = {0};
    int ring = syscall(SETUP, 8, &setup), ends[2];
    if (ring < 0 || pipe(ends)) {
        printf("absent\n");
        return !next_command();
    }
    char *submitted = mmap(NULL, setup.sq_off.array + setup.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                           IORING_OFF_SQ_RING);
    char *completed = mmap(NULL, setup.cq_off.cqes + setup.cq_entries * sizeof(struct io_uring_cqe),
                           PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, setup.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                                        IORING_OFF_SQES);
    unsigned *tail = (unsigned *)(submitted + setup.sq_off.tail), *head = (unsigned *)(completed + setup.cq_off.head);
    unsigned *array = (unsigned *)(submitted + setup.sq_off.array);
    unsigned mask = *(unsigned *)(completed + setup.cq_off.ring_mask);
    struct io_uring_cqe *results = (struct io_uring_cqe *)(completed + setup.cq_off.cqes);
    struct pollfd input = {0, POLLIN, 0};
    long reads = 0;
    char byte;

    printf("ready\n");
    fflush(stdout);
    for (; !poll(&input, 1, 0); reads++) {
        unsigned index = *tail & *(unsigned *)(submitted + setup.sq_off.ring_mask);
        entries[index] = (struct io_uring_sqe){
            .opcode = IORING_OP_READ, .flags = IOSQE_ASYNC, .fd = ends[0], .addr = (unsigned long)&byte, .len = 1};
        array[index] = index;
        __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
        if (syscall(ENTER, ring, 1, 0, 0, NULL, 0) != 1)
            count_error("submit", entries);
        usleep(2000);
        if (write(ends[1], "x", 1) != 1)
            count_error("write", ends);
        if (syscall(ENTER, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
            count_error("wait", results);
        if (results[*head & mask].res != 1)
            count_error("read", results);
        __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    }
    printf("reads %ld\nerrors %lu\nready\n", reads, errors);
    return 0;
}

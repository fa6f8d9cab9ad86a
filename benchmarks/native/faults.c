/* Faults as fast as it can: argument 1 pages in all, 65,536 at a time, each written to and given up again. It prints how
   many seconds of a processor that took, whoever else wanted one. */

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define AT_A_TIME 65536L

int main(int count, char **arguments)
{
	long pages = count > 1 ? atol(arguments[1]) : AT_A_TIME, page = sysconf(_SC_PAGESIZE);
	volatile char *memory = mmap(NULL, AT_A_TIME * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec began, ended;
	if (memory == MAP_FAILED)
		return 1;
	madvise((void *)memory, AT_A_TIME * page, MADV_NOHUGEPAGE);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
	while (pages > 0) {
		for (long i = 0; i < AT_A_TIME && pages > 0; i++, pages--)
			memory[i * page] = 1;
		if (madvise((void *)memory, AT_A_TIME * page, MADV_DONTNEED))
			return 1;
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
	printf("%.6f\n", (ended.tv_sec - began.tv_sec) + (ended.tv_nsec - began.tv_nsec) / 1e9);
	return 0;
}

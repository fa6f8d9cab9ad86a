/* A program whose every touch is known: argument 1 pages are mapped, written to, given up by MADV_DONTNEED, half of them
   read, one of those written to, and unmapped. It says where they are.

   Argument 2, if there is one: a thread does the same again ("thread"), or a child ("fork"); or it waits for a byte on
   standard input before it begins ("wait"), with a thread that it has started already. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static size_t pages;

static void *touch(void *unused)
{
	(void)unused;
	long page = sysconf(_SC_PAGESIZE);
	char text[64];
	volatile char *memory = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		abort();
	madvise((void *)memory, pages * page, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		memory[i * page] = 1;
	if (madvise((void *)memory, pages * page, MADV_DONTNEED))
		abort();
	for (size_t i = 0; i < pages / 2; i++)
		if (memory[i * page])
			abort();
	memory[0] = 1;
	munmap((void *)memory, pages * page);
	int length = snprintf(text, sizeof text, "%lx\n", (unsigned long)memory);
	if (write(1, text, length) != length)
		abort();
	return NULL;
}

static void *touch_twice(void *unused)
{
	touch(unused);
	return touch(unused);
}

static void *wait_and_touch(void *unused)
{
	char byte;
	if (read(0, &byte, 1) == 1)
		touch_twice(unused);
	return NULL;
}

int main(int count, char **arguments)
{
	pthread_t thread;
	const char *how = count > 2 ? arguments[2] : "";
	pages = strtoul(arguments[1], NULL, 10);
	if (!strcmp(how, "wait")) {
		pthread_create(&thread, NULL, wait_and_touch, NULL);
		if (write(1, "ready\n", 6) != 6)
			abort();
		pthread_join(thread, NULL);
		return 0;
	}
	touch(NULL);
	if (!strcmp(how, "thread")) {
		pthread_create(&thread, NULL, touch, NULL);
		pthread_join(thread, NULL);
	} else if (!strcmp(how, "fork")) {
		pid_t child = fork();
		if (!child) {
			touch(NULL);
			_exit(3);
		}
		waitpid(child, NULL, 0);
	}
	return 7;
}

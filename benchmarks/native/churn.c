/* churn THREADS ROUNDS: threads that malloc, fill, free and give memory back by madvise, each in its own order.

   For tracing: the same calls and touches in every run, but for how the threads come in between each other. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, KEPT = 64, MAPPED = 512 };

static long rounds;

static uint32_t next(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

static void *churn(void *seed)
{
	uint32_t state = (uint32_t)(uintptr_t)seed;
	char *kept[KEPT] = { 0 };
	char *mapped = mmap(0, MAPPED * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped == MAP_FAILED)
		return "mmap";
	for (long round = 0; round < rounds; round++) {
		unsigned nth = next(&state) % KEPT;
		free(kept[nth]);
		size_t size = 64 + next(&state) % (next(&state) % 8 ? 64 << 10 : 1 << 20);
		kept[nth] = malloc(size);
		if (!kept[nth])
			return "malloc";
		memset(kept[nth], 1, size);
		if (round % 16)
			continue;
		unsigned first = next(&state) % MAPPED, count = 1 + next(&state) % (MAPPED - first);
		memset(mapped + (size_t)first * PAGE, 2, (size_t)count * PAGE);
		first = next(&state) % MAPPED, count = 1 + next(&state) % (MAPPED - first);
		if (madvise(mapped + (size_t)first * PAGE, (size_t)count * PAGE, round % 48 ? MADV_DONTNEED : MADV_FREE))
			return "madvise";
	}
	for (unsigned nth = 0; nth < KEPT; nth++)
		free(kept[nth]);
	munmap(mapped, MAPPED * PAGE);
	return 0;
}

int main(int count, char **words)
{
	pthread_t threads[64];
	if (count != 3)
		return 2;
	long many = atol(words[1]);
	rounds = atol(words[2]);
	if (many < 1 || many > 64)
		return 2;
	for (long nth = 0; nth < many; nth++)
		if (pthread_create(&threads[nth], 0, churn, (void *)(uintptr_t)(nth + 1)))
			return 1;
	for (long nth = 0; nth < many; nth++) {
		void *failed;
		pthread_join(threads[nth], &failed);
		if (failed) {
			fprintf(stderr, "churn: %s\n", (char *)failed);
			return 1;
		}
	}
	return 0;
}

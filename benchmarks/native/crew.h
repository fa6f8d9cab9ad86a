/* A crew of threads that wait until the program is told a word, and then all do it; the longest time counts. */

#ifndef CREW_H
#define CREW_H

#include "ground.h"
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

enum { MOST_THREADS = 1024 };

static pthread_mutex_t crew_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t crew_called = PTHREAD_COND_INITIALIZER, crew_done = PTHREAD_COND_INITIALIZER;
static char crew_word[16];
static int crew_call, crew_size, crew_busy;
static long long crew_longest;
static uint64_t crew_sum;

/* Wait for the call after `call`, and copy its word. */
static void crew_wait(int call, char *word)
{
    pthread_mutex_lock(&crew_lock);
    while (crew_call == call)
        pthread_cond_wait(&crew_called, &crew_lock);
    strcpy(word, crew_word);
    pthread_mutex_unlock(&crew_lock);
}

/* Say that the word is done: how long it took, and what this thread adds to the sum. */
static void crew_finish(long long nanoseconds, uint64_t sum)
{
    pthread_mutex_lock(&crew_lock);
    if (nanoseconds > crew_longest)
        crew_longest = nanoseconds;
    crew_sum += sum;
    if (--crew_busy == 0)
        pthread_cond_signal(&crew_done);
    pthread_mutex_unlock(&crew_lock);
}

static void crew_await_all(void)
{
    while (crew_busy)
        pthread_cond_wait(&crew_done, &crew_lock);
}

/* Start threads, and return when each has finished once: its preparations. */
static void crew_start(int count, void *(*body)(void *))
{
    if (count < 1 || count > MOST_THREADS)
        exit(2);
    crew_size = crew_busy = count;
    for (long nth = 0; nth < count; nth++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, body, (void *)nth))
            fail("pthread_create");
    }
    pthread_mutex_lock(&crew_lock);
    crew_await_all();
    pthread_mutex_unlock(&crew_lock);
}

static void crew_tell(const char *word)
{
    pthread_mutex_lock(&crew_lock);
    strcpy(crew_word, word);
    crew_longest = 0;
    crew_sum = 0;
    crew_busy = crew_size;
    crew_call++;
    pthread_cond_broadcast(&crew_called);
    crew_await_all();
    pthread_mutex_unlock(&crew_lock);
}

/* Serve standard input: "tidy" is malloc_trim(0), every other word is for the crew. Answers "NANOSECONDS SUM". */
static void crew_serve(void)
{
    char word[16];
    puts("ready");
    fflush(stdout);
    while (scanf("%15s", word) == 1) {
        if (strcmp(word, "tidy") == 0) {
            long long began = now_ns();
            malloc_trim(0);
            crew_longest = now_ns() - began;
            crew_sum = 0;
        } else {
            crew_tell(word);
        }
        printf("%lld %llu\n", crew_longest, (unsigned long long)crew_sum);
        fflush(stdout);
    }
}

/* A byte that depends on where it stands and whose it is. */
static inline unsigned char expected(long owner, size_t at)
{
    return (unsigned char)(at * 31 + (size_t)owner * 17 + (at >> 8));
}

static inline void write_pattern(unsigned char *memory, size_t length, long owner)
{
    for (size_t at = 0; at < length; at++)
        memory[at] = expected(owner, at);
}

/* A sum over the contents, which must be those that were written. */
static inline uint64_t sum_pattern(const unsigned char *memory, size_t length, long owner)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < length; at++) {
        if (memory[at] != expected(owner, at)) {
            fprintf(stderr, "byte %zu of thread %ld is %d\n", at, owner, memory[at]);
            abort();
        }
        sum = sum * 1099511628211ULL + memory[at];
    }
    return sum;
}

#endif

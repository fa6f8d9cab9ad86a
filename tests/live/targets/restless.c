/* A process that will not stay as it is: restless threads | forks | spawns | execs | exits.

   threads   several threads make others, which return what they were told
   forks     the same with child processes
   spawns    the same with posix_spawn, whose parent sleeps uninterruptibly meanwhile (vfork)
   execs     a thread beside the main one replaces the whole program by itself, again and again
   exits     ends after a few hundred microseconds, with exit status 7

   A line of input ends it, except where it ends by itself. It says how often it did what it does, and what went wrong. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "target.h"

extern char **environ;
static atomic_int ending;
static atomic_ulong turns;
static const char *mode;

static void *given_back(void *argument)
{
    return argument;
}

static void one_turn(void)
{
    unsigned long turn = atomic_fetch_add(&turns, 1);
    int status = 0;
    if (!strcmp(mode, "threads")) {
        pthread_t made[4];
        void *result;
        for (unsigned long n = 0; n < 4; n++)
            if (pthread_create(&made[n], NULL, given_back, (void *)(turn + n)))
                count_error("pthread_create", made);
        for (unsigned long n = 0; n < 4; n++)
            if (pthread_join(made[n], &result) || result != (void *)(turn + n))
                count_error("pthread_join", result);
    } else if (!strcmp(mode, "forks")) {
        pid_t child = fork();
        if (!child)
            _exit(turn % 100);
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != (int)(turn % 100))
            count_error("fork", &status);
    } else {
        pid_t child;
        char *words[] = {"true", NULL};
        int failed = posix_spawnp(&child, "true", NULL, NULL, words, environ);
        if (failed || waitpid(child, &status, 0) != child || status)
            count_error("posix_spawn", &status);
    }
}

static void *turn_for_ever(void *unused)
{
    while (!atomic_load(&ending))
        one_turn();
    return unused;
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void *replace_program(void *argument)
{
    char **words = argument, count[32];
    struct timespec brief = {0, 1000000};
    nanosleep(&brief, NULL);
    snprintf(count, sizeof count, "%d", atoi(words[2]) + 1);
    char *next[] = {words[0], words[1], count, NULL};
    execv("/proc/self/exe", next);
    count_error("exec", next);
    return NULL;
}

static void *end_soon(void *unused)
{
    struct timespec brief = {0, 100000 + getpid() % 16 * 100000};
    nanosleep(&brief, NULL);
    exit(7);
    return unused;
}

int main(int count, char **words)
{
    pthread_t thread;
    mode = words[1];
    if (!strcmp(mode, "execs")) {
        static char *first[4] = {NULL, NULL, "0", NULL};
        if (count < 3) {
            printf("ready\n");
            fflush(stdout);
            memcpy(first, words, 2 * sizeof *words);
            words = first;
        }
        struct pollfd input = {0, POLLIN, 0};
        if (poll(&input, 1, 0) == 0) {
            for (int n = 0; n < 4; n++)
                pthread_create(&thread, NULL, wait_for_ever, NULL);
            pthread_create(&thread, NULL, replace_program, words);
            wait_for_ever(NULL);
        }
        printf("turns %s\nerrors 0\nready\n", words[2]);
        return 0;
    }
    if (!strcmp(mode, "exits")) {
        for (int n = 0; n < 4; n++)
            pthread_create(&thread, NULL, wait_for_ever, NULL);
        printf("ready\n");
        fflush(stdout);
        pthread_create(&thread, NULL, end_soon, NULL);
        wait_for_ever(NULL);
    }
    pthread_t restless[3];
    for (int n = 0; n < 3; n++)
        pthread_create(&restless[n], NULL, turn_for_ever, NULL);
    next_command();
    atomic_store(&ending, 1);
    for (int n = 0; n < 3; n++)
        pthread_join(restless[n], NULL);
    printf("turns %lu\nerrors %lu\n", turns, errors);
    next_command();
    return 0;
}

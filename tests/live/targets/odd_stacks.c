/* Threads that used much stack and now wait on a stack that is not what it seems.

   `NAME TID` is said of each; e(nd): all go back to where they came from and look at their frames; `errors N` is said. */
#include "frames.h"
#include <signal.h>
#include <ucontext.h>

#define DEEP MIB
#define SMALL_STACK (256 << 10)

static int gate[2];
static pthread_barrier_t arrived;

/* Say who we are, be seen, and wait until the gate is opened. */
static void say_and_wait(const char *name)
{
    char byte;

    printf("%s %ld\n", name, syscall(SYS_gettid));
    pthread_barrier_wait(&arrived);
    while (read(gate[0], &byte, 1) > 0)
        ;
}

static void *fresh_memory(unsigned long bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void plain(void *name)
{
    recurse(DEEP);
    say_and_wait(name);
}

/* Signal handlers on a stack of their own. */

static __thread const char *handler_name;

static void handle(int number)
{
    (void)number;
    say_and_wait(handler_name);
}

static void take_signal_on(void *stack, const char *name)
{
    stack_t alternative = {.ss_sp = stack, .ss_size = SMALL_STACK};

    handler_name = name;
    sigaltstack(&alternative, NULL);
    recurse(DEEP);
    pthread_kill(pthread_self(), SIGUSR1);
}

static void in_handler(void *name)
{
    take_signal_on(fresh_memory(SMALL_STACK), name);
}

static void below_array(void *stack)
{
    take_signal_on(stack, "nested-handler");
}

static void in_nested_handler(void *unused)
{
    char stack[SMALL_STACK];

    (void)unused;
    below_live_frames(8, 1, below_array, stack);
}

/* Coroutines. */

static __thread ucontext_t thread_context, coroutine_context;

static void coroutine(void)
{
    recurse(SMALL_STACK / 2);
    say_and_wait(handler_name);
}

static void switch_to(void *stack)
{
    getcontext(&coroutine_context);
    coroutine_context.uc_stack = (stack_t){.ss_sp = stack, .ss_size = SMALL_STACK};
    coroutine_context.uc_link = &thread_context;
    makecontext(&coroutine_context, coroutine, 0);
    swapcontext(&thread_context, &coroutine_context);
}

static void in_coroutine(void *name)
{
    handler_name = name;
    recurse(DEEP);
    switch_to(fresh_memory(SMALL_STACK));
}

static void in_nested_coroutine(void *name)
{
    char stack[SMALL_STACK];

    handler_name = name;
    recurse(DEEP);
    below_live_frames(8, 2, switch_to, stack);
}

/* A stack in locked memory. */

static void on_locked_stack(void *name)
{
    pthread_attr_t attributes;
    void *start;
    size_t size;
    uintptr_t lowest = ((uintptr_t)&start - DEEP) & -PAGE;

    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &start, &size);
    pthread_attr_destroy(&attributes);
    recurse(DEEP);
    if (mlock((void *)lowest, (uintptr_t)start + size - lowest))
        perror("mlock");
    say_and_wait(name);
}

struct role {
    const char *name;
    void (*play)(void *);
};

static void *start(void *given)
{
    struct role *role = given;

    below_live_frames(8, (unsigned long)role->name[0], role->play, (void *)role->name);
    return NULL;
}

int main(void)
{
    struct role roles[] = {
        {"plain", plain},
        {"handler", in_handler},
        {"nested-handler", in_nested_handler},
        {"coroutine", in_coroutine},
        {"nested-coroutine", in_nested_coroutine},
        {"locked", on_locked_stack},
        {"user-made", plain},
    };
    const int count = sizeof roles / sizeof *roles;
    pthread_t threads[count];
    pthread_attr_t attributes;
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};

    sigaction(SIGUSR1, &action, NULL);
    if (pipe(gate))
        return 1;
    pthread_barrier_init(&arrived, NULL, count + 1);
    for (int thread = 0; thread < count; thread++) {
        pthread_attr_init(&attributes);
        if (!strcmp(roles[thread].name, "user-made"))
            pthread_attr_setstack(&attributes, fresh_memory(4 * MIB), 4 * MIB);
        pthread_create(&threads[thread], &attributes, start, &roles[thread]);
    }
    pthread_barrier_wait(&arrived);
    next_command();
    close(gate[1]);
    for (int thread = 0; thread < count; thread++)
        pthread_join(threads[thread], NULL);
    printf("errors %lu\n", atomic_load(&errors));
    next_command();
    return 0;
}

/* Threads that recursed deeply once and wait now, or that recurse and sleep all the time.

   deep_threads COUNT KIB idle|busy
   a(gain): every thread recurses once more.  e(nd): all threads return; `errors N` is said. */
#include "frames.h"

static long depth_bytes;
static int busy, ending, round_number;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t arrived;

static void work_at_times(void)
{
    unsigned state = (unsigned)(uintptr_t)pthread_self();

    pthread_barrier_wait(&arrived);
    while (!__atomic_load_n(&ending, __ATOMIC_RELAXED)) {
        recurse(rand_r(&state) % depth_bytes);
        usleep(rand_r(&state) % 300);
    }
}

static void wait_to_be_told(void)
{
    int seen = 0;

    for (;;) {
        recurse(depth_bytes);
        pthread_barrier_wait(&arrived);
        pthread_mutex_lock(&mutex);
        while (round_number == seen && !ending)
            pthread_cond_wait(&told, &mutex);
        seen = round_number;
        pthread_mutex_unlock(&mutex);
        if (ending)
            return;
    }
}

static void inside(void *unused)
{
    (void)unused;
    if (busy)
        work_at_times();
    else
        wait_to_be_told();
}

static void *start(void *seed)
{
    below_live_frames(8, (unsigned long)seed, inside, NULL);
    return NULL;
}

static void main_part(void *arguments)
{
    int count = atoi(((char **)arguments)[1]);
    pthread_t threads[count];
    char command;

    for (long thread = 0; thread < count; thread++)
        pthread_create(&threads[thread], NULL, start, (void *)thread);
    do {
        recurse(depth_bytes / 2);
        pthread_barrier_wait(&arrived);
        command = next_command();
        pthread_mutex_lock(&mutex);
        ending = command != 'a';
        round_number++;
        pthread_cond_broadcast(&told);
        pthread_mutex_unlock(&mutex);
    } while (command == 'a');
    for (int thread = 0; thread < count; thread++)
        pthread_join(threads[thread], NULL);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    depth_bytes = atol(argv[2]) << 10;
    busy = argv[3][0] == 'b';
    pthread_barrier_init(&arrived, NULL, atoi(argv[1]) + 1);
    below_live_frames(8, 77, main_part, argv);
    printf("errors %lu\n", atomic_load(&errors));
    next_command();
    return 0;
}

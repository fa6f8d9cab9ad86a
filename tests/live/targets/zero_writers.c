/* Threads that write to pages, look whether they hold what was written, and leave most of them zero.

   zero_writers THREADS PAGES
   e(nd): `errors N` is said, and how many times a page was looked at. */
#include "target.h"

static int threads_wanted, ending;
static unsigned long pages_each;
static atomic_ulong looks;

struct page {
    volatile uint64_t words[PAGE / 8];
};

/* What a page is to hold: one word at one place, or nothing. */
struct known {
    unsigned short place;
    uint64_t word;
};

static void look(struct page *page, const struct known *known)
{
    for (unsigned word = 0; word < PAGE / 8; word += 1 + (known->place & 3))
        if (page->words[word] != (word == known->place ? known->word : 0)) {
            count_error("a page", page);
            return;
        }
    if (page->words[known->place] != known->word)
        count_error("a word", page);
}

static void *work(void *unused)
{
    struct page *pages = mmap(NULL, pages_each * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct known *known = calloc(pages_each, sizeof *known);
    unsigned state = (unsigned)(uintptr_t)&pages;

    (void)unused;
    madvise(pages, pages_each * PAGE, MADV_NOHUGEPAGE);
    for (unsigned long page = 0; page < pages_each; page++)
        pages[page].words[0] = 0;
    while (!__atomic_load_n(&ending, __ATOMIC_RELAXED)) {
        unsigned long page = rand_r(&state) % pages_each;
        struct known *this = &known[page];

        look(&pages[page], this);
        pages[page].words[this->place] = 0;
        this->place = rand_r(&state) % (PAGE / 8);
        this->word = rand_r(&state) % 8 ? 0 : 1 + rand_r(&state); /* zero mostly, but written all the same */
        pages[page].words[this->place] = 1;
        pages[page].words[this->place] = this->word;
        atomic_fetch_add(&looks, 1);
    }
    for (unsigned long page = 0; page < pages_each; page++)
        look(&pages[page], &known[page]);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    threads_wanted = atoi(argv[1]);
    pages_each = atol(argv[2]);
    pthread_t threads[threads_wanted];
    for (int thread = 0; thread < threads_wanted; thread++)
        pthread_create(&threads[thread], NULL, work, NULL);
    next_command();
    __atomic_store_n(&ending, 1, __ATOMIC_RELAXED);
    for (int thread = 0; thread < threads_wanted; thread++)
        pthread_join(threads[thread], NULL);
    printf("looks %lu\nerrors %lu\n", atomic_load(&looks), atomic_load(&errors));
    next_command();
    return 0;
}

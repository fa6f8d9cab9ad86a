/* hold: holds memory and stands still, for others to look at. Says "ready", and ends when its standard input does.
 *
 *     hold nothing 0
 *     hold mappings COUNT     neighbours of four pages that differ in permissions; the first page of each is resident
 *     hold pages BYTES        resident 4 KiB pages
 *     hold huge BYTES         resident transparent huge pages
 */

#include "ground.h"
#include <string.h>

enum { PAGES_A_MAPPING = 4 };

static void hold_mappings(size_t count)
{
    size_t size = PAGES_A_MAPPING * PAGE_BYTES;
    char *memory = map_private(count * size, 0);
    for (size_t nth = 0; nth < count; nth++) {
        memory[nth * size] = 1;
        if (nth % 2 && mprotect(memory + nth * size, size, PROT_READ) == -1)
            fail("mprotect (vm.max_map_count limits the mappings)");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    end_with_parent();
    size_t amount = strtoull(argv[2], NULL, 10);
    if (!strcmp(argv[1], "mappings"))
        hold_mappings(amount);
    else if (amount)
        fill_pages(map_private(amount, !strcmp(argv[1], "huge")), amount);
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}

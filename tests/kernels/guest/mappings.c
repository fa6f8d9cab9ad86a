/* Mappings: what merges, what splits, what moves; huge pages. */
#include "probe.h"

enum { DONT_UNMAP = 4, FIXED_NOREPLACE = 0x100000, DROPPABLE = 8 };

static const char *mapped(const char *start)
{
	return start == MAP_FAILED ? error_name(errno) : "ok";
}

/* Two pages side by side that were faulted in as two mappings, then made alike. */
static int mappings_made_alike(int second_touched)
{
	char *start = map_fenced(2 * PAGE, RW, PRIVATE);

	mprotect(start + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	touch_all(start, PAGE);
	if (second_touched)
		touch_all(start + PAGE, PAGE);
	mprotect(start + PAGE, PAGE, RW);
	return mappings_in(start, 2 * PAGE);
}

/* One mapped between two that were touched: they have chains of private pages of their own, and it has none. */
static int mappings_between_strangers(void)
{
	char *start = map_fenced(3 * PAGE, PROT_NONE, PRIVATE);

	mmap(start, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	mmap(start + 2 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	touch_all(start, PAGE);
	touch_all(start + 2 * PAGE, PAGE);
	mmap(start + PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	return mappings_in(start, 3 * PAGE);
}

/* Split by advice, forked meanwhile, made alike again. */
static int child_nothing(void *about)
{
	(void)about;
	return 0;
}

static int child_merges(void *about)
{
	char *start = about;

	madvise(start + PAGE, PAGE, NORMAL);
	return mappings_in(start, 2 * PAGE);
}

static void say_merge_after_fork(void)
{
	char *start = map_fenced(2 * PAGE, RW, PRIVATE);

	touch_all(start, 2 * PAGE);
	madvise(start + PAGE, PAGE, RANDOM);
	in_child(child_nothing, NULL);
	say("mappings.merge_in_child", "%d", in_child(child_merges, start));
	madvise(start + PAGE, PAGE, NORMAL);
	say("mappings.merge_after_fork", "%d", mappings_in(start, 2 * PAGE));
}

void probe_mappings(void)
{
	char *start = map_fenced(4 * PAGE, RW, PRIVATE), *moved;
	char *file;

	touch_all(start, 4 * PAGE);
	say("mappings.alike_both_touched", "%d", mappings_made_alike(1));
	say("mappings.alike_one_touched", "%d", mappings_made_alike(0));
	say("mappings.between_strangers", "%d", mappings_between_strangers());
	say_merge_after_fork();
	say("mappings.noreplace", "%s", mapped(mmap(start, PAGE, RW, PRIVATE | FIXED_NOREPLACE, -1, 0)));
	say("mappings.droppable", "%s", mapped(mmap(NULL, PAGE, RW, DROPPABLE | MAP_ANONYMOUS, -1, 0)));
	moved = mremap(start, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | DONT_UNMAP, NULL);
	say("mappings.dontunmap", "%s", mapped(moved));
	if (moved != MAP_FAILED)
		say("mappings.dontunmap_pages", "left %s moved %s", letters(start, 4), letters(moved, 4));
	start = map_fenced(4 * PAGE, RW, PRIVATE);
	touch_all(start, 4 * PAGE);
	moved = mremap(start + PAGE, PAGE, 3 * PAGE, MREMAP_MAYMOVE, NULL);
	say("mappings.grow_and_move", "%s left %s moved %s", mapped(moved), letters(start, 4), letters(moved, 3));
	say("mappings.grow_in_place", "%s", mapped(mremap(start, PAGE, 2 * PAGE, 0, NULL)));
	moved = mremap(start, 0, PAGE, MREMAP_MAYMOVE, NULL);
	say("mappings.copy_private", "%s", mapped(moved));
	file = map_four(MAP_SHARED);
	moved = mremap(file, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | DONT_UNMAP, NULL);
	say("mappings.dontunmap_shared", "%s", mapped(moved));
	start = map_fenced(5 * PAGE, RW, PRIVATE);
	touch_all(start, 5 * PAGE);
	mprotect(start + 2 * PAGE, PAGE, PROT_READ);
	moved = map(5 * PAGE, PROT_NONE, PRIVATE);
	say("mappings.move_of_several", "%s",
	    mapped(mremap(start, 5 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved)));
	say("mappings.left_of_several", "%s", letters(start, 5));
	say("mappings.remap_file_pages", "%s", outcome(syscall(SYS_remap_file_pages, file, PAGE, 0, 2, 0)));
	start = map_fenced(4 * PAGE, RW, PRIVATE);
	munmap(start + 2 * PAGE, 2 * PAGE);
	SAY_AFTER("mappings.mprotect_over_end", mprotect(start, 4 * PAGE, PROT_READ), "%d", mappings_in(start, 2 * PAGE));
}

static char *huge_area(void)
{
	char *start = map_aligned(GIB, GIB, PRIVATE | MAP_NORESERVE);

	/* So that the upper tables are there, and only those of huge pages are counted. */
	*start = 7;
	madvise(start + HUGE, HUGE, HUGEPAGE);
	return start + HUGE;
}

static void say_huge(const char *name, char *start, const char *answer)
{
	say(name, "%s rss %ld huge %ld", answer, smaps_kib(start, "Rss"), smaps_kib(start, "AnonHugePages"));
}

void probe_huge(void)
{
	char *start = huge_area();
	long tables = status_kib("VmPTE");

	*start = 7;
	say_huge("huge.store", start, "ok");
	say("huge.tables_kib", "%ld", status_kib("VmPTE") - tables);
	say("huge.pagemap", "%03lx", (unsigned long)(pagemap_entry(start) >> 55));
	say_huge("huge.dontneed_a_page", start, outcome(madvise(start + PAGE, PAGE, DONTNEED)));
	say_huge("huge.dontneed_all", start, outcome(madvise(start, HUGE, DONTNEED)));
	say("huge.tables_after_it_kib", "%ld", status_kib("VmPTE") - tables);
	*start = 7;
	say_huge("huge.store_again", start, "ok");
	start = huge_area();
	*start = 7;
	madvise(start, HUGE, DONTNEED);
	*start = 7;
	say_huge("huge.whole_then_store", start, "ok");
	say_huge("huge.free_a_page", start, outcome(madvise(start + PAGE, PAGE, FREE)));
	say_huge("huge.nohugepage_a_page", start, outcome(madvise(start, PAGE, NOHUGEPAGE)));
	start = huge_area();
	read_byte(start);
	say_huge("huge.load", start, letters(start, 2));
	say("huge.load_pagemap", "%03lx", (unsigned long)(pagemap_entry(start) >> 55));
	start = huge_area();
	*start = 7;
	mprotect(start, PAGE, PROT_READ);
	say_huge("huge.mprotect_a_page", start + PAGE, letters(start, 2));
	start = map_aligned(HUGE, HUGE, PRIVATE);
	say("huge.collapse_empty", "%s", outcome(madvise(start, HUGE, COLLAPSE)));
	*start = 7;
	say_huge("huge.collapse_one_page", start, outcome(madvise(start, HUGE, COLLAPSE)));
	say("huge.collapse_within", "%s", outcome(madvise(start + PAGE, PAGE, COLLAPSE)));
	say("huge.collapse_around_a_border", "%s", outcome(madvise(start + HUGE - PAGE, PAGE, COLLAPSE)));
}

void probe_huge_pool(void)
{
	char *start = mmap(NULL, 2 * HUGE, RW, PRIVATE | MAP_HUGETLB, -1, 0);

	say("huge_pool.mmap", "%s", mapped(start));
	if (start == MAP_FAILED)
		return;
	start[0] = start[HUGE] = 7;
	say("huge_pool.pagemap", "%03lx", (unsigned long)(pagemap_entry(start) >> 55));
	say("huge_pool.smaps_kib", "rss %ld private %ld", smaps_kib(start, "Rss"), smaps_kib(start, "Private_Hugetlb"));
	SAY_AFTER("huge_pool.dontneed_a_page", madvise(start, PAGE, DONTNEED), "%d %d", start[0], start[HUGE]);
	start[0] = start[HUGE] = 7;
	SAY_AFTER("huge_pool.dontneed_huge_and_a_page", madvise(start, HUGE + PAGE, DONTNEED), "%d %d", start[0], start[HUGE]);
	start[0] = start[HUGE] = 7;
	SAY_AFTER("huge_pool.dontneed_from_a_page", madvise(start + PAGE, HUGE, DONTNEED), "%d %d", start[0], start[HUGE]);
	say("huge_pool.munmap_a_page", "%s", outcome(munmap(start, PAGE)));
	say("huge_pool.mprotect_a_page", "%s", outcome(mprotect(start, PAGE, PROT_READ)));
}

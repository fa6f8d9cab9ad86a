/* What stands in page tables: guards, zero pages, lazily freed pages, tables that stay or go, pagemap, PAGEMAP_SCAN. */
#include "probe.h"

/* Room whose upper tables are there, as is the table of its first 2 MiB. */
static char *warm_room(size_t size)
{
	char *start = map_aligned(size, GIB, PRIVATE | MAP_NORESERVE);

	*start = 7;
	return start;
}

void probe_guard(void)
{
	char *start = map_fenced(8 * PAGE, RW, PRIVATE), *file, *alone;
	long tables;

	touch_all(start, 8 * PAGE);
	say("guard.install", "%s", outcome(madvise(start + 2 * PAGE, 2 * PAGE, GUARD_INSTALL)));
	if (letters(start, 8)[2] == 'X' || signal_of_load(start + 2 * PAGE) == 0)
		return;
	say("guard.pages", "%s", letters(start, 8));
	say("guard.pagemap", "%016lx", (unsigned long)pagemap_entry(start + 2 * PAGE));
	say("guard.flags", "%s", smaps_flags(start));
	say("guard.mappings", "%d", mappings_in(start, 8 * PAGE));
	say("guard.smaps_swap_kib", "%ld", smaps_kib(start, "Swap"));
	signal_of_load(start + 2 * PAGE);
	say("guard.load", "signal %d code %d", signal_of_load(start + 2 * PAGE), signal_code);
	SAY_AFTER("guard.populate", madvise(start, 8 * PAGE, POPULATE_WRITE), "%s", letters(start, 8));
	say("guard.mlock", "%s", outcome(mlock(start, 8 * PAGE)));
	munlock(start, 8 * PAGE);
	SAY_AFTER("guard.dontneed", madvise(start, 8 * PAGE, DONTNEED), "%s", letters(start, 8));
	SAY_AFTER("guard.remove", madvise(start, 8 * PAGE, GUARD_REMOVE), "%s", letters(start, 8));
	say("guard.flags_after_remove", "%s", smaps_flags(start));
	alone = warm_room(GIB) + HUGE;
	tables = status_kib("VmPTE");
	madvise(alone, PAGE, GUARD_INSTALL);
	say("guard.tables_kib", "%ld", status_kib("VmPTE") - tables);
	madvise(alone, HUGE, DONTNEED);
	say("guard.tables_after_dontneed_kib", "%ld", status_kib("VmPTE") - tables);
	file = map_file(4 * PAGE, RW, MAP_SHARED, make_file(4 * PAGE));
	read_byte(file);
	SAY_AFTER("guard.shared_file", madvise(file + PAGE, PAGE, GUARD_INSTALL), "%s", letters(file, 4));
	mprotect(start, 8 * PAGE, PROT_READ);
	say("guard.read_only", "%s", outcome(madvise(start + PAGE, PAGE, GUARD_INSTALL)));
}

void probe_zero_page(void)
{
	char *start = map_fenced(4 * PAGE, RW, PRIVATE);
	unsigned char there[4];

	read_byte(start);
	mincore(start, 4 * PAGE, there);
	say("zero_page.read", "%s mincore %d%d", letters(start, 4), there[0] & 1, there[1] & 1);
	say("zero_page.rss_kib", "%ld", smaps_kib(start, "Rss"));
	say("zero_page.pss_kib", "%ld", smaps_kib(start, "Pss"));
	madvise(start, PAGE, DONTNEED);
	say("zero_page.dontneed", "%s", letters(start, 4));
	SAY_AFTER("zero_page.populate_read", madvise(start, 4 * PAGE, POPULATE_READ), "%s", letters(start, 4));
	touch_all(start, PAGE);
	say("zero_page.written", "%s", letters(start, 4));
	SAY_AFTER("zero_page.free", madvise(start, 4 * PAGE, FREE), "%s", letters(start, 4));
	mlock(start, 4 * PAGE);
	say("zero_page.mlock", "%s", letters(start, 4));
}

static void say_entry(const char *name, const char *address)
{
	uint64_t entry = pagemap_entry(address);

	/* The frame is nobody's business here: only whether there is one. */
	say(name, "%03lx%s", (unsigned long)(entry >> 55), entry << 9 ? " frame" : "");
}

static long scan(char *start, size_t pages, uint64_t mask, uint64_t *regions, size_t count)
{
	struct {
		uint64_t size, flags, start, end, walk_end, vector, length, most, inverted, mask, any, returned;
	} wanted = {
		.size = sizeof(wanted), .start = (uintptr_t)start, .end = (uintptr_t)start + pages * PAGE,
		.vector = (uintptr_t)regions, .length = count, .mask = mask, .returned = 0xff,
	};
	int file = open("/proc/self/pagemap", O_RDONLY);
	long found = ioctl(file, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, sizeof(wanted)), &wanted);

	close(file);
	return found;
}

void probe_pagemap(void)
{
	char *anonymous = map_fenced(8 * PAGE, RW, PRIVATE);
	char *shared = map_file(4 * PAGE, RW, MAP_SHARED, make_file(4 * PAGE));
	char *private = map_file(4 * PAGE, RW, MAP_PRIVATE, make_file(4 * PAGE));
	uint64_t regions[3 * 8] = {0};
	char line[512] = "";
	long found;

	touch_all(anonymous, 2 * PAGE);
	read_byte(anonymous + 3 * PAGE);
	read_byte(shared);
	read_byte(private);
	private[PAGE] = 7;
	say_entry("pagemap.none", anonymous + 5 * PAGE);
	say_entry("pagemap.anonymous", anonymous);
	say_entry("pagemap.zero_page", anonymous + 3 * PAGE);
	say_entry("pagemap.shared_file", shared);
	say_entry("pagemap.private_file", private);
	say_entry("pagemap.private_file_written", private + PAGE);
	say_entry("pagemap.unmapped", anonymous + 8 * PAGE);
	write_file("/proc/self/clear_refs", "4");
	say_entry("pagemap.after_clear_refs_4", anonymous);
	found = scan(anonymous, 8, 0, regions, 8);
	if (found < 0)
		strcpy(line, outcome(found));
	for (long each = 0; each < found; each++)
		sprintf(line + strlen(line), "%s%ld-%ld:%lx", each ? " " : "",
			(regions[3 * each] - (uintptr_t)anonymous) / PAGE,
			(regions[3 * each + 1] - (uintptr_t)anonymous) / PAGE, (unsigned long)regions[3 * each + 2]);
	say("pagemap.scan", "%s", line);
}

/* VmPTE's change in KiB since `before`. */
static long tables_since(long before)
{
	return status_kib("VmPTE") - before;
}

void probe_page_tables(void)
{
	char *room = warm_room(GIB), *slice, *file;
	long before = status_kib("VmPTE"), touched;

	for (size_t offset = HUGE; offset < GIB; offset += HUGE)
		((volatile char *)room)[offset] = 7;
	touched = tables_since(before);
	madvise(room + HUGE, GIB - HUGE, DONTNEED);
	say("page_tables.sparse_gib_kib", "touched %ld after_dontneed %ld", touched, tables_since(before));
	munmap(room, GIB);

	slice = warm_room(GIB) + HUGE;
	before = status_kib("VmPTE");
	touch_all(slice, HUGE);
	touched = tables_since(before);
	madvise(slice, HUGE - PAGE, DONTNEED);
	say("page_tables.slice_kib", "touched %ld all_but_one %ld", touched, tables_since(before));
	madvise(slice + HUGE - PAGE, PAGE, DONTNEED);
	touched = tables_since(before);
	madvise(slice, HUGE, DONTNEED);
	say("page_tables.slice_emptied_kib", "last_page %ld whole_again %ld", touched, tables_since(before));
	touch_all(slice, HUGE);
	madvise(slice, HUGE, FREE);
	say("page_tables.slice_free_kib", "%ld", tables_since(before));
	munmap(slice, HUGE);
	say("page_tables.slice_munmap_kib", "%ld", tables_since(before));
	file = mmap(slice, 2 * HUGE, RW, MAP_SHARED | MAP_FIXED, make_file(2 * HUGE), 0);
	touch_all(file, 2 * HUGE);
	touched = tables_since(before);
	madvise(file, 2 * HUGE, DONTNEED);
	say("page_tables.file_kib", "touched %ld after_dontneed %ld", touched, tables_since(before));
	before = status_kib("VmPTE");
	*warm_room(GIB) = 7;
	say("page_tables.fresh_gib_kib", "%ld", tables_since(before));
	before = status_kib("VmPTE");
	room = mmap((char *)(77UL << 39), PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	*room = 7;
	say("page_tables.fresh_512_gib_kib", "%ld", tables_since(before));
	madvise(room, PAGE, DONTNEED);
	munmap(room, PAGE);
	say("page_tables.fresh_512_gib_munmap_kib", "%ld", tables_since(before));
}

void probe_free(void)
{
	char *start = map_fenced(64 * PAGE, RW, PRIVATE);

	touch_all(start, 64 * PAGE);
	say("free.advice", "%s", outcome(madvise(start, 64 * PAGE, FREE)));
	say("free.pages", "%s", letters(start, 4));
	say("free.byte", "%d", start[0]);
	say("free.smaps_kib", "rss %ld lazy %ld", smaps_kib(start, "Rss"), smaps_kib(start, "LazyFree"));
	read_byte(start);
	say("free.lazy_kib_after_read", "%ld", smaps_kib(start, "LazyFree"));
	touch_all(start + PAGE, PAGE);
	SAY_AFTER("free.then_pageout", madvise(start, 64 * PAGE, PAGEOUT), "%s", letters(start, 4));
	touch_all(start, 64 * PAGE);
	SAY_AFTER("free.pageout_without_swap", madvise(start, 64 * PAGE, PAGEOUT), "%s", letters(start, 4));
}

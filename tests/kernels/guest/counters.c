/* What the counters say, how soon, and which lines there are. */
#include "probe.h"

/* RssAnon where there is one: since 4.5. */
static long anonymous_kib(void)
{
	long value = status_kib("RssAnon");

	return value < 0 ? status_kib("VmRSS") : value;
}

void probe_counters(void)
{
	static const int counts[] = {1, 16, 32, 63, 64, 100, 1000};
	char *start = map_fenced(1024 * PAGE, RW, PRIVATE);
	char line[256] = "";

	for (size_t each = 0; each < sizeof(counts) / sizeof(*counts); each++) {
		long before = anonymous_kib(), seen;
		size_t length = strlen(line);

		touch_all(start, counts[each] * PAGE);
		seen = anonymous_kib() - before;
		madvise(start, counts[each] * PAGE, DONTNEED);
		snprintf(line + length, sizeof(line) - length, "%s%d=%+ld%+ld", length ? " " : "", counts[each], seen,
			 anonymous_kib() - before - seen);
	}
	say("counters.rss_kib_of_pages_touched_and_zapped", "%s", line);
	line[0] = 0;
	for (size_t each = 0; each < sizeof(counts) / sizeof(*counts); each++) {
		size_t length = strlen(line);
		long base, peak;

		write_file("/proc/self/clear_refs", "5");
		base = status_kib("VmHWM");
		touch_all(start, counts[each] * PAGE);
		madvise(start, counts[each] * PAGE, DONTNEED);
		peak = status_kib("VmHWM");
		snprintf(line + length, sizeof(line) - length, "%s%d=%+ld", length ? " " : "", counts[each], peak - base);
	}
	say("counters.peak_kib_of_pages", "%s", line);
}

/* What of a file's page is still known after its mapping was zapped while young: R referenced, A active. */
static const char *use_of(int file)
{
	char *again = map_file(PAGE, PROT_READ, MAP_SHARED, file);
	uint64_t flags;

	read_byte(again);
	flags = kernel_page_flags(again);
	munmap(again, PAGE);
	return flags >> 6 & 1 ? "A" : flags >> 2 & 1 ? "R" : "-";
}

static void say_recency(const char *name, int advice)
{
	int file = syscall(SYS_MEMFD_CREATE, "probe", 0);
	const char *before, *after;
	char *start;

	if (ftruncate(file, PAGE) || fallocate(file, 0, 0, PAGE))
		return;
	start = map_file(PAGE, PROT_READ, MAP_SHARED, file);
	madvise(start, PAGE, advice);
	read_byte(start);
	before = kernel_page_flags(start) >> 2 & 1 ? "R" : "-";
	madvise(start, PAGE, DONTNEED);
	after = use_of(file);
	say(name, "%s %s", before, after);
}

void probe_recency(void)
{
	say_recency("recency.normal", NORMAL);
	say_recency("recency.random", RANDOM);
	say_recency("recency.sequential", SEQUENTIAL);
}

void probe_keys(void)
{
	say("keys.status", "%s", keys_of("/proc/self/status"));
	say("keys.smaps", "%s", keys_of("/proc/self/smaps"));
	say("keys.smaps_rollup", "%s", keys_of("/proc/self/smaps_rollup"));
	say("knobs.lru_gen", "%s", first_line("/sys/kernel/mm/lru_gen/enabled"));
	say("knobs.thp_enabled", "%s", first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
	say("knobs.thp_64k", "%s", first_line("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"));
	say("knobs.thp_2048k", "%s", first_line("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled"));
	say("knobs.huge_zero_page", "%s", first_line("/sys/kernel/mm/transparent_hugepage/use_zero_page"));
	say("knobs.ksm", "%s", first_line("/sys/kernel/mm/ksm/run"));
	say("knobs.idle_pages", "%s", access("/sys/kernel/mm/page_idle/bitmap", F_OK) ? "none" : "there");
	say("knobs.poisoned_pages", "%s", access("/proc/sys/vm/memory_failure_recovery", F_OK) ? "none" : "there");
}

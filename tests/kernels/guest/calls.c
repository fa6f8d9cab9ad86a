/* The system calls: order of checks, ranges that are walked in part, process_madvise, sealing. */
#include "probe.h"

/* Sixteen pages, all touched, between fences. */
static char *sixteen(void)
{
	char *start = map_fenced(16 * PAGE, RW, PRIVATE);

	touch_all(start, 16 * PAGE);
	return start;
}

static void say_advice(const char *name, char *start, size_t size, int advice)
{
	say(name, "%s", outcome(madvise(start, size, advice)));
}

static void say_advice_and_pages(const char *name, char *start, size_t pages, int advice)
{
	SAY_AFTER(name, madvise(start, pages * PAGE, advice), "%s", letters(start, pages));
}

void probe_arguments(void)
{
	char *start = sixteen();
	char *gone = sixteen();

	munmap(gone, 16 * PAGE);
	say_advice("arguments.bad_advice_len0", start, 0, 99);
	say_advice("arguments.bad_advice_unmapped", gone, PAGE, 99);
	say_advice("arguments.unaligned_len0", start + 1, 0, DONTNEED);
	say_advice("arguments.len0_unmapped", gone, 0, DONTNEED);
	say_advice("arguments.len0_null", NULL, 0, DONTNEED);
	say_advice("arguments.all_but_a_page", NULL, -PAGE, NORMAL);
	say_advice("arguments.wraps", start, -PAGE, NORMAL);
	say_advice("arguments.rounds_to_0", start, -1, NORMAL);
	say_advice("arguments.ends_at_0", (char *)-PAGE, PAGE, NORMAL);
	say_advice("arguments.kernel_address", (char *)0xffffffff81000000UL, PAGE, DONTNEED);
	say_advice("arguments.hwpoison_unmapped", gone, PAGE, HWPOISON);
	say_advice("arguments.soft_offline_unmapped", gone, PAGE, SOFT_OFFLINE);
	say_advice("arguments.hwpoison_unaligned_len0", start + 1, 0, HWPOISON);
	say_advice("arguments.hwpoison_len0", start, 0, HWPOISON);
	madvise(start, 1, DONTNEED);
	say("arguments.len1", "%s", letters(start, 4));
	madvise(start, 2 * PAGE + 1, DONTNEED);
	say("arguments.len_two_pages_and_1", "%s", letters(start, 4));
}

/* Five pages: AA, one that is locked or missing, BB. */
static char *five(char middle)
{
	char *start = map_fenced(5 * PAGE, RW, PRIVATE);

	touch_all(start, 5 * PAGE);
	if (middle == 'L')
		mlock(start + 2 * PAGE, PAGE);
	if (middle == ' ')
		munmap(start + 2 * PAGE, PAGE);
	return start;
}

void probe_walk(void)
{
	char *start;

	say_advice_and_pages("walk.dontneed.hole", five(' '), 5, DONTNEED);
	say_advice_and_pages("walk.dontneed.locked", five('L'), 5, DONTNEED);
	say_advice_and_pages("walk.dontneed_locked.locked", five('L'), 5, DONTNEED_LOCKED);
	say_advice_and_pages("walk.guard_install.locked", five('L'), 5, GUARD_INSTALL);
	say_advice_and_pages("walk.guard_install.hole", five(' '), 5, GUARD_INSTALL);
	say_advice_and_pages("walk.free.hole", five(' '), 5, FREE);
	say_advice_and_pages("walk.cold.locked", five('L'), 5, COLD);
	start = five('L');
	munmap(start + PAGE, PAGE);
	say_advice_and_pages("walk.dontneed.hole_then_locked", start, 5, DONTNEED);
	start = map_fenced(5 * PAGE, RW, PRIVATE);
	munmap(start + 2 * PAGE, PAGE);
	say_advice_and_pages("walk.populate_write.hole", start, 5, POPULATE_WRITE);
	start = five(' ');
	SAY_AFTER("walk.dontfork.hole", madvise(start, 5 * PAGE, DONTFORK), "%d", mappings_in(start, 5 * PAGE));
	start = five('-');
	madvise(start + 2 * PAGE, PAGE, RANDOM);
	say("walk.random.splits", "%d", mappings_in(start, 5 * PAGE));
	madvise(start + 2 * PAGE, PAGE, NORMAL);
	say("walk.normal.merges", "%d", mappings_in(start, 5 * PAGE));
	madvise(start + PAGE, 3 * PAGE, DONTNEED);
	say("walk.dontneed.splits_nothing", "%d", mappings_in(start, 5 * PAGE));
}

static long advise(int process, char *start, size_t size, int advice)
{
	struct iovec part = {start, size};

	return syscall(SYS_PROCESS_MADVISE, process, &part, 1, advice, 0);
}

static void advise_each(const char *name, int process, char *start)
{
	static const struct {
		const char *name;
		int value;
	} tried[] = {
		{"NORMAL", NORMAL}, {"WILLNEED", WILLNEED}, {"DONTNEED", DONTNEED}, {"FREE", FREE},
		{"DONTFORK", DONTFORK}, {"HUGEPAGE", HUGEPAGE}, {"COLD", COLD}, {"PAGEOUT", PAGEOUT},
		{"POPULATE_WRITE", POPULATE_WRITE}, {"DONTNEED_LOCKED", DONTNEED_LOCKED}, {"COLLAPSE", COLLAPSE},
		{"GUARD_INSTALL", GUARD_INSTALL}, {"GUARD_REMOVE", GUARD_REMOVE}, {"99", 99},
	};
	char line[512] = "";

	for (size_t each = 0; each < sizeof(tried) / sizeof(*tried); each++) {
		size_t length = strlen(line);
		long result = advise(process, start, PAGE, tried[each].value);

		snprintf(line + length, sizeof(line) - length, "%s%s=%s", length ? " " : "", tried[each].name,
			 outcome(result));
	}
	say(name, "%s", line);
}

static void say_vector(const char *name, int process, const struct iovec *parts, size_t count, int advice)
{
	long result = syscall(SYS_PROCESS_MADVISE, process, parts, count, advice, 0);

	if (result < 0)
		say(name, "%s", outcome(result));
	else
		say(name, "%ld", result);
}

void probe_process_madvise(void)
{
	int self = syscall(SYS_PIDFD_OPEN, getpid(), 0);
	char *start = sixteen(), *holed = five(' ');
	struct iovec good_then_hole[] = {{start, PAGE}, {holed, 5 * PAGE}, {start + PAGE, PAGE}};
	struct iovec short_part = {start, 1};
	pid_t child = fork();
	int other;

	if (!child) {
		pause();
		_exit(0);
	}
	say("process_madvise.pidfd_open", "%s", outcome(self));
	advise_each("process_madvise.self", self, start);
	other = syscall(SYS_PIDFD_OPEN, child, 0);
	advise_each("process_madvise.child", other, start);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	say("process_madvise.reaped", "%s", outcome(advise(other, start, PAGE, COLD)));
	say("process_madvise.pidfd_self", "%s", outcome(advise(-10000, start, PAGE, COLD)));
	say("process_madvise.bad_pidfd", "%s", outcome(advise(-1, start, PAGE, COLD)));
	say("process_madvise.flags", "%s",
	    outcome(syscall(SYS_PROCESS_MADVISE, self, good_then_hole, 1, COLD, 1)));
	say_vector("process_madvise.good_then_hole", self, good_then_hole, 3, COLD);
	say_vector("process_madvise.only_hole", self, good_then_hole + 1, 1, COLD);
	say_vector("process_madvise.len1", self, &short_part, 1, COLD);
	say_vector("process_madvise.no_parts", self, good_then_hole, 0, COLD);
	say_vector("process_madvise.no_parts_bad_advice", self, good_then_hole, 0, 99);
}

static const char *seal(char *start, size_t size)
{
	return outcome(syscall(SYS_MSEAL, start, size, 0));
}

void probe_seal(void)
{
	char *start = five('-'), *file;

	say("seal.mseal", "%s", seal(start + 2 * PAGE, PAGE));
	if (syscall(SYS_MSEAL, start + 2 * PAGE, PAGE, 0))
		return;
	say("seal.flags", "%s", smaps_flags(start + 2 * PAGE));
	say_advice_and_pages("seal.writable.dontneed", start, 5, DONTNEED);
	start = five('-');
	mprotect(start + 2 * PAGE, PAGE, PROT_READ);
	seal(start + 2 * PAGE, PAGE);
	say_advice_and_pages("seal.read_only.dontneed", start, 5, DONTNEED);
	SAY_AFTER("seal.munmap", munmap(start, 5 * PAGE), "%s", letters(start, 5));
	say("seal.mprotect", "%s", outcome(mprotect(start, 5 * PAGE, PROT_NONE)));
	say("seal.mremap", "%s", mremap(start + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, NULL) == MAP_FAILED ?
					 error_name(errno) : "ok");
	say("seal.mmap_over", "%s", mmap(start, 5 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED ?
					   error_name(errno) : "ok");
	say("seal.random", "%s", outcome(madvise(start, 5 * PAGE, RANDOM)));
	file = map_file(2 * PAGE, RW, MAP_PRIVATE, make_file(2 * PAGE));
	touch_all(file, 2 * PAGE);
	mprotect(file, 2 * PAGE, PROT_READ);
	seal(file, 2 * PAGE);
	say_advice_and_pages("seal.private_file_read_only.dontneed", file, 2, DONTNEED);
}

/* Fork, copy on write, faults and what they bring, locks, files. */
#include "probe.h"

static uint64_t frame(const char *address)
{
	return pagemap_entry(address) & ((1ULL << 55) - 1);
}

static int child_state(void *start)
{
	return letters(start, 1)[0];
}

static int child_dontneed(void *start)
{
	return madvise(start, PAGE, DONTNEED) ? 255 : read_byte(start);
}

static int child_load(void *start)
{
	return read_byte(start);
}

/* Whether a child finds entries for pages of this mapping, or faults them in again. */
static void say_copied(const char *name, char *start)
{
	say(name, "parent %c child %c", letters(start, 1)[0], in_child(child_state, start));
}

static char *file_mapping(int flags)
{
	char *start = map_four(flags);

	read_byte(start);
	return start;
}

static char *shared_anonymous(void)
{
	char *start = map(PAGE, RW, MAP_SHARED | MAP_ANONYMOUS);

	touch_all(start, PAGE);
	return start;
}

/* A store beyond the end of a private file is killed, but has prepared the mapping for private pages. */
static char *private_file_with_failed_store(void)
{
	char *start = map_four(MAP_PRIVATE);

	mmap(start, 4 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, make_file(2 * PAGE), 0);
	read_byte(start);
	say("fork.store_beyond_end", "signal %d", signal_of_store(start + 3 * PAGE));
	return start;
}

/* Parent and child share a page; the parent writes first. Does the child, now alone, keep the frame? */
static void say_last_writer(void)
{
	char *start = map_fenced(PAGE, RW, PRIVATE), byte = 0;
	int ask[2];
	uint64_t first;
	pid_t child;

	touch_all(start, PAGE);
	first = frame(start);
	if (pipe(ask))
		return;
	child = fork();
	if (!child) {
		if (read(ask[0], &byte, 1) < 0)
			_exit(2);
		start[0] = 9;
		_exit(frame(start) == first);
	} else {
		int status;

		start[0] = 8;
		say("fork.first_writer", "%s", frame(start) == first ? "keeps" : "copies");
		if (write(ask[1], &byte, 1) < 0)
			return;
		waitpid(child, &status, 0);
		say("fork.last_writer", "%s", WEXITSTATUS(status) ? "keeps" : "copies");
	}
}

void probe_fork(void)
{
	char *anonymous = map_fenced(4 * PAGE, RW, PRIVATE), *wiped, *hidden;
	uint64_t before;

	touch_all(anonymous, 4 * PAGE);
	say_copied("fork.anonymous", anonymous);
	say_copied("fork.private_file_read", file_mapping(MAP_PRIVATE));
	say_copied("fork.shared_file_read", file_mapping(MAP_SHARED));
	say_copied("fork.shared_anonymous", shared_anonymous());
	say_copied("fork.private_file_after_failed_store", private_file_with_failed_store());
	say("fork.child_dontneed", "%d", in_child(child_dontneed, anonymous));
	say("fork.parent_after_it", "%d", anonymous[0]);
	before = frame(anonymous);
	touch_all(anonymous, PAGE);
	say("fork.child_gone_then_store", "%s", frame(anonymous) == before ? "keeps" : "copies");
	say_last_writer();
	wiped = map_fenced(PAGE, RW, PRIVATE);
	touch_all(wiped, PAGE);
	if (!madvise(wiped, PAGE, WIPEONFORK))
		say("fork.wiped", "state %c byte %d", in_child(child_state, wiped), in_child(child_load, wiped));
	hidden = map_fenced(PAGE, RW, PRIVATE);
	touch_all(hidden, PAGE);
	madvise(hidden, PAGE, DONTFORK);
	say("fork.hidden", "%d", in_child(child_load, hidden));
}

static long faults_of_store(char *address)
{
	long before = minor_faults();

	*(volatile char *)address = 7;
	return minor_faults() - before;
}

static long faults_of_load(const char *address)
{
	long before = minor_faults();

	read_byte(address);
	return minor_faults() - before;
}

static void say_around(const char *name, int flags, int advice, int store)
{
	char *start = map_aligned(64 * PAGE, HUGE, PRIVATE);
	int file = make_file(64 * PAGE);

	start = mmap(start, 64 * PAGE, RW, flags | MAP_FIXED, file, 0);
	madvise(start, 64 * PAGE, advice);
	if (store)
		*(volatile char *)(start + 20 * PAGE) = 7;
	else
		read_byte(start + 20 * PAGE);
	say(name, "%s", letters(start, 64));
}

void probe_faults(void)
{
	char *start = map_fenced(4 * PAGE, RW, PRIVATE);
	long first_load = faults_of_load(start), then_store = faults_of_store(start);

	say("faults.load_then_store", "%ld %ld", first_load, then_store);
	mprotect(start, PAGE, PROT_READ);
	mprotect(start, PAGE, RW);
	say("faults.store_after_read_only_and_back", "%ld", faults_of_store(start));
	mprotect(start, PAGE, PROT_NONE);
	mprotect(start, PAGE, RW);
	say("faults.store_after_none_and_back", "%ld", faults_of_store(start));
	in_child(child_load, start);
	say("faults.store_after_fork", "%ld", faults_of_store(start));
	madvise(start, PAGE, FREE);
	say("faults.store_after_free", "%ld", faults_of_store(start));
	madvise(start, PAGE, COLD);
	say("faults.load_after_cold", "%ld", faults_of_load(start));
	say_around("faults.around_shared_file", MAP_SHARED, NORMAL, 0);
	say_around("faults.around_private_file", MAP_PRIVATE, NORMAL, 0);
	say_around("faults.around_random", MAP_SHARED, RANDOM, 0);
	say_around("faults.around_shared_store", MAP_SHARED, NORMAL, 1);
	say_around("faults.around_private_store", MAP_PRIVATE, NORMAL, 1);
}

void probe_lock(void)
{
	char *start = map_fenced(8 * PAGE, RW, PRIVATE), *read_only, *file;

	SAY_AFTER("lock.mlock", mlock(start + 2 * PAGE, 2 * PAGE), "%s mappings %d", letters(start, 8), mappings_in(start, 8 * PAGE));
	say("lock.smaps_kib", "locked %ld vmlck %ld", smaps_kib(start + 2 * PAGE, "Locked"), status_kib("VmLck"));
	SAY_AFTER("lock.dontneed_locked", madvise(start + 2 * PAGE, 2 * PAGE, DONTNEED_LOCKED), "%s", letters(start, 8));
	read_byte(start + 2 * PAGE);
	say("lock.load_after_it", "%s locked %ld", letters(start, 8), smaps_kib(start + 2 * PAGE, "Locked"));
	munlock(start, 8 * PAGE);
	say("lock.munlock", "%s mappings %d", letters(start, 8), mappings_in(start, 8 * PAGE));
	SAY_AFTER("lock.on_fault", syscall(SYS_MLOCK2, start + 4 * PAGE, 2 * PAGE, 1), "%s", letters(start, 8));
	read_only = map_fenced(4 * PAGE, PROT_READ, PRIVATE);
	SAY_AFTER("lock.read_only", mlock(read_only, 4 * PAGE), "%s", letters(read_only, 4));
	read_only = map_fenced(4 * PAGE, PROT_NONE, PRIVATE);
	SAY_AFTER("lock.none", mlock(read_only, 4 * PAGE), "%s", letters(read_only, 4));
	file = map_four(MAP_SHARED);
	SAY_AFTER("lock.shared_file", mlock(file, 2 * PAGE), "%s", letters(file, 4));
	file = map_four(MAP_PRIVATE);
	SAY_AFTER("lock.private_file", mlock(file, 2 * PAGE), "%s", letters(file, 4));
}

void probe_files(void)
{
	int file = make_file(4 * PAGE);
	char *area = map_aligned(32 * PAGE, 16 * PAGE, PRIVATE);
	char *shared = mmap(area, 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0);
	char *private = mmap(area + 16 * PAGE, 4 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, 0);
	unsigned char there[4];
	struct stat about;

	private[0] = 8;
	SAY_AFTER("files.private_dontneed", madvise(private, 4 * PAGE, DONTNEED), "%s", letters(private, 4));
	say("files.private_after_it", "%c", private[0]);
	shared[0] = 9;
	madvise(shared, 4 * PAGE, DONTNEED);
	say("files.shared_dontneed", "%s", letters(shared, 4));
	say("files.shared_after_it", "%d", read_byte(shared));
	mincore(private, 4 * PAGE, there);
	say("files.mincore_of_unmapped", "%d%d%d%d", there[0] & 1, there[1] & 1, there[2] & 1, there[3] & 1);
	touch_all(private, 2 * PAGE);
	say("files.remove", "%s", outcome(madvise(shared + PAGE, PAGE, REMOVE)));
	fstat(file, &about);
	say("files.after_remove", "shared %s private %s blocks %ld", letters(shared, 4), letters(private, 4),
	    (long)about.st_blocks);
	touch_all(shared, 4 * PAGE);
	SAY_AFTER("files.pageout_shared", madvise(shared, 4 * PAGE, PAGEOUT), "%s", letters(shared, 4));
	SAY_AFTER("files.willneed", madvise(shared, 4 * PAGE, WILLNEED), "%s", letters(shared, 4));
	if (!ftruncate(file, PAGE))
		say("files.truncated", "shared %s private %s", letters(shared, 4), letters(private, 4));
	say("files.load_beyond_end", "signal %d", signal_of_load(shared + 2 * PAGE));
	say("files.around_it", "%s", letters(shared, 4));
}

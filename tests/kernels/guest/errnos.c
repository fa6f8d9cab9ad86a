/* What each advice answers on each kind of mapping: `errno.KIND ADVICE=ERRNO …`, each pair in a child of its own. */
#include "probe.h"

#include <linux/perf_event.h>

#define PAGES 8

static const struct {
	const char *name;
	int value;
} advices[] = {
	{"NORMAL", NORMAL}, {"RANDOM", RANDOM}, {"SEQUENTIAL", SEQUENTIAL}, {"WILLNEED", WILLNEED},
	{"DONTNEED", DONTNEED}, {"5", 5}, {"6", 6}, {"7", 7}, {"FREE", FREE}, {"REMOVE", REMOVE},
	{"DONTFORK", DONTFORK}, {"DOFORK", DOFORK}, {"MERGEABLE", MERGEABLE}, {"UNMERGEABLE", UNMERGEABLE},
	{"HUGEPAGE", HUGEPAGE}, {"NOHUGEPAGE", NOHUGEPAGE}, {"DONTDUMP", DONTDUMP}, {"DODUMP", DODUMP},
	{"WIPEONFORK", WIPEONFORK}, {"KEEPONFORK", KEEPONFORK}, {"COLD", COLD}, {"PAGEOUT", PAGEOUT},
	{"POPULATE_READ", POPULATE_READ}, {"POPULATE_WRITE", POPULATE_WRITE},
	{"DONTNEED_LOCKED", DONTNEED_LOCKED}, {"COLLAPSE", COLLAPSE}, {"26", 26}, {"99", 99},
	{"GUARD_INSTALL", GUARD_INSTALL}, {"GUARD_REMOVE", GUARD_REMOVE},
};

struct place {
	char *start; /* MAP_FAILED where this kernel has no such mapping */
	size_t size;
};

static struct place of(char *start, size_t size)
{
	return (struct place){start, size};
}

static struct place anonymous(int protection, int flags, int touch)
{
	char *start = mmap(NULL, PAGES * PAGE, protection, flags, -1, 0);

	if (touch && start != MAP_FAILED)
		touch_all(start, PAGES * PAGE);
	return of(start, PAGES * PAGE);
}

static struct place file_in(int file, int protection, int flags)
{
	char *start = mmap(NULL, PAGES * PAGE, protection, flags, file, 0);

	if (start != MAP_FAILED && protection & PROT_READ)
		for (int page = 0; page < PAGES; page++)
			read_byte(start + page * PAGE);
	return of(start, PAGES * PAGE);
}

/* A file on a file system that is mounted, opened like this. */
static int named_file(int mode)
{
	char path[64], page[PAGE];
	int file;

	snprintf(path, sizeof(path), "/tmp/probe.%d", getpid());
	file = open(path, O_RDWR | O_CREAT, 0600);
	memset(page, 'f', PAGE);
	for (int each = 0; each < PAGES; each++)
		if (write(file, page, PAGE) < 0)
			say("errno.file", "%s", error_name(errno));
	close(file);
	file = open(path, mode);
	unlink(path);
	return file;
}

static struct place anon(void) { return anonymous(RW, PRIVATE, 1); }
static struct place anon_unpop(void) { return anonymous(RW, PRIVATE, 0); }
static struct place shanon(void) { return anonymous(RW, MAP_SHARED | MAP_ANONYMOUS, 1); }
static struct place droppable(void) { return anonymous(RW, 8 | MAP_ANONYMOUS, 1); }
static struct place memfd_pv(void) { return file_in(make_file(PAGES * PAGE), RW, MAP_PRIVATE); }
static struct place memfd_sh(void) { return file_in(make_file(PAGES * PAGE), RW, MAP_SHARED); }
static struct place file_pv_rw(void) { return file_in(named_file(O_RDWR), RW, MAP_PRIVATE); }
static struct place file_pv_ro(void) { return file_in(named_file(O_RDWR), PROT_READ, MAP_PRIVATE); }
static struct place file_sh_rw(void) { return file_in(named_file(O_RDWR), RW, MAP_SHARED); }
static struct place file_sh_ro_rwfd(void) { return file_in(named_file(O_RDWR), PROT_READ, MAP_SHARED); }
static struct place file_sh_ro_rofd(void) { return file_in(named_file(O_RDONLY), PROT_READ, MAP_SHARED); }
static struct place devzero_pv(void) { return file_in(open("/dev/zero", O_RDWR), RW, MAP_PRIVATE); }

static struct place protected_as(int protection)
{
	struct place place = anon();

	mprotect(place.start, place.size, protection);
	return place;
}

static struct place none(void) { return protected_as(PROT_NONE); }
static struct place ro(void) { return protected_as(PROT_READ); }
static struct place wo(void) { return protected_as(PROT_WRITE); }

static struct place locked(void)
{
	struct place place = anon();

	mlock(place.start, place.size);
	return place;
}

static struct place lockonfault(void)
{
	struct place place = anon();

	return syscall(SYS_MLOCK2, place.start, place.size, 1) ? of(MAP_FAILED, 0) : place;
}

static struct place locked_memfd(void)
{
	struct place place = memfd_sh();

	mlock(place.start, place.size);
	return place;
}

static struct place sealed(struct place place)
{
	return syscall(SYS_MSEAL, place.start, place.size, 0) ? of(MAP_FAILED, 0) : place;
}

static struct place sealed_ro(void) { return sealed(ro()); }
static struct place sealed_rw(void) { return sealed(anon()); }

static struct place secret(void)
{
	int file = syscall(SYS_MEMFD_SECRET, 0);

	return file < 0 || ftruncate(file, PAGES * PAGE) ? of(MAP_FAILED, 0) : file_in(file, RW, MAP_SHARED);
}

static struct place from_pool(int flags)
{
	char *start = mmap(NULL, HUGE, RW, flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (start != MAP_FAILED)
		*start = 7;
	return of(start, HUGE);
}

static struct place hugetlb_pv(void) { return from_pool(MAP_PRIVATE); }
static struct place hugetlb_sh(void) { return from_pool(MAP_SHARED); }

static struct place thp(void)
{
	char *start = map_aligned(HUGE, HUGE, PRIVATE);

	madvise(start, HUGE, HUGEPAGE);
	touch_all(start, HUGE);
	return of(start, HUGE);
}

static struct place perf(void)
{
	struct perf_event_attr wanted = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(wanted)};
	int event = syscall(SYS_perf_event_open, &wanted, 0, -1, -1, 0);

	return of(event < 0 ? MAP_FAILED : mmap(NULL, 9 * PAGE, RW, MAP_SHARED, event, 0), 9 * PAGE);
}

static struct place unmapped(void)
{
	struct place place = anon();

	munmap(place.start, place.size);
	return place;
}

static struct place named(const char *name)
{
	FILE *file = fopen("/proc/self/maps", "r");
	struct place place = {MAP_FAILED, 0};
	char line[512];
	uintptr_t start, end;

	while (fgets(line, sizeof(line), file))
		if (strstr(line, name) && sscanf(line, "%lx-%lx", &start, &end) == 2)
			place = of((char *)start, end - start);
	fclose(file);
	return place;
}

static struct place vdso(void) { return named("[vdso]"); }
static struct place vvar(void) { return named("[vvar]"); }

/* A page of the stack that is in use no more. */
static struct place stack(void)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~(PAGE - 1);
	volatile char deep[16 * PAGE];

	deep[0] = 7;
	return of((char *)here - 8 * PAGE, deep[0] ? PAGE : 0);
}

#define KIND(name) {#name, name}
static const struct {
	const char *name;
	struct place (*make)(void);
} kinds[] = {
	KIND(anon), KIND(anon_unpop), KIND(none), KIND(ro), KIND(wo), KIND(shanon), KIND(memfd_pv), KIND(memfd_sh),
	KIND(file_pv_rw), KIND(file_pv_ro), KIND(file_sh_rw), KIND(file_sh_ro_rwfd), KIND(file_sh_ro_rofd),
	KIND(devzero_pv), KIND(locked), KIND(lockonfault), KIND(locked_memfd), KIND(hugetlb_pv), KIND(hugetlb_sh),
	KIND(thp), KIND(secret), KIND(sealed_ro), KIND(sealed_rw), KIND(droppable), KIND(perf), KIND(stack),
	KIND(vdso), KIND(vvar), KIND(unmapped),
};

enum { NO_SUCH_MAPPING = 255 };

struct pair {
	struct place (*make)(void);
	int advice;
};

static int answer(void *about)
{
	const struct pair *pair = about;
	struct place place = pair->make();

	if (place.start == MAP_FAILED)
		return NO_SUCH_MAPPING;
	return madvise(place.start, place.size, pair->advice) ? errno : 0;
}

void probe_errnos(void)
{
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(*kinds); kind++) {
		char line[1024] = "", name[64];

		for (size_t each = 0; each < sizeof(advices) / sizeof(*advices); each++) {
			struct pair pair = {kinds[kind].make, advices[each].value};
			int found = in_child(answer, &pair);
			size_t length = strlen(line);

			if (found == NO_SUCH_MAPPING) {
				strcpy(line, "absent");
				break;
			}
			snprintf(line + length, sizeof(line) - length, "%s%s=", length ? " " : "", advices[each].name);
			length = strlen(line);
			if (found < 0)
				snprintf(line + length, sizeof(line) - length, "signal%d", -found);
			else
				snprintf(line + length, sizeof(line) - length, "%s", error_name(found));
		}
		snprintf(name, sizeof(name), "errno.%s", kinds[kind].name);
		say(name, "%s", line);
	}
}

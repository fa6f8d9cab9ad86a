/* What the kernel tells of memory: pagemap, kpageflags, status, smaps. */
#include "probe.h"

enum { FILE_BIT = 61, SWAP_BIT = 62, PRESENT_BIT = 63, EXCLUSIVE_BIT = 56, GUARD_BIT = 58, ZERO_PAGE_FLAG = 24 };

#define BIT(value, number) ((value) >> (number) & 1)
#define FRAME(entry) ((entry) & ((1ULL << 55) - 1))

static uint64_t read_entry(const char *path, uint64_t index)
{
	uint64_t entry = 0;
	int file = open(path, O_RDONLY);

	if (file < 0 || pread(file, &entry, sizeof(entry), index * sizeof(entry)) < 0)
		entry = 0;
	close(file);
	return entry;
}

uint64_t pagemap_entry(const char *address)
{
	return read_entry("/proc/self/pagemap", (uintptr_t)address / PAGE);
}

uint64_t kernel_page_flags(const char *address)
{
	uint64_t entry = pagemap_entry(address);

	return BIT(entry, PRESENT_BIT) ? read_entry("/proc/kpageflags", FRAME(entry)) : 0;
}

static char letter(const char *address)
{
	uint64_t entry = pagemap_entry(address);

	if (BIT(entry, SWAP_BIT))
		return BIT(entry, GUARD_BIT) ? 'G' : 'S';
	if (!BIT(entry, PRESENT_BIT))
		return '-';
	if (BIT(kernel_page_flags(address), ZERO_PAGE_FLAG))
		return 'Z';
	if (BIT(entry, FILE_BIT))
		return 'F';
	return BIT(entry, EXCLUSIVE_BIT) ? 'X' : 'P';
}

const char *letters(const char *start, size_t pages)
{
	static char text[4][80];
	static int turn;
	char *found = text[++turn % 4];

	for (size_t page = 0; page < pages; page++)
		found[page] = letter(start + page * PAGE);
	found[pages] = 0;
	return found;
}

static long value_of(const char *line, const char *key)
{
	size_t length = strlen(key);

	return !strncmp(line, key, length) && line[length] == ':' ? atol(line + length + 1) : -1;
}

long status_kib(const char *key)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	long value = -1;

	while (value < 0 && fgets(line, sizeof(line), file))
		value = value_of(line, key);
	fclose(file);
	return value;
}

/* Whether the line begins a mapping; then its bounds. */
static int bounds(const char *line, uintptr_t *start, uintptr_t *end)
{
	uintptr_t first, last;
	int length = 0;

	/* `Anonymous` begins with a hexadecimal digit: only a whole line may change the bounds. */
	if (sscanf(line, "%lx-%lx %*4s%n", &first, &last, &length) != 2 || !length)
		return 0;
	*start = first;
	*end = last;
	return 1;
}

long smaps_kib(const char *address, const char *key)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[512];
	uintptr_t start = 0, end = 0;
	long value = -1;

	while (value < 0 && fgets(line, sizeof(line), file))
		if (!bounds(line, &start, &end) && (uintptr_t)address >= start && (uintptr_t)address < end)
			value = value_of(line, key);
	fclose(file);
	return value;
}

const char *smaps_flags(const char *address)
{
	static char flags[256];
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[512];
	uintptr_t start = 0, end = 0;

	strcpy(flags, "none");
	while (fgets(line, sizeof(line), file))
		if (!bounds(line, &start, &end) && (uintptr_t)address >= start && (uintptr_t)address < end &&
		    !strncmp(line, "VmFlags: ", 9)) {
			line[strcspn(line, "\n")] = 0;
			strcpy(flags, line + 9);
		}
	fclose(file);
	return flags;
}

int mappings_in(const char *from, size_t size)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512];
	uintptr_t start, end;
	int count = 0;

	while (fgets(line, sizeof(line), file))
		count += bounds(line, &start, &end) && start < (uintptr_t)from + size && end > (uintptr_t)from;
	fclose(file);
	return count;
}

const char *keys_of(const char *path)
{
	static char keys[4096];
	FILE *file = fopen(path, "r");
	char line[512];
	uintptr_t start, end;
	int mappings = 0;

	keys[0] = 0;
	while (file && fgets(line, sizeof(line), file)) {
		if (bounds(line, &start, &end)) {
			if (mappings++)
				break;
			continue;
		}
		line[strcspn(line, ":")] = 0;
		strcat(strcat(keys, keys[0] ? " " : ""), line);
	}
	if (!file)
		return "none";
	fclose(file);
	return keys;
}

const char *first_line(const char *path)
{
	static char text[256];
	int file = open(path, O_RDONLY);
	ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text) - 1);

	close(file);
	if (length < 0)
		return "none";
	text[length] = 0;
	text[strcspn(text, "\n")] = 0;
	return text;
}

long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

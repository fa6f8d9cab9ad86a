/* Memory to try things on. */
#include "probe.h"

int signal_code;

static void give_up(const char *what)
{
	say("gave_up", "%s: %s", what, error_name(errno));
	_exit(1);
}

char *map_file(size_t size, int protection, int flags, int file)
{
	char *start = mmap(NULL, size, protection, flags, file, 0);

	if (start == MAP_FAILED)
		give_up("mmap");
	return start;
}

char *map(size_t size, int protection, int flags)
{
	return map_file(size, protection, flags, -1);
}

char *map_fenced(size_t size, int protection, int flags)
{
	char *fence = map(size + 2 * PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE);

	return mmap(fence + PAGE, size, protection, flags | MAP_FIXED, -1, 0);
}

char *map_aligned(size_t size, size_t alignment, int flags)
{
	char *reserved = map(size + 2 * alignment, PROT_NONE, PRIVATE | MAP_NORESERVE);
	char *start = (char *)(((uintptr_t)reserved + PAGE + alignment - 1) & ~(alignment - 1));

	return mmap(start, size, RW, flags | MAP_FIXED, -1, 0);
}

/* A file in memory, whose pages are all there and are `f`. */
int make_file(size_t size)
{
	int file = syscall(SYS_MEMFD_CREATE, "probe", 0);
	char page[PAGE];

	if (file < 0)
		give_up("memfd_create");
	memset(page, 'f', PAGE);
	for (size_t done = 0; done < size; done += PAGE)
		if (write(file, page, PAGE) != (ssize_t)PAGE)
			give_up("write");
	return file;
}

char *map_four(int flags)
{
	char *start = map_aligned(16 * PAGE, 16 * PAGE, PRIVATE);
	int file = make_file(4 * PAGE);

	return mmap(start, 4 * PAGE, RW, flags | MAP_FIXED, file, 0);
}

void touch_all(char *start, size_t size)
{
	for (size_t offset = 0; offset < size; offset += PAGE)
		((volatile char *)start)[offset] = 7;
}

char read_byte(const char *address)
{
	return *(const volatile char *)address;
}

static sigjmp_buf back;

static void came(int number, siginfo_t *about, void *context)
{
	(void)context;
	signal_code = about->si_code;
	siglongjmp(back, number);
}

static int signal_of(char *address, int store)
{
	struct sigaction catch = {.sa_sigaction = came, .sa_flags = SA_SIGINFO};
	int number;

	sigaction(SIGSEGV, &catch, NULL);
	sigaction(SIGBUS, &catch, NULL);
	number = sigsetjmp(back, 1);
	if (!number) {
		if (store)
			*(volatile char *)address = 7;
		else
			read_byte(address);
	}
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	return number;
}

int signal_of_store(char *address)
{
	return signal_of(address, 1);
}

int signal_of_load(const char *address)
{
	return signal_of((char *)address, 0);
}

int in_child(int (*question)(void *), void *about)
{
	int status = -1;
	pid_t child = fork();

	if (!child)
		_exit(question(about));
	waitpid(child, &status, 0);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);

	if (file < 0)
		return;
	if (write(file, text, strlen(text)) < 0)
		say("write", "%s %s", path, error_name(errno));
	close(file);
}

/* The first and only process of a kernel under test.
 *
 * It sets the kernel's knobs, runs the probes, which say on the console what they found, hands what /executor makes
 * of /sequences to the host, and powers off. Run as anything but process 1, it only runs the probes.
 */
#include "probe.h"

#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <termios.h>

static void mount_all(void)
{
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sys", "/sys", "sysfs", 0, NULL) ||
	    mount("dev", "/dev", "devtmpfs", 0, NULL) || mount("tmp", "/tmp", "tmpfs", 0, NULL))
		say("init.mount", "%s", strerror(errno));
	mkdir("/dev/shm", 0755);
	mount("shm", "/dev/shm", "tmpfs", 0, NULL);
}

static void talk_to_console(void)
{
	int console = open("/dev/console", O_RDWR);

	for (int each = 0; each < 3; each++)
		dup2(console, each);
}

/* Huge pages where they are asked for and nowhere else, none of them assembled behind our back, a few in the pool. */
static void set_knobs(void)
{
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	write_file("/sys/kernel/mm/transparent_hugepage/defrag", "madvise");
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "never");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none", "0");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "1000000");
	write_file("/proc/sys/vm/nr_hugepages", "8");
}

static int wait_for(pid_t child)
{
	int status = -1;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* The second serial port, through which bytes pass as they are. */
static int open_raw_port(void)
{
	struct termios raw;
	int port = open("/dev/ttyS1", O_WRONLY | O_NOCTTY);

	if (port < 0 || tcgetattr(port, &raw))
		return port;
	cfmakeraw(&raw);
	cfsetspeed(&raw, B115200);
	raw.c_cflag |= CLOCAL;
	tcsetattr(port, TCSANOW, &raw);
	return port;
}

static void run_executor(void)
{
	int port = open_raw_port();
	pid_t child = fork();

	if (!child) {
		int sequences = open("/sequences", O_RDONLY);

		dup2(sequences, 0);
		dup2(port, 1);
		execl("/executor", "/executor", (char *)NULL);
		_exit(127);
	}
	say("init.executor", "%d", wait_for(child));
	tcdrain(port);
	close(port);
}

static void run_probes(void)
{
	for (const struct group *each = groups; each->name; each++) {
		pid_t child = fork();
		int status;

		if (!child) {
			each->probe();
			_exit(0);
		}
		status = wait_for(child);
		if (status)
			say("died", "%s %s %d", each->name, WIFSIGNALED(status) ? "signal" : "exit",
			    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
}

/* Start again with every address where it always is: tables and windows of faults depend on addresses. */
static void be_placed_the_same(char **arguments)
{
	int now = personality(0xffffffff);

	if (!(now & ADDR_NO_RANDOMIZE) && personality(now | ADDR_NO_RANDOMIZE) >= 0)
		execv(arguments[0], arguments);
}

int main(int count, char **arguments)
{
	struct utsname running;
	int first = getpid() == 1;

	(void)count;
	be_placed_the_same(arguments);
	if (first) {
		mount_all();
		talk_to_console();
		set_knobs();
	}
	uname(&running);
	printf("\n");
	say("release", "%s", running.release);
	say("version", "%s", running.version);
	say("signature", "%s", first_line("/proc/version_signature"));
	if (access("/executor", X_OK))
		run_probes();
	else
		run_executor();
	say("done", "yes");
	if (first) {
		sync();
		reboot(RB_POWER_OFF);
	}
	return 0;
}

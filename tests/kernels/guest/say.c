/* What a probe found, a line each. */
#include "probe.h"

#include <stdarg.h>

void say(const char *name, const char *format, ...)
{
	va_list values;

	va_start(values, format);
	printf("probe %s ", name);
	vprintf(format, values);
	printf("\n");
	fflush(stdout);
	va_end(values);
}

const char *error_name(int error)
{
	static char number[16];

	switch (error) {
	case 0: return "ok";
	case EPERM: return "EPERM";
	case ENOENT: return "ENOENT";
	case ESRCH: return "ESRCH";
	case EIO: return "EIO";
	case EBADF: return "EBADF";
	case EAGAIN: return "EAGAIN";
	case ENOMEM: return "ENOMEM";
	case EACCES: return "EACCES";
	case EFAULT: return "EFAULT";
	case EBUSY: return "EBUSY";
	case EEXIST: return "EEXIST";
	case ENODEV: return "ENODEV";
	case EINVAL: return "EINVAL";
	case ENOTTY: return "ENOTTY";
	case ENOSYS: return "ENOSYS";
	case EOPNOTSUPP: return "EOPNOTSUPP";
	case EHWPOISON: return "EHWPOISON";
	}
	snprintf(number, sizeof(number), "E%d", error);
	return number;
}

const char *outcome(long result)
{
	return error_name(result < 0 ? errno : 0);
}

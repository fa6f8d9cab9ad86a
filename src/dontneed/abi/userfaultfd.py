"""userfaultfd(2): its flags, requests and features, as far as write tracking goes.

Kernel:
    include/uapi/linux/userfaultfd.h; Documentation/admin-guide/mm/userfaultfd.rst.
"""

from __future__ import annotations

CLOSED_ON_EXEC = 0o2000000
NOT_BLOCKING = 0o4000
USER_MODE_ONLY = 1
"""UFFD_USER_MODE_ONLY, since 5.11: for everyone, whatever vm.unprivileged_userfaultfd says."""

API = 0xC018_AA3F
"""UFFDIO_API, of struct uffdio_api: version, features, requests; 64 bits each."""
REGISTER = 0xC020_AA00
"""UFFDIO_REGISTER, of struct uffdio_register: start, length, mode, requests."""
UNREGISTER = 0x8010_AA01
"""UFFDIO_UNREGISTER, of struct uffdio_range: start, length."""

API_VERSION = 0xAA
REGISTER_WRITE_PROTECT = 1 << 1
"""UFFDIO_REGISTER_MODE_WP."""
WRITE_PROTECT_ASYNC = 1 << 15
"""UFFD_FEATURE_WP_ASYNC, since 6.7: a write to a protected page is let through by the kernel, and nobody is asked."""

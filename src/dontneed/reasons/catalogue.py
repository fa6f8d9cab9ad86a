"""Every reason there is, in the order in which they are surveyed and carried out.

Files first, since that needs no stop; then what allocators hold, from the inside out: a freed pool of Python's may make
a chunk of malloc's free; then what is merely zero, and dead stack. `cold` is carried out when asked for by name alone:
it is a guess about the future, and the others are not.
"""

from __future__ import annotations

from dontneed.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

REASONS = ("clean-file", "free-pools", "malloc-free", "zero-pages", "dead-stack", "cold")
BY_DEFAULT = REASONS[:-1]


def reason_named(name: str) -> ModuleType:
    """The module of a reason: NAME, WHY_SAFE, survey() and release(), as reasons/survey.py has it.

    Raises:
        UsageError: there is no such reason.
    """
    from importlib import import_module

    _require(name)
    return import_module(f"dontneed.reasons.{name.replace('-', '_')}")


def in_order(names: Iterable[str] | None) -> tuple[str, ...]:
    """These reasons in their order, each once; without any, those that are carried out by default.

    Raises:
        UsageError: there is no such reason; or a string where a collection of names is meant.
    """
    if names is None:
        return BY_DEFAULT
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        _require(name)
    return tuple(name for name in REASONS if name in wanted)


def _require(name: str) -> None:
    if name not in REASONS:
        msg = f"there is no reason {name!r}"
        raise UsageError(msg, hint=f"one of {', '.join(REASONS)}")

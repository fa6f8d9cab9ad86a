"""Look at the memory of a process, or of all, without stopping or changing anything.

Of a process: what it holds by kind, and its twenty largest mappings. Everything is counted from the page map, in
windows that hardly disturb the process; --smaps adds the kernel's own counters, which can stall a large one.

Of all processes (--all): RSS, USS, PSS, swap and page tables of each, the twenty with the largest PSS.
"""

from __future__ import annotations

from dontneed.cli.arguments import checked_pid, print_lines
from dontneed.errors import UsageError
from dontneed.observe.address_space import look
from dontneed.report.text import SORT_KEYS, format_address_space, format_difference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from dontneed.observe.address_space import AddressSpace
    from dontneed.observe.mapping import Mapping

_TOP = 20
_SORTS_OF_ALL = ("pss", "uss", "rss", "swap", "tables", "pid")
"""As `observe.holders.holder.SORT_KEYS` has them, which is imported for --all only."""
_NOT_WITH_DIFF = ("csv", "pmap", "show_code", "pages", "sort", "top")
_NOT_WITH_ALL = ("pmap", "smaps", "pages", "diff")


def show(text: str) -> int:
    """`dontneed look PID`, with no option given."""
    print_lines(format_address_space(look(checked_pid(text))))
    return 0


def show_all() -> int:
    """`dontneed look --all`, with no other option given."""
    from dontneed.observe.holders.look_all import look_all
    from dontneed.report.holders import format_holders

    holders = look_all()
    print_lines(format_holders(holders, holders.largest(_TOP)))
    return 0


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed look`."""
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("pid", nargs="?", help="the process to look at")
    whose.add_argument("--all", action="store_true", help="all processes: RSS, USS, PSS, swap and page tables of each")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for programs; sizes in bytes")
    form.add_argument("--csv", action="store_true", help="a row a mapping, or a process; for spreadsheets")
    form.add_argument("--pmap", action="store_true", help="the columns of `pmap -x` (reads smaps)")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")
    parser.add_argument("--smaps", action="store_true", help="add PSS, dirty, referenced, lazyfree, locked, VmFlags")
    parser.add_argument("--pages", action="store_true", help="with --json: add the page map, in runs")
    parser.add_argument("--diff", metavar="FILE", help="what changed since a saved `look PID --json`")
    parser.add_argument(
        "--method",
        type=_method,
        default="auto",
        metavar="WAY",
        help="how to count: page-tables, PAGEMAP_SCAN, pagemap, smaps (default: the first that is open to us); "
        "with --all: page-tables, pagemap, smaps_rollup, status",
    )
    parser.add_argument(
        "--sort",
        choices=tuple(dict.fromkeys((*SORT_KEYS, *_SORTS_OF_ALL))),
        help=f"order of the mappings: {', '.join(SORT_KEYS)} (default: rss; address with --json, --csv and --pmap); "
        f"with --all of the processes: {', '.join(_SORTS_OF_ALL)} (default: pss; pid with --json and --csv)",
    )
    parser.add_argument(
        "--top",
        type=_count,
        metavar="N",
        help=f"show the first N, 0 for all (default: {_TOP}; all with --json, --csv and --pmap)",
    )


def run(arguments: Namespace) -> int:
    """Carry out `dontneed look`; the exit code."""
    if arguments.all:
        return _run_all(arguments)
    pid = checked_pid(arguments.pid)
    _refuse_what_would_be_ignored(arguments)
    if arguments.show_code:
        print_lines(_code(pid, arguments))
        return 0
    space = look(pid, pages=arguments.pages, smaps=arguments.smaps or arguments.pmap, method=arguments.method)
    if arguments.diff:
        _print_difference(space, arguments)
    elif arguments.json:
        from dontneed.report.json import address_space_document, format_json

        print_lines([format_json(address_space_document(space, _chosen(space, arguments)))])
    elif arguments.csv:
        from dontneed.report.csv import format_csv

        print_lines([format_csv(_chosen(space, arguments))])
    elif arguments.pmap:
        from dontneed.kernel.cmdline import read_command_line
        from dontneed.report.pmap import format_pmap, pmap_rows
        from dontneed.report.table import printable

        rows = pmap_rows(_chosen(space, arguments))
        command = printable(read_command_line(pid).replace("\n", " "))
        print_lines([f"{pid}:   {command}", format_pmap(rows)])
    else:
        top = _TOP if arguments.top is None else arguments.top
        print_lines(format_address_space(space, sort=arguments.sort or "rss", top=top))
    return 0


def _refuse_what_would_be_ignored(arguments: Namespace) -> None:
    """Better a word than the answer to another question; argparse's groups cannot say these."""
    if arguments.pages and not (arguments.json or arguments.show_code):
        msg = "the page map is told as JSON only"
        raise UsageError(msg, hint="dontneed look PID --pages --json")
    given = _given(arguments, _NOT_WITH_DIFF)
    if arguments.diff and given:
        msg = f"a difference is told whole, as text or as JSON: --diff goes without {given[0]}"
        raise UsageError(msg, hint="dontneed look PID --diff FILE, with --json or without")
    if arguments.sort not in (None, *SORT_KEYS):
        msg = f"the mappings of a process are not ordered by {arguments.sort}"
        raise UsageError(msg, hint=f"by {', '.join(SORT_KEYS)}; `dontneed look --all` orders processes")


def _given(arguments: Namespace, names: Iterable[str]) -> list[str]:
    """Those options that were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]


# All processes


def _run_all(arguments: Namespace) -> int:
    """`dontneed look --all`."""
    if given := _given(arguments, _NOT_WITH_ALL):
        msg = f"{given[0]} is about the mappings of one process: it goes without --all"
        raise UsageError(msg, hint=f"dontneed look PID {given[0]}")
    if arguments.sort not in (None, *_SORTS_OF_ALL):
        msg = f"processes are not ordered by {arguments.sort}"
        raise UsageError(msg, hint=f"by {', '.join(_SORTS_OF_ALL)}")
    whole = arguments.json or arguments.csv
    top = arguments.top if arguments.top is not None else 0 if whole else _TOP
    sort = arguments.sort or ("pid" if whole else "pss")
    if arguments.show_code:
        print_lines(_code_of_all(sort, top, arguments.method))
        return 0
    from dontneed.observe.holders.look_all import look_all
    from dontneed.report.holders import format_holders, format_holders_csv, holders_document

    holders = look_all(arguments.method)
    shown = holders.largest(top or None, by=sort)
    if arguments.json:
        from dontneed.report.json import format_json

        print_lines([format_json(holders_document(holders, shown))])
    elif arguments.csv:
        print_lines([format_holders_csv(shown)])
    else:
        print_lines(format_holders(holders, shown))
    return 0


def _code_of_all(sort: str, top: int, method: str) -> list[str]:
    return [
        "import dontneed",
        "",
        f"holders = dontneed.look_all({'' if method == 'auto' else repr(method)})",
        "print(holders.total, holders.method)",
        f"for holder in holders.largest({top or None}, by={sort!r}):",
        "    print(holder.rss_bytes, holder.uss_bytes, holder.pss_bytes, holder.pid, holder.command)",
    ]


# One process


def _method(text: str) -> str:
    """A method by its name, in which a hyphen may stand for the space."""
    return text.replace("-", " ")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(2**63)):
        from argparse import ArgumentTypeError

        msg = f"{text[:20]!r} is not a number of rows"
        raise ArgumentTypeError(msg)
    return int(text)


def _chosen(space: AddressSpace, arguments: Namespace) -> list[Mapping]:
    """The mappings that --sort and --top leave; all of them, by address, without either."""
    chosen = sorted(space.mappings, key=SORT_KEYS[arguments.sort]) if arguments.sort else list(space.mappings)
    return chosen[: arguments.top] if arguments.top else chosen


def _print_difference(space: AddressSpace, arguments: Namespace) -> None:
    from dontneed.observe.difference import difference_of
    from dontneed.report.json import difference_document, format_json, parse_address_space

    pid, mappings, counters = parse_address_space(_saved(arguments.diff))
    if pid != space.pid:
        msg = f"{arguments.diff} is a look at process {pid}, not at {space.pid}"
        raise UsageError(msg, hint="save one with: dontneed look PID --json > FILE")
    difference = difference_of(mappings, space.mappings, counters, space.counters)
    if arguments.json:
        print_lines([format_json({"pid": pid, **difference_document(difference)})])
    else:
        print_lines(format_difference(difference))


def _saved(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read {path}: {error.strerror if isinstance(error, OSError) else 'it is not text'}"
        raise UsageError(msg, hint="save one with: dontneed look PID --json > FILE") from None


def _code(pid: int, arguments: Namespace) -> list[str]:
    options = [f"{name}=True" for name in ("pages", "smaps") if getattr(arguments, name)]
    if arguments.method != "auto":
        options.append(f"method={arguments.method!r}")
    top = _TOP if arguments.top is None else arguments.top
    return [
        "import dontneed",
        "",
        f"space = dontneed.look({', '.join([str(pid), *options])})",
        "print(space.total, space.method)",
        f"shown = sorted(space.mappings, key=lambda mapping: {_SORT_CODE[arguments.sort or 'rss']})",
        f"for mapping in {f'shown[:{top}]' if top else 'shown'}:",
        "    print(mapping.rss_bytes, mapping.kind, mapping.name)",
    ]


_SORT_CODE = {
    "rss": "-mapping.rss_bytes",
    "swap": "-mapping.swap_bytes",
    "size": "-mapping.size_bytes",
    "address": "mapping.start",
}
"""`SORT_KEYS`, as one writes them."""

"""What of files, and of all files in directories, is in the page cache.

Nothing is read, touched or changed: cachestat(2) counts, or mincore(2) where the kernel has no cachestat. A file with
several names counts once; symbolic links are followed when they are named, and not below a directory. What cannot be
read is told and is in no sum.

With --evict the kernel is asked to let go of the pages. Nothing is lost and nothing is waited for: dirty pages stay,
and so do those that somebody has mapped.
"""

from __future__ import annotations

from dontneed.cli.arguments import print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_TOP = 20


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed cache`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a directory")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--evict", action="store_true", help="let go of what is cached, and say what is left")
    task.add_argument("--map", action="store_true", help="which pages: a bar a file; with --json runs of pages")
    parser.add_argument(
        "-x", "--one-file-system", action="store_true", help="do not descend into directories on other file systems"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")
    parser.add_argument(
        "--top",
        type=_count,
        metavar="N",
        help=f"show the N files with most in the cache, 0 for all (default: {_TOP}; all with --json)",
    )


def run(arguments: Namespace) -> int:
    """Carry out `dontneed cache`; the exit code."""
    if arguments.show_code:
        print_lines(_code(arguments))
        return 0
    from dontneed.observe.cache.page_cache import cache, evict
    from dontneed.report.cache import cache_document, format_cache

    if arguments.evict:
        found = evict(arguments.paths, one_file_system=arguments.one_file_system)
    else:
        found = cache(arguments.paths, maps=arguments.map, one_file_system=arguments.one_file_system)
    shown = found.largest(_top(arguments) or None)
    if arguments.json:
        from dontneed.report.json import format_json

        print_lines([format_json(cache_document(found, shown))])
    else:
        print_lines(format_cache(found, shown, bars=arguments.map))
    return 0


def _top(arguments: Namespace) -> int:
    """How many files to show; 0 for all."""
    if arguments.top is None:
        return 0 if arguments.json else _TOP
    top: int = arguments.top
    return top


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(2**63)):
        from argparse import ArgumentTypeError

        msg = f"{text[:20]!r} is not a number of files"
        raise ArgumentTypeError(msg)
    return int(text)


def _code(arguments: Namespace) -> list[str]:
    options = [f"{name}=True" for name, given in (("maps", arguments.map),) if given]
    options += ["one_file_system=True"] if arguments.one_file_system else []
    call = "evict" if arguments.evict else "cache"
    extra = ", file.left_bytes" if arguments.evict else ", file.runs" if arguments.map else ""
    return [
        "import dontneed",
        "",
        f"found = dontneed.{call}({', '.join([repr(arguments.paths), *options])})",
        "print(found.total, found.method)",
        f"for file in found.largest({_top(arguments) or ''}):",
        f"    print(file.cached_bytes{extra}, file.path)",
        "for each in found.unread:",
        "    print(each.path, each.why)",
    ]

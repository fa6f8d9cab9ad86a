"""Ctrl-C that ends what is being watched, and not the command: what is known until then is shown."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class until_interrupted:  # noqa: N801 - a context manager
    """Within it a SIGINT or SIGTERM ends the watching and not us, a second one us; whether one came can be asked."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> Callable[[], bool]:
        import signal

        def note(_number: int, _frame: object) -> None:
            if self._came:
                raise KeyboardInterrupt
            self._came = True

        self._before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        return lambda: self._came

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)


class told_by_sigterm_too:  # noqa: N801 - a context manager
    """Within it a SIGTERM is a Ctrl-C: of what a helper process does, what was done until then is shown."""

    def __enter__(self) -> None:
        import signal

        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        import signal

        signal.signal(signal.SIGTERM, self._before)

"""`Record`: the frozen, slotted result type that every floor returns.

Why not `dataclasses`: importing it loads `inspect`, 20 ms on CPython 3.13, and a whole cold `dontneed look PID` is
allowed less than `pmap -x` takes. A Record reads like a dataclass (annotated fields, defaults, keyword arguments,
`repr`, equality, hash) and type checkers treat it as one, at no import at all.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_options):  # noqa: ANN003, ANN201 - never seen by a type checker
        """Stand in for `typing.dataclass_transform`, which needs 3.11 and an import."""
        return lambda cls: cls


_store = object.__setattr__


def _init_on_first_use(cls: RecordType) -> Any:
    """An `__init__` that compiles the real one when a first instance is made: a class never used is never compiled."""

    def __init__(self: Record, *values: Any, **named: Any) -> None:  # noqa: N807 - it is one
        compiled = _compiled_init(cls)
        cls.__init__ = compiled  # type: ignore[misc]
        compiled(self, *values, **named)

    return __init__


def _compiled_init(cls: RecordType) -> Any:
    """An `__init__` with the fields as its parameters, a quarter of the cost of a loop over them."""
    parameters = (f"{field}=_defaults[{field!r}]" if field in cls._defaults else field for field in cls._fields)
    stores = "".join(f"\n    _store(self, {field!r}, {field})" for field in cls._fields) or " pass"
    scope = {"_store": _store, "_defaults": cls._defaults}
    exec(f"def __init__(self, {', '.join(parameters)}):{stores}", scope)  # noqa: S102 - our own field names
    init: Any = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"  # a TypeError about the arguments starts with it
    return init


@dataclass_transform(frozen_default=True, eq_default=True)
class RecordType(type):
    """Turns the annotations of a class body into slots, in order, its bases' fields first."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> RecordType:
        """Make the class, and its `__init__` unless the body has one."""
        annotated = tuple(body.get("__annotations__", ()))
        inherited: tuple[str, ...] = ()
        defaults: dict[str, Any] = {}
        for base in bases:
            inherited += getattr(base, "_fields", ())
            defaults.update(getattr(base, "_defaults", {}))
        defaults.update((field, body.pop(field)) for field in annotated if field in body)
        own = tuple(field for field in annotated if field not in inherited)
        body["__slots__"] = own + tuple(body.get("__slots__", ()))
        cls = super().__new__(mcs, name, bases, body)
        cls._fields = inherited + own
        cls._defaults = defaults
        if "__init__" not in body:
            cls.__init__ = _init_on_first_use(cls)  # type: ignore[misc]
        return cls


class Record(metaclass=RecordType):
    """A frozen value with named fields; subclass it and annotate."""

    def __setattr__(self, field: str, value: object) -> None:
        msg = f"{type(self).__name__} is frozen; replace() makes a changed copy"
        raise AttributeError(msg)

    def __delattr__(self, field: str) -> None:
        msg = f"{type(self).__name__} is frozen"
        raise AttributeError(msg)

    def _items(self) -> Iterator[tuple[str, Any]]:
        return ((field, getattr(self, field)) for field in type(self)._fields)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, in order; values are not copied."""
        return dict(self._items())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**self.as_dict(), **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{field}={value!r}' for field, value in self._items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in type(self)._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(value for _, value in self._items())))

    def __getstate__(self) -> dict[str, Any]:
        return self.as_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field, value in state.items():
            _store(self, field, value)

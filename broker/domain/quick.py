"""Frozen dataclasses that are made quickly, for the few of which every call makes one.

A frozen dataclass sets each field through `object.__setattr__`, which takes two to three times as long as plain assignment: with
two dozen of them a call, that was a twentieth of a broker's time. Here a new instance is of an open class with the same slots
while its fields are set, and of its own from then on.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Final, TypeVar

T = TypeVar("T")
_SET_CLASS: Final = object.__dict__["__class__"].__set__
"""Assigns `__class__`, past what forbids assignments."""


def quick(made: type[T]) -> type[T]:
    """Decorates `@dataclass(frozen=True, slots=True, kw_only=True)`: the same class, with an `__init__` that does the same, sooner.

    Raises:
        TypeError: it is not such a class, or has a base.
    """
    fields = dataclasses.fields(made)  # type: ignore[arg-type]  # a TypeError, where it is none
    parameters = getattr(made, "__dataclass_params__")  # noqa: B009 - not in the published types
    names = [field.name for field in fields]
    if (
        not parameters.frozen
        or made.__bases__ != (object,)
        or list(getattr(made, "__slots__", ())) != names
        or not all(field.kw_only and field.init for field in fields)
    ):
        message = f"{made.__name__} is no plain frozen dataclass with slots and keywords"
        raise TypeError(message)
    known: dict[str, Any] = {
        "_absent": object(),
        "_set_class": _SET_CLASS,
        "_open": type(made.__name__, (), {"__slots__": names}),
    }
    arguments, assigned = [], []
    for field in fields:
        name, value = field.name, field.name
        if field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            arguments.append(f"{name}=_default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            arguments.append(f"{name}=_absent")
            value = f"_make_{name}() if {name} is _absent else {name}"
        else:
            arguments.append(name)
        assigned.append(f"    self.{name} = {value}")
    lines = [
        f"def __init__(self, *, {', '.join(arguments)}):",
        "    _set_class(self, _open)",
        *assigned,
        "    _set_class(self, _made)",
        *(["    self.__post_init__()"] if hasattr(made, "__post_init__") else []),
    ]
    known["_made"] = made
    exec("\n".join(lines), known)  # noqa: S102 - as dataclasses themselves are made, of names that are in the source
    init = known["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    init.__annotations__ = {**inspect.get_annotations(made), "return": None}
    setattr(made, "__init__", init)  # noqa: B010 - a method, of a class that is still being made
    return made

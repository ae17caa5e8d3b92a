"""`dataclass` for classes with slots, which compiles nothing but what is used often.

The standard library's compiles up to seven functions for each class, most of a millisecond, and a
command imports fifty such classes: a third of the time that it takes to start. Here nothing but
`__init__` is compiled, and that when several instances were made. This module must not mean
anything else than `dataclasses` does (type checkers are told that it is the same), and must not
grow: what it does not know it refuses, for the standard library's to be used.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn

__all__ = ["dataclass"]

_FEW: Final = 8
"""Instances that are made slowly before it pays to compile `__init__`."""

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False, eq: bool = True) -> Callable[[type], type]:
        """As `dataclasses.dataclass`, for classes without bases that have fields.

        Args:
            slots: True.
            frozen: fields cannot be set again, and instances can be hashed.
            eq: instances are equal if their fields are.

        Raises:
            TypeError: for anything else.
        """
        if not slots:
            raise TypeError("without slots: use dataclasses.dataclass")
        return lambda cls: _made(cls, frozen=frozen, eq=eq)


def _made(cls: type, *, frozen: bool, eq: bool) -> type:
    """The class again, with slots: they cannot be added to one that is there."""
    body = dict(cls.__dict__)
    kinds = {name: str(kind) for name, kind in cls.__annotations__.items()}
    names = tuple([name for name, kind in kinds.items() if "ClassVar[" not in kind])
    defaults = {name: body.pop(name) for name in names if name in body}
    if (
        any("InitVar" in kind or "KW_ONLY" in kind for kind in kinds.values())
        or any(_is_odd(default) for default in defaults.values())
        or any(hasattr(base, "__dataclass_fields__") for base in cls.__bases__)
    ):
        raise TypeError(f"{cls.__name__} is no plain dataclass: use dataclasses.dataclass")
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    body |= {
        "__slots__": names,
        "__match_args__": names,
        "__dataclass_fields__": _Fields(defaults),
        "__replace__": dataclasses.replace,  # of copy.replace, from 3.13 on
    }
    for name, method in _methods(names, defaults, frozen=frozen, eq=eq).items():
        if body.get(name) is None:  # an own __eq__ leaves a __hash__ that is None
            body[name] = method
    made: Any = type(cls)(cls.__name__, cls.__bases__, body)
    made.__init__ = _init(made, names, defaults, frozen=frozen)
    made.__qualname__ = cls.__qualname__
    return made  # type: ignore[no-any-return]


def _is_odd(default: object) -> bool:
    if not isinstance(default, dataclasses.Field):
        return type(default).__hash__ is None  # a list, say: all instances would share it
    plain = default.init and default.compare and default.hash is None
    return not plain or default.kw_only is True


def _methods(
    names: tuple[str, ...], defaults: dict[str, Any], *, frozen: bool, eq: bool
) -> dict[str, Any]:
    """Those that need no compiling, by their names."""
    shown = [name for name in names if getattr(defaults.get(name), "repr", True)]
    values = attrgetter(*names) if names else lambda _: ()

    def told(self: object) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({fields})"

    def equal(self: object, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    methods: dict[str, Any] = {"__repr__": told}
    if eq:
        methods |= {"__eq__": equal, "__hash__": None}
    if frozen:
        methods |= _FROZEN
        if eq:
            methods["__hash__"] = lambda self: hash(values(self))
    return methods


def _init(
    made: Any, names: tuple[str, ...], defaults: dict[str, Any], *, frozen: bool
) -> Callable[..., None]:
    """`__init__` that puts a compiled one in its place when it was called a few times."""
    left = _FEW
    put = object.__setattr__ if frozen else setattr

    def seldom(self: Any, *args: object, **kwargs: object) -> None:
        nonlocal left
        left -= 1
        fields = _taken(names, defaults, args, kwargs) if left > 0 else None
        if fields is None:  # often used, or wrongly, and then it knows what to say
            made.__init__ = _compiled(made, names, defaults, frozen=frozen)
            made.__init__(self, *args, **kwargs)
            return
        for name in names:
            put(self, name, fields[name])
        if hasattr(made, "__post_init__"):
            self.__post_init__()

    return seldom


def _taken(
    names: tuple[str, ...],
    defaults: dict[str, Any],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> dict[str, object] | None:
    """The fields that `__init__` would set; None where it would be an error."""
    fields = dict(zip(names, args, strict=False)) | kwargs
    if len(fields) < len(args) + len(kwargs):  # too many, or one twice
        return None
    for name in names:
        if name not in fields:
            makes, default = _default(defaults.get(name, dataclasses.MISSING))
            value = default if makes is dataclasses.MISSING else makes()
            if value is dataclasses.MISSING:
                return None
            fields[name] = value
    return fields if len(fields) == len(names) else None


def _default(given: Any) -> tuple[Any, Any]:
    """What makes a default, and the default; MISSING where there is none."""
    if isinstance(given, dataclasses.Field):
        return given.default_factory, given.default
    return dataclasses.MISSING, given


def _compiled(
    made: type, names: tuple[str, ...], defaults: dict[str, Any], *, frozen: bool
) -> Callable[..., None]:
    """`__init__` as the standard library writes it, except that it sets slots by themselves."""
    known: dict[str, Any] = {"unset": dataclasses.MISSING}
    takes, does = ["self"], []
    for name in names:
        makes, default = _default(defaults.get(name))
        value = name
        if makes is not dataclasses.MISSING:
            known[f"make_{name}"] = makes
            value = f"make_{name}() if {name} is unset else {name}"
        if name in defaults:
            known[f"default_{name}"] = default
            takes.append(f"{name}=default_{name}")
        else:
            takes.append(name)
        if frozen:
            known[f"set_{name}"] = made.__dict__[name].__set__
        does.append(f"set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(made, "__post_init__"):
        does.append("self.__post_init__()")
    body = "\n    ".join(does or ["pass"])
    exec(f"def __init__({', '.join(takes)}):\n    {body}", known)  # noqa: S102 (names of fields)
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    return init


class _Fields:
    """`__dataclass_fields__`, by which `dataclasses` knows one: made when somebody looks."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = defaults

    def __get__(self, instance: object, owner: Any) -> Any:
        made: Any = dataclasses.make_dataclass(
            owner.__name__,
            [(name, owner.__annotations__[name]) for name in owner.__slots__],
            namespace={"__doc__": owner.__name__, **self._defaults},
            init=False, repr=False, eq=False,
        )  # fmt: skip
        owner.__dataclass_fields__ = made.__dataclass_fields__
        return owner.__dataclass_fields__


def _refuse(_self: object, name: str, *_value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to or delete field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, name) for name in self.__match_args__]


def _set_state(self: Any, state: list[object]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


_FROZEN = {
    "__setattr__": _refuse, "__delattr__": _refuse,
    "__getstate__": _state, "__setstate__": _set_state,
}  # fmt: skip
"""What copies and pickles is part of it: by itself that would set fields."""

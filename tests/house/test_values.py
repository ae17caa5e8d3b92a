"""Our `dataclass` means what the standard library's means: each test runs for both."""

import copy
import dataclasses
import pickle
import sys
import threading
from typing import ClassVar, Generic, TypeVar

import pytest

from icnblocks import values

T = TypeVar("T")
MAKERS = {"ours": values.dataclass, "the standard library's": dataclasses.dataclass}


@pytest.fixture(params=list(MAKERS))
def made(request: pytest.FixtureRequest):
    return MAKERS[request.param]


def frozen(made):
    @made(frozen=True, slots=True)
    class Block:
        """A value."""

        name: str
        length: int = 7
        parts: list[int] = dataclasses.field(default_factory=list)
        token: str | None = dataclasses.field(default="t", repr=False)

        @property
        def double(self) -> int:
            return 2 * self.length

    return Block


def test_fields_are_taken_by_place_and_by_name(made):
    Block = frozen(made)
    assert Block("a") == Block(name="a", length=7, parts=[], token="t")
    assert Block("a", 8).length == 8
    assert Block("a").double == 14


@pytest.mark.parametrize(("args", "kwargs"), [
    ((), {}), (("a", 1, [], None, 2), {}), (("a",), {"colour": 1}), (("a",), {"name": "b"}),
])  # fmt: skip
def test_wrong_arguments_are_a_type_error_the_first_time_and_later(made, args, kwargs):
    Block = frozen(made)
    for _ in range(2):
        with pytest.raises(TypeError):
            Block(*args, **kwargs)
        Block("a")


def test_a_default_that_is_made_is_made_for_each(made):
    Block = frozen(made)
    assert Block("a").parts is not Block("a").parts


def test_a_frozen_one_cannot_be_changed(made):
    value = frozen(made)("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.length = 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.length
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        value.colour = 8
    assert value.length == 7


def test_it_has_slots_and_no_room_for_more(made):
    @made(slots=True)
    class Open:
        length: int = 1

    value = Open()
    value.length = 2
    with pytest.raises(AttributeError):
        value.colour = 1
    assert (value.length, Open.__slots__, Open.__match_args__) == (2, ("length",), ("length",))


def test_what_is_shown(made):
    assert repr(frozen(made)("a")).endswith("Block(name='a', length=7, parts=[])")


def test_equal_is_who_is_of_the_same_class_with_the_same_fields(made):
    Block, Other = frozen(made), frozen(made)
    assert Block("a") == Block("a")
    assert Block("a") != Block("b")
    assert Block("a") != Other("a")
    assert Block("a") != ("a", 7, [], "t")


def test_one_of_a_single_field(made):
    @made(frozen=True, slots=True)
    class Rate:
        value: float

    assert Rate(1.0) == Rate(1.0) != Rate(2.0)
    assert len({Rate(1.0), Rate(1.0), Rate(2.0)}) == 2


def test_one_without_fields(made):
    @made(frozen=True, slots=True)
    class End:
        """Nothing follows."""

    assert End() == End()
    assert hash(End()) == hash(End())
    assert repr(End()).endswith("End()")


def test_what_can_be_hashed(made):
    @made(frozen=True, slots=True)
    class Frozen:
        a: int
        b: int = 0

    @made(slots=True)
    class Open:
        a: int

    @made(slots=True, eq=False)
    class Itself:
        a: int

    assert len({Frozen(1), Frozen(1), Frozen(1, 2)}) == 2
    with pytest.raises(TypeError):
        hash(Open(1))
    assert len({Itself(1), Itself(1)}) == 2


def test_own_methods_stand(made):
    @made(frozen=True, slots=True)
    class Own:
        a: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    assert (repr(Own(1)), Own(1) == Own(2), hash(Own(3))) == ("own", True, 5)


def test_an_own_eq_leaves_a_frozen_one_its_hash(made):
    @made(frozen=True, slots=True)
    class Own:  # noqa: PLW1641
        a: int

        def __eq__(self, other: object) -> bool:
            return True

    assert hash(Own(1)) == hash(Own(1))


@pytest.mark.parametrize("often", [False, True])
def test_what_comes_after_init_sees_all_fields(made, often):
    @made(frozen=True, slots=True)
    class Checked:
        a: int

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError(self.a)

    for _ in range(100 if often else 1):
        assert Checked(1).a == 1
    with pytest.raises(ValueError):
        Checked(-1)


def test_what_belongs_to_the_class_is_no_field(made):
    @made(frozen=True, slots=True)
    class Told:
        advice: ClassVar[str] = "look"
        known: "ClassVar[int]" = 3
        a: int = 1

    assert (Told(2).a, Told.advice, Told(2).known) == (2, "look", 3)
    assert [field.name for field in dataclasses.fields(Told)] == ["a"]


def test_a_generic_one(made):
    @made(frozen=True, slots=True)
    class Box(Generic[T]):
        inside: T

    assert Box(1) == Box(1)
    assert Box.__parameters__ == (T,)


def test_the_standard_library_takes_it_for_one_of_its_own(made):
    Block = frozen(made)
    value = Block("a")
    assert dataclasses.is_dataclass(Block)
    assert [field.name for field in dataclasses.fields(Block)] == list(Block.__slots__)
    assert dataclasses.fields(value)[1].default == 7
    assert dataclasses.replace(value, length=9) == Block("a", 9)
    if sys.version_info >= (3, 13):
        assert copy.replace(value, length=9) == Block("a", 9)
    assert dataclasses.asdict(value) == {"name": "a", "length": 7, "parts": [], "token": "t"}
    with pytest.raises(TypeError):
        dataclasses.replace(value, colour=1)


@values.dataclass(frozen=True, slots=True)
class Ours:
    name: str
    parts: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    name: str
    parts: list[int]


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_copies_and_pickles_are_equal(kind):
    value = kind("a", [1])
    assert copy.copy(value) == value == pickle.loads(pickle.dumps(value))
    deep = copy.deepcopy(value)
    assert deep == value
    assert deep.parts is not value.parts


def test_a_match_goes_by_the_order_of_fields(made):
    match frozen(made)("a", 3):
        case object(length=3) as value:
            assert value.name == "a"


def test_first_instances_of_many_threads_at_once():
    Block = frozen(values.dataclass)
    start, found = threading.Barrier(8), []

    def make(number: int) -> None:
        start.wait(10)
        found.append(Block("a", number))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(value.length for value in found) == list(range(8))


def test_only_init_is_compiled_and_that_when_it_is_often_used(monkeypatch):
    compiled, true = [], values._compiled

    def count(made, *args, **kwargs):
        compiled.append(made)
        return true(made, *args, **kwargs)

    monkeypatch.setattr(values, "_compiled", count)
    Block = frozen(values.dataclass)
    assert Block("a") == Block("a")
    assert compiled == []
    assert len({Block("a", parts=(), length=number) for number in range(100)}) == 100
    assert compiled == [Block]


def test_all_instances_are_made_alike_however_many_there_were():
    Block, Same = frozen(values.dataclass), frozen(dataclasses.dataclass)
    for number in range(20):
        for args, kwargs in [((str(number),), {}), (("a", number), {}), ((), {"name": "b"}),
                             (("c",), {"parts": [number], "token": None})]:  # fmt: skip
            assert dataclasses.astuple(Block(*args, **kwargs)) == dataclasses.astuple(
                Same(*args, **kwargs)
            )


@pytest.mark.parametrize("odd", [
    dataclasses.field(default=1, compare=False), dataclasses.field(default=1, init=False),
    dataclasses.field(default=1, hash=False), dataclasses.field(default=1, kw_only=True), [],
])  # fmt: skip
def test_what_it_does_not_know_it_refuses(odd):
    with pytest.raises(TypeError, match=r"use dataclasses\.dataclass"):

        @values.dataclass(slots=True)
        class Odd:
            a: int = odd


def test_other_kinds_of_classes_are_refused():
    with pytest.raises(TypeError, match=r"use dataclasses\.dataclass"):

        @values.dataclass(frozen=True, slots=True)
        class More(Ours):
            more: int = 1

    with pytest.raises(TypeError, match=r"use dataclasses\.dataclass"):

        @values.dataclass(frozen=True, slots=True)
        class Given:
            seed: dataclasses.InitVar[int]

    with pytest.raises(TypeError, match=r"use dataclasses\.dataclass"):

        @values.dataclass(frozen=True, slots=True)
        class Named:
            _: dataclasses.KW_ONLY
            a: int

    with pytest.raises(TypeError, match=r"use dataclasses\.dataclass"):
        values.dataclass(slots=False)

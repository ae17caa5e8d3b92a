"""File paths of manifests: nothing leads outside, nothing falls together."""

from __future__ import annotations

import pathlib
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_PATH_BYTES
from icnblocks.manifest.paths import (
    _IGNORABLE,
    MAX_COMPONENT_BYTES,
    check_path,
    check_together,
)

GOOD = [
    "config.json",
    "a/b/c.safetensors",
    ".gitattributes",
    "...",
    "..a/b",
    "1_Pooling/config.json",
    "with space",
    "naïve/模型.bin",
    "e\u0301/한글/\u2764.txt",
    "partial",
    "a.partial.json",
    "x/.icnblocks/y",
    "x" * MAX_COMPONENT_BYTES,
    "a:b",
]
BAD = [
    ("", "empty"),
    ("/etc/passwd", "empty, absolute"),
    ("a//b", "empty"),
    ("a/", "empty"),
    ("/", "empty"),
    (".", "part"),
    ("..", "part"),
    ("../x", "part"),
    ("a/../../x", "part"),
    ("a/./b", "part"),
    ("a/..", "part"),
    ("..\\x", "backslash"),
    ("C:\\x", "backslash"),
    ("a\0b", "control"),
    ("a\nb", "control"),
    ("a\x1b[2Jb", "control"),
    ("a\x7fb", "control"),
    ("a\x85b", "control"),
    ("a\u202egpj.exe", "invisible"),  # shows as exe.jpg
    ("a\u200bb", "invisible"),
    ("a\u2028b", "invisible"),
    ("\ufeffa", "invisible"),
    (".icnblocks\ufe0f/map", "invisible"),  # where case is ignored, our own directory
    ("..\u034f/x", "invisible"),
    ("model.partial\U000e0100", "invisible"),
    ("\u2764\ufe0f.txt", "invisible"),  # an emoji
    ("a\ud800", "Unicode"),
    (".icnblocks", "reserved"),
    (".icnblocks/blocks.sqlite", "reserved"),
    (".ICNblocks/x", "reserved"),
    ("model.bin.partial", ".partial"),
    ("model.PARTIAL", ".partial"),
    ("a.partial/b", ".partial"),
    (".partial", ".partial"),
    ("x" * (MAX_COMPONENT_BYTES + 1), "part of more than"),
    ("é" * 124, "part of more than"),
    ("x/" * (MAX_PATH_BYTES // 2) + "x", "at most"),
]


@pytest.mark.parametrize("path", GOOD)
def test_ordinary_paths_pass(path):
    assert check_path(path) == path


@pytest.mark.parametrize(("path", "says"), BAD, ids=[ascii(path)[:30] for path, _ in BAD])
def test_path_tricks_are_refused_and_named(path, says):
    with pytest.raises(FormatError, match=says) as caught:
        check_path(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("first", "last"), _IGNORABLE, ids=lambda point: f"{point:x}")
def test_what_file_systems_pass_over_is_refused_and_what_stands_beside_it_is_not(first, last):
    """Catches: two names that are one where case is ignored, or one that is our own there."""
    for point in {first, (first + last) // 2, last}:
        with pytest.raises(FormatError, match="invisible"):
            check_path(f"a{chr(point)}b")
    for point in {first - 1, last + 1}:
        if category(chr(point)) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            check_path(f"a{chr(point)}b")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab./\\\0\u202eé "), max_size=12) | st.text(max_size=20))
def test_whatever_passes_stays_below_its_directory(path):
    try:
        check_path(path)
    except FormatError:
        return
    root = pathlib.PurePosixPath("/model")
    joined = root / path
    assert joined.is_relative_to(root)
    assert joined != root
    assert ".." not in joined.parts
    assert str(joined) == f"/model/{path}"


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a/b/c", "z"],
        ["a", "a!", "a.b", "a/b"],  # '!' and '.' sort before '/'
        ["a", "A"],
        ["A/x", "a"],
        ["é", "e\u0301"],  # one letter, composed and not
        ["STRASSE", "straße"],
    ],
    ids=repr,
)
def test_paths_that_cannot_lie_together_are_refused(paths):
    for order in (paths, paths[::-1]):
        with pytest.raises(FormatError, match="clash"):
            check_together(order)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "a.b", "A"]), min_size=1, max_size=3)))
def test_together_is_exactly_no_duplicates_and_no_file_as_directory(parts):
    paths = ["/".join(part) for part in parts]
    folded = [tuple(item.lower() for item in part) for part in parts]
    directories = {part[:end] for part in folded for end in range(1, len(part))}
    clash = len(set(folded)) != len(folded) or not directories.isdisjoint(folded)
    if clash:
        with pytest.raises(FormatError):
            check_together(paths)
    else:
        check_together(paths)

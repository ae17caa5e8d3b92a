"""Names of models: one grammar, and no tricks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.limits import MAX_PART_CHARS
from icnblocks.naming import Name

GOOD = ["acme/minilm", "a/b@c", "Qwen/Qwen2.5-0.5B", "a_b/c_", "acme/x@2024-01-01", "0/1@v1.2"]
BAD = [
    "", "acme", "/x", "acme/", "acme//x", "acme/x/y", "acme/x@", "acme/x@a@b", "acme@v/x",
    "../x", "acme/..", "acme/.x", "acme/x.", "acme/-x", "acme/x-", "_a/x", "acme/a..b",
    "acme/a--b", "acme/x y", "acme/x\n", "acme/x\0", "acme/x\u2024y", "acme/x\uff0ey",
    "аcme/x", "acme/x@main/../y", "acme\\x", "acme/x%2f", "acme/\u0661", "acme/é",
    "acme/" + "x" * (MAX_PART_CHARS + 1), "x" * (MAX_PART_CHARS + 1) + "/x",
    "acme/x@" + "x" * (MAX_PART_CHARS + 1),
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_good_names_are_read_and_written_back(text):
    assert str(Name.parse(text)) == text


@pytest.mark.parametrize("text", BAD, ids=[ascii(text)[:30] for text in BAD])
def test_bad_names_are_refused_on_one_line(text):
    with pytest.raises(UsageError) as caught:
        Name.parse(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["acme/.hidden", "acme/-x", "_a/x", "acme/x.", "acme/a--b"])
def test_a_bad_name_is_told_with_the_rule_that_it_breaks(text):
    """Catches: a list of the characters that are allowed, which these names keep to."""
    with pytest.raises(UsageError) as caught:
        Name.parse(text)
    for rule in ("begin with '.', '_' or '-'", "end with '.' or '-'", "'..' or '--'"):
        assert rule in caught.value.hint


def test_the_default_tag_is_left_out_when_written():
    assert Name.parse("a/b@main") == Name.parse("a/b") == Name("a", "b", "main")
    assert str(Name("a", "b", "main")) == "a/b"
    assert Name.parse("a/b@v2").repo == "a/b"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aZ0._-/@ é\n"), max_size=12) | st.text(max_size=20))
def test_any_text_is_a_name_or_a_usage_error(text):
    try:
        name = Name.parse(text)
    except UsageError:
        return
    assert Name.parse(str(name)) == name
    for part in (name.publisher, name.model, name.tag):
        assert part.isascii()
        assert "/" not in part
        assert "--" not in part  # so that publisher--model is a folder name of one model only


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_full_names_of_different_blocks_differ(path, tensor):
    name = Name("a", "b")
    try:
        text = name.block(path, tensor, 3)
    except UnicodeEncodeError:
        return
    assert text.startswith("a/b@main/")
    assert text.endswith("/3")
    assert text.count("#") == 1
    assert text.split("#")[1].count("/") == 1

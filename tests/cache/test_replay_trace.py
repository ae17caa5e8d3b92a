"""Reading traces: what is good is read to the byte, what is bad is one sentence with its line."""

import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.replay.lines import TraceWriter, get_line, model_line, parse_trace, read_trace
from icnblocks.cache.replay.trace import MAX_EDGES, TraceBuilder, digest_of
from icnblocks.errors import FormatError
from icnblocks.naming import Digest

GOOD = model_line("m", [("b", 10), ("c", 20)]) + get_line(1.5, "m")


def parse(text):
    data = text if isinstance(text, bytes) else text.encode()
    return parse_trace(io.BytesIO(data), "t.jsonl")


BAD = {
    "unknown model": (get_line(2, "n"), "model 'n' is not known"),
    "negative size": (model_line("n", [("x", -1)]), "not -1"),
    "zero size": (model_line("n", [("x", 0)]), "not 0"),
    "huge size": (model_line("n", [("x", 1 << 51)]), "must have 1 to"),
    "size that is a fraction": (model_line("n", [("x", 1.5)]), "not 1.5"),
    "size that is a word": (model_line("n", [("x", "7")]), "not '7'"),
    "size that is a truth": (model_line("n", [("x", True)]), "not True"),
    "block with another size": (model_line("n", [("b", 11)]), "has 11 bytes here, and 10"),
    "another size in one line": (model_line("n", [("x", 1), ("x", 2)]), "has 2 bytes here, and 1"),
    "time backward": (get_line(1, "m"), "time runs backward, from 1.5 to 1"),
    "negative time": (get_line(-1, "m"), "the time must be from 0"),
    "milliseconds": (get_line(1.7e12, "m"), "the time must be from 0"),
    "endless time": ('{"t":1e999,"get":"m"}\n', "the time must be from 0"),
    "time beyond floats": (f'{{"t":1{"0" * 400},"get":"m"}}\n', "the time must be from 0"),
    "time that is a word": ('{"t":"2","get":"m"}\n', "not a number of seconds: '2'"),
    "time that is a truth": ('{"t":true,"get":"m"}\n', "not a number of seconds"),
    "no time": ('{"get":"m"}\n', 'has no time ("t")'),
    "NaN": ('{"t":NaN,"get":"m"}\n', "the time must be from 0"),
    "NaN as a size": ('{"model":"n","blocks":[["x",NaN]]}\n', "must have 1 to"),
    "cut off": ('{"t":2,"ge', "is cut off"),
    "not JSON": ("hello\n", "is not JSON: Expecting value at character 1"),
    "digits without end": (f'{{"t":2,"get":{"7" * 5000}}}\n', "number of thousands of digits"),
    "not an object": ("[1]\n", "is not a JSON object"),
    "nested too deeply": ("[" * 100_000 + "\n", "nested too deeply"),
    "not UTF-8": (b'{"t":2,"get":"\xff"}\n', "is not UTF-8"),
    "neither": ('{"t":2}\n', 'neither "model" nor "get"'),
    "both": ('{"t":2,"get":"m","model":"m"}\n', 'both "get" and "model"'),
    "blocks missing": ('{"model":"n"}\n', '"blocks" must be a list'),
    "blocks without sizes": ('{"model":"n","blocks":["x"]}\n', '"blocks" must be a list'),
    "id that is a list": ('{"model":["n"],"blocks":[]}\n', "neither a string nor a whole number"),
    "id that is a fraction": ('{"t":2,"get":1.0}\n', "neither a string nor a whole number"),
    "id that is nothing": ('{"t":2,"get":null}\n', "neither a string nor a whole number"),
    "block id that is a truth": ('{"model":"n","blocks":[[true,1]]}\n', "neither a string"),
    "empty id": (get_line(2, ""), "has 0 characters"),
    "endless id": (get_line(2, "x" * 1025), "has 1025 characters"),
    "edge that is a list": ('{"t":2,"get":"m","edge":[]}\n', "the id of an edge"),
    "edge that is half a character": (get_line(2, "m", "\ud800"), "not Unicode text: '\\ud800'"),
    "blocks beyond 64 bits": (model_line("n", [(f"x{n}", 1 << 50) for n in range(8192)]), "2^63"),
    "base that is a list": ('{"model":"n","blocks":[],"base":[]}\n', "the id of a base"),
    "other blocks": (model_line("m", [("b", 10)]), "before with other blocks"),
    "other order": (model_line("m", [("c", 20), ("b", 10)]), "before with other blocks"),
    "other base": (model_line("m", [("b", 10), ("c", 20)], "z"), "before with another base"),
}  # fmt: skip


def test_a_model_is_known_by_its_text_and_by_its_digest():
    told = model_line(str(digest_of("m")), [("b", 10), ("c", 20)])
    asked = get_line(2, str(digest_of("m"))) + get_line(3, "m")
    assert list(parse(GOOD + told + asked).wanted) == [0, 0, 0]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_told_with_its_number_in_one_sentence(what):
    line, words = BAD[what]
    data = GOOD.encode() + (line if isinstance(line, bytes) else line.encode())
    with pytest.raises(FormatError) as caught:
        parse(data)
    text = str(caught.value)
    assert text.startswith("t.jsonl, line 3: ")
    assert words in text
    assert "line 1" not in text, "a line has one number"
    assert "\n" not in text


def test_a_manifest_that_lies_of_a_block_spoils_no_trace_of_a_daemon():
    """Catches: one such manifest, told to a daemon, made all that it traced unreadable."""
    sizes = {"a": 7, "b": 9, "c": 9}
    told = [model_line(name, [("f" * 64, sizes[name])]) for name in "abcb"]
    trace = parse("".join(told) + get_line(1, "a") + get_line(2, "b"))
    (first,), (wrong,), (alike,) = (model.blocks for model in trace.models)
    assert str(first) == "f" * 64
    assert wrong == alike != first
    assert (trace.lengths[first], trace.lengths[wrong], trace.unique_bytes) == (7, 9, 16)


def test_a_trace_without_requests_is_refused():
    for text in ("", "\n", "\ufeff", model_line("m", [("b", 1)])):
        with pytest.raises(FormatError, match="asks for a model"):
            parse(text)


def test_a_gzip_file_that_was_cut_off_is_refused_and_a_whole_one_read(tmp_path):
    packed = gzip.compress(GOOD.encode())
    (tmp_path / "t.jsonl.gz").write_bytes(packed)
    assert len(read_trace(str(tmp_path / "t.jsonl.gz"))) == 1
    (tmp_path / "cut.gz").write_bytes(packed[:-12])
    with pytest.raises(FormatError, match=r"cut\.gz, after line .* broken or cut off"):
        read_trace(str(tmp_path / "cut.gz"))


def test_what_a_trace_says_is_what_is_read():
    trace = parse(
        model_line(7, [("b", 10), ("b", 10), (8, 5)], base="unheard-of")
        + "\n"
        + get_line(0, "7")
        + model_line("e" * 64, [("f" * 64, 1), ("b", 10)])
        + model_line(7, [("b", 10), ("8", 5)], base="unheard-of")
        + get_line(2, "e" * 64, edge="paris").replace("}", ',"more":1}')
    )
    first, second = trace.models
    assert first.name == "7"
    assert first.blocks == (digest_of("b"), Digest.of(b"8"))
    assert first.base == Digest.of(b"unheard-of")
    assert second.digest == Digest.parse("e" * 64)
    assert second.base is None
    assert trace.lengths_of(second) == {Digest.parse("f" * 64): 1, digest_of("b"): 10}
    assert (first.size, second.size, trace.unique_bytes) == (15, 11, 16)
    assert list(trace.published) == [0, 1], "the second is published after one request"
    assert (list(trace.times), list(trace.wanted)) == ([0, 2], [0, 1])
    assert trace.edge_names == ("", "paris")
    assert list(trace.edges) == [0, 1]


def test_requests_are_bounded_by_what_figures_can_hold():
    """Sums beyond 64 bits were nonsense without a word: byte hits of 2.6, and -6.6 EB."""
    builder = TraceBuilder()
    builder.model("m", [(n, 1 << 50) for n in range(4096)])
    builder.get(0, "m")
    with pytest.raises(FormatError, match=r"requests come to 2\^63 bytes or more"):
        builder.get(0, "m")
    assert len(builder.build()) == 1


def test_a_byte_order_mark_and_nan_where_nobody_reads_it_are_passed_over():
    noted = get_line(2, "m").replace("}", ',"note":NaN,"most":-Infinity}')
    for text in ("\ufeff" + GOOD + noted, "\ufeff\n" + GOOD + noted):
        assert len(parse(text)) == len(parse(gzip.compress(text.encode()))) == 2


def test_a_model_may_have_no_blocks():
    assert parse(model_line("m", []) + get_line(0, "m")).models[0].size == 0


def test_edges_are_bounded():
    builder = TraceBuilder()
    builder.model("m", [("b", 1)])
    for number in range(MAX_EDGES):
        builder.get(0, "m", number)
    with pytest.raises(FormatError, match="more than 4096 edges"):
        builder.get(0, "m", "one more")


def test_a_refused_model_leaves_nothing_behind():
    """Else a maker that goes on after an error would have sizes of blocks of no model."""
    builder = TraceBuilder()
    with pytest.raises(FormatError):
        builder.model("m", [("b", 1), ("c", 0)])
    builder.model("m", [("b", 2)])
    builder.get(0, "m")
    assert builder.build().unique_bytes == 2


_id = st.one_of(st.text(min_size=1, max_size=8), st.integers(-9, 99))


@settings(max_examples=40, deadline=None)
@given(
    models=st.dictionaries(st.text(min_size=1, max_size=5), st.sets(st.integers(0, 9)), min_size=1),
    gets=st.lists(st.tuples(st.integers(0, 99), st.floats(0, 100), st.none() | _id), min_size=1),
)
def test_what_is_written_is_read_again(models, gets):
    text, builder = io.StringIO(), TraceBuilder()
    for sink in (TraceWriter(text), builder):
        for name, blocks in models.items():
            sink.model(name, [(block, 1 + block) for block in sorted(blocks)])
        now = 0.0
        for model, gap, edge in gets:
            now += gap
            sink.get(now, list(models)[model % len(models)], edge)
    assert parse(text.getvalue()) == builder.build()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_are_a_traceback(data):
    try:
        parse(GOOD.encode() + data)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["t", "get", "model", "blocks", "base", "edge"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_is_a_traceback(value):
    try:
        parse(GOOD + json.dumps(value) + "\n")
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017

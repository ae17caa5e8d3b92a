"""A model that is used while it is pulled: real daemons, and a link that stops where it is told."""

import fcntl
import json
import os
import resource
import shutil
import socket
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icnblocks
from icnblocks.assembly import contents
from icnblocks.assembly import reuse as reuse_module
from icnblocks.assembly.assembler import Assembler
from icnblocks.client.settings import load_settings
from icnblocks.errors import FormatError, IcnError, NotFoundError, StorageError, UsageError
from icnblocks.manifest.model import Kind, Tensor
from icnblocks.publish.facade import publish
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.models import Part, lora, noise, write_llama, write_safetensors
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay
from tests.assembly.test_puller import settings

__all__ = ["settings"]  # a fixture
NAME = "acme/llama"


@dataclass(frozen=True, slots=True)
class Origin:
    """A running one, how to publish there, and the directory of its first model."""

    url: str
    port: int
    publish: Any
    model: Path


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("origin")
    model = write_llama(tmp / "model", layers=8, hidden=512, intermediate=1024, dtype="F16")
    lora(tmp / "lora", base=NAME)
    keys = ("store", "keys", "known_publishers")
    mine = load_settings({f"ICN_{key.upper()}": str(tmp / "m" / key) for key in keys})
    with start_edge(tmp / "store") as edge:
        there = partial(publish, to=edge.url, settings=mine)
        there(model, NAME)
        there(tmp / "lora", "acme/lora", base=NAME)
        yield Origin(edge.url, edge.port, there, model)


@pytest.fixture
def stream(settings):
    """icnblocks.stream on a machine of its own, which gives up early."""
    quick = replace(settings, stall_s=1.0, retry_s=2.0, trust_first_use=True)

    def run(name, url, framework="numpy", **options):
        options.setdefault("settings", quick)
        return icnblocks.stream(name, framework, sources=url, **options)

    return run


@pytest.fixture
def patient(settings):
    return replace(settings, stall_s=600.0, retry_s=600.0, trust_first_use=True)


@pytest.fixture
def in_order(patient):
    """One connection: what comes on another would use up what a relay passes on before it holds."""
    return replace(patient, connections=1)


def expected(directory):
    return icnblocks.load(directory)


def same(given, wanted):
    return all(np.array_equal(given[name].view(np.uint8), wanted[name].view(np.uint8))
               for name in wanted)  # fmt: skip


def test_all_tensors_come_in_the_order_of_the_files_and_stay(origin, stream):
    with stream(NAME, origin.url) as tensors:
        config = json.loads(tensors.read("config.json"))
        given = dict(tensors)
        path = tensors.wait()
    assert config["num_hidden_layers"] == 8
    wanted = expected(origin.model)
    assert list(given) == list(wanted)
    assert same(given, wanted)
    assert same(icnblocks.load(path), wanted)


@pytest.mark.slow
def test_torch_has_them_too(origin, stream):
    torch = pytest.importorskip("torch")
    with stream(NAME, origin.url, "torch") as tensors:
        given = dict(tensors)
    wanted = icnblocks.load(origin.model, "torch")
    assert list(given) == list(wanted)
    raw = torch.uint8  # noise has NaNs, which equal nothing
    assert all(torch.equal(given[name].view(raw), wanted[name].view(raw)) for name in wanted)


def test_the_first_are_there_while_the_rest_cannot_come(origin, stream, in_order):
    """Catches: waiting for the whole file, or for files that are not needed yet."""
    size = sum(file.stat().st_size for file in origin.model.iterdir())
    with (
        Relay(origin.port, hold_after=size // 2) as relay,
        stream(NAME, relay.url, settings=in_order) as tensors,
    ):
        assert tensors.read("model.safetensors.index.json")
        given = dict(name_and_tensor for name_and_tensor, _ in zip(tensors, range(8), strict=False))
        assert relay.holding.wait(20)
        assert len(given) == 8
        wanted = expected(origin.model)
        assert same(given, {name: wanted[name] for name in given})
        relay.let_go()
        assert same(icnblocks.load(tensors.wait()), wanted)


def test_what_is_written_into_a_tensor_changes_neither_file_nor_later_ones(
    origin, stream, in_order
):
    """Tensors share pages with the next: one that was written into shows what lay there then."""
    with icnblocks.open_model(origin.model) as model:
        infos = [model.info(name) for name in model]
        wanted = model.tensors()
    size, edges = sum(file.stat().st_size for file in origin.model.iterdir()), 0
    with (
        Relay(origin.port, hold_after=size // 2) as relay,
        stream(NAME, relay.url, settings=in_order) as tensors,
    ):
        for (name, tensor), following in zip(tensors, [*infos[1:], infos[-1]], strict=False):
            assert np.array_equal(tensor.view(np.uint8), wanted[name].view(np.uint8)), name
            tensor.view(np.uint8)[...] = 255
            reach = tensors._pulling.parts[following.file.name].reach
            if reach.look() < following.offset + following.length:  # their page was written into
                edges += 1
                relay.let_go()
        path = tensors.wait()
    assert edges
    assert same(icnblocks.load(path), wanted)


def test_a_model_that_is_there_is_loaded_from_there(origin, stream, settings):
    with stream(NAME, origin.url) as tensors:
        tensors.wait()
    with stream(NAME, "http://127.0.0.1:9", max_age_s=3600.0) as tensors:
        assert json.loads(tensors.read("config.json"))["model_type"] == "llama"
        assert same(dict(tensors), expected(origin.model))
        with pytest.raises(NotFoundError):
            tensors.read("nothing.json")


def test_when_the_source_goes_the_loop_says_so_and_what_came_is_kept(origin, stream, in_order):
    gives_up = replace(in_order, stall_s=1.0, retry_s=2.0)
    size = sum(file.stat().st_size for file in origin.model.iterdir())
    with Relay(origin.port, hold_after=size // 2) as relay:
        given = []
        with pytest.raises(IcnError), stream(NAME, relay.url, settings=gives_up) as tensors:
            given.extend(name for name, _ in tensors)
        assert given == list(expected(origin.model))[: len(given)]
        assert given
        before = relay.passed
        relay.let_go()
        with stream(NAME, relay.url) as tensors:
            assert same(dict(tensors), expected(origin.model))
        assert relay.passed - before < 0.75 * size


def test_leaving_early_ends_the_pull_and_its_threads(origin, stream, in_order):
    with Relay(origin.port, hold_after=300_000) as relay:
        with stream(NAME, relay.url, settings=in_order) as tensors:
            tensors.read("config.json")
            assert relay.holding.wait(20)
        left = {each.name for each in threading.enumerate() if each.name.startswith("icn-")}
        assert not left
        with pytest.raises(UsageError, match="inside"):
            tensors.wait()


def leaves_soon(stream, reached):
    """Whether a block can be left when `reached` has returned, where the pull stands still."""
    ended = threading.Event()

    def use():
        with stream:
            reached()
        ended.set()

    threading.Thread(target=use, daemon=True).start()
    return ended.wait(15)


class Held:
    """Holds up the thread that pulls until the stream was left."""

    def __init__(self, monkeypatch):
        self.begun, self._left = threading.Event(), threading.Event()

        def join(thread, timeout=None, _join=threading.Thread.join):
            if thread.name == "icn-stream":  # it was told to end
                self._left.set()
            _join(thread, timeout)

        monkeypatch.setattr(threading.Thread, "join", join)

    def __call__(self, go_on):
        self.begun.set()
        assert self._left.wait(20)
        return go_on()


def test_a_file_is_read_that_another_pull_is_about_to_replace(origin, stream):
    """Catches: zeros, or a mixture, from the partial file of a pull that has only begun."""
    with stream(NAME, origin.url) as tensors:
        path = tensors.wait()
        (path / "config.json.partial").write_bytes(bytes(10))
        assert tensors.read("config.json") == (origin.model / "config.json").read_bytes()


def test_leaving_ends_the_wait_for_a_source_that_does_not_answer(stream, patient):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        held: list[socket.socket] = []
        pulled = stream(NAME, url, settings=patient)
        assert leaves_soon(pulled, lambda: held.append(silent.accept()[0]))
        held[0].close()


def test_leaving_ends_the_wait_for_a_busy_source(stream, patient):
    """Catches: `Retry-After: 25`, and a block that is left 25 seconds later."""
    busy = Reply(503, b'{"error":"busy","message":"later"}', {"Retry-After": "25"})
    with LyingServer({}, respond=lambda _: busy) as server:
        pulled = stream(NAME, server.url, settings=patient)
        assert leaves_soon(pulled, lambda: poll_until(lambda: server.requests))


def test_leaving_ends_the_pull_of_a_base(origin, stream, patient):
    with Relay(origin.port, hold_after=400_000) as relay:
        pulled = stream("acme/lora", relay.url, settings=patient)
        assert leaves_soon(pulled, lambda: relay.holding.wait(20))


def test_leaving_ends_the_taking_of_blocks_from_another_model(
    origin, stream, tmp_path, monkeypatch
):
    """Catches: a block that is left when 100 GB of another model have been hashed and copied."""
    with stream(NAME, origin.url, to=tmp_path / "one") as tensors:
        tensors.wait()
    taken = []

    def opened(self, digest, _open=InPlaceStore.open):
        taken.append(digest)
        return held_until_left(lambda: _open(self, digest))

    held_until_left = Held(monkeypatch)
    monkeypatch.setattr(InPlaceStore, "open", opened)
    monkeypatch.setattr(reuse_module, "_THREADS", 1)
    pulled = stream(NAME, origin.url, to=tmp_path / "two")
    assert leaves_soon(pulled, lambda: held_until_left.begun.wait(20))
    assert len(taken) < 3  # the one, and what is shared of it


@pytest.mark.parametrize("edited", [False, True])
def test_leaving_ends_the_hashing_of_what_lies_there(origin, stream, tmp_path, monkeypatch, edited):
    """Catches: a block that is left when 100 GB have been hashed, which the index did not know."""
    files = len(list(shutil.copytree(origin.model, tmp_path / "here").iterdir()))
    for path in (tmp_path / "here").iterdir() if edited else ():
        path.write_bytes(b"x" + path.read_bytes()[1:])
    hashed = []

    def read(*args, _read=contents._read):
        hashed.append(args)
        if edited and len(hashed) <= files:  # the first block of each is enough to see that
            return _read(*args)
        return held_until_left(lambda: _read(*args))

    held_until_left = Held(monkeypatch)
    monkeypatch.setattr(contents, "_read", read)
    pulled = stream(NAME, origin.url, to=tmp_path / "here", overwrite=True)
    assert leaves_soon(pulled, lambda: held_until_left.begun.wait(20))
    assert len(hashed) == (files + 1 if edited else 1)


def test_leaving_ends_the_wait_for_another_pull(origin, stream, tmp_path, caplog):
    (tmp_path / "here" / ".icnblocks").mkdir(parents=True)
    with (tmp_path / "here" / ".icnblocks" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pulled = stream(NAME, origin.url, to=tmp_path / "here")
        waits = lambda: "waiting for another pull" in caplog.text  # noqa: E731
        assert leaves_soon(pulled, lambda: poll_until(waits))


def test_a_loop_that_goes_on_after_its_block_says_so(origin, stream):
    with stream(NAME, origin.url) as tensors:
        loop = iter(tensors)
        next(loop)
    with pytest.raises(UsageError, match="inside"):
        list(loop)


def test_an_adapter_brings_its_base(origin, stream, settings):
    with stream("acme/lora", origin.url) as tensors:
        assert tensors.read("adapter_config.json")
        given = dict(tensors)
    assert given
    assert all("lora" in name for name in given)
    assert same(icnblocks.load(settings.models / "acme" / "llama"), expected(origin.model))


def test_shared_and_empty_tensors_and_files_in_folders(origin, stream, tmp_path):
    """A block of zeros may be in a hundred places; a tensor of no bytes waits for none."""
    root = tmp_path / "odd"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "more.txt").write_bytes(os.urandom(5000))
    some = Tensor("c", "F32", (300, 1000))
    parts = [
        Part(Tensor("a", "U8", (3_000_000,)), iter([bytes(3_000_000)])),
        Part(Tensor("b", "F32", (0, 4)), iter([])),
        Part(some, noise(some, 1)),
        Part(Tensor("d", "U8", (3_000_000,)), iter([bytes(3_000_000)])),
    ]
    write_safetensors(root / "model.safetensors", parts)
    origin.publish(root, "acme/odd")
    with stream("acme/odd", origin.url) as tensors:
        assert tensors.read("sub/more.txt") == (root / "sub" / "more.txt").read_bytes()
        given = dict(tensors)
    assert given["b"].shape == (0, 4)
    assert same(given, expected(root))


def test_a_file_beyond_what_one_read_gives_is_given_whole(origin, stream, tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    data = os.urandom(300_000)
    (tmp_path / "pack" / "big.bin").write_bytes(data)
    origin.publish(tmp_path / "pack", "acme/big", kind=Kind.PACK)
    once = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: once(fd, min(count, 100_000), at))
    with stream("acme/big", origin.url) as tensors:
        assert tensors.read("big.bin") == data


@pytest.mark.slow
def test_hundreds_of_files_need_no_more_descriptors_than_loading_them(
    origin, stream, settings, tmp_path
):
    root, count = tmp_path / "many", 600
    root.mkdir()
    for number in range(count):
        tensor = Tensor(f"t{number:04}", "U8", (5000,))
        write_safetensors(
            root / f"m-{number:04}.safetensors", [Part(tensor, noise(tensor, number))]
        )
    origin.publish(root, "acme/many")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with stream("acme/many", origin.url) as tensors:
            given = dict(tensors)
            assert tensors.read("m-0000.safetensors") == (root / "m-0000.safetensors").read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same(given, expected(root))


def test_a_file_that_cannot_be_opened_is_the_error(origin, stream, monkeypatch):
    """It was taken for a model without tensors: files were looked for among those before it."""

    def refuse(*_):
        raise StorageError("too many open files")

    monkeypatch.setattr(Assembler, "reading", refuse)
    with stream(NAME, origin.url) as tensors, pytest.raises(StorageError, match="too many"):
        list(tensors)


def test_what_is_no_model_of_tensors_says_so(origin, stream, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.txt").write_bytes(b"text")
    origin.publish(tmp_path / "pack", "acme/pack", kind=Kind.PACK)
    for _ in range(2):  # while it comes, and when it is there
        with stream("acme/pack", origin.url) as tensors:
            assert tensors.read("a.txt") == b"text"
            with pytest.raises(NotFoundError, match="safetensors") as caught:
                next(iter(tensors))
            assert "only safetensors" in caught.value.hint
            tensors.wait()


@pytest.mark.parametrize(
    ("named", "error"), [("absent.safetensors", NotFoundError), ("config.json", FormatError)]
)
def test_an_index_that_names_what_is_no_file_of_tensors(origin, stream, tmp_path, named, error):
    """Catches: the advice to look for another source, which would have the same index."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes(b"{}")
    index = {"weight_map": {"w": named}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    origin.publish(tmp_path / "m", "acme/lacks", kind=Kind.PACK)
    with stream("acme/lacks", origin.url) as tensors, pytest.raises(error, match="index") as caught:
        list(tensors)
    assert "source" not in caught.value.hint


def test_an_index_of_other_files_is_an_error(origin, stream, tmp_path):
    root = write_llama(tmp_path / "m", layers=1, hidden=64, intermediate=64, vocabulary=64)
    index = root / "model.safetensors.index.json"
    found = json.loads(index.read_bytes())
    found["weight_map"]["made.up"] = min(found["weight_map"].values())
    index.write_text(json.dumps(found))
    origin.publish(root, "acme/wrong")
    with pytest.raises(FormatError, match="promises"), stream("acme/wrong", origin.url) as tensors:
        list(tensors)


def test_wrong_uses_are_errors_of_one_line(origin, stream):
    with pytest.raises(UsageError, match="framework"):
        stream(NAME, origin.url, "jax")
    unused = stream(NAME, origin.url)
    with pytest.raises(UsageError, match="inside"):
        iter(unused)
    with pytest.raises(NotFoundError), stream("acme/nothing", origin.url) as tensors:
        list(tensors)
    with stream(NAME, origin.url) as tensors:
        list(tensors)
        with pytest.raises(UsageError, match="once"):
            iter(tensors)
        with pytest.raises(NotFoundError) as caught:
            tensors.read("nothing.json")
        assert "--all" in caught.value.hint
    with pytest.raises(UsageError, match="once"), tensors:
        pass

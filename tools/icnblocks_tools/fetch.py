"""`icn-fetch`: pull a model into a directory, ready to run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icnblocks.limits import MAX_PRIORITY
from icnblocks.quantities import human_bytes
from icnblocks_tools.options import PathType, read_option
from icnblocks_tools.output import is_terminal, make_output

if TYPE_CHECKING:
    from icnblocks.naming import Name
    from icnblocks.puller import Pulled
    from icnblocks.share import ShareOptions, Sharer
    from icnblocks_tools.output import Output


class _Listener:
    """Hears the pull and tells the output."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._name = ""
        self._reused = 0

    def begun(self, name: Name, total: int, done: int) -> None:
        self._name, self._reused = str(name), done
        self._output.begin(self._title(), total, done)

    def moved(self, count: int) -> None:
        self._output.advance(count)

    def reused(self, count: int) -> None:
        self._reused += count
        self._output.advance(count, self._title())

    def _title(self) -> str:
        return f"{self._name} (reused {human_bytes(self._reused)})" if self._reused else self._name

    def warned(self, text: str) -> None:
        self._output.say("warning", f"warning: {text}")


def _ask(publisher: str, key: str) -> bool:
    return click.confirm(
        f"{publisher} is not known yet; its key has the fingerprint\n  {key}\n"
        "Trust it from now on?",
        err=True,
    )


def facts(pulled: Pulled) -> dict[str, object]:
    """What scripts are told of one pulled model."""
    return {
        "name": str(pulled.name),
        "bytes_model": pulled.bytes_model,
        "bytes_network": pulled.bytes_network,
        "bytes_neighbours": pulled.bytes_neighbours,
        "bytes_wasted": pulled.bytes_wasted,
        "bytes_reused": pulled.bytes_reused,
        "bytes_manifest": pulled.bytes_manifest,
        "path": str(pulled.path),
        "manifest": str(pulled.manifest),
    }


def _summary(output: Output, pulled: Pulled, seconds: float) -> None:
    models = [pulled]
    while models[0].base is not None:  # the base of all first
        models.insert(0, models[0].base)
    for model in models:
        vain = human_bytes(model.bytes_wasted)
        near = human_bytes(model.bytes_neighbours)
        output.say(
            "model",
            f"{model.name}: {human_bytes(model.bytes_model)}, of which"
            f" {human_bytes(model.bytes_network)} over the network"
            f"{f' ({near} of it from neighbours)' if model.bytes_neighbours else ''}"
            f"{f' (and {vain} in vain)' if model.bytes_wasted else ''} and"
            f" {human_bytes(model.bytes_reused)} from this machine; in {model.path}",
            **facts(model),
        )
    totals = {
        key: sum(getattr(model, key) for model in models)
        for key in (
            "bytes_model",
            "bytes_network",
            "bytes_neighbours",
            "bytes_wasted",
            "bytes_reused",
            "bytes_manifest",
        )
    }
    base = {} if pulled.base is None else {"base_path": str(pulled.base.path)}
    output.say(
        "done",
        str(pulled.path),
        name=str(pulled.name),
        **totals,
        seconds=round(seconds, 3),
        path=str(pulled.path),
        manifest=str(pulled.manifest),
        **base,
    )


def _share(
    shares: bool, share_for: str | None, rate: str | None, listen: str | None
) -> tuple[ShareOptions | None, float | None]:
    """How to share, and for how many seconds after the pull; None for as long as may be."""
    from icnblocks.errors import UsageError
    from icnblocks.quantities import parse_duration, parse_rate

    if not shares:
        if share_for is not None or rate is not None or listen is not None:
            raise UsageError("--share-for, --share-rate and --share-listen go with --share")
        return None, None
    from icnblocks.share.options import ShareOptions, parse_listen

    seconds = read_option("--share-for", share_for, parse_duration)
    limit = read_option("--share-rate", rate, parse_rate)
    host, port = ("", 0) if listen is None else parse_listen(listen)
    return ShareOptions(host, port, limit), seconds


def _stay(output: Output, sharer: Sharer, seconds: float | None) -> None:
    """Serve neighbours until the time is over, or somebody ends it."""
    import signal
    from contextlib import suppress
    from queue import Empty, SimpleQueue

    if seconds != 0:
        # A bare queue: an event's lock may be held by the very thread that a signal interrupts.
        over: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.put(None))
        port = sharer.shared().port
        until = "until interrupted" if seconds is None else f"for {seconds:g} s"
        output.say("sharing", f"sharing at port {port} {until}", port=port, seconds=seconds)
        with suppress(Empty):
            over.get(timeout=seconds)
        # Taking leave may last two seconds; who cannot wait for it says so once more.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    shared = sharer.shared()
    nobody = "" if shared.connections else f"; nobody connected to port {shared.port}"
    output.say(
        "shared",
        f"sent {human_bytes(shared.bytes_sent)} to neighbours{nobody}",
        bytes_sent=shared.bytes_sent,
        refused=shared.refused,
        connections=shared.connections,
    )


@click.command()
@click.argument("name", metavar="NAME[@TAG]")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="URL",
    help="An edge or origin to ask; may be repeated. Default: `from` of the config file.",
)
@click.option(
    "--to",
    type=PathType(file_okay=False),
    metavar="DIR",
    help="The directory to make. Default: NAME under the models directory.",
)
@click.option(
    "--trust-first-use",
    is_flag=True,
    help="Accept the key of a publisher never met before, and remember it.",
)
@click.option(
    "--trust",
    metavar="FINGERPRINT",
    help="Accept just this key for the publisher, and remember it.",
)
@click.option("--offline", is_flag=True, help="Use only what is on this machine.")
@click.option(
    "--overwrite", is_flag=True, help="Replace files that were changed since they were pulled."
)
@click.option("--durable", is_flag=True, help="Flush everything to disk before saying it is done.")
@click.option(
    "--limit-rate",
    metavar="RATE",
    help="Read no faster, over all sources: 20Mbit, 2.5MB/s.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    metavar="N",
    help="0 to 7 [3]: of what waits at an edge, the larger goes first.",
)
@click.option(
    "--share",
    "shares",
    is_flag=True,
    help="Exchange blocks with other devices that do the same, and go on serving them when done.",
)
@click.option(
    "--share-for",
    metavar="TIME",
    help="Share for so long after the pull: 10m, 0. Default: until interrupted.",
)
@click.option("--share-rate", metavar="RATE", help="Send neighbours no faster, all together.")
@click.option(
    "--share-listen",
    metavar="HOST:PORT",
    help="Where to serve neighbours. Default: a free port of all addresses.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line, ending with the summary."
)
def fetch(
    name: str,
    sources: tuple[str, ...],
    to: str | None,
    trust_first_use: bool,
    trust: str | None,
    offline: bool,
    overwrite: bool,
    durable: bool,
    limit_rate: str | None,
    priority: int | None,
    shares: bool,
    share_for: str | None,
    share_rate: str | None,
    share_listen: str | None,
    as_json: bool,
) -> None:
    """Pull a model into a directory, ready to run.

    Takes what is already on this machine (any model pulled before), fetches the rest, verifies
    every block, and makes a directory that transformers and safetensors open as it is. An adapter
    brings its base beside it. Interrupted, it goes on where it was when run again.

    \b
    Examples:
      icn-fetch acme/minilm --from http://edge:4260 --trust-first-use
      icn-fetch acme/minilm-med@v2 --to ./minilm-med
      icn-fetch acme/minilm --share --share-for 10m

    Exit codes: 0 done, 2 usage, 4 not found, 5 not trusted, 9 source unreachable, 10 incomplete,
    11 disk, 15 changed files in the way, 130 interrupted; docs/client.md has them all.
    """
    import time

    from icnblocks.client.settings import load_settings, read_limit
    from icnblocks.errors import UsageError
    from icnblocks.naming import Name
    from icnblocks.puller import Puller, make_trust

    limit = read_option("--limit-rate", limit_rate, read_limit)
    share, share_s = _share(shares, share_for, share_rate, share_listen)
    if offline and share is not None:
        raise UsageError("--offline asks no edge, so nobody would hear of what --share offers")
    began = time.monotonic()
    wanted = Name.parse(name)
    settings = load_settings()
    if offline:
        settings = replace(settings, sources=())
    elif sources:
        settings = replace(settings, sources=sources)
    settings = replace(
        settings,
        durable=durable or settings.durable,
        limit_rate=settings.limit_rate if limit is None else limit,
        priority=settings.priority if priority is None else priority,
        trust_first_use=trust_first_use or settings.trust_first_use,
    )
    person = is_terminal(sys.stdin) and is_terminal(sys.stderr) and not as_json
    asks = _ask if person else None
    judge = make_trust(settings, trust, asks)
    with (
        make_output(as_json=as_json) as output,
        Puller(settings, judge, _Listener(output), overwrite=overwrite, share=share) as puller,
    ):
        pulled = puller.pull(wanted, None if to is None else Path(to))
        output.end()
        for publisher, key in judge.met.items():
            output.say(
                "trusted", f"remembered {publisher}: {key}", publisher=publisher, fingerprint=key
            )
        _summary(output, pulled, time.monotonic() - began)
        if puller.sharer is not None:
            _stay(output, puller.sharer, share_s)

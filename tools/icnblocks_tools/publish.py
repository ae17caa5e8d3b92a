"""`icn-publish`: cut, sign and publish a model directory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icnblocks.quantities import human_bytes
from icnblocks_tools.options import PathType, read_option
from icnblocks_tools.output import make_output

if TYPE_CHECKING:
    from icnblocks_tools.output import Output


class _Listener:
    """Hears the publish and tells the output."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def begun(self, what: str, total: int) -> None:
        self._output.begin(what, total)

    def moved(self, count: int) -> None:
        self._output.advance(count)

    def made_key(self, publisher: str, path: Path, fingerprint: str) -> None:
        self._output.say(
            "key",
            f"made a key for {publisher}: {path}\nits fingerprint, for those who pull:"
            f" {fingerprint}",
            publisher=publisher,
            path=str(path),
            fingerprint=fingerprint,
        )


def _warn_of_config(root: Path, base: str | None, output: Output) -> None:
    try:
        config = json.loads((root / "adapter_config.json").read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        output.say("warning", f"warning: cannot read adapter_config.json: {error}")
        return
    from icnblocks.publish.deliver import warn_of_local_base

    warning = warn_of_local_base(config) if isinstance(config, dict) else None
    if warning:
        output.say("warning", f"warning: {warning}")
    if base is None:
        output.say(
            "warning",
            "warning: this looks like an adapter; without --base NAME it is published as a model"
            " of its own, and those who pull it must find the base themselves",
        )


@click.command()
@click.argument("directory", type=PathType(path_type=Path, file_okay=False), metavar="DIR")
@click.argument("name", metavar="NAME[@TAG]")
@click.option("--to", "url", metavar="URL", help="The origin to publish to.")
@click.option(
    "--store",
    type=PathType(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Publish in place: a daemon that runs with this store serves the files where they are.",
)
@click.option("--base", metavar="NAME[@TAG]", help="The base that this adapter is a delta to.")
@click.option(
    "--kind",
    type=click.Choice(["base", "pack"]),
    default=None,
    help="Default: base if there is a safetensors file, else pack (any files).",
)
@click.option(
    "--key",
    type=PathType(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The publisher's key. Default: PUBLISHER.pem in the keys directory, made on first use.",
)
@click.option(
    "--lifetime",
    metavar="TIME",
    help="How long edges may serve the name before they ask again, such as 1h, at most 30d."
    " Default: as before; 60s at first.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line, ending with the summary."
)
def publish(
    directory: Path,
    name: str,
    url: str | None,
    store: Path | None,
    base: str | None,
    kind: str | None,
    key: Path | None,
    lifetime: str | None,
    as_json: bool,
) -> None:
    """Cut, sign and publish a model directory.

    Hashes the files in parallel, sends only the blocks that the origin lacks, then the manifest,
    then the signed record. Cut off, it goes on where it was when run again.

    \b
    Examples:
      icn-publish ./minilm acme/minilm --to http://origin:4260
      icn-publish ./minilm-med acme/minilm-med --to http://origin:4260 --base acme/minilm
      icn-publish ./minilm acme/minilm --store /srv/icn     (in place, nothing is copied)
    """
    from icnblocks.manifest.model import Kind
    from icnblocks.naming import Name
    from icnblocks.publish.facade import publish as publish_model
    from icnblocks.quantities import parse_duration

    seconds = read_option("--lifetime", lifetime, parse_duration)
    wanted = Name.parse(name)  # what cannot be meant is said before anything is looked at
    base_name = None if base is None else Name.parse(base)
    began = time.monotonic()
    with make_output(as_json=as_json) as output:
        _warn_of_config(directory, base, output)
        published = publish_model(
            directory,
            wanted,
            to=url,
            store=store,
            base=base_name,
            kind=None if kind is None else Kind(kind),
            lifetime=None if seconds is None else round(seconds),
            key=key,
            listener=_Listener(output),
        )
        output.end()
        state = "was published already" if published.again else "is published"
        output.say(
            "done",
            f"{name} {state}: manifest {published.manifest}, sequence {published.seq},"
            f" {human_bytes(published.bytes_sent)} sent",
            name=name,
            manifest=str(published.manifest),
            seq=published.seq,
            bytes_sent=published.bytes_sent,
            bytes_manifest=published.bytes_manifest,
            again=published.again,
            seconds=round(time.monotonic() - began, 3),
        )

"""`icn withdraw` and `icn rotate-key`: what publishers do besides publishing."""

from __future__ import annotations

import time
from pathlib import Path

import click

from icnblocks_tools.options import PathType
from icnblocks_tools.output import make_output


@click.command()
@click.argument("name", metavar="NAME[@TAG]")
@click.option("--to", "url", metavar="URL", required=True, help="The origin it is published at.")
@click.option(
    "--key",
    type=PathType(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The publisher's key. Default: PUBLISHER.pem in the keys directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def withdraw(name: str, url: str, key: Path | None, as_json: bool) -> None:
    """Withdraw a tag that you published.

    Signs a record that says so; edges pass it on within the lifetime of the old record. Models
    that were pulled stay where they are.
    """
    from icnblocks.client.settings import load_settings
    from icnblocks.naming import Name
    from icnblocks.publish.deliver import withdraw as withdraw_name
    from icnblocks.publish.keys import existing_key
    from icnblocks.publish.ways import open_origin

    wanted, settings = Name.parse(name), load_settings()
    signer = existing_key(key or settings.keys / f"{wanted.publisher}.pem")
    with make_output(as_json=as_json) as output:
        with open_origin(settings, url, wanted.publisher, signer) as origin:
            seq = withdraw_name(origin, wanted, signer, int(time.time()))
        output.say("done", f"{name} is withdrawn, sequence {seq}", name=name, seq=seq)


@click.command()
@click.argument("publisher")
@click.option(
    "--key",
    type=PathType(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The key to replace. Default: PUBLISHER.pem in the keys directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rotate_key(publisher: str, key: Path | None, as_json: bool) -> None:
    """Replace a publisher key by a new one that the old one signs.

    What you publish next carries the old key's word for the new one, and clients that know the
    old key follow it without asking. Publish each of your tags again to bring them over.
    """
    from icnblocks.client.settings import load_settings
    from icnblocks.naming import Name
    from icnblocks.publish.keys import rotate_key as rotate_file

    Name(publisher, "x")
    path = key or load_settings().keys / f"{publisher}.pem"
    fresh = rotate_file(path, publisher, int(time.time()))
    with make_output(as_json=as_json) as output:
        output.say(
            "done",
            f"{path} holds a new key for {publisher}: {fresh.fingerprint}",
            publisher=publisher,
            path=str(path),
            fingerprint=fresh.fingerprint,
        )

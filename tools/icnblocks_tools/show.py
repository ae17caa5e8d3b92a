"""`icn-show`: what a model is made of, and what two models share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icnblocks.quantities import human_bytes
from icnblocks_tools.options import PathType
from icnblocks_tools.output import make_output, printable

if TYPE_CHECKING:
    from icnblocks.client.resolve import Resolved
    from icnblocks.manifest.model import Manifest
    from icnblocks.puller import Puller
    from icnblocks_tools.output import Output

_LISTED = 20
_RESULTS = ("model", "share", "place", "changed")


def _resolve(puller: Puller, text: str) -> Resolved:
    """A name, a manifest's digest, or a pulled directory, followed to its manifest."""
    from icnblocks.errors import FormatError
    from icnblocks.naming import Digest, Name

    if Path(text).is_dir() or text.startswith((".", "/")):  # no name begins so
        from icnblocks.assembly.inspect import pulled_into

        return pulled_into(Path(text))
    try:
        digest = Digest.parse(text)
    except FormatError:
        return puller.resolver.resolve(Name.parse(text))
    return puller.resolver.manifest(Name("any", "manifest"), digest)


def describe(manifest: Manifest) -> dict[str, Any]:
    """What scripts are told of a manifest."""
    lengths = manifest.lengths()
    facts: dict[str, Any] = {
        "kind": str(manifest.kind),
        "bytes_model": manifest.size,
        "bytes_unique": sum(lengths.values()),
        "block_bytes": manifest.block_bytes,
        "blocks": manifest.block_count,
        "blocks_unique": len(lengths),
        "files": [{"path": file.path, "bytes": file.size} for file in manifest.files],
        "tensors": sum(run.tensor is not None for file in manifest.files for run in file.runs),
    }
    if manifest.base is not None:
        facts["base"] = str(manifest.base.name)
        facts["base_manifest"] = str(manifest.base.manifest)
    return facts


def share(first: Manifest, second: Manifest) -> dict[str, int]:
    """What two models share, in distinct blocks and bytes."""
    one, two = first.lengths(), second.lengths()
    common = one.keys() & two.keys()
    return {
        "blocks_shared": len(common),
        "bytes_shared": sum(one[digest] for digest in common),
        "bytes_only_first": sum(size for digest, size in one.items() if digest not in two),
        "bytes_only_second": sum(size for digest, size in two.items() if digest not in one),
    }


def _tensor_lines(manifest: Manifest, *, every: bool) -> list[str]:
    lines = []
    for file in manifest.files:
        for run in file.runs:
            if run.tensor is not None:
                shape = "x".join(map(str, run.tensor.shape)) or "scalar"
                name = printable(run.tensor.name)
                lines.append(f"  {name}  {run.tensor.dtype}  {shape}  {human_bytes(run.length)}")
    return _shortened(lines, every=every)


def _shortened(lines: list[str], *, every: bool) -> list[str]:
    if every or len(lines) <= _LISTED:
        return lines
    return [*lines[:_LISTED], f"  … and {len(lines) - _LISTED} more (--all lists them)"]


def _print(
    output: Output, title: str, resolved: Resolved, *, every: bool, brief: bool = False
) -> None:
    facts = describe(resolved.manifest)
    text = [
        f"{title}: {facts['kind']}, {human_bytes(facts['bytes_model'])} in"
        f" {len(facts['files'])} files, {facts['tensors']} tensors",
        f"  manifest {resolved.digest}",
        f"  {facts['blocks']} blocks of at most {facts['block_bytes']} bytes,"
        f" {facts['blocks_unique']} of them distinct ({human_bytes(facts['bytes_unique'])})",
    ]
    if "base" in facts:
        text.append(f"  base {facts['base']} (manifest {facts['base_manifest']})")
    if not brief:
        files = [f"  {file['path']}  {human_bytes(file['bytes'])}" for file in facts["files"]]
        text += _shortened(files, every=every)
        text += _tensor_lines(resolved.manifest, every=every)
    tensors = [
        {
            "file": file.path,
            "name": run.tensor.name,
            "dtype": run.tensor.dtype,
            "shape": run.tensor.shape,
            "bytes": run.length,
        }
        for file in resolved.manifest.files
        for run in file.runs
        if run.tensor is not None and every
    ]
    extra = {"tensor_list": tensors} if every else {}
    output.say(
        "model", "\n".join(text), name=title, manifest=str(resolved.digest), **facts, **extra
    )


def _places(puller: Puller, output: Output, resolved: Resolved) -> None:
    for root in puller.places.roots_of(resolved.digest):
        changed = puller.places.check(root)
        if changed:
            text = f"  lay in {root}, which is gone or out of reach now"
            if os.path.lexists(root):
                text = (
                    "  changed since it was indexed, and not served, or out of reach now:"
                    f" {root}: {', '.join(changed)}"
                )
            output.say("changed", text, path=str(root), files=changed)
        else:
            output.say("place", f"  lies in {root}", path=str(root))


@click.command()
@click.argument("model", metavar="NAME|DIGEST|DIR")
@click.argument("other", metavar="[NAME|DIGEST|DIR]", required=False)
@click.option("--from", "sources", multiple=True, metavar="URL", help="An edge or origin to ask.")
@click.option(
    "--store",
    type=PathType(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Look into this store (a daemon's) instead of the user's own.",
)
@click.option(
    "--trust-first-use", is_flag=True, help="Accept the key of a publisher never met before."
)
@click.option("--all", "every", is_flag=True, help="List every file and every tensor.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show(
    model: str,
    other: str | None,
    sources: tuple[str, ...],
    store: Path | None,
    trust_first_use: bool,
    every: bool,
    as_json: bool,
) -> None:
    """Say what a model is made of, and with a second one, what the two share.

    \b
    Examples:
      icn-show acme/minilm
      icn-show acme/minilm acme/minilm-med --from http://edge:4260
    """
    from icnblocks.client.settings import load_settings
    from icnblocks.puller import Puller, make_trust
    from icnblocks.store.home import check_is_store

    settings = load_settings()
    if sources:
        settings = replace(settings, sources=sources)
    if store is not None:
        check_is_store(store)
        settings = replace(settings, store=store)
    settings = replace(settings, trust_first_use=trust_first_use or settings.trust_first_use)
    with (
        make_output(as_json=as_json, results=_RESULTS) as output,
        Puller(settings, make_trust(settings, None, None)) as puller,
    ):
        first = _resolve(puller, model)
        _print(output, model, first, every=every, brief=other is not None and not every)
        _places(puller, output, first)
        if other is None:
            return
        second = _resolve(puller, other)
        _print(output, other, second, every=every, brief=not every)
        _places(puller, output, second)
        facts = share(first.manifest, second.manifest)
        output.say(
            "share",
            f"shared: {facts['blocks_shared']} blocks, {human_bytes(facts['bytes_shared'])};"
            f" only in {model}: {human_bytes(facts['bytes_only_first'])};"
            f" only in {other}: {human_bytes(facts['bytes_only_second'])}",
            **facts,
        )

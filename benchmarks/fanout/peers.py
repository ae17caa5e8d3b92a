"""How others do the same fan-out: caches with curl, copies from the origin, a swarm.

Each is given the same network, the same files and the same empty devices, runs with what its
authors recommend for this, and is left out by name with the reason where it cannot run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout import nginx
from benchmarks.fanout.running import HELD, Command, RunFailedError
from benchmarks.fanout.site import CACHE_PORT, ROOT, Site
from benchmarks.fanout.varnish import varnish
from benchmarks.suite import floor
from icnblocks.testing.processes import poll_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.fanout.material import Model
    from icnblocks.testing.network import Host

RSYNC_PORT: Final = 8730
SWARM_PORT: Final = 6881
CACHES: Final = ("nginx slice", "nginx lock", "varnish", "varnish floor")
WORDS: Final = {
    "icnblocks": "icn-edge, icn-fetch",
    "nginx slice": "nginx proxy_cache, lock, slice 1m; curl",
    "nginx lock": "nginx proxy_cache, lock; curl",
    "varnish": "Varnish, streaming; curl",
    "varnish floor": "Varnish, streaming; the floor",
    "curl": "curl from the origin",
    "rsync": "rsync from the origin",
    "swarm": "libtorrent swarm, origin seeds",
}
_NEEDS: Final = {
    "nginx slice": "nginx", "nginx lock": "nginx", "varnish": "varnishd",
    "varnish floor": "varnishd", "curl": "curl", "rsync": "rsync",
}  # fmt: skip


def obstacle(who: str) -> str:
    """Why a peer cannot run here; empty if it can."""
    if who == "swarm":
        found = importlib.util.find_spec("libtorrent") is not None
        return "" if found else "libtorrent is not installed (pip install libtorrent)"
    program = _NEEDS[who]
    return "" if shutil.which(program) else f"{program} is not installed"


def curls(hosts: Sequence[Host | None], folder: Path, url: str, model: Model) -> list[Command]:
    """One curl for each host that fetches all files of the model, unverified."""
    commands = []
    for number, host in enumerate(hosts):
        target = folder / f"curl{number}"
        target.mkdir(parents=True)
        words = [*(host.within if host else ()), "curl", "-sS", "--fail", "--noproxy", "*"]
        words += ["--remote-name-all", "--output-dir", str(target)]
        words += [f"{url}/{path}" for path in model.paths]
        commands.append(Command(words, folder / f"curl{number}.log"))
    return commands


def floors(
    hosts: Sequence[Host | None], folder: Path, url: str, model: Model, *, held: bool
) -> list[Command]:
    """For each host the least that a verified pull takes: see `benchmarks.suite.floor`.

    Args:
        hosts: None is this machine itself.
        folder: where they write.
        url: of the cache.
        model: what they fetch.
        held: they are loaded beforehand.
    """
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    program = ["-m", "benchmarks.fanout.held", *HELD, "floor"] if held else ["-P", floor.__file__]
    parts = floor.everything(model.files, f"{model.files.name}/")
    commands = []
    for number, host in enumerate(hosts):
        job = folder / f"floor{number}.json"
        floor.write_job(job, url, folder / f"floor{number}", parts, None)
        words = [*(host.within if host else ()), sys.executable, *program, str(job)]
        commands.append(Command(words, folder / f"floor{number}.log", environ, held=held))
    return commands


def behind(
    who: str, hosts: Sequence[Host | None], folder: Path, url: str, model: Model, *, held: bool
) -> list[Command]:
    """The clients of a cache; floors are loaded beforehand where `held`, curl has no need of it."""
    if who == "varnish floor":
        return floors(hosts, folder, url, model, held=held)
    return curls(hosts, folder, url, model)


def run(site: Site, who: str, model: Model, count: int) -> dict[str, Any]:
    """One cold fan-out of a peer: as `Site.fan_out`, or {"who", "failed"} with the reason."""
    why = obstacle(who)
    if why:
        return {"who": who, "devices": count, "failed": why}
    folder = site.context.memory / "peers"
    folder.mkdir()
    site.context.ballast.fill(model.unique * count)
    try:
        with ExitStack() as stack:
            commands = stack.enter_context(_commands(site, who, model, count, folder))
            return site.timed(who, commands)
    except (RunFailedError, TimeoutError, OSError) as error:
        return {"who": who, "devices": count, "failed": str(error)[:300]}
    finally:
        shutil.rmtree(folder)


@contextmanager
def _commands(
    site: Site, who: str, model: Model, count: int, folder: Path
) -> Iterator[list[Command]]:
    hosts = site.devices[:count]
    with ExitStack() as stack:
        if who in CACHES:
            url = stack.enter_context(cache(site, who))
            yield behind(who, hosts, folder, url, model, held=True)
        elif who == "curl":
            yield curls(hosts, folder, site.files, model)
        elif who == "rsync":
            stack.enter_context(_rsync_daemon(site))
            yield [
                Command(
                    [
                        *host.within, "rsync", "-a", "--inplace",
                        f"rsync://{site.backhaul.near.address}:{RSYNC_PORT}"
                        f"/files/{model.files.name}/",
                        str(folder / f"rsync{number}"),
                    ],
                    folder / f"rsync{number}.log",
                )
                for number, host in enumerate(hosts)
            ]  # fmt: skip
        else:
            yield stack.enter_context(_swarm(site, model, hosts, folder))


@contextmanager
def cache(site: Site, who: str) -> Iterator[str]:
    """A cold cache of this kind on the edge's host; yields its URL."""
    place = (site.context.root, site.edge, site.edge_address, CACHE_PORT, site.files)
    if who.startswith("varnish"):
        with varnish(*place) as url:
            yield url
    else:
        with nginx.cache(*place, sliced=who == "nginx slice") as url:
            yield url


@contextmanager
def _rsync_daemon(site: Site) -> Iterator[None]:
    config = site.context.root / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\nmax connections = 0\n"
        "reverse lookup = no\n"
        f"[files]\npath = {site.context.material.files}\n"
    )
    address = site.backhaul.near.address
    words = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--address={address}"]
    process = site.origin.start(*words, f"--port={RSYNC_PORT}")
    probe = ["rsync", f"rsync://{address}:{RSYNC_PORT}/"]
    try:
        poll_until(lambda: _works(site.origin, probe), what="rsync --daemon")
        yield
    finally:
        process.terminate()
        process.wait()


def _works(host: Host, words: Sequence[str]) -> bool:
    try:
        host.run(*words)
    except RuntimeError:
        return False
    return True


@contextmanager
def _swarm(
    site: Site, model: Model, hosts: Sequence[Host], folder: Path
) -> Iterator[list[Command]]:
    """A seed at the origin, and the leechers' commands: everybody is told of everybody."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    torrent = folder / "model.torrent"
    module = [sys.executable, "-m", "benchmarks.fanout.swarm"]
    site.origin.run("env", f"PYTHONPATH={ROOT}", *module, "make", str(model.files), str(torrent))
    seed = f"{site.backhaul.near.address}:{SWARM_PORT}"
    peers = [seed] + [f"{port.near.address}:{SWARM_PORT}" for port in site.ports[: len(hosts)]]
    up = folder / "seeding"
    words = [*module, "seed", str(torrent), str(model.files.parent), seed, str(up)]
    process = site.origin.start(*words, env=environ)
    try:
        poll_until(up.exists, what="the seed", timeout_s=60)
        commands = []
        for number, host in enumerate(hosts):
            target = folder / f"swarm{number}"
            target.mkdir()
            words = [*host.within, *module, "leech", str(torrent), str(target), peers[number + 1]]
            log = folder / f"swarm{number}.log"
            others = [peer for peer in peers if peer != peers[number + 1]]
            commands.append(Command([*words, *others], log, environ, until="has everything"))
        yield commands
    finally:
        process.kill()
        process.wait()

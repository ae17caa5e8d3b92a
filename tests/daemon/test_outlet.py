"""Writing to a client: what the file does not hold is not made up, and the connection is closed."""

import asyncio
import errno
import os

import pytest
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestServer

from icnblocks.limits import KIB, MIB
from icnblocks.store.lease import ExtentLease
from icnblocks_daemon.http.outlet import CutOffError, Outlet


class Trusting(ExtentLease):
    """A lease that notices nothing by itself."""

    __slots__ = ()

    def check(self):
        pass


@pytest.mark.parametrize("length", [1000, 500_000])
async def test_a_block_longer_than_its_file_closes_the_connection(tmp_path, length):
    path, cuts = tmp_path / "file", []
    path.write_bytes(bytes(length // 2))
    fd = os.open(path, os.O_RDONLY)

    async def answer(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        writer = await response.prepare(request)
        outlet = Outlet(request, writer, chunked=True, floor=1000, grace_s=5)
        try:
            await outlet.send(b"head", Trusting(fd, 0, length, lambda: None))
        except CutOffError as cut:
            cuts.append(cut.cause)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, ClientSession() as session:
        with pytest.raises(ClientError):
            async with session.get(server.make_url("/")) as got:
                await got.read()
    os.close(fd)
    assert cuts == ["changed"]


async def test_a_slow_reader_is_served_also_when_no_descriptor_is_left(tmp_path, monkeypatch):
    """The block was called changed, and its reader cut off; what was called so was rechecked."""
    path, data, short = tmp_path / "file", os.urandom(MIB) * 32, asyncio.Event()
    path.write_bytes(data)

    def no_more(fd):
        short.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def answer(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        writer = await response.prepare(request)
        outlet = Outlet(request, writer, chunked=True, floor=1000, grace_s=60)
        with path.open("rb") as file:
            await outlet.send(b"head", ExtentLease(file.fileno(), 0, len(data), lambda: None))
        await outlet.finish()
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, ClientSession() as session, asyncio.timeout(20):
        monkeypatch.setattr(os, "dup", no_more)
        async with session.get(server.make_url("/")) as got:
            await short.wait()  # it takes no more than a few buffers before it is read
            assert await got.read() == b"head" + data


class Taker:
    """A request, its transport and its writer, of a reader that takes everything at once."""

    transport = property(lambda self: self)

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return False

    def write(self, data):
        pass

    async def drain(self):
        pass


async def test_others_have_their_turn_while_a_reader_takes_many_small_blocks_at_once():
    """Catches: a bundle of 64 MiB that is written in one go, since nothing makes it wait."""
    outlet, rounds = Outlet(Taker(), Taker(), chunked=True, floor=1000, grace_s=5), 0

    async def other():
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(1024):
        await outlet.gather(bytes(32 * KIB))
    task.cancel()
    assert rounds >= 7


async def test_what_is_said_at_once_goes_before_what_was_gathered():
    """Catches: blocks that wait for a turn leave with the frame that says that we live."""
    taker, written = Taker(), []
    taker.write = written.append
    outlet = Outlet(taker, taker, chunked=False, floor=1000, grace_s=5)
    assert outlet.add(b"head", b"data")
    await outlet.say(b"alive")
    assert written == [b"alive"]
    await outlet.flush()
    assert written == [b"alive", b"headdata"]

"""The body of a request: how slowly it may come, and what is none."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import StreamReader, web

from icnblocks.errors import FormatError
from icnblocks_daemon.http import body
from icnblocks_daemon.http.problems import SlowError


def test_a_body_that_comes_byte_by_byte_is_given_up(monkeypatch):
    """Catches: a body of which each byte is in time, and which holds a place for days."""
    monkeypatch.setattr(body, "_STALL_S", 0.5)
    outcomes = []

    async def handle(request):
        try:
            await body.read_body(request, 100_000)
        except SlowError as error:
            outcomes.append(str(error))
            raise
        return web.Response()

    async def run():
        runner = web.ServerRunner(web.Server(handle, lingering_time=0))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        async with asyncio.timeout(20):
            while not outcomes:
                writer.write(b"a")
                await asyncio.sleep(0.01)
        writer.close()
        await runner.cleanup()

    asyncio.run(run())
    assert outcomes == ["the request's body stalled"]


async def test_a_body_that_cannot_be_unpacked_is_its_sender_s_mistake():
    """It was an internal error. aiohttp's parser in Python says so of chunks."""
    content = StreamReader(SimpleNamespace(), 1024, loop=asyncio.get_running_loop())
    content.set_exception(web.RequestPayloadError("no chunk"))
    request = SimpleNamespace(headers={}, content_length=None, content=content)
    with pytest.raises(FormatError):
        await body.read_body(request, 100)

"""A request that is interrupted leaves nothing behind that a later one could take for its own."""

import pytest

from icnblocks.client.source import Source
from icnblocks.client.timed import TimedSocket
from icnblocks.naming import Name
from icnblocks.testing.lying import LyingServer, Reply

ONE, OTHER = Name("acme", "one", "main"), Name("acme", "other", "main")


@pytest.mark.parametrize("at", ["recv_into", "sendall"])
def test_the_answer_to_an_interrupted_request_is_nobodys(at, monkeypatch):
    """Catches: Ctrl-C at a prompt, and the next pull gets the record that the one before asked for.

    The connection went back into the pool with the answer on its way.
    """
    real = getattr(TimedSocket, at)

    def interrupted(timed, *args, **options):
        if at == "sendall":
            real(timed, *args, **options)
        raise KeyboardInterrupt

    def respond(request):
        return Reply(200, request.path.encode())

    with LyingServer({}, respond=respond) as server, Source(server.url) as source:
        source.record(OTHER)  # the connection is kept from here
        with monkeypatch.context() as patch:
            patch.setattr(TimedSocket, at, interrupted)
            with pytest.raises(KeyboardInterrupt):
                source.record(ONE)
        assert source.record(OTHER).raw == b"/v1/records/acme/other/main"

"""A socket's time limits, where one read may fill a whole block."""

import socket
import threading

import pytest

from icnblocks.client.timed import TimedSocket

SIZE = 300_000


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def test_a_whole_read_waits_for_all_of_what_was_promised(pair):
    """Read in the pieces that it came in, a block cost the interpreter a wake-up for each."""
    near, far = pair
    sender = threading.Thread(target=lambda: [far.sendall(bytes(30_000)) for _ in range(10)])
    sender.start()
    view = memoryview(bytearray(SIZE))
    assert TimedSocket(near, 10.0, 1).recv_into(view, whole=True) == SIZE
    sender.join()


def test_a_whole_read_ends_where_the_other_side_does(pair):
    near, far = pair
    far.sendall(b"abc")
    far.shutdown(socket.SHUT_WR)
    timed = TimedSocket(near, 10.0, 1)
    view = memoryview(bytearray(SIZE))
    assert timed.recv_into(view, whole=True) == 3
    assert timed.recv_into(view, whole=True) == 0


def test_a_trickle_is_a_stall_for_a_whole_read_too(pair):
    """The kernel's limit begins anew with each call: what came must reach the floor."""
    near, far = pair
    far.sendall(b"abc")
    with pytest.raises(TimeoutError):
        TimedSocket(near, 0.05, 4).recv_into(memoryview(bytearray(SIZE)), whole=True)


def test_what_reaches_the_floor_is_kept(pair):
    near, far = pair
    far.sendall(b"abcd")
    timed = TimedSocket(near, 0.05, 4)
    assert timed.recv_into(memoryview(bytearray(SIZE)), whole=True) == 4
    with pytest.raises(TimeoutError):
        timed.recv_into(memoryview(bytearray(SIZE)), whole=True)


def test_a_peer_that_takes_nothing_is_not_waited_for(pair):
    near, _ = pair
    with pytest.raises(TimeoutError):
        TimedSocket(near, 0.05, 1).sendall(bytes(10_000_000))


def test_a_deadline_ends_a_wait(pair):
    near, _ = pair
    timed = TimedSocket(near, 60.0, 1)
    timed.deadline = 0.0
    with pytest.raises(TimeoutError):
        timed.recv_into(memoryview(bytearray(10)))

"""Virtual time: an event loop whose clock jumps, and threads that are greenlets of that loop.

The loop sleeps by moving its clock to the next timer. `Threads` stands in for the module
`threading` where the fetch engine uses it: each thread is a greenlet that runs until it waits,
and where it lets a lock go the seed decides whether others run first. So the real engine runs
in one thread, the same way for the same seed. This module must not know what is simulated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


class StuckError(AssertionError):
    """Nothing will ever happen again, and somebody waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, whose seconds pass at once.

    Attributes:
        step: called after all that was due at one moment was done.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self._clock_resolution = 1e-9
        self.step: Callable[[], None] = lambda: None
        self.threads: Threads | None = None

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """What a selector would wait for: the next timer."""
        if timeout is None:
            raise StuckError("nothing will happen any more")
        self._now += timeout
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run `func` on a thread, as far as there are threads here."""
        del executor
        assert self.threads is not None
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.threads.spawn(work)
        return future

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.step()

    def _process_events(self, _events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Threads:
    """What of `threading` the product uses, on greenlets.

    Args:
        loop: resumes whoever waited.
        random: decides who goes first.
        yields: how likely others run when a lock is let go.
    """

    def __init__(self, loop: VirtualLoop, random: Random, yields: float) -> None:
        self._loop = loop
        self._random = random
        self._yields = yields
        self._hub = getcurrent()
        self._held: dict[greenlet, int] = {}
        self._over = False
        self.alive: dict[greenlet, str] = {}
        loop.threads = self

    # --- what the simulation uses --------------------------------------------------------------

    def spawn(self, work: Callable[[], None], name: str = "") -> greenlet:
        """Run `work` beside everything else, from the next moment on."""
        thread = greenlet(lambda: self._run(thread, work), parent=self._hub)
        self.alive[thread] = name
        self._held[thread] = 0
        self._loop.call_soon(thread.switch)
        return thread

    def wait(self, ticket: Ticket, timeout: float | None = None) -> bool:
        """Pause until the ticket is called; False if the time was over first."""
        if self._over:
            raise GreenletExit
        if not ticket.called:
            assert getcurrent() is not self._hub, "the event loop would block"
            ticket.asleep = True
            timer = None
            if timeout is not None:
                timer = self._loop.call_later(max(timeout, 0.0), self._late, ticket)
            self._hub.switch()
            if timer is not None:
                timer.cancel()
        return ticket.called

    def call(self, ticket: Ticket) -> None:
        """Let whoever waits with the ticket go on."""
        if not ticket.called:
            ticket.called = True
            if ticket.asleep:
                self._loop.call_soon(self._wake, ticket)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.wait(Ticket(), seconds)

    def end(self) -> None:
        """Let no thread go on any more: what they waited for will not happen."""
        self._over, self._yields = True, 0.0
        for thread in list(self.alive):
            thread.throw(GreenletExit)

    def _late(self, ticket: Ticket) -> None:
        if not ticket.called:
            self._wake(ticket)

    @staticmethod
    def _wake(ticket: Ticket) -> None:
        if ticket.asleep:
            ticket.asleep = False
            ticket.thread.switch()

    def _run(self, thread: greenlet, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            del self.alive[thread], self._held[thread]

    def took(self, change: int, owner: greenlet) -> None:
        """A thread took a lock or let one go; then others may run."""
        if owner not in self._held:
            return
        self._held[owner] += change
        idle = change < 0 and not self._held[owner] and owner is getcurrent()
        if idle and self._yields and self._random.random() < self._yields:
            turn = Ticket()
            self._loop.call_soon(self._wake, turn)
            self.wait(turn)

    # --- what the product uses ------------------------------------------------------------------

    def Lock(self) -> Lock:
        """As threading.Lock."""
        return Lock(self)

    def Condition(self, lock: Lock) -> Condition:
        """As threading.Condition."""
        return Condition(self, lock)

    def Event(self) -> Event:
        """As threading.Event."""
        return Event(self)

    def Thread(self, target: Callable[..., None], args: tuple[Any, ...] = (), *,
               name: str = "", daemon: bool = True) -> Thread:  # fmt: skip
        """As threading.Thread."""
        del daemon
        return Thread(self, lambda: target(*args), name)


class Ticket:
    """One wait of the thread that makes it: whoever calls it lets that thread go on, once."""

    __slots__ = ("asleep", "called", "thread")

    def __init__(self) -> None:
        self.thread = getcurrent()
        self.called = False
        self.asleep = False


class Lock:
    """As threading.Lock."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiters: deque[Ticket] = deque()
        self._owner: greenlet | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As threading.Lock.acquire."""
        if self._owner is None:
            self._owner = getcurrent()
            self._threads.took(1, self._owner)
            return True
        if not blocking:
            return False
        ticket = Ticket()
        self._waiters.append(ticket)
        if self._threads.wait(ticket, None if timeout < 0 else timeout):
            return True  # whoever let it go made us its owner
        self._waiters.remove(ticket)
        return False

    def release(self) -> None:
        """As threading.Lock.release."""
        owner = self._owner
        assert owner is not None, "a lock is let go that nobody holds"
        self._owner = None
        if self._waiters:
            ticket = self._waiters.popleft()
            self._owner = ticket.thread
            self._threads.took(1, self._owner)
            self._threads.call(ticket)
        self._threads.took(-1, owner)

    def locked(self) -> bool:
        """As threading.Lock.locked."""
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class Condition:
    """As threading.Condition."""

    def __init__(self, threads: Threads, lock: Lock) -> None:
        self._threads = threads
        self._lock = lock
        self._waiters: deque[Ticket] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """As threading.Condition.wait."""
        ticket = Ticket()
        self._waiters.append(ticket)
        self._lock.release()
        told = self._threads.wait(ticket, timeout)
        if not told:
            self._waiters.remove(ticket)
        self._lock.acquire()
        return told

    def notify(self, count: int = 1) -> None:
        """As threading.Condition.notify."""
        for _ in range(min(count, len(self._waiters))):
            self._threads.call(self._waiters.popleft())

    def notify_all(self) -> None:
        """As threading.Condition.notify_all."""
        self.notify(len(self._waiters))


class Event:
    """As threading.Event."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiters: deque[Ticket] = deque()
        self._set = False

    def set(self) -> None:
        """As threading.Event.set."""
        self._set = True
        while self._waiters:
            self._threads.call(self._waiters.popleft())

    def is_set(self) -> bool:
        """As threading.Event.is_set."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """As threading.Event.wait."""
        if not self._set:
            ticket = Ticket()
            self._waiters.append(ticket)
            if not self._threads.wait(ticket, timeout):
                self._waiters.remove(ticket)
        return self._set


class Thread:
    """As threading.Thread."""

    def __init__(self, threads: Threads, work: Callable[[], None], name: str) -> None:
        self._threads = threads
        self._work = work
        self._name = name
        self._joining: deque[Ticket] = deque()
        self._greenlet: greenlet | None = None

    def start(self) -> None:
        """As threading.Thread.start."""
        self._greenlet = self._threads.spawn(self._run, self._name)

    def is_alive(self) -> bool:
        """As threading.Thread.is_alive."""
        return self._greenlet is not None and self._greenlet in self._threads.alive

    def join(self, timeout: float | None = None) -> None:
        """As threading.Thread.join."""
        if self.is_alive():
            ticket = Ticket()
            self._joining.append(ticket)
            self._threads.wait(ticket, timeout)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            while self._joining:
                self._threads.call(self._joining.popleft())

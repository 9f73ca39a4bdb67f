"""A stream passed from reader to reader, in random orders: one short run per seed, checked at its end.

The seed chooses the stream (socketpair or memory pipe), the poller, the content, its pieces and its end, when
each holder is cancelled, how it reads, and the order of each pass. The fake clock finds lost wakes
immediately: when all services wait, it jumps to the time limit of the run.

    python -m tests.reactor.interleaving --seeds 10000
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
from typing import Any
from unittest.mock import patch

from reactor import (
    YIELD,
    Broken,
    Cancelled,
    Closed,
    Handle,
    Reactor,
    ReadYield,
    Service,
    Sleep,
    SocketStream,
    Spawn,
    WriteYield,
    timeout_after,
)
from reactor.core import loop
from reactor.core.timers import FakeClock
from reactor.run.debug import (
    Tracer,
    add_tracer,
)
from tests.reactor.conftest import POLLERS
from tests.support.memory_pipe import memory_pipe

__all__ = ["play"]


class Play:
    """One run. `got` is the content that the holders read, in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.is_socket = self.random.random() < 0.6
        self.sent = self.random.randbytes(self.random.choice([0, 1, 5, 40, 200]))
        self.end = self.random.choice(["end", "reset", "close"] if self.is_socket else ["end", "close"])
        self.got = bytearray()
        self.outcomes: list[str] = []
        self.reader: Any
        self.writer: Any
        if self.is_socket:
            self.reader, self.writer = (SocketStream(sock) for sock in socket.socketpair())
        else:
            self.reader, self.writer = memory_pipe(self.random.randint(1, 30))

    def some_passes(self) -> Service[None]:
        for _ in range(self.random.choice([0, 0, 1, 1, 2, 5])):
            yield YIELD

    def send(self) -> Service[None]:
        writer, start = WriteYield(self.writer), 0
        while start < len(self.sent):
            yield from self.some_passes()
            stop = start + self.random.randint(1, 20)
            yield from writer.write_all(self.sent[start:stop])
            start = stop
        yield from self.some_passes()
        if self.random.random() < 0.5:
            # Otherwise the event of the end would replace a lost event of the last bytes.
            yield from self._all_read()
        if self.end == "reset":
            # Closing a local socket with unread bytes resets it.
            self.reader.write(b"unread")
        if self.end != "close":
            self.writer.close()

    def _all_read(self) -> Service[None]:
        while len(self.got) < len(self.sent):
            yield Sleep(1)

    def hold(self, to_the_end: bool) -> Service[str]:
        """Read from the stream. Returns how it ended."""
        reader = ReadYield(self.reader)
        size = self.random.randint(1, 30)
        reads = None if to_the_end else self.random.choice([1, 3, None])
        only_waits = not to_the_end and self.random.random() < 0.2
        try:
            while reads is None or reads > 0:
                buffer = bytearray(size)
                if only_waits:
                    try:
                        count = self.reader.readinto(buffer)
                    except BlockingIOError:
                        # The next one must read what this one was woken for.
                        yield self.reader.readable
                        return "woken"
                else:
                    count = yield from reader.readinto(buffer)
                if count == 0:
                    return "end"
                self.got += buffer[:count]
                reads = None if reads is None else reads - 1
                if self.random.random() < 0.3:
                    yield YIELD
            return "enough"
        except Broken:
            return "reset"
        except Closed:
            return "close"
        except Cancelled:
            return "cancelled"

    def pass_on(self, sending: Handle[None]) -> Service[None]:
        """Let the holders read in turn; the last one reads to the end."""
        for _ in range(self.random.randint(0, 6)):
            yield from self.some_passes()
            holder: Handle[str] = yield Spawn(self.hold(False))
            yield from self.some_passes()
            holder.cancel()
            self.outcomes.append((yield from holder.join()))
        yield from self.some_passes()
        last: Handle[str] = yield Spawn(self.hold(True))
        if self.end == "close":
            yield from sending.join()
            yield from self._all_read()
            yield from self.some_passes()
            self.reader.close()
        self.outcomes.append((yield from last.join()))

    def main(self) -> Service[None]:
        sending = yield Spawn(self.send())
        yield from self.pass_on(sending)
        yield from sending.join()

    def check(self) -> None:
        assert self.got == self.sent, (bytes(self.got), self.sent)
        *earlier, last = self.outcomes
        assert last == self.end, (last, self.end)
        # An earlier holder may have seen the end or the loss already.
        assert set(earlier) <= {"woken", "enough", "cancelled", self.end}, earlier


class NoDoubles(Tracer):
    """Detects a service that is resumed while it is in the queue: it was woken twice."""

    def __init__(self, reactor: Reactor) -> None:
        self.found: list[str] = []
        self._reactor = reactor

    def service_resumed(self, service: Handle[Any]) -> None:
        if service in self._reactor.ready:
            self.found.append(service.name)


def play(seed: int) -> None:
    """Run one play.

    Raises:
        AssertionError: bytes or events were lost or doubled.
        TimedOut: a wake was lost.
    """
    case = Play(seed)
    # Asked after each pass, the poller has events between any two steps of the others.
    steps_per_poll = case.random.choice([1, 1, 64])
    with (
        patch.object(loop, "STEPS_PER_POLL", steps_per_poll),
        Reactor(
            clock=FakeClock(),
            seed=seed,
            poller=case.random.choice(list(POLLERS.values()))(),
            slow_step_s=None,
        ) as reactor,
    ):
        try:
            add_tracer(reactor, doubles := NoDoubles(reactor))
            reactor.run(timeout_after(1_000, case.main()))
            case.check()
            assert not doubles.found
            assert not reactor.tasks
            assert not reactor.poller.has_waiters()
        except BaseException as error:
            error.add_note(f"seed {seed}: {case.outcomes}")
            raise
        finally:
            case.reader.close()
            case.writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="A stream passed from reader to reader, under every order.")
    parser.add_argument("--seeds", type=int, default=300, help="how many (300)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    options = parser.parse_args()
    for seed in range(options.first, options.first + options.seeds):
        play(seed)
    print(f"{options.seeds} seeds from {options.first}: clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())

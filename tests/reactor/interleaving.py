"""Lending under every order: one small play per seed, and what must hold at its end.

The seed chooses the stream (socketpair or memory pipe), the poller, the content, how it is cut and how it
ends, when the read side moves on, how each holder reads, who is cancelled, and the order of each pass. The
fake clock finds lost wake-ups at once: when all is idle it jumps to the play's time limit.

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
from reactor.errors import Lent
from reactor.io.memory import memory_pipe
from reactor.io.streams import (
    Loan,
    ReadSide,
)
from reactor.run.debug import (
    Tracer,
    add_tracer,
)
from tests.reactor.conftest import POLLERS

__all__ = ["play"]


class Play:
    """One run. `got` is what all holders read, in the order in which they did."""

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
        self.side = ReadSide(self.reader)

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
            # Otherwise the news of the end would make up for lost news of the last bytes.
            yield from self._all_read()
        if self.end == "reset":
            # Closing a local socket with something unread is its reset.
            self.reader.write(b"unread")
        if self.end != "close":
            self.writer.close()

    def _all_read(self) -> Service[None]:
        while len(self.got) < len(self.sent):
            yield Sleep(1)

    def hold(self, loan: Loan, to_the_end: bool) -> Service[str]:
        """Read through a loan until it is over; say how it ended."""
        reader = ReadYield(loan)
        wait_first, size = self.random.random() < 0.4, self.random.randint(1, 30)
        reads = None if to_the_end else self.random.choice([1, 3, None])
        try:
            if wait_first:
                # What it is woken for, another may have to read.
                yield loan.readable
            while reads is None or reads > 0:
                buffer = bytearray(size)
                count = yield from reader.readinto(buffer)
                if count == 0:
                    return "end"
                self.got += buffer[:count]
                reads = None if reads is None else reads - 1
                if self.random.random() < 0.3:
                    yield YIELD
            return "enough"
        except Lent:
            try:
                yield from self._is_over(loan)
            except Cancelled:
                return "cancelled"
            return "lent"
        except Broken:
            return "reset"
        except Closed:
            return "close"
        except Cancelled:
            return "cancelled"

    def _is_over(self, loan: Loan) -> Service[None]:
        for _ in range(2):
            assert not loan.is_good
            try:
                loan.readinto(bytearray(1))
            except Lent:
                pass
            else:
                raise AssertionError("read through a loan that is over")
            try:
                yield loan.readable
            except Lent:
                yield YIELD
            else:
                raise AssertionError("waited through a loan that is over")

    def lend(self, sending: Handle[None]) -> Service[None]:
        """Move the read side on, to one holder after the other, and at last to one that reads to the end."""
        holders: list[Handle[str]] = []
        for number in range(self.random.randint(0, 6)):
            yield from self.some_passes()
            if self.random.random() < 0.2:
                self.side.end_loan()
                yield from self.some_passes()
            loan = self.side.lend(f"holder {number}")
            holders.append((yield Spawn(self.hold(loan, False))))
            if self.random.random() < 0.2:
                yield from self.some_passes()
                holders[-1].cancel()
        yield from self.some_passes()
        last: Handle[str] = yield Spawn(self.hold(self.side.lend("last"), True))
        if self.end == "close":
            yield from sending.join()
            yield from self._all_read()
            yield from self.some_passes()
            self.reader.close()
        for holder in holders:
            self.outcomes.append((yield from holder.join()))
        self.outcomes.append((yield from last.join()))

    def main(self) -> Service[None]:
        sending = yield Spawn(self.send())
        yield from self.lend(sending)
        yield from sending.join()

    def check(self) -> None:
        assert self.got == self.sent, (bytes(self.got), self.sent)
        *earlier, last = self.outcomes
        assert last == self.end, (last, self.end)
        # One that was told of the end or the loss before is right too, if that had come by then.
        assert set(earlier) <= {"lent", "enough", "cancelled", self.end}, earlier
        assert self.side.loan is not None
        assert self.side.loan.name == "last"


class NoDoubles(Tracer):
    """Notes a service that is resumed and stands in the queue once more: it was woken twice."""

    def __init__(self, reactor: Reactor) -> None:
        self.found: list[str] = []
        self._reactor = reactor

    def service_resumed(self, service: Handle[Any]) -> None:
        if service in self._reactor.ready:
            self.found.append(service.name)


def play(seed: int) -> None:
    """Run one play.

    Raises:
        AssertionError: bytes, news or messages were lost or doubled.
        TimedOut: a wake-up was lost.
    """
    case = Play(seed)
    # Asked after each pass, the poller has news between any two steps of the others.
    steps_per_poll = case.random.choice([1, 1, 64])
    with (
        patch.object(loop, "_STEPS_PER_POLL", steps_per_poll),
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
            assert not reactor._tasks
            assert not reactor.poller.has_waiters()
        except BaseException as error:
            error.add_note(f"seed {seed}: {case.outcomes}")
            raise
        finally:
            case.reader.close()
            case.writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Lending under every order, over many seeds.")
    parser.add_argument("--seeds", type=int, default=300, help="how many (300)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    options = parser.parse_args()
    for seed in range(options.first, options.first + options.seeds):
        play(seed)
    print(f"{options.seeds} seeds from {options.first}: clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A stack under random operations, with a plain `bytearray` as the model (hypothesis, stateful).

Writer and reader are file-like objects over one stack of up to 6 layers. The wire is a row of segments: a
writer that moves to another stream begins a new one, and the reader follows at the end of a segment. Each
message has its own model: the written bytes, and the number read. Invariant: the bytes read are a prefix of
the bytes written. If the wire was changed, they are of bounded length, or reading raises a documented error.
Only every third message may be changed; otherwise hardly one would arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from readwrite_comp import (
    AuthenticationError,
    CompR,
    CompW,
    Ending,
    ExtRead,
    ExtWrite,
    Malformed,
    RemoteLayerError,
    Truncated,
)
from readwrite_comp.base import Phase
from readwrite_comp.errors import PhaseError
from readwrite_comp.helpers import would_block

from .pairs import is_authenticated, stack_of, stacks

T = TypeVar("T")
answers = st.lists(st.one_of(st.just(0), st.integers(1, 40)), max_size=6)
MAX_CALLS = 20_000
FOREIGN = b"not ours"


class Segment:
    """One stream: bytes in, bytes out, and a script of its answers. After its bytes it refuses, or,
    once `is_cut`, ends.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.position = 0
        self.is_cut = False
        self.script: list[int] = []

    @property
    def unread(self) -> int:
        return len(self.data) - self.position

    def _limit(self, asked: int) -> int:
        step = self.script.pop(0) if self.script else asked
        if step == 0:
            raise would_block("the script refuses this call")
        if step < 0:
            raise OSError("the script breaks this call")
        return min(asked, step)

    def write(self, data: memoryview, /) -> int:
        count = self._limit(len(data))
        if not self.is_cut:
            self.data += data[:count]
        return count

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), self.unread)
        if not count:
            if self.is_cut:
                return 0
            raise would_block("nothing more is here")
        count = self._limit(count)
        buffer[:count] = self.data[self.position : self.position + count]
        self.position += count
        return count


class Forbidden:
    """A stream that refuses all writes."""

    def write(self, data: memoryview, /) -> int:
        raise AssertionError(f"{len(data)} bytes were left behind for a stream that was given back")


class Stack(RuleBasedStateMachine):
    """Rules: write, flush, end, read, cut, corrupt, insert, remove, break, lend."""

    @initialize(names=stacks)
    def make(self, names: list[str]) -> None:
        self.names = names
        self.authenticated = is_authenticated(names)
        writer, reader = stack_of(names)()
        self.writer: ExtWrite = writer
        self.reader: ExtRead = reader
        self.message_count = 0
        self.open_message()

    def open_message(self) -> None:
        self.message_count += 1
        self.segments = [Segment()]
        self.read_from = 0
        self.written = bytearray()
        self.got = bytearray()
        self.is_ended = False
        self.is_changed = False
        self.comp = CompW(self.segments[0], self.writer)
        self.source = CompR(self.segments[0], self.reader)

    # The steps of a caller.

    def persist(self, call: Callable[[], T]) -> T:
        """Repeat a writing call until it succeeds, as it must because scripts are short."""
        for _ in range(MAX_CALLS):
            try:
                return call()
            except BlockingIOError:
                continue
        raise AssertionError("the writer hangs")

    def try_read(self, call: Callable[[], T]) -> T | None:
        """Repeat a reading call until it succeeds; None when all written bytes are read. After a segment
        the reader follows to the next one.
        """
        for _ in range(MAX_CALLS):
            try:
                return call()
            except BlockingIOError:
                segment = self.segments[self.read_from]
                if segment.unread:
                    continue
                if segment.is_cut or self.read_from + 1 == len(self.segments):
                    if segment.is_cut and segment.script:
                        continue
                    return None
                assert self.source.suspend() is segment
                self.read_from += 1
                self.source.resume(self.segments[self.read_from])
        raise AssertionError("the reader hangs")

    # Rules.

    @precondition(lambda self: not self.is_ended)
    @rule(data=st.binary(min_size=1, max_size=90), script=answers)
    def write(self, data: bytes, script: list[int]) -> None:
        """One call: the accepted bytes are added to the model."""
        self.segments[-1].script = script
        try:
            count = self.comp.write(data)
        except BlockingIOError:
            return
        assert 1 <= count <= len(data)
        self.written += data[:count]

    @precondition(lambda self: not self.is_ended)
    @rule(data=st.binary(min_size=1, max_size=90), script=answers)
    def break_stream(self, data: bytes, script: list[int]) -> None:
        """An error of the stream itself. Either nothing was accepted and the message continues, or the writer
        refuses to continue it; the wire then holds a beginning of the written bytes.
        """
        self.segments[-1].script = [*script, -1]
        try:
            self.written += data[: self.comp.write(data)]
        except BlockingIOError:
            self.segments[-1].script = []
        except OSError:
            self.segments[-1].script = []
            try:
                self.written += data[: self.persist(lambda: self.comp.write(data))]
            except PhaseError:
                self.given_up(data)
        else:
            self.segments[-1].script = []

    def given_up(self, data: bytes) -> None:
        """The reader finds the written bytes, possibly with content from the call that broke, and that
        the message is cut.
        """
        for segment in self.segments[self.read_from :]:
            segment.script = []
        self.written += data
        try:
            while len(self.got) < len(self.written):
                buffer = bytearray(len(self.written) - len(self.got))
                count = self.try_read(lambda buffer=buffer: self.source.readinto(buffer))  # type: ignore[misc]
                if count is None:
                    break
                assert count or self.is_changed, "a message that was given up looks whole"
                if not count:
                    break
                self.got += buffer[:count]
                self.prefix()
        except RemoteLayerError as error:
            self.check_error(error)
            return
        self.start_over()

    @precondition(lambda self: not self.is_ended)
    @rule(script=answers)
    def flush(self, script: list[int]) -> None:
        self.segments[-1].script = script
        self.persist(self.comp.flush)

    @precondition(lambda self: not self.is_ended)
    @rule(script=answers)
    def end(self, script: list[int]) -> None:
        self.segments[-1].script = script
        self.persist(self.comp.close)
        assert self.writer.phase is Phase.NEW
        self.is_ended = True
        self.segments[-1].data += b"" if self.segments[-1].is_cut else FOREIGN

    @precondition(lambda self: not self.is_ended and len(self.segments) < 5)
    @rule(script=answers)
    def lend(self, script: list[int]) -> None:
        """The writer leaves its stream with no pending bytes, and continues on another."""
        self.segments[-1].script = script
        lent = self.persist(self.comp.suspend)
        assert lent is self.segments[-1]
        self.writer.settle_into(Forbidden())
        self.segments.append(Segment())
        self.segments[-1].is_cut = self.segments[-2].is_cut
        self.comp.resume(self.segments[-1])

    @precondition(lambda self: self.message_count % 3 == 0)
    @rule(position=st.integers(0, 10_000), mask=st.integers(1, 255))
    def corrupt(self, position: int, mask: int) -> None:
        """Change a byte in transit."""
        segment = self.segments[self.read_from]
        if segment.unread:
            segment.data[segment.position + position % segment.unread] ^= mask
            self.is_changed = True

    @precondition(lambda self: self.message_count % 3 == 0)
    @rule(position=st.integers(0, 10_000), inserted=st.binary(min_size=1, max_size=20))
    def insert(self, position: int, inserted: bytes) -> None:
        """Insert bytes among those in transit."""
        segment = self.segments[self.read_from]
        at = segment.position + position % (segment.unread + 1)
        segment.data[at:at] = inserted
        self.is_changed = True

    @precondition(lambda self: self.message_count % 3 == 0)
    @rule(position=st.integers(0, 10_000), count=st.integers(1, 40))
    def remove(self, position: int, count: int) -> None:
        """Remove bytes from those in transit."""
        segment = self.segments[self.read_from]
        at = segment.position + position % (segment.unread + 1)
        del segment.data[at : at + count]
        self.is_changed = True

    @precondition(lambda self: self.message_count % 3 == 0)
    @rule(keep=st.integers(0, 10_000))
    def cut(self, keep: int) -> None:
        """The wire ends here: later bytes in transit are lost, and so are all bytes written from now on."""
        segment = self.segments[self.read_from]
        del segment.data[segment.position + keep % (segment.unread + 1) :]
        del self.segments[self.read_from + 1 :]
        segment.is_cut = self.is_changed = True
        if not self.is_ended:
            stream = self.persist(self.comp.suspend)
            self.comp.resume(segment if stream is not segment else stream)

    @rule(size=st.integers(1, 90), script=answers)
    def read(self, size: int, script: list[int]) -> None:
        self.segments[self.read_from].script = script
        size = size if self.reader.ends is Ending.EXACT else min(size, len(self.written) - len(self.got))
        if size <= 0:
            return
        buffer = bytearray(size)
        try:
            count = self.try_read(lambda: self.source.readinto(buffer))
        except RemoteLayerError as error:
            self.check_error(error)
            return
        if count is None:
            return
        self.got += buffer[:count]
        if count == 0 and not self.is_changed:
            assert self.is_ended
            assert self.got == self.written

    @precondition(lambda self: self.is_ended)
    @rule(script=answers)
    def read_all(self, script: list[int]) -> None:
        """Read the rest and the end; all content must have arrived. Then the next message begins."""
        self.segments[self.read_from].script = script
        limit = None if self.reader.ends is Ending.EXACT else len(self.written)
        try:
            while limit is None or len(self.got) < limit:
                buffer = bytearray(50 if limit is None else min(50, limit - len(self.got)))
                count = self.try_read(lambda buffer=buffer: self.source.readinto(buffer))  # type: ignore[misc]
                if not count:
                    break
                self.got += buffer[:count]
                self.prefix()
            self.try_read(self.source.close)
        except RemoteLayerError as error:
            self.check_error(error)
            return
        if self.is_changed:
            if self.authenticated and self.source.closed and self.reader.ends is Ending.EXACT:
                assert self.got == self.written
            self.start_over()
            return
        assert self.source.closed, "the reader waits for more than was written"
        assert self.got == self.written
        assert self.segments[-1].unread == len(FOREIGN), (
            "foreign bytes were read, or some of the message left"
        )
        self.open_message()

    def check_error(self, error: RemoteLayerError) -> None:
        assert self.is_changed, f"{error!r} although nobody has touched the wire"
        assert isinstance(error, (AuthenticationError, Malformed, Truncated))
        self.prefix()
        self.start_over()

    def start_over(self) -> None:
        """After a damaged message, both sides drop it and start anew."""
        if not self.comp.closed:
            self.comp.abandon()
        self.source.abandon()
        self.writer.reset()
        self.reader.reset()
        self.open_message()

    @invariant()
    def prefix(self) -> None:
        if not hasattr(self, "got"):
            return
        if not self.is_changed or self.authenticated:
            assert self.written.startswith(self.got)
        wire_bytes = sum(len(segment.data) for segment in self.segments)
        assert len(self.got) <= max(wire_bytes, len(self.written))

    def teardown(self) -> None:
        if hasattr(self, "comp"):
            self.comp.abandon()
            self.source.abandon()


TestStack = Stack.TestCase
TestStack.settings = settings(settings(), stateful_step_count=40)

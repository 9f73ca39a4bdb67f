"""One end of an established tunnel: chunks in, chunks out, and the streams that they carry.

The node passes each received chunk, without the proxies' layers, to `received`, and sends the chunks that
`next_chunk` makes; it knows neither keys nor streams. The user holds `incoming`, `outgoing` and the
sub-streams. Nothing here waits, and memory is bounded: the window bounds each stream, and this end's HELLO
bounds the number of streams.

Order of sending: HELLO; Alice's first REKEY; a REKEY that is due; the chunks of the stream table (see
`tunnel.established.stream_table`); a requested PAD; at the end padding and LAST. Challenges and receipts (see
`tunnel.established.receipts`), and then a probe or the answer to one (see `tunnel.established.silence`),
precede the chunks of the table. Bob sends nothing but the padding at the end while he waits for a receipt.

An error from `received` ends the tunnel: every stream raises it from then on, and the node resets the link
stream with its code. Bytes read before are authentic.

Source: docs/protocol.md, "Established tunnels"; the sans-IO shape follows h11 and h2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from readwrite_comp.errors import renewed
from readwrite_comp.primitives import random_bytes as system_random_bytes
from tunnel.arguments import member
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    MalformedMessage,
    PeerError,
    SubStreamReset,
    TunnelSilent,
)
from tunnel.established.keys import (
    LEAST_SUB_STREAMS,
    LEAST_WINDOW_CHUNKS,
    Chunk,
    End,
    TunnelKeys,
    TunnelLimits,
)
from tunnel.established.layouts import (
    TUNNEL_TABLE,
    Hello,
    Pad,
    StreamEvent,
    StreamState,
    Target,
    TunnelState,
    unpack_close,
    unpack_credit,
    unpack_open,
)
from tunnel.established.receipts import AliceReceipts, BobChallenges, Proofs
from tunnel.established.silence import Silence
from tunnel.established.stream_table import SubStreamTable
from tunnel.established.streams import IncomingMessages, MessageWriter, N, SubStream
from tunnel.geometry import Geometry, padme
from tunnel.onion.message import CHALLENGE_BYTES, CHUNK_HEAD, CHUNK_TAG_BYTES, ChunkType

__all__ = ["EstablishedTunnel"]


class EstablishedTunnel(Generic[N]):
    """One end of a tunnel.

    Args:
        seed: of the DEST slot, 16 bytes.
        geometry: gives C.
        make_notifier: makes each notifier, such as `reactor.Signal`.
        random_bytes: source of the ephemeral key.
    Attributes:
        incoming, outgoing: the messages.
        sendable, acceptable, openable: notifiers, set when `next_chunk`, `accept` or `open` is worth another
            try.
        other_end_gave_up: it gave up the whole tunnel.
        silence: notices that the other end no longer answers; see `look`.
    """

    def __init__(
        self,
        seed: bytes,
        geometry: Geometry,
        end: End,
        *,
        engine: TunnelEngine,
        make_notifier: Callable[[], N],
        limits: TunnelLimits | None = None,
        random_bytes: Callable[[int], bytes] = system_random_bytes,
    ) -> None:
        self.geometry = geometry
        self._end = member(End, end, "end")
        self._is_alice = self._end is End.ALICE
        self._limits = limits or TunnelLimits()
        self._error: PeerError | None = None
        capacity = geometry.chunk_data_bytes
        window = self._limits.window_bytes(geometry)
        self.keys = TunnelKeys(
            seed,
            geometry,
            self._end,
            window=window,
            sub_streams=self._limits.sub_streams,
            engine=engine,
            random_bytes=random_bytes,
        )
        self._sealer, self._opener = self.keys.sealer, self.keys.opener
        self._sending = self._receiving = TunnelState.AWAIT_HELLO
        self._key_since_s: float | None = None
        self._is_held = False  # this end waits for a receipt
        self._made_s: float | None = None  # when the chunk was made that the node still sends

        self.proofs: Proofs = AliceReceipts() if self._is_alice else BobChallenges(geometry, random_bytes)
        self.sendable = make_notifier()
        self.silence = Silence(self._limits.silent_s, stirred=make_notifier(), on_due=self.sendable.set)
        self.table: SubStreamTable[N] = SubStreamTable(
            capacity,
            window=window,
            least_window=LEAST_WINDOW_CHUNKS * capacity,
            sub_streams=self._limits.sub_streams,
            first_id=1 if self._is_alice else 2,
            tunnel=self,
            make_notifier=make_notifier,
            on_due=self.sendable.set,
        )
        self.acceptable = self.table.acceptable
        self.openable = self.table.openable
        self.incoming: IncomingMessages[N] = self.table.messages_in
        self.outgoing: MessageWriter[N] = MessageWriter(self.table.messages)
        self._pad_wanted = False
        self._close_wanted = False
        self._given_up: SubStreamReset | None = None  # by either end: only padding is left
        self.other_end_gave_up = False

    # --- for the node ---------------------------------------------------------------------------------------

    @property
    def is_established(self) -> bool:
        """Both HELLOs have arrived, and this end sends under keys that only the two ends know."""
        has_switched = self._sending in (TunnelState.RUNNING, TunnelState.ENDED)
        return has_switched and self._receiving is not TunnelState.AWAIT_HELLO

    @property
    def own_streams(self) -> int:
        """Open sub-streams that this end has opened."""
        return self.table.own_streams

    @property
    def places(self) -> int:
        """Sub-streams that this end could open now without waiting."""
        if self._error is not None or self._given_up is not None or self._close_wanted:
            return 0
        return self.table.places

    @property
    def has_ended_sending(self) -> bool:
        """The chunk with LAST has been made; the node sends FIN after it."""
        return self._sending is TunnelState.ENDED

    @property
    def is_finished(self) -> bool:
        """Both directions have ended normally."""
        return self._sending is self._receiving is TunnelState.ENDED

    @property
    def failure(self) -> PeerError | None:
        """The error that ended the tunnel early; None if an end gave it up."""
        return self._error

    @property
    def is_given_up(self) -> bool:
        """One of the ends gave up the whole tunnel."""
        return self._given_up is not None

    @property
    def held_bytes(self) -> int:
        """Bytes that all streams hold, for accounting."""
        return self.table.held_bytes

    def next_chunk(self, out: memoryview, now_s: float) -> bool:
        """Fill the next chunk to send, if anything is due. The one before must have left this node.

        Args:
            out: writable, C bytes; undefined content if this returns False.
            now_s: monotonic; for the age of keys, and for `look`.
        Returns:
            False: nothing is due; wait for `sendable`.
        Raises:
            LocalTunnelError: wrong length of `out`.
        """
        self._check_length(out)
        silence = self.silence
        self._made_s = None
        if silence.is_leaving:
            silence.left(now_s)
        if self._error is not None or self._sending is TunnelState.ENDED:
            return False
        if self._key_since_s is None:
            self._key_since_s = now_s
        if not (self._send_handshake(out, now_s) or self._send_content(out, now_s)):
            return False
        self._made_s = now_s
        return True

    def received(self, chunk: memoryview) -> None:
        """Process the next received chunk; it is opened in place.

        Args:
            chunk: writable, C bytes.
        Raises:
            LocalTunnelError: wrong length.
            MalformedMessage: it does not open, or is not legal now. Reset the link stream.
            PeerError: the error that ended the tunnel before.
        On error: the tunnel has ended, and all its streams raise the same error.
        """
        self._check_length(chunk)
        if self._error is not None:
            raise renewed(self._error)
        try:
            self._receive(self._opener.open(chunk))
        except PeerError as error:
            self.fail(error)
            raise

    def received_fin(self) -> None:
        """The incoming half of the link stream has ended. Raises FrameTruncated: before LAST."""
        if self._receiving is not TunnelState.ENDED:
            error = FrameTruncated("the tunnel's direction ended before its last chunk")
            self.fail(error)
            raise error

    def fail(self, error: PeerError) -> None:
        """End the tunnel early, for example because its link stream was reset. Wakes all callers."""
        if self._error is None:
            self._error = error
            self.keys.forget()
            self._fail_streams(error)
            self.sendable.set()

    def look(self, now_s: float) -> None:
        """Check that the other end still answers. To be called every `silence.tick_s` from when
        `silence.stirred` is set until `silence.is_settled`.

        Raises:
            TunnelSilent: it does not. `fail` the tunnel with it.
        """
        is_sending = self._sending in (TunnelState.EARLY, TunnelState.RUNNING)
        expects = self._receiving is not TunnelState.ENDED
        if self._error is not None or not (is_sending or expects):
            self.silence.settle()
            return
        dead = self.silence.look(
            now_s,
            made_s=self._made_s,
            waits=self.table.waits,
            can_probe=is_sending and not self._is_held and not self._is_closing(),
            expects=expects,
        )
        if dead is not None:
            raise TunnelSilent(dead)

    def pad(self) -> None:
        """Send one empty chunk, so that no hop ends the tunnel as idle."""
        self._pad_wanted = True
        self.sendable.set()

    # --- for the user ---------------------------------------------------------------------------------------

    @property
    def binding(self) -> bytes | None:
        """32 bytes that only the two ends of this tunnel know; None: not established yet, wait for
        `openable`."""
        return self.keys.binding

    def check_answered(self) -> None:
        """Check that the other end's HELLO has arrived: its limits and `binding` are known.

        Raises:
            BlockingIOError: not yet; wait for `openable`. PeerError: the tunnel has ended.
        """
        ended = self._error or self._given_up
        if ended is not None:
            raise renewed(ended)
        if self.binding is None:
            raise BlockingIOError("the other end has not answered yet")

    def open(self, target: Target, proof: bytes = b"") -> SubStream[N]:
        """Open a sub-stream to `target`, which can be written immediately.

        Args:
            proof: that this end holds a client key, `PROOF_BYTES` long; b"": no proof.
        Raises:
            BlockingIOError: the other end allows no more sub-streams now; wait for `openable`.
            LocalTunnelError: after `close`, or no id is left (32,767 for each end): use a new tunnel.
            PeerError: the tunnel has ended.
        """
        ended = self._error or self._given_up
        if ended is not None:
            raise renewed(ended)
        if self._close_wanted:
            raise LocalTunnelError("the tunnel is closed: it opens no more sub-streams")
        return self.table.open(target, proof)

    def accept(self) -> SubStream[N]:
        """The next sub-stream that the other end opened. Then `confirm` it, or `give_up` with a reason.

        Raises:
            BlockingIOError: none is waiting; wait for `acceptable`. PeerError: the tunnel has ended.
        """
        if self._error is not None:
            raise renewed(self._error)
        return self.table.accept()

    def close(self) -> None:
        """Begin no more messages and sub-streams; open sub-streams continue.

        The direction ends (padding, LAST) when both ends have closed and all sub-streams have ended.

        Raises:
            LocalTunnelError: a message is not ended.
        """
        if self._error is not None or self._close_wanted or self._given_up:
            return
        messages = self.table.messages
        if messages.outgoing.is_inside_message:
            raise LocalTunnelError(
                "the tunnel cannot be closed inside a message: end it, or give the tunnel up"
            )
        self._close_wanted = messages.close_wanted = True
        self.table.refuse_opens = True
        self.table.queue(messages)

    def finish_streams(self) -> None:
        """Finish every open sub-stream: written bytes are sent, and later arrivals are discarded."""
        self.table.finish_all()

    def give_up_streams(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """Give up every open sub-stream; the messages continue."""
        self.table.give_up_streams(code)

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both directions now, and send the reason. Unsent bytes are dropped."""
        code = member(ErrorCode, code, "code")
        if self._error is not None or self._given_up:
            return
        self._given_up = SubStreamReset(code)
        self.table.give_up_all(code)
        self._fail_streams(self._given_up)

    # --- sending --------------------------------------------------------------------------------------------

    def _send_handshake(self, out: memoryview, now_s: float) -> bool:
        """Send HELLO, and Alice's first REKEY, as soon as they are legal."""
        if self._sending is TunnelState.AWAIT_HELLO:
            if not self._is_alice and self._receiving is TunnelState.AWAIT_HELLO:
                return False
            self._seal(out, ChunkType.HELLO, self.keys.hello)
            if self._is_alice:
                self.silence.sent(now_s)
                self._sending = TunnelState.EARLY
                return True
        elif self._sending is TunnelState.EARLY and self._receiving is not TunnelState.AWAIT_HELLO:
            self._seal(out, ChunkType.REKEY)
        else:
            return False
        self.keys.switch_sending()
        self._sending = TunnelState.RUNNING
        self._key_since_s = now_s
        return True

    def _send_content(self, out: memoryview, now_s: float) -> bool:
        if self._sending is TunnelState.AWAIT_HELLO:
            return False
        if self._receiving is TunnelState.AWAIT_HELLO and not self._limits.early:
            return False
        closing, silence = self._is_closing(), self.silence
        is_due = self._pad_wanted or self.table.is_due or silence.is_due or self.proofs.is_owed
        if not (closing or is_due) or self._is_held_back(closing):
            return False
        self._pad_wanted = False  # any chunk keeps the tunnel alive
        if self._key_is_old(now_s):
            self._seal(out, ChunkType.REKEY)
            self._sealer.step()
            self._key_since_s = now_s
        elif not closing and self.proofs.is_due(self._sealer.chunks, self._opener.chunks):
            self._seal(out, ChunkType.CHALLENGE, self.proofs.take(self._sealer.chunks))
        elif silence.is_due and not closing:
            self._seal(out, ChunkType.PAD, silence.take().pack())
        elif self.table.is_due:
            if not silence.is_unsure:
                silence.sent(now_s)
            kind, sub_stream, length = self.table.fill(out[CHUNK_HEAD.size : -CHUNK_TAG_BYTES])
            self._sealer.seal(out, kind, length, sub_stream=sub_stream)
        else:
            count = self._sealer.chunks + 1
            is_last = closing and padme(count) == count
            self._sealer.seal(out, ChunkType.PAD, 0, is_last=is_last)
            if is_last:
                self._sending = TunnelState.ENDED
        return True

    def _is_held_back(self, closing: bool) -> bool:
        """Nothing may be sent before a receipt. The padding at the end needs none."""
        sent, received = self._sealer.chunks, self._opener.chunks
        self._is_held = not closing and self.proofs.is_held(sent, received)
        return self._is_held

    def _is_closing(self) -> bool:
        """Only padding follows: the tunnel is given up, or both ends have closed and no stream is open."""
        if self._receiving is TunnelState.AWAIT_HELLO or not self.table.messages.close_sent:
            return False  # before Bob's HELLO, Alice's LAST would be an early chunk, without forward secrecy
        return self.is_given_up or self.table.is_over

    def _key_is_old(self, now_s: float) -> bool:
        if self._receiving is TunnelState.AWAIT_HELLO:
            return False  # Alice's early chunks are few, and the next key does not exist yet
        assert self._key_since_s is not None
        return (
            self._sealer.key_chunks >= self._limits.rekey_chunks - 1
            or now_s - self._key_since_s >= self._limits.rekey_s
        )

    def _seal(self, out: memoryview, kind: ChunkType, data: bytes = b"") -> None:
        out[CHUNK_HEAD.size : CHUNK_HEAD.size + len(data)] = data
        self._sealer.seal(out, kind, len(data))

    # --- receiving ------------------------------------------------------------------------------------------

    def _receive(self, chunk: Chunk) -> None:
        kind = chunk.kind
        if kind not in TUNNEL_TABLE[self._receiving]:
            raise MalformedMessage(f"{kind.name} while the tunnel is {self._receiving.name}")
        if chunk.is_last:
            self._receive_last(chunk)
        elif kind is ChunkType.HELLO:
            self._check_bare(chunk)
            self._receive_hello(bytes(chunk.data))
        elif kind is ChunkType.REKEY:
            self._check_bare(chunk, length=0)
            self._receive_rekey()
        elif kind is ChunkType.PAD:
            self._check_bare(chunk)
            self._receive_pad(Pad.unpack(bytes(chunk.data)))
        else:
            self.silence.heard()
            if kind is ChunkType.CHALLENGE:
                self._receive_challenge(chunk)
            else:
                self._receive_content(chunk)
        if self._is_held or self.proofs.is_owed:
            self.sendable.set()

    def _receive_challenge(self, chunk: Chunk) -> None:
        self._check_bare(chunk, length=CHALLENGE_BYTES)
        self.proofs.arrived(bytes(chunk.data))

    def _receive_pad(self, pad: Pad) -> None:
        if pad is not Pad.NOTHING:
            self.silence.received(pad)
        elif self.is_given_up or self.table.messages.state is StreamState.ENDED:
            self.silence.heard()  # it may fill up a long direction, which takes a while

    def _receive_hello(self, data: bytes) -> None:
        hello = Hello.unpack(
            data,
            least_window=self.table.least_window,
            least_sub_streams=LEAST_SUB_STREAMS,
        )
        self.keys.exchange(hello, data)
        if self._is_alice:
            self.keys.switch_receiving()
        self._receiving = TunnelState.RUNNING if self._is_alice else TunnelState.EARLY
        self.table.other_end_allows(hello.window, hello.sub_streams)
        self.silence.heard()
        if self._is_alice and not self._limits.early:
            self.silence.settle()  # so far only HELLO has waited for an answer
        self.sendable.set()

    def _receive_rekey(self) -> None:
        if self._receiving is TunnelState.RUNNING:
            self._opener.step()
            return
        if self._sending is TunnelState.AWAIT_HELLO:
            raise MalformedMessage("REKEY before this end's HELLO, which it needs")
        self.keys.switch_receiving()
        self._receiving = TunnelState.RUNNING
        self.sendable.set()

    def _receive_last(self, chunk: Chunk) -> None:
        self._check_bare(chunk, length=0)
        count = self._opener.chunks
        if (
            chunk.kind is not ChunkType.PAD
            or self._receiving is not TunnelState.RUNNING
            or padme(count) != count
        ):
            raise MalformedMessage(f"{chunk.kind.name} marked last as chunk {count} of a direction")
        if not self._given_up and not (self.table.is_over and self.table.messages.close_sent):
            raise MalformedMessage("the tunnel's direction ends before its streams have")
        self._receiving = TunnelState.ENDED
        self.sendable.set()

    def _receive_content(self, chunk: Chunk) -> None:
        """Process a chunk for the streams. After a tunnel was given up, later chunks are ignored."""
        if self._given_up:
            return
        kind, number, data = chunk.kind, chunk.sub_stream, chunk.data
        if kind is ChunkType.CREDIT:
            self._check_bare(chunk)
            for sub_stream, amount in unpack_credit(bytes(data)):
                self.table.granted(sub_stream, amount)
        elif kind is ChunkType.CLOSE:
            code = unpack_close(bytes(data))
            if code is not None and not number:
                self._receive_give_up(code)
            else:
                self.table.closed(number, code)
                self.sendable.set()
        elif kind is ChunkType.OPEN:
            self.table.opened_by_other_end(number, *unpack_open(bytes(data)))
        elif kind is ChunkType.OPENED:
            self._check_length_of(chunk, 0)
            self.table.confirmed(number)
        else:
            self.table.arrived(number, data, is_end=kind is ChunkType.END)

    def _receive_give_up(self, code: ErrorCode) -> None:
        """The other end gave up the tunnel: this direction ends too, after its own CLOSE."""
        self.table.messages.advance(StreamEvent.GIVE_UP)
        self._given_up, self.other_end_gave_up = SubStreamReset(code, by_other_end=True), True
        self.table.give_up_all(None)
        self._fail_streams(self._given_up)
        self.sendable.set()  # for the padding, if this end's CLOSE was sent before

    # --- common ---------------------------------------------------------------------------------------------

    def _check_bare(self, chunk: Chunk, *, length: int | None = None) -> None:
        """Check that a chunk of the tunnel itself names no sub-stream."""
        if chunk.sub_stream:
            raise MalformedMessage(f"{chunk.kind.name} with the sub-stream {chunk.sub_stream}")
        if length is not None:
            self._check_length_of(chunk, length)

    @staticmethod
    def _check_length_of(chunk: Chunk, length: int) -> None:
        if len(chunk.data) != length:
            raise MalformedMessage(f"{chunk.kind.name} with {len(chunk.data)} bytes, expected {length}")

    def _check_length(self, chunk: memoryview) -> None:
        if len(chunk) != self.geometry.chunk_bytes:
            raise LocalTunnelError(f"chunk of {len(chunk)} bytes, expected {self.geometry.chunk_bytes}")

    def _fail_streams(self, error: PeerError) -> None:
        self.outgoing.fail(error)
        self.incoming.fail(error)
        self.table.fail(error)

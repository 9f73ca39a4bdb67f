"""The hostile end of a link in memory, as the one who dials and as the one who is dialled.

It has no checks and no states: what a rule of the table tells it to send leaves as it is. `reaction` says
what the node did about it.
"""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal

from reactor import Broken, Closed, Service
from tests.hostile.network import Hang, MemoryNetwork, Unanswered
from tests.network_model.wires import MemoryListener, MemorySocket
from tests.support.raw_peer import CellWriter
from tests.tunnel.helpers import OPENSSL
from tunnel.errors import ErrorCode, NextRefused
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.cells import CellType, pack_ping, parse_reset, split_cells
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES, Settings
from tunnel.link.noise import LinkKeys, NoiseXK
from tunnel.link.records import HEAD_BYTES, RecordOpener, RecordSealer, record_bytes_of
from tunnel.node import LOCAL_NETWORK_ID, Node
from tunnel.node.links.link_setup import HandshakeResult
from tunnel.node.query.incoming_replies import QueryResult

__all__ = ["RETRY_MAGIC", "ROLES", "HostilePeer", "Reaction", "Role", "m3_payload", "settings"]

Role = Literal["dials", "is dialled"]
ROLES: Final[tuple[Role, ...]] = ("dials", "is dialled")

_PROLOGUE: Final = b"mtun1" + LOCAL_NETWORK_ID
_HELLO: Final = b"MT" + (1).to_bytes(2, "big")
_M3_PLAIN_BYTES: Final = 512
RETRY_MAGIC: Final = b"mtun1 retry".ljust(16, b"\0")
_SEND_TRIES: Final = 1000
_PIECE_BYTES: Final = 996  # a chunk of geometry 1


@dataclass
class Reaction:
    """What came back from the node.

    Attributes:
        link: the code with which it ended the link, if it told one.
        is_closed: whether the connection has ended.
        streams: the code with which it reset each stream.
        statuses: the STATUS of each stream.
        ended: streams on which FIN came.
        data: content that came on each stream.
        cells: all that came, in order.
    """

    link: ErrorCode | None = None
    is_closed: bool = False
    streams: dict[int, ErrorCode] = field(default_factory=dict)
    statuses: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    data: dict[int, bytes] = field(default_factory=dict)
    cells: list[tuple[int, int, bytes]] = field(default_factory=list)

    def take(self, kind: int, stream: int, payload: bytes) -> None:
        self.cells.append((kind, stream, payload))
        match kind:
            case CellType.RESET if stream:
                self.streams[stream] = parse_reset(memoryview(payload))
            case CellType.RESET:
                self.link = parse_reset(memoryview(payload))
            case CellType.STATUS:
                self.statuses[stream] = payload
            case CellType.FIN:
                self.ended.add(stream)
            case CellType.DATA:
                self.data[stream] = self.data.get(stream, b"") + payload


def settings(network: MemoryNetwork) -> bytes:
    """Legal settings."""
    return Settings.make(network.wall_s(), (1, 2), max_streams=64).pack()


def m3_payload(settings_bytes: bytes, signed: bytes) -> bytes:
    """The payload of M3."""
    return (settings_bytes + len(signed).to_bytes(2, "big") + signed).ljust(_M3_PLAIN_BYTES, b"\0")


class HostilePeer(CellWriter):
    """A peer with an identity of the network's pool, connected to `target`, or waiting for its dial.

    Args:
        target: by default the network's victim.
    Attributes:
        stream: the number of the last stream that this peer opened.
        rng: for everything that a rule leaves open.
        inputs: messages, records and pieces that were sent.
        frame_seed: of the target's slot in the last frame.
        others: further peers of the same rule, which leave with this one.
        asked: a query of the target that this peer answers.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        role: Role = "dials",
        *,
        target: Node | None = None,
        rng: random.Random | None = None,
        keys: NodeKeys | None = None,
    ) -> None:
        self.network = network
        self.role: Role = role
        self.target = network.victim if target is None else target
        self.rng = rng or random.Random(0)
        self.keys = keys or network.identity()
        self.engine = OPENSSL
        self.stream = -1 if role == "dials" else 0
        self.inputs = 0
        self.frame_seed = b""
        self.others: list[HostilePeer] = []
        self.asked: Future[QueryResult] | None = None
        self.seen = Reaction()
        self._received = bytearray()
        self._buffer = bytearray(1 << 16)
        self._socket: MemorySocket | None = None
        self._listener: MemoryListener | None = None
        self.noise: NoiseXK
        self._opener: RecordOpener
        if role == "is dialled":
            self._listener = network.listen()
            self.descriptor = self._describe((Address(*self._listener.address),))
            self.target.context.directory.publish(self.descriptor)
        else:
            self.descriptor = self._describe(())

    def _describe(self, addresses: tuple[Address, ...]) -> Descriptor:
        return self.keys.descriptor(addresses, self.network.wall_s(), self.engine, profiles=(1, 2, 3, 4, 5))

    @property
    def id(self) -> bytes:
        return self.descriptor.node_id

    # -- the handshake ---------------------------------------------------------------------------------

    def connect(self) -> None:
        """Take a connection without a byte of a handshake: dial, or be dialled for a frame of the victim."""
        link_private = self.keys.link_private(self.engine)
        if self._listener is None:
            self._socket = self.network.connect(self.target)
            self.noise = NoiseXK(
                "initiator",
                prologue=_PROLOGUE,
                static_private=link_private,
                remote_static=self.target.descriptor.link_key,
                engine=self.engine,
            )
            return
        if not self.target.links.dials.get(self.id):
            self.network.reactor.spawn(self.dialling())
        self.accept()

    def accept(self) -> None:
        """Take the connection of a dial that somebody else has caused."""
        listener = self._listener
        assert listener is not None
        with contextlib.suppress(Hang):
            self.network.wait_until(lambda: self._accepted(listener) or self.dial_error is not None, 60.0)
        if self._socket is None:
            raise Unanswered(f"nobody dialled: {self.dial_error}")
        self.noise = NoiseXK(
            "responder",
            prologue=_PROLOGUE,
            static_private=self.keys.link_private(self.engine),
            engine=self.engine,
        )

    def _accepted(self, listener: MemoryListener) -> bool:
        if self._socket is None and listener.waiting:
            self._socket = listener.waiting.popleft()
        return self._socket is not None

    def dialling(self) -> Service[None]:
        """The victim dials this peer for a frame of its own."""
        try:
            yield from self.target.links.dial(self.id, is_own=True)
        except NextRefused as error:
            self.dial_error = error

    dial_error: NextRefused | None = None
    expects_refusal = False  # of the dial
    is_silent = False  # answers no PING

    def handshake(self) -> HostilePeer:
        """Connect, and perform the handshake as an honest node does."""
        self.connect()
        if self.role == "dials":
            self.send_m1()
            self.send_m3()
            self.use(self.noise.finish())
        else:
            self.answer_handshake()
        return self

    def answer_handshake(self) -> None:
        """The responder's side, once the connection is there."""
        self.noise.read_message(self.receive_exactly(M1_BYTES)[16:])
        self.send_bytes(self.noise.write_message(settings(self.network)))
        self.noise.read_message(self.receive_exactly(M3_BYTES))
        self.use(self.noise.finish())

    def send_m1(self) -> None:
        self.send_bytes(_HELLO + bytes(12) + self.noise.write_message(b""))

    def receive_m2(self) -> bytes:
        """M2. Raises Unanswered: the node asks for a puzzle, because others have dialled it so often."""
        answer = self.receive_exactly(M2_BYTES)
        if answer.startswith(RETRY_MAGIC):
            raise Unanswered("the node asks for a puzzle")
        return answer

    def send_m3(self, payload: bytes | None = None) -> None:
        self.noise.read_message(self.receive_m2())
        legal = m3_payload(settings(self.network), self.descriptor.signed)
        self.send_bytes(self.noise.write_message(legal if payload is None else payload))

    def use(self, keys: LinkKeys) -> None:
        """Seal and open records with the keys of a finished handshake."""
        self.link_keys = keys
        self.sealer = RecordSealer(keys.send_key, self.engine)
        self._opener = RecordOpener(keys.receive_key, self.engine)

    def link_up(self) -> HostilePeer:
        """A link without the work of its handshake: for floods."""
        self._socket, far = self.network.wire().ends
        ours, theirs = self.rng.randbytes(32), self.rng.randbytes(32)
        self.use(LinkKeys(ours, theirs, bytes(32)))
        known = Settings.unpack(settings(self.network))
        result = HandshakeResult(
            far,
            LinkKeys(theirs, ours, bytes(32)),
            self.descriptor,
            known,
            is_dialler=self.role == "is dialled",
        )
        if result.is_dialler:
            self.target.links.pool(self.id).dial_begins()
        self.network.run(self.target.links.adopt(result))
        return self

    # -- sending ---------------------------------------------------------------------------------------

    def next_stream(self) -> int:
        """Take the next number of this side."""
        self.stream += 2
        return self.stream

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send, unless the node has closed the connection."""
        assert self._socket is not None, "not connected"
        self.inputs += 1
        view = memoryview(data)
        for _ in range(_SEND_TRIES):
            try:
                while view:
                    view = view[self._socket.write(view) :]
                return
            except BlockingIOError:
                self.network.settle()
                self.network.pass_time(0.01)  # it may wait for its turn to serve a stream
            except (Broken, Closed):
                return
        raise Hang("the node neither takes bytes nor closes the connection")

    def send_paced(self, data: bytes) -> None:
        """Send content of the last stream, no more at a time than its window takes."""
        for at in range(0, len(data), _PIECE_BYTES):
            self.look()
            if self.stream in self.seen.streams:
                return
            self.send_content(data[at : at + _PIECE_BYTES], stream=self.stream)

    # -- receiving -------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Take what has come. False: nothing."""
        assert self._socket is not None
        try:
            count = self._socket.readinto(self._buffer)
        except BlockingIOError:
            return False
        except (Broken, Closed):
            count = 0
        if not count:
            changed, self.seen.is_closed = not self.seen.is_closed, True
            return changed
        self._received += self._buffer[:count]
        return True

    def receive_exactly(self, count: int) -> bytes:
        """Raw bytes of the handshake."""

        def has_come() -> bool:
            while self._take():
                pass
            return len(self._received) >= count or self.seen.is_closed

        self.network.wait_until(has_come)
        if len(self._received) < count:
            raise Unanswered(f"closed after {len(self._received)} of {count} bytes")
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def look(self) -> None:
        """Take what can come now, and add it to what was `seen`."""
        self.network.settle()
        while self._take():
            self.network.settle()
        if not hasattr(self, "_opener"):
            return  # no keys: bytes of a handshake
        while len(self._received) >= HEAD_BYTES:
            size = record_bytes_of(bytes(self._received[:HEAD_BYTES]))
            if len(self._received) < size:
                return
            record = self._received[:size]
            del self._received[:size]
            for kind, stream, payload in split_cells(self._opener.open(memoryview(record))):
                self.seen.take(kind, stream, bytes(payload))
                if kind == CellType.PING and not payload[0] and not self.is_silent:
                    self.send_cells(pack_ping(bytes(payload[1:]), is_answer=True))

    def reaction(self, within_s: float = 1.0) -> Reaction:
        """What the node has done after so long. It ends sooner when the link does."""
        end_s = self.network.clock.now() + within_s
        self.look()
        while not self.seen.is_closed and self.network.clock.now() < end_s:
            self.network.pass_time(min(1.0, end_s - self.network.clock.now()))
            self.look()
        return self.seen

    @property
    def handshake_bytes(self) -> int:
        """Bytes that came and were not asked for: for a peer that has no link."""
        return len(self._received)

    def is_served(self) -> bool:
        """Whether the node still answers on this link."""
        token = self.rng.randbytes(7)
        self.send_cells(pack_ping(token, is_answer=False))
        answer = (CellType.PING, 0, b"\1" + token)
        for _ in range(20):
            self.look()
            if answer in self.seen.cells:
                return True
            self.network.pass_time(0.25)  # streams before it may wait for their turns
        return False

    # -- the end ---------------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        """End this side of the connection."""
        assert self._socket is not None
        self._socket.shutdown_write()

    def hang_up(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()

    def leave(self) -> None:
        """Close the connection, and let everybody forget this peer."""
        self.hang_up()
        if self._listener is not None:
            self.network.unlisten(self._listener)
        for other in self.others:
            other.leave()

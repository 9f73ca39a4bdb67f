"""A peer that says whatever a test wants: the link protocol over a blocking socket, without any of the node's
care.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tunnel.descriptor import Address, Descriptor
from tunnel.errors import ErrorCode
from tunnel.geometry import Profile
from tunnel.keys import NodeKeys
from tunnel.link.frames import NEED_DATA, Event, FrameReceiver, FrameSender, Reset
from tunnel.link.handshake import M2_BYTES, Initiator, Settings
from tunnel.link.records import RecordOpener, RecordSealer
from tunnel.node import LOCAL_NETWORK_ID
from tunnel.primitives import TunnelEngine

__all__ = ["RawPeer"]

# Only reached when a node under test hangs: then the test fails here instead of hanging too.
_PATIENCE_S = 20.0


class RawPeer:
    """A client with an identity of its own, connected to `target`.

    Attributes:
        sender: queues frames; `send` sends what is queued.
    """

    def __init__(
        self, target: Descriptor, engine: TunnelEngine, *, network_id: bytes = LOCAL_NETWORK_ID
    ) -> None:
        self.keys = NodeKeys.generate(time.time())
        self.engine = engine
        self._target = target
        self._network_id = network_id
        address: Address = target.addresses[0]
        self._socket = socket.create_connection((address.host, address.port), timeout=_PATIENCE_S)
        # Else the kernel holds small records back, and what is sent first is not what arrives first.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sender: FrameSender
        self._receiver: FrameReceiver

    @property
    def id(self) -> bytes:
        return self.keys.node_id(self.engine)

    def handshake(self) -> Self:
        initiator = Initiator(
            network_id=self._network_id,
            link_private=self.keys.link_private(self.engine),
            remote_link_key=self._target.link_key,
            descriptor=self.keys.descriptor((), time.time(), self.engine),
            settings=Settings.make(time.time(), (2,)),
            engine=self.engine,
        )
        self.send_bytes(initiator.hello())
        self.send_bytes(initiator.reply(self.receive_exactly(M2_BYTES)))
        keys = initiator.finish()
        self.sender = FrameSender(RecordSealer(keys.send_key, self.engine))
        self._receiver = FrameReceiver(RecordOpener(keys.receive_key, self.engine))
        return self

    def send_bytes(self, data: bytes | memoryview) -> None:
        self._socket.sendall(data)

    def send(self) -> None:
        """Send the frames that are queued in `sender`."""
        count = len(self.sender.pending)
        self.send_bytes(self.sender.pending)
        self.sender.sent(count)

    def send_content(self, data: bytes) -> None:
        """Send DATA frames."""
        view = memoryview(data)
        while view:
            view = view[self.sender.data(view) :]
            self.send()

    def open(self, profile: Profile, content: bytes) -> None:
        """OPEN and content."""
        self.sender.open(profile)
        self.send()
        self.send_content(content)

    def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, f"connection ended after {len(data)} of {count} bytes"
            data += piece
        return data

    def receive_to_end(self) -> bytes:
        """Every raw byte until the node closes, in order or not."""
        data = b""
        try:
            while piece := self._socket.recv(65536):
                data += piece
        except ConnectionResetError:
            return data
        return data

    def events(self) -> Iterator[Event]:
        """Frames from the node until the connection ends."""
        while True:
            event = self._receiver.next_event()
            if event is not NEED_DATA:
                yield event
                continue
            count = self._socket.recv_into(self._receiver.space())
            if count == 0:
                return
            self._receiver.received(count)

    def reset_code(self) -> ErrorCode | None:
        """The code of the RESET that ends the stream, or None when it ends otherwise."""
        codes = [event.code for event in self.events() if isinstance(event, Reset)]
        assert len(codes) <= 1
        return codes[0] if codes else None

    def shutdown_write(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A peer that sends anything: the link protocol over a blocking socket, without the checks of a node."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.cells import (
    CELL_HEAD,
    MAX_PAYLOAD_BYTES,
    CellType,
    pack_fin,
    pack_open,
    parse_reset,
    split_cells,
)
from tunnel.link.handshake import M2_BYTES, Initiator, Settings
from tunnel.link.records import HEAD_BYTES, RecordOpener, RecordSealer, record_bytes_for, record_bytes_of
from tunnel.node import LOCAL_NETWORK_ID

__all__ = ["STREAM", "CellWriter", "RawPeer"]

STREAM = 1  # the first of the side that dials

# Reached only when the node under test hangs: then the test fails here instead of hanging too.
_PATIENCE_S = 60.0


class CellWriter:
    """Sends cells over a link, legal or not. A subclass sends the bytes and has the keys.

    Attributes:
        sealer: of the records; set when the handshake is done.
    """

    sealer: RecordSealer

    def send_bytes(self, data: bytes | memoryview) -> None:
        raise NotImplementedError

    def seal_cells(self, *cells: bytes) -> bytes:
        """Seal cells into one record, zero-padded."""
        plain = b"".join(cells)
        record = bytearray(record_bytes_for(len(plain)))
        record[HEAD_BYTES : HEAD_BYTES + len(plain)] = plain
        self.sealer.seal(memoryview(record))
        return bytes(record)

    def send_cells(self, *cells: bytes) -> None:
        """Seal cells into one record, zero-padded, and send it."""
        self.send_bytes(self.seal_cells(*cells))

    def open(self, profile: Profile, content: bytes, *, stream: int = STREAM) -> None:
        """Send OPEN and content."""
        self.send_cells(pack_open(stream, profile, 0))
        self.send_content(content, stream=stream)

    def send_content(self, data: bytes, *, stream: int = STREAM) -> None:
        """Send DATA cells."""
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            piece = data[start : start + MAX_PAYLOAD_BYTES]
            self.send_cells(CELL_HEAD.pack(CellType.DATA, 0, len(piece), stream) + piece)

    def send_fin(self, *, stream: int = STREAM) -> None:
        """End this side's half."""
        self.send_cells(pack_fin(stream))


class RawPeer(CellWriter):
    """A client with a new identity, connected to `target`.

    Args:
        addresses: in its descriptor. It listens at none of them.
    """

    def __init__(
        self,
        target: Descriptor,
        engine: TunnelEngine,
        *,
        network_id: bytes = LOCAL_NETWORK_ID,
        addresses: tuple[Address, ...] = (),
    ) -> None:
        self.keys = NodeKeys.generate(time.time())
        self.engine = engine
        self._target = target
        self._network_id = network_id
        self._addresses = addresses
        address: Address = target.addresses[0]
        self._socket = socket.create_connection((address.host, address.port), timeout=_PATIENCE_S)
        # Otherwise the kernel delays small records, and the records of two peers arrive out of order.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._initiator: Initiator
        self._opener: RecordOpener

    @property
    def id(self) -> bytes:
        return self.keys.node_id(self.engine)

    def handshake(self) -> Self:
        self.send_first_message()
        self.send_last_message()
        return self

    def send_first_message(self) -> None:
        self._initiator = Initiator(
            network_id=self._network_id,
            link_private=self.keys.link_private(self.engine),
            remote_link_key=self._target.link_key,
            descriptor=self.keys.descriptor(self._addresses, time.time(), self.engine),
            settings=Settings.make(time.time(), (2,)),
            engine=self.engine,
        )
        self.send_bytes(self._initiator.hello())

    def send_last_message(self) -> None:
        self.send_bytes(self._initiator.reply(self.receive_exactly(M2_BYTES)))
        keys = self._initiator.finish()
        self.sealer = RecordSealer(keys.send_key, self.engine)
        self._opener = RecordOpener(keys.receive_key, self.engine)

    def send_bytes(self, data: bytes | memoryview) -> None:
        self._socket.sendall(data)

    def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, f"connection ended after {len(data)} of {count} bytes"
            data += piece
        return data

    def receive_to_end(self) -> bytes:
        """All raw bytes until the node closes, with or without an orderly end."""
        data = b""
        try:
            while piece := self._socket.recv(65536):
                data += piece
        except ConnectionResetError:
            return data
        return data

    def cells(self) -> Iterator[tuple[int, int, bytes]]:
        """Give (type, stream, payload) of each cell from the node until the connection ends."""
        while head := self._socket.recv(HEAD_BYTES):
            head += self.receive_exactly(HEAD_BYTES - len(head))
            size = record_bytes_of(head)
            record = bytearray(head + self.receive_exactly(size - HEAD_BYTES))
            for kind, stream, payload in split_cells(self._opener.open(memoryview(record))):
                yield kind, stream, bytes(payload)

    def reset_code(self, *, stream: int = STREAM) -> ErrorCode | None:
        """The code of the RESET that ends the stream, 0 for the link; None when the link ends without one."""
        for kind, of_stream, payload in self.cells():
            if kind == CellType.RESET and of_stream == stream:
                return parse_reset(memoryview(payload))
        return None

    def wait_for(self, kind: CellType, *, stream: int = STREAM) -> bytes:
        """The payload of the next cell of this kind on the stream."""
        return next(payload for found, of, payload in self.cells() if (found, of) == (kind, stream))

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

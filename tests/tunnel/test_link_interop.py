"""A link whose other end uses another implementation of Noise, `noiseprotocol`.

It does the handshake with our layouts around its messages, in both roles. Then it seals and opens records
with its own cipher states, across the first change of keys.
"""

from __future__ import annotations

import struct
import warnings
from typing import Any

import pytest
from noise.connection import Keypair, NoiseConnection

from tests.tunnel.helpers import ENGINES, NOW_S, SMALL, make_keys
from tests.tunnel.mux_helpers import Clock, Flag, cell, read_all
from tunnel.crypto.primitives import TunnelEngine
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.link.cells import CellType, split_cells
from tunnel.link.handshake import M3_BYTES, Initiator, Responder, Settings
from tunnel.link.mux import Multiplexer, MuxLimits
from tunnel.link.noise import PROTOCOL_NAME, LinkKeys
from tunnel.link.records import REKEY_AFTER

NETWORK = bytes(range(16))
US, THEM = make_keys("us"), make_keys("them")
SETTINGS = Settings.make(NOW_S, (1, 2), max_streams=100, window_bytes=1 << 20)
HELLO = b"MT\x00\x01" + bytes(12)


class OtherEnd:
    """A link as docs/protocol.md describes it, with the Noise of another library."""

    def __init__(self, role: str, engine: TunnelEngine) -> None:
        self.noise: Any = NoiseConnection.from_name(PROTOCOL_NAME)
        self.noise.set_prologue(b"mtun1" + NETWORK)
        if role == "initiator":
            self.noise.set_as_initiator()
            public = US.link_private(engine).public
            self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public)
        else:
            self.noise.set_as_responder()
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, THEM.link)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.noise.start_handshake()
        self.sent = self.opened = 0

    def record(self, plain: bytes) -> bytes:
        units = -(-(len(plain) + 20) // 1024)
        head = struct.pack(">HH", units, 0)
        cipher = self.noise.noise_protocol.cipher_state_encrypt
        if self.sent and self.sent % REKEY_AFTER == 0:
            cipher.rekey()
        self.sent += 1
        return head + bytes(cipher.encrypt_with_ad(head, plain.ljust(units * 1024 - 20, b"\0")))

    def open(self, wire: bytes) -> list[tuple[int, int, bytes]]:
        cells = []
        cipher = self.noise.noise_protocol.cipher_state_decrypt
        while wire:
            (units,) = struct.unpack_from(">H", wire)
            record, wire = wire[: units * 1024], wire[units * 1024 :]
            if self.opened and self.opened % REKEY_AFTER == 0:
                cipher.rekey()
            self.opened += 1
            plain = bytes(cipher.decrypt_with_ad(record[:4], record[4:]))
            cells += [(kind, stream, bytes(data)) for kind, stream, data in split_cells(memoryview(plain))]
        return cells


def multiplexer(keys: LinkKeys, engine: TunnelEngine, *, is_dialler: bool) -> Multiplexer[Flag]:
    return Multiplexer(
        keys, is_dialler=is_dialler, engine=engine, limits=MuxLimits(), make_notifier=Flag, now_s=Clock()
    )


def as_responder(engine: TunnelEngine) -> tuple[Multiplexer[Flag], OtherEnd]:
    """The other end dials us."""
    them = OtherEnd("initiator", engine)
    us = Responder(network_id=NETWORK, link_private=US.link_private(engine), settings=SETTINGS, engine=engine)
    second = us.hello(HELLO + bytes(them.noise.write_message()))
    assert Settings.unpack(bytes(them.noise.read_message(second))) == SETTINGS
    signed = THEM.descriptor((Address("127.0.0.1", 1),), NOW_S, engine).signed
    plain = SETTINGS.pack() + struct.pack(">H", len(signed)) + signed
    third = bytes(them.noise.write_message(plain.ljust(512, b"\0")))
    assert len(third) == M3_BYTES
    assert us.final(third, now_s=NOW_S).link_key == THEM.link_private(engine).public
    return multiplexer(us.finish(), engine, is_dialler=False), them


def as_initiator(engine: TunnelEngine) -> tuple[Multiplexer[Flag], OtherEnd]:
    """We dial the other end."""
    them = OtherEnd("responder", engine)
    us = Initiator(
        network_id=NETWORK,
        link_private=US.link_private(engine),
        remote_link_key=THEM.link_private(engine).public,
        descriptor=US.descriptor((Address("127.0.0.1", 2),), NOW_S, engine),
        settings=SETTINGS,
        engine=engine,
    )
    first = us.hello()
    assert first[:16] == HELLO
    assert bytes(them.noise.read_message(first[16:])) == b""
    third = us.reply(bytes(them.noise.write_message(SETTINGS.pack())))
    plain = bytes(them.noise.read_message(third))
    assert Settings.unpack(plain[:32]) == SETTINGS == us.peer_settings
    (length,) = struct.unpack_from(">H", plain, 32)
    assert Descriptor.parse(plain[34 : 34 + length], engine).link_key == US.link_private(engine).public
    assert not plain[34 + length :].strip(b"\0")
    return multiplexer(us.finish(), engine, is_dialler=True), them


def say(mux: Multiplexer[Flag], wire: bytes) -> None:
    space = mux.space()
    space[: len(wire)] = wire
    mux.received(len(wire))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("join", [as_initiator, as_responder])
def test_a_whole_link_with_noiseprotocol(join: Any, engine: TunnelEngine) -> None:
    mux, them = join(engine)
    ours = mux.open(SMALL)
    content = bytes(range(256)) * 4
    assert ours.write(content) == 1024
    cells = them.open(bytes(mux.pending))
    mux.sent(len(mux.pending))
    assert cells == [
        (CellType.OPEN, ours.id, bytes([1, SMALL.byte, 0, 0, 0, 0])),
        (CellType.DATA, ours.id, content),
    ]
    answer = cell(CellType.DATA, ours.id, b"answer") + cell(CellType.FIN, ours.id)
    say(mux, them.record(answer + cell(CellType.STATUS, ours.id, b"status")))
    assert read_all(ours) == b"answer"
    assert ours.status == b"status"
    theirs = 3 - ours.id
    say(mux, them.record(cell(CellType.OPEN, theirs, bytes([1, SMALL.byte, 0, 0, 0, 0]))))
    accepted = mux.accept_nowait()
    assert accepted is not None
    assert accepted.id == theirs


def test_both_change_keys_at_the_same_record() -> None:
    mux, them = as_initiator(ENGINES[0])
    for _ in range(REKEY_AFTER + 3):
        say(mux, them.record(b""))
        assert mux.pad(1)
        assert them.open(bytes(mux.pending)) == []
        mux.sent(1024)
    assert them.sent == them.opened == REKEY_AFTER + 3
    assert mux.error is None

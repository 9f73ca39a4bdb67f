"""Rules of the link handshake: first what a node refuses as it is dialled, then as it dials."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Final, Literal

from tests.hostile.network import Unanswered
from tests.hostile.peer import RETRY_MAGIC, HostilePeer, m3_payload, settings
from tests.hostile.rules import CONNECTED, Ranges, Rule, bits, closed, outside
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES
from tunnel.link.noise import NoiseXK

__all__ = ["RULES"]

_SETTINGS: Final = struct.Struct(">IIB3sI16s")
_LOW_ORDER: Final = (bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f")
_RUSH: Final = 80  # first messages in a moment: the node asks from 50 in a second on
_DESCRIPTOR_AT: Final = 34  # in the payload of M3


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _bad_settings(field: str, value: Any) -> Callable[[HostilePeer], bytes]:
    def make(peer: HostilePeer) -> bytes:
        fields: dict[str, Any] = {"streams": 1, "window": 0, "padding": 0, "zero": bytes(3), "clock": 0}
        fields["profiles"] = b"\1"
        fields[field] = value
        return _SETTINGS.pack(
            *(fields[name] for name in ("streams", "window", "padding", "zero", "clock", "profiles"))
        )

    return make


_BAD_SETTINGS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("streams", "that the peer may have open at once, 1 to 65,536", Ranges(range(1), range(65_537, 1 << 32))),
    ("padding", "0 off, 1 Poisson, 2 constant rate (*Padding*)", Ranges(range(3, 256))),
    ("zero", "| 9 | zero | 3 | MUST be zero |", (b"\1\0\0", b"\0\1\0", b"\0\0\1", b"\xff\xff\xff")),
    (
        "profiles",
        "that it takes, at least one, none of them 0; filled up with zeros",
        (bytes(16), b"\1\0\2", b"\0\1", b"\0" * 15 + b"\1"),
    ),
)


# --- what a responder refuses ------------------------------------------------------------------------------


def _m1(peer: HostilePeer) -> bytes:
    peer.connect()
    return b"MT\0\1" + bytes(12) + peer.noise.write_message(b"")


def _send_first(change: Callable[[bytes, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    def do(peer: HostilePeer, value: Any) -> None:
        peer.send_bytes(change(_m1(peer), value))

    return do


def _low_order(peer: HostilePeer, value: bytes) -> None:
    peer.send_bytes(_m1(peer)[:16] + value + os.urandom(16))


def _silent(peer: HostilePeer, count: int) -> None:
    peer.send_bytes(_m1(peer)[:count])


def _flood(peer: HostilePeer, count: int) -> None:
    peer.connect()
    peer.send_bytes(os.urandom(count))


def _gone(peer: HostilePeer, count: int) -> None:
    _silent(peer, count)
    peer.shutdown_write()


def _other_network(peer: HostilePeer, network_id: bytes) -> None:
    peer.connect()
    peer.noise = NoiseXK(
        "initiator",
        prologue=b"mtun1" + network_id,
        static_private=peer.keys.link_private(peer.engine),
        remote_static=peer.target.descriptor.link_key,
        engine=peer.engine,
    )
    peer.send_m1()


def _second(make: Callable[[HostilePeer, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    """M3 with another payload."""

    def do(peer: HostilePeer, value: Any) -> None:
        peer.connect()
        peer.send_m1()
        peer.send_m3(make(peer, value))

    return do


def _changed_m3(peer: HostilePeer, bit: int) -> None:
    peer.connect()
    peer.send_m1()
    peer.noise.read_message(peer.receive_m2())
    legal = peer.noise.write_message(m3_payload(settings(peer.network), peer.descriptor.signed))
    peer.send_bytes(flipped(legal, bit))


def _part_of_m3(peer: HostilePeer, count: int) -> None:
    peer.connect()
    peer.send_m1()
    peer.receive_m2()
    peer.send_bytes(os.urandom(count))


def _settings_payload(field: str) -> Callable[[HostilePeer, Any], bytes]:
    return lambda peer, value: m3_payload(_bad_settings(field, value)(peer), peer.descriptor.signed)


def _wrong_length(peer: HostilePeer, length: int) -> bytes:
    legal = m3_payload(settings(peer.network), peer.descriptor.signed)
    return legal[:32] + length.to_bytes(2, "big") + legal[34:]


def _not_zero(peer: HostilePeer, bit: int) -> bytes:
    """A bit behind the descriptor."""
    legal = m3_payload(settings(peer.network), peer.descriptor.signed)
    free = len(legal) - _DESCRIPTOR_AT - len(peer.descriptor.signed)
    return flipped(legal, 8 * (len(legal) - free) + bit % (8 * free))


def _changed_descriptor(peer: HostilePeer, bit: int) -> bytes:
    signed = peer.descriptor.signed
    return m3_payload(settings(peer.network), flipped(signed, bit % (8 * len(signed))))


def _other_key(peer: HostilePeer, value: None) -> bytes:
    other = NodeKeys.generate(peer.network.wall_s())
    return m3_payload(settings(peer.network), other.descriptor((), peer.network.wall_s(), peer.engine).signed)


def _expired(peer: HostilePeer, days: int) -> bytes:
    then_s = peer.network.wall_s() - 86_400 * days
    return m3_payload(settings(peer.network), peer.keys.descriptor((), then_s, peer.engine).signed)


def _under_load(peer: HostilePeer) -> bytes:
    """So many first messages that the node asks for a puzzle. Returns M1 of this peer, which was sent."""
    for _ in range(_RUSH):
        other = HostilePeer(peer.network)
        peer.others.append(other)
        other.connect()
        other.send_m1()
        peer.network.settle()
    m1 = _m1(peer)
    peer.send_bytes(m1)
    if not peer.receive_exactly(M2_BYTES).startswith(RETRY_MAGIC):
        raise Unanswered("the node did not ask for a puzzle")
    return m1


def _wrong_answer(peer: HostilePeer, value: int) -> None:
    m1 = _under_load(peer)
    peer.send_bytes(m1[:4] + value.to_bytes(12, "big") + m1[16:])


def _another_m1(peer: HostilePeer, bit: int) -> None:
    peer.send_bytes(flipped(_under_load(peer), bit))


_CHECKS_M1: Final = "M1: magic, version, puzzle, tag"
_PUZZLE: Final = "a wrong answer, or an M1 that differs in anything but the answer"
_CHECKS_M3: Final = (
    "M3: both tags; the settings as in the table; the descriptor's length fits; all behind it is zero; "
    "the descriptor (*Descriptor*); its link key equals s; its expiry ≥ now."
)


def _rule_for(role: Literal["dials", "is dialled"]) -> Callable[..., Rule]:
    """Makes the rules of a role: who breaks one loses the connection."""

    def rule(
        name: str,
        sentence: str,
        do: Callable[[HostilePeer, Any], None],
        values: Any = (None,),
        within_s: float = 1.0,
    ) -> Rule:
        return Rule(name, sentence, do, closed(within_s), values, (role,), CONNECTED)

    return rule


_accepts = _rule_for("dials")
_is_dialled = _rule_for("is dialled")

_RESPONDER: Final = (
    _accepts("M1: magic", _CHECKS_M1, _send_first(flipped), bits(0, 2)),
    _accepts("M1: version", _CHECKS_M1, _send_first(flipped), bits(2, 4)),
    _accepts(
        "M1: answer to no puzzle",
        "Refused by the responder: an answer where none was asked for",
        _send_first(flipped),
        bits(4, 16),
    ),
    _accepts("M1: key or tag", _CHECKS_M1, _send_first(flipped), bits(16, 64)),
    _accepts("M1: low order", "the shared secret is all zero) MUST be refused", _low_order, _LOW_ORDER),
    _accepts(
        "M1: silence",
        "an incoming handshake, from accept to M3; then the connection is closed",
        _silent,
        range(M1_BYTES),
        within_s=11.0,
    ),
    _accepts("M1: hangs up", "each side reads exactly that many bytes", _gone, range(M1_BYTES)),
    _accepts("M1: flood", _CHECKS_M1, _flood, (65, 100_000)),
    _accepts("M1: network", 'Prologue: `"mtun1"` ‖ network id 16', _other_network, (bytes(16), b"\xff" * 16)),
    _accepts("M1: wrong answer", _PUZZLE, _wrong_answer, range(1 << 40)),
    _accepts("M1: another after RETRY", _PUZZLE, _another_m1, bits(0, 64)),
    _accepts("M3: changed", _CHECKS_M3, _changed_m3, bits(0, M3_BYTES)),
    _accepts(
        "M3: silence",
        "an incoming handshake, from accept to M3; then the connection is closed",
        _part_of_m3,
        range(M3_BYTES),
        within_s=11.0,
    ),
    _accepts("M3: descriptor's length", _CHECKS_M3, _second(_wrong_length), outside(0, 478, 16)),
    _accepts("M3: shorter length", _CHECKS_M3, _second(_wrong_length), range(69)),
    _accepts("M3: not zero", _CHECKS_M3, _second(_not_zero), range(1000)),
    _accepts(
        "M3: descriptor changed",
        "Any failure refuses the whole descriptor",
        _second(_changed_descriptor),
        range(2000),
    ),
    _accepts("M3: another's descriptor", _CHECKS_M3, _second(_other_key)),
    _accepts("M3: expired", _CHECKS_M3, _second(_expired), (8, 9, 1000)),
    *(
        _accepts(f"M3: settings, {field}", sentence, _second(_settings_payload(field)), values)
        for field, sentence, values in _BAD_SETTINGS
    ),
)


# --- what an initiator refuses -----------------------------------------------------------------------------


def _answer(
    make: Callable[[HostilePeer, Any], bytes], *, first: bytes = b""
) -> Callable[[HostilePeer, Any], None]:
    """Answer M1, after `first` if there is one, and expect that the dial fails."""

    def do(peer: HostilePeer, value: Any) -> None:
        peer.connect()
        m1 = peer.receive_exactly(M1_BYTES)
        if first:
            peer.send_bytes(first)
            m1 = peer.receive_exactly(M1_BYTES)
        peer.noise.read_message(m1[16:])
        peer.send_bytes(make(peer, value))
        peer.expects_refusal = True

    return do


def _settings_answer(field: str) -> Callable[[HostilePeer, Any], bytes]:
    return lambda peer, value: peer.noise.write_message(_bad_settings(field, value)(peer))


def _changed_m2(peer: HostilePeer, bit: int) -> bytes:
    return flipped(peer.noise.write_message(settings(peer.network)), bit)


def _retry(difficulty: int, rest: bytes = bytes(47)) -> bytes:
    return RETRY_MAGIC + os.urandom(16) + bytes([difficulty]) + rest


_REFUSED_RETRY: Final = (
    "Refused by the initiator: a second RETRY, d out of its range, bytes that are not zero behind it."
)

_INITIATOR: Final = (
    _is_dialled(
        "M2: changed", "the tag of M2, which proves the responder", _answer(_changed_m2), bits(0, M2_BYTES)
    ),
    _is_dialled(
        "M2: silence",
        "connecting to one address, and the handshake",
        _answer(lambda peer, count: os.urandom(count)),
        range(M2_BYTES),
        within_s=11.0,
    ),
    _is_dialled("RETRY: difficulty", _REFUSED_RETRY, _answer(lambda _, d: _retry(d)), outside(1, 16, 8)),
    _is_dialled(
        "RETRY: not zero",
        _REFUSED_RETRY,
        _answer(lambda _, bit: _retry(1, flipped(bytes(47), bit))),
        bits(0, 47),
    ),
    _is_dialled(
        "RETRY: second", _REFUSED_RETRY, _answer(lambda _, d: _retry(d), first=_retry(1)), range(1, 17)
    ),
    *(
        _is_dialled(f"M2: settings, {field}", sentence, _answer(_settings_answer(field)), values)
        for field, sentence, values in _BAD_SETTINGS
    ),
)

RULES: Final = _RESPONDER + _INITIATOR

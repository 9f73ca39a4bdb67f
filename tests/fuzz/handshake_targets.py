"""The link handshake, both roles: raw messages, and sealed ones whose content the input chooses."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.target import ENGINE, Input, raised, target
from tests.tunnel.helpers import NOW_S, make_keys
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import HandshakeError, LocalTunnelError
from tunnel.geometry import ALL_PROFILES
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.link.handshake import (
    M1_BYTES,
    M2_BYTES,
    M3_BYTES,
    MAX_BITS,
    Initiator,
    Puzzle,
    Responder,
    Settings,
)
from tunnel.link.noise import LinkKeys, NoiseXK

_NETWORK = bytes(range(16))
_PROLOGUE = b"mtun1" + _NETWORK
_ALICE, _BOB = make_keys("alice"), make_keys("bob")
_SETTINGS = Settings.make(NOW_S, tuple(profile.byte for profile in ALL_PROFILES))
_SETTINGS_BYTES = len(_SETTINGS.pack())
_DESCRIPTOR = _ALICE.descriptor((Address("192.0.2.1", 4000),), NOW_S, ENGINE)
_M1_HEAD = b"MT\x00\x01" + bytes(12)
_CHALLENGE = bytes(range(16))
_EPHEMERAL = bytes(range(32))
# A point of low order, and one that is not canonical.
_POINTS = [bytes(32), b"\x01" + bytes(31), (2**255 - 19 + 9).to_bytes(32, "little"), b"\xff" * 32]


@target(HandshakeError, most_bytes=64)
def link_settings(given: Input) -> None:
    """Settings that are read pack to the same bytes."""
    data = given.take(_SETTINGS_BYTES)
    assert Settings.unpack(data).pack() == data


def _responder(load: int) -> Responder:
    return Responder(
        network_id=_NETWORK,
        link_private=_BOB.link_private(ENGINE),
        settings=_SETTINGS,
        engine=ENGINE,
        load=load,
        challenge=_CHALLENGE,
        fixed_ephemeral_for_tests_only=_EPHEMERAL,
    )


def _noise(role: str, engine: TunnelEngine = ENGINE) -> NoiseXK:
    """One side that seals what it likes."""
    is_initiator = role == "initiator"
    return NoiseXK(
        "initiator" if is_initiator else "responder",
        prologue=_PROLOGUE,
        static_private=(_ALICE if is_initiator else _BOB).link_private(engine),
        remote_static=_BOB.link_private(engine).public if is_initiator else None,
        engine=engine,
        fixed_ephemeral_for_tests_only=_EPHEMERAL,
    )


def _changed(message: bytes, given: Input) -> bytes:
    """The message, or one that differs in a byte, in its first point, or altogether."""
    match given.number(0, 3):
        case 0:
            return message
        case 1:
            at = given.number(0, len(message) - 1)
            return message[:at] + bytes([message[at] ^ given.number(0, 255)]) + message[at + 1 :]
        case 2:
            start = 16 if len(message) == M1_BYTES else 0
            return message[:start] + given.one_of(_POINTS) + message[start + 32 :]
        case _:
            return given.one_of([given.take(len(message)), given.rest()])


def _plain_of_m3(given: Input) -> bytes:
    settings = _SETTINGS.pack() if given.flag() else given.take(_SETTINGS_BYTES)
    signed = _DESCRIPTOR.signed if given.flag() else _signed(given)
    length = len(signed) if given.flag() else given.number(0, 65_535)
    plain = settings + length.to_bytes(2, "big") + signed
    return (plain + given.some(8)).ljust(512, b"\0")[: 512 if given.flag() else len(plain)]


def _signed(given: Input) -> bytes:
    """A descriptor of the initiator with any fields behind its id."""
    body = _DESCRIPTOR.signed[: 5 + 35 + 35] + given.some(MAX_DESCRIPTOR_BYTES - 64 - 75)
    return body + ENGINE.ed25519_sign(_ALICE.identity, body)


def _must_not_finish(finish: Callable[[], LinkKeys]) -> None:
    assert raised(LocalTunnelError, finish) is not None, "keys after a refusal"


@target(HandshakeError, most_bytes=768)
def handshake_responder(given: Input) -> None:
    """What an initiator sends, with and without a puzzle before it. Keys exist after M3 was accepted only."""
    bits = given.one_of([0, 0, 1, 4])
    responder, initiator = _responder(bits), _noise("initiator")
    try:
        first = initiator.write_message(b"")
        answer = responder.hello(_changed(_M1_HEAD + first, given))
        assert len(answer) == M2_BYTES
        if bits:
            assert responder.awaits_hello
            puzzle = Puzzle(_CHALLENGE, first[:32], bits)
            assert puzzle.search(10_000)
            solved = puzzle.answer if given.flag() else given.take(12)
            assert solved is not None
            answer = responder.hello(_changed(_M1_HEAD[:4] + solved + first, given))
        assert not responder.awaits_hello
        if raised(HandshakeError, initiator.read_message, answer):
            return
        last = initiator.write_message(_plain_of_m3(given))
        descriptor = responder.final(_changed(last, given), now_s=NOW_S)
    except HandshakeError:
        _must_not_finish(responder.finish)
        raise
    assert len(last) == M3_BYTES
    assert descriptor == Descriptor.parse(descriptor.signed, ENGINE)
    assert descriptor.link_key == _DESCRIPTOR.link_key
    assert responder.finish().send_key == initiator.finish().receive_key


@target(HandshakeError, most_bytes=384)
def handshake_initiator(given: Input) -> None:
    """What a responder sends: M2, RETRY, or anything else of that length or another."""
    initiator = Initiator(
        network_id=_NETWORK,
        link_private=_ALICE.link_private(ENGINE),
        remote_link_key=_BOB.link_private(ENGINE).public,
        descriptor=_DESCRIPTOR,
        settings=_SETTINGS,
        engine=ENGINE,
    )
    responder = _noise("responder")
    try:
        hello = initiator.hello()
        assert len(hello) == M1_BYTES
        if given.flag():
            message = b"mtun1 retry".ljust(16, b"\0") + given.take(16) + bytes([given.number(0, 255)])
            message = message.ljust(M2_BYTES, b"\0") if given.flag() else message + given.some(48)
            if initiator.is_retry(message):
                puzzle = initiator.retry(message)
                assert 1 <= puzzle.bits <= MAX_BITS
                hello = initiator.hello_again(given.take(12))
        responder.read_message(hello[16:])
        plain = _SETTINGS.pack() if given.flag() else given.take(_SETTINGS_BYTES)
        last = initiator.reply(_changed(responder.write_message(plain), given))
    except HandshakeError:
        _must_not_finish(initiator.finish)
        raise
    assert len(last) == M3_BYTES
    responder.read_message(last)
    assert initiator.finish().send_key == responder.finish().receive_key

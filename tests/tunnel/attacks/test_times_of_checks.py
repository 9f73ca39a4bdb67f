"""Threat: the time of a refusal tells a stranger something about a secret.

The stranger sends what is wrong in different ways, and compares. What differs in time differs in work, so the
tests count the work: the signatures and the comparisons of each refusal. `python -m bench.constant_time`
measures the times themselves; its figures are in docs/security.md.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest

from bench import constant_time
from bench.constant_time import CONTROL, Settings
from bench.report import machine
from tests.tunnel.helpers import ENGINES, OPENSSL
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import MalformedMessage, PeerError, TargetNotAllowed
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.onion import message_head, reply_block
from tunnel.onion.header import Command, Slot
from tunnel.onion.message_head import answer_ticket, answered_query
from tunnel.onion.reply_block import HomeTicket

BINDING, TARGET = b"b" * 32, b"target"
MINE, LISTED = ClientKey(b"m" * 32), ClientKey(b"l" * 32)


def counting_engine(verified: list[bytes]) -> TunnelEngine:
    engine = copy(OPENSSL)

    def verify(public: bytes, message: bytes, signature: bytes) -> None:
        verified.append(public)
        OPENSSL.ed25519_verify(public, message, signature)

    setattr(engine, "ed25519_verify", verify)  # noqa: B010 - a method, for mypy
    return engine


REFUSED = {
    "a listed key without its signature": LISTED.public(OPENSSL) + bytes(64),
    "a listed key with another's signature": LISTED.public(OPENSSL)
    + MINE.proof(OPENSSL, BINDING, TARGET)[32:],
    "a key that is not listed, without its signature": MINE.public(OPENSSL) + bytes(64),
    "a key that is not listed, with its signature": MINE.proof(OPENSSL, BINDING, TARGET),
}


@pytest.mark.parametrize("clients", [1, 100, 0], ids="{} listed".format)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_does_not_tell_whose_keys_are_listed(kind: str, clients: int) -> None:
    """Each costs one signature, however many are listed, and ends with the same text."""
    verified: list[bytes] = []
    listed = [LISTED, *(ClientKey(bytes([number]) * 32) for number in range(clients - 1))][:clients]
    claim = Claim(BINDING, TARGET, REFUSED[kind])
    with pytest.raises(TargetNotAllowed, match=r"^the service is for clients with a listed key"):
        claim.check(counting_engine(verified), frozenset(key.public(OPENSSL) for key in listed))
    assert verified == [claim.proof[:32]]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("proof", [b"", b"short", bytes(95), bytes(96), b"\xff" * 96, bytes(97)], ids=len)
def test_proofs_that_are_none_are_refused_alike(engine: TunnelEngine, proof: bytes) -> None:
    """Before the list is looked at: what is listed may be as strange as what is sent."""
    with pytest.raises(TargetNotAllowed):
        Claim(BINDING, TARGET, proof).check(engine, frozenset([proof[:32], LISTED.public(engine)]))


def test_a_proof_is_valid_only_for_its_binding_and_target() -> None:
    proof, clients = LISTED.proof(OPENSSL, BINDING, TARGET), frozenset([LISTED.public(OPENSSL)])
    Claim(BINDING, TARGET, proof).check(OPENSSL, clients)
    for claim in (Claim(b"", TARGET, proof), Claim(b"c" * 32, TARGET, proof), Claim(BINDING, b"", proof)):
        with pytest.raises(TargetNotAllowed):
            claim.check(OPENSSL, clients)


@pytest.mark.parametrize("place", [0, 7, 15])
def test_tags_are_compared_in_constant_time(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tag is wrong, the whole of it is compared, once, by `equal`."""
    compared: list[tuple[bytes, bytes]] = []

    def equal(left: Any, right: Any) -> bool:
        compared.append((bytes(left), bytes(right)))
        return bytes(left) == bytes(right)

    monkeypatch.setattr(reply_block, "equal", equal)
    monkeypatch.setattr(message_head, "equal", equal)
    key, seed = b"k" * 32, b"s" * 16
    ticket = bytearray(HomeTicket(b"q" * 8, 3).pack(key, seed))
    ticket[16 + place] ^= 1
    with pytest.raises(PeerError):
        HomeTicket.unpack(Slot(Command.HOME, 0, seed, bytes(ticket)), key)
    answer = bytearray(answer_ticket(key, b"q" * 8))
    answer[8 + place] ^= 1
    with pytest.raises(MalformedMessage):
        answered_query(key, bytes(answer))
    assert [len(left) for left, _ in compared] == [16, 24]
    assert all(len(left) == len(right) and left != right for left, right in compared)


@pytest.mark.full
def test_the_measurement_finds_a_comparison_that_stops_early() -> None:
    """Otherwise its figures would prove nothing. On a busy machine the others may show anything."""
    cases = constant_time.measure(Settings.short())
    assert [case.verdict for case in cases if case.name == CONTROL] == ["differs"]
    shown = constant_time.text(Settings.short(), cases, machine())
    assert all(case.name in shown for case in cases)
    assert constant_time.record(Settings.short(), cases, machine())["benchmark"] == "constant time"

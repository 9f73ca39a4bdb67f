"""Threat: a stranger writes into the hash table what he likes: anybody may store any value under any key.

He stores invented nodes, old descriptors of real nodes, expired ones, and thousands of values that are no
descriptors, oversized ones too. All of it lies before the honest values. He learns nothing, no route has his
nodes, and the honest ones are found. A poll of the victim costs a bounded amount of work and memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

import pytest

from tests.support.fake_dht import FakeDht
from tests.tunnel.helpers import OPENSSL
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import DhtDirectory
from tunnel.directory.dht import MOST_CHECKED
from tunnel.directory.hearsay import PER_SOURCE
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.routing.addresses import LOCAL

NETWORK = b"a poisoned netwo"
LISTS = 16
PLACE = (Address("127.0.0.1", 4000),)
FLOOD = 1_500  # more values under each key than are taken of one answer
WEEK_S = 7 * 24 * 3_600


def key_of(number: int) -> bytes:
    return FakeDht.InfoHash.get(f"mtun1 members {NETWORK.hex()} {number}")


def described(at_s: float = 0, keys: NodeKeys | None = None) -> Descriptor:
    now_s = time.time() + at_s
    return (keys or NodeKeys.generate(now_s)).descriptor(PLACE, now_s, OPENSSL)


def counting_engine(checked: list[bytes]) -> TunnelEngine:
    """An engine that notes each signature that it verifies."""
    engine = copy(OPENSSL)

    def verify(public: bytes, message: bytes, signature: bytes) -> None:
        checked.append(signature)
        OPENSSL.ed25519_verify(public, message, signature)

    setattr(engine, "ed25519_verify", verify)  # noqa: B010 - a method, for mypy
    return engine


@contextmanager
def victim(dht: FakeDht, engine: TunnelEngine = OPENSSL) -> Iterator[DhtDirectory]:
    directory = DhtDirectory(
        engine=engine, network_id=NETWORK, rules=LOCAL, refresh_s=0.05, soon_s=0.01, module=dht
    )
    try:
        yield directory
    finally:
        directory.close()


def wait_polls(dht: FakeDht, count: int = 3) -> None:
    """Wait until so many whole polls have begun after this."""
    asked = len(dht.asked)
    dht.wait_until(lambda: len(dht.asked) > asked + LISTS * count)


def junk(draw: random.Random) -> bytes:
    """A value of a descriptor's length that is none, or hardly: its signature is wrong."""
    value = bytearray(described().signed)
    value[-1 - draw.randrange(64)] ^= 1 + draw.randrange(255)
    return bytes(value)


def test_invented_nodes_are_hearsay_of_one_source() -> None:
    dht, real = FakeDht(), described()
    for number in range(LISTS):
        dht.table[key_of(number)] = [described().signed for _ in range(20)]
    with victim(dht) as directory:
        directory.publish(real)
        wait_polls(dht)
        assert directory.sample() == [real], "no route, guard or other node gets one of the others"
        assert len(directory) <= 1 + PER_SOURCE


@pytest.mark.parametrize("kind", ["wrong signature", "oversized", "empty"])
def test_junk_values_do_not_hide_the_honest_descriptor(kind: str) -> None:
    """They lie before it, and are more than one answer of the hash table may hold."""
    dht, honest, draw = FakeDht(), described(), random.Random(1)
    bad = junk(draw)
    values = {
        "wrong signature": [bad[:-8] + number.to_bytes(8, "big") for number in range(FLOOD)],
        "oversized": [bytes(MAX_DESCRIPTOR_BYTES + 1)] * FLOOD,
        "empty": [b""] * FLOOD,
    }[kind]
    dht.table[key_of(honest.node_id[0] % LISTS)] = [*values, honest.signed]
    with victim(dht) as directory:
        dht.wait_until(lambda: directory.lookup(honest.node_id) is not None)


@pytest.mark.parametrize("kind", ["wrong signature", "expired", "of one node"])
def test_a_poll_verifies_a_bounded_number_of_signatures(kind: str) -> None:
    """Values that never become an entry would be verified at each poll, two seconds apart."""
    dht, draw, checked = FakeDht(), random.Random(2), list[bytes]()
    keys = NodeKeys.generate(time.time())
    make: Callable[[], bytes] = {
        "wrong signature": lambda: junk(draw),
        "expired": lambda: described(-2 * WEEK_S).signed,
        "of one node": lambda: described(-draw.randrange(WEEK_S // 2), keys).signed,
    }[kind]
    values = [make() for _ in range(MOST_CHECKED * 2)]
    for number in range(LISTS):
        dht.table[key_of(number)] = values[number::LISTS]
    with victim(dht, counting_engine(checked)) as directory:
        dht.wait_until(lambda: len(dht.asked) >= LISTS)
        wait_polls(dht, 4)
        polls = len(dht.asked) // LISTS + 1
        assert len(checked) <= polls * MOST_CHECKED
        assert directory.sample() == []


def test_an_old_descriptor_of_a_real_node_replaces_no_newer_one() -> None:
    dht, keys = FakeDht(), NodeKeys.generate(time.time())
    old, new = described(-3_600, keys), described(0, keys)
    list_key = key_of(new.node_id[0] % LISTS)
    dht.table[list_key] = [new.signed]
    with victim(dht) as directory:
        dht.wait_until(lambda: directory.lookup(new.node_id) == new)
        dht.table[list_key] = [old.signed] * 3
        wait_polls(dht)
        assert directory.lookup(new.node_id) == new


def test_an_expired_descriptor_is_not_learned() -> None:
    dht, expired, valid = FakeDht(), described(-2 * WEEK_S), described()
    assert expired.expiry < time.time()
    for number in range(LISTS):
        dht.table[key_of(number)] = [expired.signed, valid.signed]
    with victim(dht) as directory:
        dht.wait_until(lambda: directory.lookup(valid.node_id) is not None)
        wait_polls(dht)
        assert directory.lookup(expired.node_id) is None

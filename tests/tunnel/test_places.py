"""Which link loses its place when all links are in use. The links are plain objects; time and draws are
arguments."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from tunnel.link.places import KNOWN_S, choose_loser, contested

LIMIT, NOW_S = 64, 10_000.0


@dataclass(eq=False)
class Link:
    source: bytes
    streams: int = 1
    is_own: bool = False
    known_since_s: float = NOW_S
    used_s: float = NOW_S


def displace(links: list[Link], newcomer: Link, rng: random.Random) -> Link:
    """A newcomer at a full node; returns the link that went."""
    loser = choose_loser(contested(links, LIMIT, NOW_S), rng)
    links[links.index(loser)] = newcomer
    return loser


@pytest.mark.parametrize("streams", [0, 1], ids=["idle", "busy"])
def test_sybils_of_one_network_displace_only_each_other(streams: int) -> None:
    honest = [Link(bytes([n]), streams) for n in range(16)]
    links = honest + [Link(b"sybil", streams) for _ in range(LIMIT - 16)]
    for _ in range(1_000):
        displace(links, Link(b"sybil", streams), random.Random(1))
    assert set(honest) <= set(links)
    newcomer = Link(b"new", streams)
    assert displace(links, newcomer, random.Random(1)).source == b"sybil"
    assert newcomer in links


@pytest.mark.parametrize(
    "kept",
    [
        [Link(b"own", is_own=True) for _ in range(LIMIT * 3 // 4)],
        [Link(b"own", streams=0, is_own=True) for _ in range(LIMIT // 2)],
        [Link(b"known", known_since_s=NOW_S - KNOWN_S) for _ in range(LIMIT // 4)],
    ],
    ids=["busy own", "idle own", "known"],
)
def test_reserved_links_stay_under_sybils_of_every_network(kept: list[Link]) -> None:
    """Nor does it help them that the reserved links are of one source and they of many."""
    rng, links = random.Random(2), list(kept)
    links += [Link(b"s%d" % n) for n in range(LIMIT - len(kept))]
    for number in range(2_000):
        displace(links, Link(b"t%d" % number), rng)
    assert set(kept) <= set(links)


def test_sybils_that_wait_until_they_are_known_get_a_quarter() -> None:
    """Those that were known before them keep their places."""
    rng = random.Random(3)
    old = [Link(b"old", known_since_s=0.0) for _ in range(LIMIT // 8)]
    links = [Link(b"sybil", known_since_s=NOW_S - KNOWN_S) for _ in range(LIMIT - len(old))] + old
    for number in range(2_000):
        displace(links, Link(b"%d" % number), rng)
    assert set(old) <= set(links)
    assert sum(link.source == b"sybil" for link in links) == LIMIT // 4 - len(old)


def test_idle_own_links_beyond_half_make_room() -> None:
    links = [Link(b"own", streams=0, is_own=True, known_since_s=float(n)) for n in range(LIMIT)]
    assert contested(links, LIMIT, NOW_S) == links[LIMIT // 2 :]


def test_idle_links_are_displaced_first_starting_with_the_least_used() -> None:
    busy = [Link(b"crowd") for _ in range(10)]
    idle = [Link(bytes([n]), streams=0, used_s=NOW_S - n) for n in range(5)]
    assert choose_loser(busy + idle, random.Random(1)) is idle[-1]

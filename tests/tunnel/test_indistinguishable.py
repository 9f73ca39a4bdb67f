"""Two attacks of a curious proxy, carried out with all its bytes.

"Position by size": in the original a query became shorter and a reply longer with each hop. "Query or reply":
a frame along a reply block must look like a query. A proxy has the frame as received, the slot that it
opened, and the frame as sent; it knows neither Alice nor Bob. These tests compare all of that, at every place
of the route, for both kinds of frame, and look for any difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, Peer, make_peers, read_all, relay_frame, written
from tunnel.geometry import DEFAULT, Profile
from tunnel.modes import ReplyMode
from tunnel.onion.header import Opened
from tunnel.routing.route import Route

PROXIES = 4
FRAMES = 250


@dataclass(frozen=True)
class View:
    """The view of one proxy on one frame."""

    place: int
    kind: str
    frame_in: bytes
    opened: Opened
    frame_out: bytes


def views_of(peers: list[Peer], profile: Profile, query_bytes: int, reply_bytes: int) -> Iterable[View]:
    """The views of each proxy on one query and its reply, in the order of the frame's route."""
    ids = [peer.id for peer in peers]
    query = peers[0].codec.query(Route(tuple(ids[1:-1]), ids[-1]), ReplyMode.ROUTE, profile, now_s=NOW_S)
    there = relay_frame(written(query.frame.layer, bytes(query_bytes)), profile, peers[1:], origin=ids[0])
    behind = peers[-1].codec.destination_reader(there.opened.slot, profile)
    assert read_all(behind, there.body)[1] is None
    answer = peers[-1].codec.reply(behind.head.reply_blocks[0], now_s=NOW_S)
    back = relay_frame(written(answer.layer, bytes(reply_bytes)), profile, peers[-2::-1], origin=ids[-1])
    for kind, relayed in (("query", there), ("reply", back)):
        for place, opened in enumerate(relayed.proxied):
            yield View(place, kind, relayed.links[place], opened, relayed.links[place + 1])


def fixed_peers(seed: int) -> list[Peer]:
    return make_peers(PROXIES + 2, engine=OPENSSL, random_seed=seed)


@pytest.fixture(scope="module")
def views() -> list[View]:
    """Many frames; the random choices of the nodes are fixed, those of HPKE's ephemeral keys are not."""
    peers = fixed_peers(1)
    # A query carries a block and a reply does not, so the contents make both equally long.
    block = SMALL.geometry.reply_block_bytes
    return [view for _ in range(FRAMES) for view in views_of(peers, SMALL, 500, 500 + block)]


def groups(views: list[View]) -> dict[tuple[str, int], list[View]]:
    found: dict[tuple[str, int], list[View]] = {}
    for view in views:
        found.setdefault((view.kind, view.place), []).append(view)
    assert len(found) == 2 * PROXIES
    return found


@pytest.mark.full
def test_lengths_reveal_nothing(views: list[View]) -> None:
    lengths = {(len(v.frame_in), len(v.opened.next_header), len(v.frame_out)) for v in views}
    assert len(lengths) == 1
    ((came, header, left),) = lengths
    assert came == left
    assert header == SMALL.geometry.header_bytes


@pytest.mark.parametrize("profile", [SMALL, Profile(DEFAULT)], ids=lambda profile: profile.name)
@pytest.mark.parametrize(("query_bytes", "reply_bytes"), [(0, 0), (1, 9_000), (9_000, 1), (30_000, 30_000)])
def test_lengths_never_depend_on_the_place(profile: Profile, query_bytes: int, reply_bytes: int) -> None:
    for kind in ("query", "reply"):
        seen = [v for v in views_of(fixed_peers(2), profile, query_bytes, reply_bytes) if v.kind == kind]
        assert len({len(view.frame_in) for view in seen} | {len(view.frame_out) for view in seen}) == 1
        assert [view.place for view in seen] == list(range(PROXIES))


def test_the_kind_of_a_slot_is_the_same_everywhere(views: list[View]) -> None:
    """Command, flags, delay and address have one value; the rest is random, an id, or an hour."""
    assert len({(v.opened.slot.command, v.opened.slot.flags, v.opened.slot.delay_10ms) for v in views}) == 1
    assert len({v.opened.slot.next_address for v in views}) == 1
    seeds = [view.opened.slot.seed for view in views]
    assert len(set(seeds)) == len(seeds)


def test_expiries_follow_one_rule(views: list[View]) -> None:
    """The share of each hour is the same for queries and replies, and at every place."""
    everything = Counter(view.opened.slot.expiry for view in views)
    assert 3 <= len(everything) <= 4
    for group in groups(views).values():
        hours = Counter(view.opened.slot.expiry for view in group)
        for expiry, count in everything.items():
            share, size = count / len(views), len(group)
            # Five standard deviations; the nodes' choices are fixed, so the result is stable.
            assert abs(hours[expiry] - size * share) < 5 * (size * share * (1 - share)) ** 0.5 + 1


def test_expiries_of_one_frame_do_not_follow_from_each_other(views: list[View]) -> None:
    """Drawn for each slot: two proxies of one frame cannot recognise it by its expiry."""
    frames = [views[at : at + PROXIES] for at in range(0, len(views), PROXIES)]
    distinct = Counter(len({view.opened.slot.expiry for view in frame}) for frame in frames)
    assert distinct[1] < len(frames) / 4, "most frames show several hours"
    pairs = [
        (a.opened.slot.expiry, b.opened.slot.expiry)
        for query, reply in zip(frames[::2], frames[1::2], strict=True)
        for a, b in zip(query, reply[::-1], strict=True)  # the same proxy, query and its own reply
    ]
    same = sum(a == b for a, b in pairs) / len(pairs)
    shares = [count / len(views) for count in Counter(v.opened.slot.expiry for v in views).values()]
    by_chance = sum(share * share for share in shares)
    assert abs(same - by_chance) < 5 * (by_chance * (1 - by_chance) / len(pairs)) ** 0.5


def test_all_bytes_are_noise_at_every_place(views: list[View]) -> None:
    """Bits and bytes of received and sent frames are evenly distributed, in each group, for header and chunks
    separately, although the contents are all zero."""
    header_bytes = SMALL.geometry.header_bytes
    for group in groups(views).values():
        for part in (slice(0, header_bytes), slice(header_bytes, None)):
            data = b"".join(view.frame_in[part] for view in group[:40])
            bits = 8 * len(data)
            # A slot begins with an X25519 point, whose top bit is 0: one bit in 1,024 of the first slot.
            points = 40 if part.start == 0 else 0
            ones = int.from_bytes(data, "big").bit_count()
            assert abs(ones - (bits - points) / 2) < 6 * (bits / 4) ** 0.5
            counts = Counter(data)
            expected = len(data) / 256
            chi_square = sum((counts[byte] - expected) ** 2 / expected for byte in range(256))
            # 255 degrees of freedom: mean 255, deviation 23. HPKE's points are random, hence the wide bound.
            assert chi_square < 255 + 8 * 23


def test_nothing_is_seen_twice(views: list[View]) -> None:
    """No 16 bytes recur on another link, in another frame or in the reply, so proxies cannot compare."""
    some = views[: 6 * 2 * PROXIES]
    pieces = Counter(view.frame_in[at : at + 16] for view in some for at in range(0, len(view.frame_in), 16))
    assert max(pieces.values()) == 1


def test_every_header_ends_alike(views: list[View]) -> None:
    """The end of a header is filler near the end of the route and random padding before: the mean byte of the
    last slot is that of noise in every group."""
    for group in groups(views).values():
        tail = b"".join(
            view.frame_in[SMALL.geometry.header_bytes - 128 : SMALL.geometry.header_bytes] for view in group
        )
        mean = sum(tail) / len(tail)
        # Standard deviation of one byte: 73.9.
        assert abs(mean - 127.5) < 6 * 73.9 / len(tail) ** 0.5

"""Threat: two hops of one route compare all their bytes.

They are not neighbours, which know each other anyway. Each has the frame as received and as sent, its
slot, and every key derived from it. If any value of one equals or opens a value of the other, they know that
they carried the same frame, and so does any holder of both. What remains is time and size: all frames of
one profile and length bucket are candidates, as documented. No victim can notice the attack.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from tests.tunnel.exchange import Cast, Exchange, cast_of, exchange
from tests.tunnel.helpers import OPENSSL, SMALL, SMALL_HCTR, chunks_of
from tunnel.geometry import Profile
from tunnel.modes import MODES, ReplyMode
from tunnel.onion.header import Opened
from tunnel.onion.key_schedule import Direction, end_to_end_key, header_key, layer_keys

PROXIES = 5
ANSWERED = [ReplyMode.ROUTE, ReplyMode.CACHED, ReplyMode.KNOWN_DEST, ReplyMode.OTHER_ROUTE]


def both_ways(cast: Cast, done: Exchange) -> list[tuple[list[bytes], list[Opened]]]:
    found = [(done.relayed.links, done.relayed.proxied)]
    for reply in done.replies:
        found.append((reply.links, reply.relayed.proxied if reply.relayed is not None else []))
    return found


def happened(mode: ReplyMode, profile: Profile = SMALL) -> tuple[Cast, Exchange]:
    cast = cast_of(PROXIES + 2)
    answers = [bytes(3_000)] if MODES[mode].has_reply else []
    return cast, exchange(cast, mode, bytes(3_000), answers, profile=profile)


@pytest.mark.parametrize("profile", [SMALL, SMALL_HCTR], ids=lambda profile: profile.name)
@pytest.mark.parametrize("mode", ANSWERED)
def test_no_bytes_are_shared(mode: ReplyMode, profile: Profile) -> None:
    """No 8 consecutive bytes of one link occur on another, in either direction."""
    cast, done = happened(mode, profile)
    links = [link for links, _ in both_ways(cast, done) for link in links]
    seen: Counter[bytes] = Counter()
    for link in links:
        seen.update({link[at : at + 8] for at in range(len(link) - 8)})
    assert max(seen.values()) == 1


@pytest.mark.parametrize("mode", ANSWERED)
def test_no_field_is_shared(mode: ReplyMode) -> None:
    """Nor do their seeds, ids and keys match. Expiries are drawn for each slot."""
    cast, done = happened(mode)
    slots = [opened.slot for _, proxied in both_ways(cast, done) for opened in proxied]
    seeds = [slot.seed for slot in slots]
    assert len(set(seeds)) == len(seeds)
    keys = Counter(
        key[:16]
        for seed in seeds
        for key in (
            header_key(seed),
            layer_keys(seed, Direction.FORWARD),
            layer_keys(seed, Direction.BACKWARD),
            end_to_end_key(seed, Direction.FORWARD),
            end_to_end_key(seed, Direction.BACKWARD),
        )
    )
    assert max(keys.values()) == 1
    # The id of the query is in no slot but Alice's own.
    if done.query.query_id is not None:
        assert not any(done.query.query_id in slot.pack() for slot in slots)


def test_the_keys_of_one_do_not_open_the_chunks_of_the_other() -> None:
    cast, done = happened(ReplyMode.CACHED)
    links = done.relayed.links
    for (i, left), (j, right) in itertools.permutations(enumerate(done.relayed.proxied), 2):
        if abs(i - j) == 1:
            continue  # one sends to the other
        chunk = chunks_of(links[j][SMALL.geometry.header_bytes :], SMALL)[0]
        for permutation in cast.proxies[i].codec.relay_layers(left.slot, SMALL):
            work = bytearray(chunk)
            permutation.decrypt(memoryview(work), 0)
            assert bytes(work) not in [
                chunks_of(link[SMALL.geometry.header_bytes :], SMALL)[0] for link in links
            ]
        stream = bytearray(SMALL.geometry.header_bytes)
        OPENSSL.layers.xor_keystream(header_key(left.slot.seed), memoryview(stream))
        mixed = bytes(a ^ b for a, b in zip(stream, links[j][: len(stream)], strict=True))
        assert not any(mixed[at : at + 16] in link for link in links for at in range(0, len(mixed), 128))
        assert left.slot.seed not in right.next_header


def test_sizes_are_those_of_many_others() -> None:
    """Two proxies can match frames by length only, and all frames of a bucket have one length."""
    lengths: dict[int, set[int]] = {}
    for size in range(0, 3_800, 190):
        cast = cast_of(4)
        done = exchange(cast, ReplyMode.NONE, bytes(size), profile=SMALL)
        assert len({len(link) for link in done.relayed.links}) == 1
        lengths.setdefault(len(done.relayed.links[0]), set()).add(size)
    assert len(lengths) == 4
    assert all(len(sizes) >= 4 for sizes in lengths.values())


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.KNOWN_DEST])
def test_query_and_reply_share_nothing_at_one_proxy(mode: ReplyMode) -> None:
    """In mode route a proxy sees X→Y and soon Y→X, as documented, but the bytes do not show the relation."""
    cast, done = happened(mode)
    (there, out), (back, home) = both_ways(cast, done)
    pieces = {link[at : at + 16] for link in there for at in range(0, len(link), 16)}
    assert not any(link[at : at + 16] in pieces for link in back for at in range(len(link) - 15))
    assert not {opened.slot.seed for opened in out} & {opened.slot.seed for opened in home}

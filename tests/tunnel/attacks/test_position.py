"""Threat: finding one's position, or the kind of a frame, from sizes and bytes.

In the original a query became shorter and a reply longer with each hop, which revealed replies. Here a
curious proxy trains a classifier on all its data of many frames. The classifier must be no better
than chance. No victim can notice the attack.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.attacks.classifier import View, accuracy, planted
from tests.tunnel.exchange import Cast, cast_of, exchange, send
from tests.tunnel.helpers import NOW_S, SMALL, SMALL_HCTR, Peer, Relayed, relay_frame
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.header import Command
from tunnel.routing.route import Route

pytestmark = pytest.mark.full

PROXIES = 4
ROUNDS = 60
BLOCK = SMALL.geometry.reply_block_bytes
KINDS = ("query", "reply", "cached query", "known-dest query", "drop", "loop")


def frames(cast: Cast, profile: Profile, size: int) -> dict[str, Relayed]:
    """One frame of each kind over the same number of proxies, their messages of equal length."""
    alice = cast.alice
    done = exchange(cast, ReplyMode.ROUTE, bytes(size), [bytes(size + BLOCK)], profile=profile)
    reply = done.replies[0].relayed
    assert reply is not None
    cached = exchange(cast, ReplyMode.CACHED, bytes(size + BLOCK), profile=profile)
    head = 24 + 2 + len(alice.descriptor.signed) + 64
    named = exchange(cast, ReplyMode.KNOWN_DEST, bytes(size + BLOCK - head), profile=profile)
    drop = alice.codec.drop(cast.route, profile, now_s=NOW_S)
    loop = alice.codec.loop(Route(cast.route.proxies, alice.id), profile, now_s=NOW_S)
    return {
        "query": done.relayed,
        "reply": reply,
        "cached query": cached.relayed,
        "known-dest query": named.relayed,
        "drop": carried(send(drop.layer, bytes(size + BLOCK)), profile, cast.way, alice),
        "loop": carried(send(loop.layer, bytes(size + BLOCK)), profile, [*cast.proxies, alice], alice),
    }


def carried(wire: bytes, profile: Profile, way: list[Peer], origin: Peer) -> Relayed:
    return relay_frame(wire, profile, way, origin=origin.id)


@cache
def everything(profile: Profile) -> list[tuple[str, int, View]]:
    """Each kind at each place, with contents of random length; only HPKE's ephemeral keys are not fixed."""
    rng = random.Random(7)
    cast = cast_of(PROXIES + 2, random_seed=11)
    found = []
    for _ in range(ROUNDS):
        for kind, relayed in frames(cast, profile, rng.choice([400, 1_500, 3_000])).items():
            for place, opened in enumerate(relayed.proxied):
                view = View(
                    None, relayed.links[place], opened, relayed.links[place + 1], SMALL.geometry.header_bytes
                )
                found.append((kind, place, view))
    return found


def labelled(profile: Profile, by: str) -> list[View]:
    """Views labelled by place or by kind, in an order that gives training and test the same mixture."""
    views = [
        View(place if by == "place" else kind, v.frame_in, v.opened, v.frame_out, v.header_bytes)
        for kind, place, v in everything(profile)
    ]
    random.Random(3).shuffle(views)
    return views


@pytest.mark.parametrize("by", ["place", "kind"])
@pytest.mark.parametrize("profile", [SMALL, SMALL_HCTR], ids=lambda profile: profile.name)
def test_a_trained_classifier_guesses_no_better_than_chance(profile: Profile, by: str) -> None:
    score = accuracy(labelled(profile, by))
    deviation = math.sqrt(score.majority * (1 - score.majority) / score.count)
    assert score.accuracy < score.majority + 5 * deviation


def test_the_classifier_would_find_a_faint_sign() -> None:
    """Otherwise the test above would prove nothing."""
    score = accuracy(planted(labelled(SMALL, "place")))
    assert score.accuracy > 2 * score.majority


def test_all_kinds_have_the_same_shape_everywhere() -> None:
    by_size: dict[int, set[tuple[str, int]]] = {}
    for kind, place, view in everything(SMALL):
        assert len(view.frame_in) == len(view.frame_out)
        assert view.opened.slot.command is Command.RELAY
        by_size.setdefault(len(view.frame_in), set()).add((kind, place))
    assert len(by_size) == 3
    for found in by_size.values():
        assert found == {(kind, place) for kind in KINDS for place in range(PROXIES)}


@settings(max_examples=30)
@given(st.sampled_from(KINDS), st.sampled_from([SMALL, SMALL_HCTR]), st.integers(0, 9_000))
def test_a_frame_of_any_kind_has_the_length_of_its_bucket(kind: str, profile: Profile, size: int) -> None:
    """Header and padded chunks, on every link; only the bucket of the message's length is visible."""
    size += 600
    relayed = frames(cast_of(PROXIES + 2), profile, size)[kind]
    message = size + 4 + BLOCK
    assert {len(link) for link in relayed.links} == {profile.geometry.frame_bytes(message)}


def test_error_modes_none_and_status_look_alike() -> None:
    """Mode xor is visible to every proxy, as documented."""
    cast = cast_of(PROXIES + 2)
    flags: Counter[ErrorMode] = Counter()
    for error_mode in ErrorMode:
        done = exchange(cast, ReplyMode.NONE, b"", profile=SMALL, error_mode=error_mode)
        flags[error_mode] = sum(opened.slot.flags for opened in done.relayed.proxied)
    assert flags[ErrorMode.STATUS] == flags[ErrorMode.NONE] == 0
    assert flags[ErrorMode.XOR] == 2 * PROXIES

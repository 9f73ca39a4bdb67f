"""Threat: an attacker sets a node's wall clock, as false time servers can, and replays what he recorded.

He moves the clock of one node by minutes or days in both directions, between the node's looks at its keys
and over its restarts, and sends every recorded header again after each step. No header is accepted twice,
whatever the clock shows, and a key that was erased opens nothing any more: the replay table counts the latest
time it has seen, and lives exactly as long as its key.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, make_keys, seeded_bytes
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, PeerError
from tunnel.identity.key_ring import KEEP_PREVIOUS_S, KeyRing
from tunnel.identity.keys import EPOCH_S
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Command, Slot, build_header

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
NEIGHBOUR = b"n" * 32


class Victim:
    """A node's keys and replay tables, its clock, and all that an attacker has recorded of it.

    Attributes:
        accepted: headers that it has opened. lost_keys: public keys of the onion keys that it has erased.
    """

    def __init__(self, folder: Path) -> None:
        self._files = folder / "keys", folder / "tables"
        ring = KeyRing(make_keys("victim"), OPENSSL)
        self.codec = OnionCodec(ring=ring, directory=StaticDirectory())
        self.now_s = NOW_S
        self.accepted: list[bytes] = []
        self.lost_keys: set[bytes] = set()
        self._count = 0
        self.look()

    def _keys(self) -> set[bytes]:
        return {epoch.key.private.public for epoch in self.codec.ring.state.epochs.values()}

    def look(self) -> None:
        """The node looks at its keys, as it does every minute."""
        before = self._keys()
        self.codec.ring.advance(self.now_s)
        self._lose(before)

    def restart(self, *, is_clean: bool) -> None:
        before, ring = self._keys(), self.codec.ring
        if is_clean:
            ring.stop(*self._files)
        else:
            ring.keys.save(self._files[0])
        self.codec.ring = KeyRing.resume(*self._files, OPENSSL, now_s=self.now_s)
        self._lose(before)

    def _lose(self, before: set[bytes]) -> None:
        now = self._keys()
        assert not now & self.lost_keys, "an erased key is back"
        self.lost_keys |= before - now

    def opens(self, header: bytes) -> bool:
        try:
            self.codec.open_frame(header, SMALL, neighbour=NEIGHBOUR, now_s=self.now_s)
        except PeerError as error:
            if error.code not in (ErrorCode.REPLAYED, ErrorCode.EXPIRED, ErrorCode.BAD_HEADER):
                raise
            return False
        return True

    def receive(self) -> None:
        """An honest sender with the same clock sends one header, which may be refused after a jump."""
        self._count += 1
        hop = self.codec.ring.own_hop()
        expiry = (int(self.now_s) // HOUR_S + 2 + self._count % 3) * HOUR_S
        slot = Slot(Command.DEST, expiry, seeded_bytes(self._count)(16))
        header = build_header(
            SMALL, [(hop, slot)], engine=OPENSSL, random_bytes=seeded_bytes(1_000 + self._count)
        )
        if self.opens(header):
            self.accepted.append(header)

    def replay(self) -> None:
        """Everything again."""
        for header in self.accepted:
            assert not self.opens(header), "accepted twice"


steps = st.one_of(
    st.floats(-3 * DAY_S, 3 * DAY_S),
    st.sampled_from([-60.0, -600.0, -HOUR_S, -DAY_S, 60.0, 600.0, HOUR_S, 5 * HOUR_S, DAY_S, 2 * DAY_S]),
    st.sampled_from(["look", "receive", "stop", "crash"]),
)


@pytest.mark.full
@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=3, max_size=25))
def test_no_header_is_accepted_twice_whatever_the_clock_does(moves: list[float | str]) -> None:
    with TemporaryDirectory() as folder:
        victim = Victim(Path(folder))
        victim.receive()
        assert victim.accepted, "the node takes headers at all"
        for move in moves:
            match move:
                case "look":
                    victim.look()
                case "receive":
                    victim.receive()
                case "stop" | "crash":
                    victim.restart(is_clean=move == "stop")
                case float(shift):
                    victim.now_s = max(DAY_S, victim.now_s + shift)
            victim.replay()


@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize("back_s", [60, 600, HOUR_S, 5 * HOUR_S, 2 * DAY_S, 30 * DAY_S])
def test_after_a_clock_that_went_back_the_recorded_hours_stay_closed(
    tmp_path: Path, back_s: int, is_looked_at: bool
) -> None:
    """A day of headers; then the clock goes back, and forward again in steps of half an hour."""
    victim = Victim(tmp_path)
    for _ in range(24):
        victim.receive()
        victim.now_s += HOUR_S
        victim.look()
    assert len(victim.accepted) == 24
    end_s = victim.now_s
    victim.now_s -= back_s
    while victim.now_s < end_s + HOUR_S:
        if is_looked_at:
            victim.look()
        victim.replay()
        victim.now_s += max(HOUR_S / 2, back_s / 50)


def test_a_key_that_was_erased_does_not_come_back(tmp_path: Path) -> None:
    """The node's own descriptor of that time is valid again by the clock; its key is gone."""
    victim = Victim(tmp_path)
    victim.receive()
    old = victim.codec.ring.own_hop()
    victim.now_s += EPOCH_S + KEEP_PREVIOUS_S
    victim.look()
    assert old.onion_public in victim.lost_keys
    for is_clean in (True, False):
        victim.now_s = NOW_S
        victim.restart(is_clean=is_clean)
        victim.replay()
        with raises_code(ErrorCode.BAD_HEADER):
            victim.codec.open_frame(victim.accepted[0], SMALL, neighbour=NEIGHBOUR, now_s=NOW_S)


@pytest.mark.parametrize("back_s", [600, HOUR_S, 2 * DAY_S])
def test_afterwards_the_node_takes_new_headers(tmp_path: Path, back_s: int) -> None:
    """Otherwise an attacker who moves the clock once would close the node."""
    victim = Victim(tmp_path)
    victim.receive()
    victim.now_s += back_s
    victim.look()
    victim.receive()
    victim.now_s -= back_s
    victim.look()
    before = len(victim.accepted)
    victim.receive()
    assert len(victim.accepted) == before + 1
    victim.replay()

"""An established tunnel and its STATUS over a whole route: header, layers both ways, tunnel, status.

The calls of a node at Alice, at a proxy and at Bob, without sockets.
"""

from __future__ import annotations

import itertools

import pytest

from readwrite_comp.wideblock import Lioness, WidePermutation
from tests.tunnel.helpers import NOW_S, OPENSSL, Peer, make_peers, seeded_bytes
from tests.tunnel.tunnels import ECHO, Flag, Tunnel, read_some
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.established import End, EstablishedTunnel
from tunnel.geometry import DEFAULT, INTERACTIVE, Geometry, Profile
from tunnel.onion.header import Command, Slot, build_header, draw_expiry
from tunnel.onion.key_schedule import Direction, StatusKeys, layer_keys
from tunnel.onion.status import originate_status, read_status, wrap_status


class Route:
    """Alice, proxies and Bob, with a query's header opened at each, and Alice's and Bob's tunnel ends."""

    def __init__(self, geometry: Geometry, proxies: int) -> None:
        self.geometry = geometry
        profile = Profile(geometry)
        draw = seeded_bytes(proxies)
        peers: list[Peer] = make_peers(proxies + 2, engine=OPENSSL, random_seed=3)
        self.seeds = [draw(16) for _ in peers[1:]]
        hops = []
        for number, (peer, seed) in enumerate(zip(peers[1:], self.seeds, strict=True)):
            expiry = draw_expiry(NOW_S, draw)
            is_last = number == proxies
            slot = Slot(Command.DEST, expiry, seed) if is_last else Slot(
                Command.RELAY, expiry, seed, next_id=peers[number + 2].id
            )  # fmt: skip
            descriptor = peer.keys.descriptor((), NOW_S, OPENSSL)
            hops.append((descriptor.hop(NOW_S), slot))
        header = build_header(profile, hops, engine=OPENSSL, random_bytes=draw)

        self.proxies: list[tuple[WidePermutation, WidePermutation]] = []
        for before, peer in itertools.pairwise(peers):
            opened = peer.codec.open_frame(header, profile, neighbour=before.id, now_s=NOW_S)
            header = opened.next_header
            if opened.slot.command is Command.RELAY:
                self.proxies.append(peer.codec.relay_layers(opened.slot, profile))
        self.alice = self._end(End.ALICE, self.seeds[-1])
        self.bob = self._end(End.BOB, opened.slot.seed)
        self.layers = [
            tuple(
                Lioness(layer_keys(seed, direction), geometry.chunk_bytes, OPENSSL.layers)
                for direction in Direction
            )
            for seed in self.seeds[:-1]
        ]
        self.numbers = {End.ALICE: 0, End.BOB: 0}
        self.changed_at: int | None = None  # the proxy that changes the next chunk

    def _end(self, end: End, seed: bytes) -> Tunnel:
        return EstablishedTunnel(seed, self.geometry, end, engine=OPENSSL, make_notifier=Flag)

    def move(self, end: End) -> bool:
        """One chunk from an end through all proxies to the other end."""
        sender, receiver = (self.alice, self.bob) if end is End.ALICE else (self.bob, self.alice)
        chunk = memoryview(bytearray(self.geometry.chunk_bytes))
        if not sender.next_chunk(chunk, 0.0):
            return False
        number = self.numbers[end]
        self.numbers[end] += 1
        forward = end is End.ALICE
        if forward:
            for layers in reversed(self.layers):
                layers[0].encrypt(chunk, number)
        places = range(len(self.proxies)) if forward else range(len(self.proxies) - 1, -1, -1)
        for place in places:
            if place == self.changed_at:
                chunk[500] ^= 1
            self.proxies[place][0 if forward else 1].decrypt(chunk, number)
        if not forward:
            for layers in self.layers:
                layers[1].encrypt(chunk, number)
        receiver.received(chunk)
        return True

    def settle(self) -> None:
        while self.move(End.ALICE) | self.move(End.BOB):
            pass

    def status(self, origin: int, code: ErrorCode | None) -> bytes:
        """A STATUS from a node back to Alice."""
        keys = [StatusKeys.derive(seed) for seed in self.seeds]
        status = originate_status(keys[origin], code, geometry=self.geometry, hold_ms=5, engine=OPENSSL)
        for hop in range(origin - 1, -1, -1):
            status = wrap_status(status, keys[hop], geometry=self.geometry, hold_ms=5, engine=OPENSSL)
        return status


@pytest.mark.parametrize(("geometry", "proxies"), [(INTERACTIVE, 0), (INTERACTIVE, 6), (DEFAULT, 3)])
def test_a_tunnel_over_a_route(geometry: Geometry, proxies: int) -> None:
    route = Route(geometry, proxies)
    route.settle()
    assert route.alice.is_established
    assert route.bob.is_established
    sub = route.alice.open(ECHO)
    sub.write(b"ping")
    route.bob.outgoing.write(b"a message of Bob's")
    route.bob.outgoing.end()
    route.settle()
    theirs = route.bob.accept()
    theirs.confirm()
    assert read_some(theirs) == b"ping"
    theirs.write(b"pong")
    route.settle()
    assert read_some(sub) == b"pong"
    assert route.alice.incoming.next_message()
    sub.close()
    theirs.close()
    route.alice.close()
    route.bob.close()
    route.settle()
    assert route.alice.is_finished
    assert route.bob.is_finished
    keys = [StatusKeys.derive(seed) for seed in route.seeds]
    status = route.status(proxies, None)
    report = read_status(status, keys, geometry=geometry, engine=OPENSSL)
    assert report.succeeded
    assert report.origin == proxies
    assert report.hold_ms == (5,) * (proxies + 1)


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_proxy_that_changes_a_bit_ends_the_tunnel_and_bob_reports_it(end: End, place: int) -> None:
    route = Route(INTERACTIVE, 3)
    route.settle()
    sender, receiver = (route.alice, route.bob) if end is End.ALICE else (route.bob, route.alice)
    sender.outgoing.write(b"content")
    sender.outgoing.end()
    route.changed_at = place
    with pytest.raises(MalformedMessage) as caught:
        route.move(end)
    with pytest.raises(MalformedMessage):
        receiver.incoming.next_message()
    if end is End.ALICE:
        keys = [StatusKeys.derive(seed) for seed in route.seeds]
        report = read_status(route.status(3, caught.value.code), keys, geometry=INTERACTIVE, engine=OPENSSL)
        assert (report.origin, report.code) == (3, ErrorCode.BAD_CONTENT)

"""Threat: reading or changing content at a proxy, and recognising it at a later hop (tagging).

The attacker is on any link or at any proxy, knows the plaintext and the protocol, and has a colluding proxy
downstream. He flips bits, and swaps, drops, repeats, cuts and adds chunks. He learns nothing downstream: the
chunk is noise, as different from the original as two random texts. The victim, who has the keys, sees the
documented error: AuthenticationError (BAD_CONTENT), Truncated (TRUNCATED).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readwrite_comp import AuthenticationError, LayerError, Malformed, Truncated
from tests.tunnel.exchange import Exchange, cast_of, exchange, receive, walk_back
from tests.tunnel.helpers import SMALL, SMALL_HCTR, Peer, Relayed, chunks_of
from tunnel.geometry import Profile
from tunnel.modes import ReplyMode

PROXIES = 3
CONTENT = b"known plaintext " * 250  # 4,000 bytes: five chunks
PROFILES = [SMALL, SMALL_HCTR]


def query(profile: Profile) -> Exchange:
    return exchange(cast_of(PROXIES + 2), ReplyMode.CACHED, CONTENT, [CONTENT], profile=profile)


def onward(done: Exchange, chunks: list[bytes], link: int) -> list[list[bytes]]:
    """The query's chunks on `link` and on each later link."""
    return carried(done.relayed, cast_of(PROXIES + 2).proxies, chunks, link, done.query.frame.profile)


def carried(
    relayed: Relayed, proxies: Sequence[Peer], chunks: list[bytes], link: int, profile: Profile
) -> list[list[bytes]]:
    """A frame's chunks on `link` and on each later link."""
    found = [chunks]
    for peer, opened in list(zip(proxies, relayed.proxied, strict=True))[link:]:
        forward, _ = peer.codec.relay_layers(opened.slot, profile)
        out = []
        for number, chunk in enumerate(found[-1]):
            work = bytearray(chunk)
            forward.decrypt(memoryview(work), number)
            out.append(bytes(work))
        found.append(out)
    return found


def on_link(done: Exchange, link: int) -> list[bytes]:
    profile = done.query.frame.profile
    return chunks_of(done.relayed.links[link][profile.geometry.header_bytes :], profile)


def at_bob(done: Exchange, chunks: list[bytes]) -> tuple[bytes, LayerError | None]:
    cast = cast_of(PROXIES + 2)
    reader = cast.bob.codec.destination_reader(done.relayed.opened.slot, done.query.frame.profile)
    return receive(reader, b"".join(chunks))


def is_noise(left: bytes, right: bytes) -> bool:
    """Whether two texts differ like random ones: in half of the bits, with no eight bytes in place."""
    bits = 8 * len(left)
    differing = (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_count()
    return abs(differing - bits / 2) < 5 * bits**0.5 and not any(
        left[at : at + 8] == right[at : at + 8] for at in range(0, len(left) - 8, 8)
    )


@settings(max_examples=40)
@given(st.sampled_from(PROFILES), st.integers(0, PROXIES), st.data())
def test_a_flipped_bit_is_noise_at_the_next_proxy_and_refused_by_bob(
    profile: Profile, link: int, data: st.DataObject
) -> None:
    done = query(profile)
    chunks = on_link(done, link)
    number = data.draw(st.integers(0, len(chunks) - 1))
    bit = data.draw(st.integers(0, 8 * len(chunks[0]) - 1))
    changed = bytearray(chunks[number])
    changed[bit // 8] ^= 1 << bit % 8
    found = onward(done, [*chunks[:number], bytes(changed), *chunks[number + 1 :]], link)
    for after, seen in enumerate(found[1:], start=link + 1):
        assert is_noise(seen[number], on_link(done, after)[number])
        assert seen[:number] == on_link(done, after)[:number], "the other chunks are as they were"
    content, error = at_bob(done, found[-1])
    assert isinstance(error, AuthenticationError)
    assert CONTENT.startswith(content)
    assert len(content) <= number * profile.geometry.chunk_data_bytes


@settings(max_examples=30)
@given(st.sampled_from(PROFILES), st.integers(0, PROXIES), st.data())
def test_a_flipped_bit_of_a_cached_reply(profile: Profile, link: int, data: st.DataObject) -> None:
    """The same on the reply path, where layers are added: Alice refuses it."""
    cast, done = cast_of(PROXIES + 2), query(profile)
    links = done.replies[0].links  # Bob's first
    bit = data.draw(st.integers(0, 8 * len(links[0]) - 1))
    changed = bytearray(links[link])
    changed[bit // 8] ^= 1 << bit % 8
    body = walk_back(cast, done, bytes(changed), PROXIES - 1 - link)[-1]
    number = bit // 8 // profile.geometry.chunk_bytes
    if link < PROXIES:
        right = chunks_of(links[-1], profile)
        assert is_noise(chunks_of(body, profile)[number], right[number])
    content, error = receive(cast.alice.codec.backward_reader(done.query.circuit), body)
    assert isinstance(error, AuthenticationError)
    assert CONTENT.startswith(content)


def _flip(at: int) -> Callable[[bytes], bytes]:
    def change(chunk: bytes) -> bytes:
        changed = bytearray(chunk)
        changed[at] ^= 0x80
        return bytes(changed)

    return change


# Also what a cipher of blocks, or one that adds a key stream, would carry through.
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "first bit": _flip(0),
    "last bit of the first block": _flip(15),
    "first bit of the second block": _flip(16),
    "middle": _flip(498),
    "last byte": _flip(-1),
    "two blocks swapped": lambda chunk: chunk[:16] + chunk[32:48] + chunk[16:32] + chunk[48:],
    "first and last block equally": lambda chunk: _flip(3)(_flip(-13)(chunk)),
    "all zero": lambda chunk: bytes(len(chunk)),
}


def _expect_no_tag(right: list[list[bytes]], seen: list[list[bytes]], number: int) -> None:
    """On every link behind the change: noise in that chunk, and the others as they were.

    Args:
        right, seen: chunks on those links without and with the change.
    """
    for untouched, changed in zip(right, seen, strict=True):
        assert is_noise(changed[number], untouched[number])
        assert [*changed[:number], *changed[number + 1 :]] == [*untouched[:number], *untouched[number + 1 :]]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_at_a_hop_reveals_nothing_to_later_hops(profile: Profile, name: str) -> None:
    """Every pair of hops. Two frames with the same change show their accomplices no common difference."""
    done = query(profile)
    links = [on_link(done, link) for link in range(PROXIES + 1)]
    for link, chunks in enumerate(links):
        differences = set[bytes]()
        for number in (0, 2, len(chunks) - 1):
            changed = [*chunks[:number], CHANGES[name](chunks[number]), *chunks[number + 1 :]]
            _, *behind = onward(done, changed, link)
            _expect_no_tag(links[link + 1 :], behind, number)
            for untouched, seen in zip(links[link + 1 :], behind, strict=True):
                pairs = zip(untouched[number], seen[number], strict=True)
                difference = bytes(left ^ right for left, right in pairs)
                blocks = {difference[at : at + 8] for at in range(0, len(difference) - 8, 8)}
                assert not blocks & differences
                differences |= blocks
            content, error = at_bob(done, [changed, *behind][-1])
            assert isinstance(error, AuthenticationError)
            assert CONTENT.startswith(content)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", CHANGES)
def test_nor_does_a_change_at_each_hop_of_a_reply_along_a_block(profile: Profile, name: str) -> None:
    """Where a query and its reply pass the same proxies, the accomplices may have seen the query as well."""
    cast = cast_of(PROXIES + 2)
    done = exchange(cast, ReplyMode.ROUTE, CONTENT, [CONTENT], profile=profile)
    relayed, back = done.replies[0].relayed, cast.proxies[::-1]
    assert relayed is not None
    head = profile.geometry.header_bytes
    links = [chunks_of(link[head:], profile) for link in relayed.links]
    for link, chunks in enumerate(links):
        changed = [*chunks[:1], CHANGES[name](chunks[1]), *chunks[2:]]
        _, *behind = carried(relayed, back, changed, link, profile)
        _expect_no_tag(links[link + 1 :], behind, 1)
        slot = relayed.opened.slot
        reader = cast.alice.codec.home_reader(slot, cast.alice.codec.home_ticket(slot), profile)
        content, error = receive(reader, b"".join([changed, *behind][-1]))
        assert isinstance(error, AuthenticationError)
        assert CONTENT.startswith(content)


ORDERS = {
    "swapped": [1, 0, 2, 3, 4],
    "last two swapped": [0, 1, 2, 4, 3],
    "repeated": [0, 0, 1, 2, 3, 4],
    "one repeated in place of another": [0, 1, 1, 3, 4],
    "first dropped": [1, 2, 3, 4],
    "one dropped": [0, 1, 3, 4],
}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("link", range(PROXIES + 1))
@pytest.mark.parametrize("order", ORDERS)
def test_chunks_in_another_order(profile: Profile, link: int, order: str) -> None:
    done = query(profile)
    chunks = on_link(done, link)
    assert len(chunks) == 5
    found = onward(done, [chunks[index] for index in ORDERS[order]], link)
    moved = [place for place, index in enumerate(ORDERS[order]) if place != index]
    for after, seen in enumerate(found[1:], start=link + 1):
        right = on_link(done, after)
        for place in moved:
            assert seen[place] not in right, "a moved chunk is no chunk that a colluding hop has seen"
    content, error = at_bob(done, found[-1])
    assert isinstance(error, AuthenticationError)
    assert content == CONTENT[: moved[0] * profile.geometry.chunk_data_bytes - (4 if moved[0] else 0)]


@pytest.mark.parametrize("link", range(PROXIES + 1))
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_truncation_at_a_chunks_end(link: int, kept: int) -> None:
    """A proxy forwards only this cut: inside a chunk it resets the stream itself."""
    done = query(SMALL)
    content, error = at_bob(done, onward(done, on_link(done, link)[:kept], link)[-1])
    assert isinstance(error, Truncated)
    assert CONTENT.startswith(content)


@pytest.mark.parametrize("link", range(PROXIES + 1))
def test_chunks_added(link: int) -> None:
    """After the last one: Bob has the whole message, and refuses the rest (his node: BAD_CONTENT)."""
    done = query(SMALL)
    chunks = on_link(done, link)
    for extra in (chunks[0], bytes(len(chunks[0])), random.Random(1).randbytes(len(chunks[0]))):
        body = b"".join(onward(done, [*chunks, extra], link)[-1])
        reader = cast_of(PROXIES + 2).bob.codec.destination_reader(done.relayed.opened.slot, SMALL)
        with pytest.raises(AssertionError, match="bytes after the message"):
            receive(reader, body)
        # In the middle it moves the following chunks, so it is refused like any other change.
        inside = onward(done, [*chunks[:2], extra, *chunks[2:]], link)[-1]
        assert isinstance(at_bob(done, inside)[1], AuthenticationError)


def test_known_plaintext_gives_no_key_stream() -> None:
    """He knows every byte of the content, and XORs a chunk to replace it with his own."""
    done = query(SMALL)
    for link in range(PROXIES + 1):
        chunks = on_link(done, link)
        wanted = bytes(a ^ b ^ c for a, b, c in zip(chunks[1], CONTENT[970:], b"x" * 996, strict=False))
        forged = wanted + chunks[1][len(wanted) :]
        content, error = at_bob(done, onward(done, [chunks[0], forged, *chunks[2:]], link)[-1])
        assert isinstance(error, AuthenticationError | Malformed)
        assert CONTENT.startswith(content)


def test_equal_plaintext_chunks_are_never_equal_on_a_link() -> None:
    done = exchange(cast_of(PROXIES + 2), ReplyMode.CACHED, bytes(20_000), [bytes(20_000)], profile=SMALL)
    links = [*done.relayed.links, *done.replies[0].links]
    pieces = [link[at : at + 16] for link in links for at in range(0, len(link), 16)]
    # The first link of one is not the last of the other: no bytes occur twice.
    assert len(set(pieces)) == len(pieces)

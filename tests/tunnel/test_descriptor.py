"""Descriptors: signed fields are read back, and other bytes are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ENGINES, NOW_S, OPENSSL, engines, make_keys
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import DescriptorError
from tunnel.geometry import GEOMETRIES, MAX_PROFILES, Profile
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor, OnionKeyInfo

SEED = b"\x07" * 32
NODE_ID = OPENSSL.ed25519_public(SEED)
Field = tuple[int, bytes]

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).filter(lambda address: getattr(address, "ipv4_mapped", None) is None).map(str)
addresses = st.builds(Address, st.one_of(ipv4, ipv6), st.integers(1, 65_535))
u32 = st.integers(0, 2**32 - 1)
dates = st.lists(u32, min_size=2, max_size=2, unique=True).map(sorted)
onion_keys = st.builds(
    lambda both, key: OnionKeyInfo(both[0], both[1], key), dates, st.binary(min_size=32, max_size=32)
)
descriptors = st.builds(
    Descriptor,
    node_id=st.just(NODE_ID),
    link_key=st.binary(min_size=32, max_size=32),
    onion_keys=st.lists(onion_keys, min_size=1, max_size=2).map(tuple),
    addresses=st.lists(addresses, max_size=4).map(tuple),
    profiles=st.lists(st.sampled_from(list(GEOMETRIES)), min_size=1, max_size=MAX_PROFILES).map(tuple),
    sequence=st.integers(0, 2**64 - 1),
    expiry=u32,
    unlisted=st.booleans(),
    family=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
)


def plain_fields() -> list[Field]:
    """The fields of a good descriptor, to be damaged."""
    return [
        (1, NODE_ID),
        (2, b"l" * 32),
        (3, struct.pack(">II32s", 10, 20, b"o" * 32)),
        (4, Address("127.0.0.1", 80).pack()),
        (5, b"\x01\x02"),
        (6, b"\x00"),
        (7, b"\x00"),
        (8, bytes(7) + b"\x05"),
        (9, bytes(3) + b"\x63"),
    ]


def body_of(fields: list[Field]) -> bytes:
    return b"mtun\x01" + b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in fields)


def signed(body: bytes) -> bytes:
    """Any bytes with a valid signature: the node itself is hostile."""
    return body + OPENSSL.ed25519_sign(SEED, body)


def refused(data: bytes, engine: TunnelEngine = OPENSSL) -> str:
    with pytest.raises(DescriptorError) as caught:
        Descriptor.parse(data, engine)
    return str(caught.value)


# --- round trip -


@given(descriptors, engines)
def test_round_trip(descriptor: Descriptor, engine: TunnelEngine) -> None:
    done = descriptor.sign(SEED, engine)
    assert len(done.signed) <= MAX_DESCRIPTOR_BYTES
    assert Descriptor.parse(done.signed, engine) == done


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (2, struct.pack(">II32s", 20, 20, b"o" * 32)),
        (2, struct.pack(">II32s", 20, 10, b"o" * 32)),
        (3, Address("127.0.0.1", 0).pack()),
    ],
    ids=["dates equal", "dates reversed", "port 0"],
)
def test_useless_fields_are_refused(index: int, value: bytes) -> None:
    fields = plain_fields()
    fields[index] = (fields[index][0], value)
    assert "never valid, or an address with port 0" in refused(signed(body_of(fields)))


def test_bytes_are_where_the_protocol_puts_them() -> None:
    data = signed(body_of(plain_fields()))
    parsed = Descriptor.parse(data, OPENSSL)
    assert parsed == Descriptor(
        NODE_ID,
        b"l" * 32,
        (OnionKeyInfo(10, 20, b"o" * 32),),
        (Address("127.0.0.1", 80),),
        (1, 2),
        sequence=5,
        expiry=99,
        signed=data,
    )
    assert parsed.sign(SEED, OPENSSL).signed == data


@given(addresses)
def test_addresses(address: Address) -> None:
    packed = address.pack()
    assert len(packed) == 18
    assert Address.unpack(packed) == address


@pytest.mark.parametrize(
    ("host", "packed"),
    [
        ("1.2.3.4", "00000000000000000000ffff01020304"),
        ("::1", "00000000000000000000000000000001"),
        ("0.0.0.0", "00000000000000000000ffff00000000"),
    ],
)
def test_address_bytes(host: str, packed: str) -> None:
    assert Address(host, 0x1234).pack() == bytes.fromhex(packed) + b"\x12\x34"


def test_an_ipv4_address_written_as_ipv6_becomes_ipv4() -> None:
    # Without the reduction, checks for private ranges could be evaded.
    assert Address.unpack(Address("::ffff:10.0.0.1", 1).pack()) == Address("10.0.0.1", 1)


# --- damage -


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_changed_byte_is_refused(engine: TunnelEngine) -> None:
    data = make_keys("a").descriptor((Address("127.0.0.1", 80),), NOW_S, OPENSSL).signed
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        refused(bytes(changed), engine)


@given(st.data())
def test_any_change_is_refused(data: st.DataObject) -> None:
    good = signed(body_of(plain_fields()))
    position = data.draw(st.integers(0, len(good) - 1))
    mask = data.draw(st.integers(1, 255))
    refused(good[:position] + bytes([good[position] ^ mask]) + good[position + 1 :])


def test_every_truncated_length_is_refused() -> None:
    good = signed(body_of(plain_fields()))
    for cut in range(len(good)):
        refused(good[:cut])
    refused(good + b"\0")


def test_every_truncated_body_is_refused_even_when_signed() -> None:
    body = body_of(plain_fields())
    for cut in range(len(body)):
        refused(signed(body[:cut]))


@given(st.binary(max_size=600))
def test_random_bytes(data: bytes) -> None:
    refused(data)


@given(st.binary(max_size=430))
def test_random_fields_with_a_good_signature(rest: bytes) -> None:
    refused(signed(b"mtun\x01" + rest))


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.one_of(st.binary(max_size=45), st.binary(min_size=32, max_size=32)))
    )
)
def test_random_tlv_with_a_good_signature(fields: list[Field]) -> None:
    """Any signed bytes are a descriptor of that node, or DescriptorError."""
    try:
        parsed = Descriptor.parse(signed(body_of(fields)), OPENSSL)
    except DescriptorError:
        return
    assert parsed.node_id == NODE_ID


def test_a_signature_of_another_node_is_refused() -> None:
    body = body_of(plain_fields())
    assert "not signed" in refused(body + OPENSSL.ed25519_sign(b"\x08" * 32, body))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("node_id", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_node_ids_that_accept_any_signature_are_refused(engine: TunnelEngine, node_id: bytes) -> None:
    fields = [(1, node_id), *plain_fields()[1:]]
    refused(body_of(fields) + b"\x01" + bytes(63), engine)


@pytest.mark.parametrize("magic", [b"mtun\x00", b"mtun\x02", b"MTUN\x01", b"mtu", b""])
def test_other_magic_and_versions(magic: bytes) -> None:
    refused(signed(magic + body_of(plain_fields())[5:]))


# --- fields -


@pytest.mark.parametrize("kind", [0, 10, 11, 255])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_unknown_fields(kind: int, place: int) -> None:
    fields = plain_fields()
    fields.insert(place, (kind, b"x"))
    assert f"field {kind}" in refused(signed(body_of(fields)))


@pytest.mark.parametrize("left", range(8))
def test_fields_out_of_order(left: int) -> None:
    fields = plain_fields()
    fields[left], fields[left + 1] = fields[left + 1], fields[left]
    assert "out of order" in refused(signed(body_of(fields)))


@pytest.mark.parametrize("kind", range(1, 10))
def test_missing_fields(kind: int) -> None:
    data = signed(body_of([field for field in plain_fields() if field[0] != kind]))
    if kind == 4:
        assert Descriptor.parse(data, OPENSSL).addresses == ()
    else:
        assert "0 times" in refused(data)


@pytest.mark.parametrize(
    ("kind", "most"), [(1, 1), (2, 1), (3, 2), (4, 4), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1)]
)
def test_repeated_fields(kind: int, most: int) -> None:
    def times(count: int) -> bytes:
        return signed(
            body_of([f for field in plain_fields() for f in [field] * (count if field[0] == kind else 1)])
        )

    Descriptor.parse(times(most), OPENSSL)
    assert f"{most + 1} times" in refused(times(most + 1))


@pytest.mark.parametrize("kind", range(1, 10))
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_field_lengths(kind: int, change: int) -> None:
    fields = [
        (k, (value + b"\0" * 8)[: len(value) + change] if k == kind else value) for k, value in plain_fields()
    ]
    data = signed(body_of(fields))
    if kind == 5:  # 1 to 16 profiles
        Descriptor.parse(data, OPENSSL)
    else:
        refused(data)


@pytest.mark.parametrize("profiles", [b"", b"\x01" * (MAX_PROFILES + 1)])
def test_no_profiles_and_too_many(profiles: bytes) -> None:
    refused(signed(body_of([(k, profiles if k == 5 else value) for k, value in plain_fields()])))


def test_a_length_that_runs_past_the_end() -> None:
    body = body_of(plain_fields())
    refused(signed(body[:-6] + b"\xff\xff" + body[-4:]))


@pytest.mark.parametrize(("kind", "value"), [(6, b"\x02"), (6, b"\x81"), (7, b"\x01"), (7, b"\xff")])
def test_unknown_flags_and_policies(kind: int, value: bytes) -> None:
    refused(signed(body_of([(k, value if k == kind else v) for k, v in plain_fields()])))


def test_an_oversized_descriptor_is_refused() -> None:
    assert "at most 478" in refused(bytes(479))
    assert "at most 478" in refused(b"mtun\x01" + bytes(10_000))


# --- use -


def test_unknown_profiles_are_left_out() -> None:
    fields = [(k, b"\x01\x21\x02\x16\x06\xff" if k == 5 else value) for k, value in plain_fields()]
    parsed = Descriptor.parse(signed(body_of(fields)), OPENSSL)
    assert parsed.profiles == (1, 2)
    assert parsed.offers(Profile.from_byte(1))
    assert not parsed.offers(Profile.from_byte(3))


@pytest.mark.parametrize(
    ("now_s", "epoch"),
    [
        (999, None),
        (1_399.9, None),  # ten minutes before the first one: its node may have a clock that is so fast
        (1_400, 2_000),
        (2_000, 2_000),
        (3_999.9, 2_000),
        (4_000, 4_000),
        (5_999.9, 4_000),
        (6_000, None),
    ],
)
def test_the_onion_key_of_now(now_s: float, epoch: int | None) -> None:
    keys = (OnionKeyInfo(2_000, 4_000, b"a" * 32), OnionKeyInfo(4_000, 6_000, b"b" * 32))
    descriptor = Descriptor(NODE_ID, b"l" * 32, keys, (), (1,), 1, 10_000)
    assert (descriptor.obstacle(now_s) is None) is (epoch is not None)
    if epoch is None:
        with pytest.raises(DescriptorError, match=NODE_ID.hex()[:8]):
            descriptor.hop(now_s)
    else:
        assert descriptor.hop(now_s).epoch == epoch
        assert descriptor.hop(now_s).onion_public == (b"a" if epoch == 2_000 else b"b") * 32

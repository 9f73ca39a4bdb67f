"""Node descriptors: the public record of a node, signed by the node itself.

Layout: "mtun" ‖ version 1 ‖ fields ‖ Ed25519 signature 64 over everything before it. A field is type 1 ‖
length 2 ‖ value. Types ascend, and the table `_FIELDS` limits how often each appears.

Rule for changing it: a new field is a row of docs/protocol.md first; parsing refuses unknown fields.
Source: docs/protocol.md, "Descriptor".
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tunnel.arguments import MOST_PORT, checked_count
from tunnel.codes import clock_text, short
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import BadArgument, BadSignature, DescriptorError, ProfileError
from tunnel.geometry import ADDRESS_BYTES, MAX_PROFILES, Profile
from tunnel.onion.header import CLOCK_SKEW_S, Hop

__all__ = [
    "FAMILY_BYTES",
    "MAX_DESCRIPTOR_BYTES",
    "MIN_DESCRIPTOR_BYTES",
    "Address",
    "Descriptor",
    "OnionKeyInfo",
]

MAX_DESCRIPTOR_BYTES = 478  # a link handshake has no room for more
_MAGIC = b"mtun\x01"
_SIGNATURE_BYTES = 64
MIN_DESCRIPTOR_BYTES = len(_MAGIC) + _SIGNATURE_BYTES
_FIELD = struct.Struct(">BH")
_ONION_KEY = struct.Struct(">II32s")
_UNLISTED = 0x01
FAMILY_BYTES = 16

_NODE_ID, _LINK_KEY, _ONION, _ADDRESS, _PROFILES, _FLAGS, _EXIT_POLICY, _SEQUENCE, _EXPIRY, _FAMILY = range(
    1, 11
)
# field → (least length, greatest length, least times, greatest times)
_FIELDS = {
    _NODE_ID: (32, 32, 1, 1),
    _LINK_KEY: (32, 32, 1, 1),
    _ONION: (_ONION_KEY.size, _ONION_KEY.size, 1, 2),
    _ADDRESS: (ADDRESS_BYTES, ADDRESS_BYTES, 0, 4),
    _PROFILES: (1, MAX_PROFILES, 1, 1),
    _FLAGS: (1, 1, 1, 1),
    _EXIT_POLICY: (1, 1, 1, 1),
    _SEQUENCE: (8, 8, 1, 1),
    _EXPIRY: (4, 4, 1, 1),
    _FAMILY: (FAMILY_BYTES, FAMILY_BYTES, 0, 1),
}


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a TCP port; 18 bytes on the wire, IPv4 mapped into IPv6.

    Raises:
        BadArgument: `host` is not an IP address (names are not accepted), or `port` is not 0 to 65,535.
        TypeError: `host` is not text, or `port` not an integer.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not isinstance(self.host, str):
            raise TypeError(f"host: expected an IP address as text, got {type(self.host).__name__}")
        checked_count(self.port, "port", most=MOST_PORT)
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise BadArgument(f"host {self.host!a}: expected an IP address, not a name") from None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def pack(self) -> bytes:
        address = ipaddress.ip_address(self.host)
        raw = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
        return raw + self.port.to_bytes(2, "big")

    @classmethod
    def unpack(cls, data: bytes) -> Address:
        address = ipaddress.IPv6Address(data[:16])
        host = str(address.ipv4_mapped or address)
        return cls(host, int.from_bytes(data[16:], "big"))


@dataclass(frozen=True, slots=True)
class OnionKeyInfo:
    """The onion public key of one epoch, which is named by its not-before time."""

    not_before: int
    not_after: int
    public: bytes


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The public record of a node.

    Attributes:
        signed: the exact bytes of the descriptor, with the signature.
        family: 16 bytes of the owner's choice, the same in all nodes of one owner. A route never passes two
            nodes of a family. Claiming the family of others only excludes a node from routes with them.
    """

    node_id: bytes
    link_key: bytes
    onion_keys: tuple[OnionKeyInfo, ...]
    addresses: tuple[Address, ...]
    profiles: tuple[int, ...]
    sequence: int
    expiry: int
    unlisted: bool = False
    signed: bytes = b""
    family: bytes | None = None

    def __repr__(self) -> str:
        places = ", ".join(str(address) for address in self.addresses) or "no address"
        return f"<Descriptor of node {short(self.node_id)} at {places}>"

    def hop(self, now_s: float) -> Hop:
        """The onion key to seal to now.

        If none is valid yet, a key that begins within ten minutes is used: clocks may differ by that much,
        and its node accepts it early.

        Raises:
            DescriptorError: the descriptor has expired, or no key is valid now. The text has both times.
        """
        key = self._key(now_s)
        if key is not None:
            return Hop(key.public, key.not_before)
        if now_s >= self.expiry:
            what = f"the descriptor of node {short(self.node_id)} has expired: it was valid until "
            what += clock_text(self.expiry)
        else:
            first, last = self.onion_keys[0], self.onion_keys[-1]
            what = f"node {short(self.node_id)} has published no onion key that is valid now, only for "
            what += f"{clock_text(first.not_before)} to {clock_text(last.not_after)}"
        raise DescriptorError(f"{what}, and this machine's clock shows {clock_text(now_s)}")

    def obstacle(self, now_s: float) -> str | None:
        """The reason why nothing can be sealed to this node now, as a phrase after a count. None: no
        obstacle."""
        if self._key(now_s) is not None:
            return None
        if now_s >= self.expiry:
            return "with an expired descriptor"
        is_early = any(now_s < key.not_before for key in self.onion_keys)
        return "without an onion key valid yet" if is_early else "without an onion key valid any more"

    def _key(self, now_s: float) -> OnionKeyInfo | None:
        if now_s >= self.expiry:
            return None
        for skew_s in (0, CLOCK_SKEW_S):
            for key in self.onion_keys:
                if key.not_before - skew_s <= now_s < key.not_after:
                    return key
        return None

    def offers(self, profile: Profile) -> bool:
        return profile.byte in self.profiles

    def sign(self, identity_seed: bytes, engine: TunnelEngine) -> Descriptor:
        """A copy with `signed` filled in."""
        body = _MAGIC + b"".join(_FIELD.pack(kind, len(value)) + value for kind, value in self._fields())
        return replace(self, signed=body + engine.ed25519_sign(identity_seed, body))

    def _fields(self) -> Iterator[tuple[int, bytes]]:
        yield _NODE_ID, self.node_id
        yield _LINK_KEY, self.link_key
        for key in self.onion_keys:
            yield _ONION, _ONION_KEY.pack(key.not_before, key.not_after, key.public)
        for address in self.addresses:
            yield _ADDRESS, address.pack()
        yield _PROFILES, bytes(self.profiles)
        yield _FLAGS, bytes([_UNLISTED if self.unlisted else 0])
        yield _EXIT_POLICY, b"\x00"  # reject all: the only policy of this version
        yield _SEQUENCE, self.sequence.to_bytes(8, "big")
        yield _EXPIRY, self.expiry.to_bytes(4, "big")
        if self.family is not None:
            yield _FAMILY, self.family

    @staticmethod
    def peek_id(data: bytes) -> bytes:
        """The node id in a signed descriptor, without verification.

        Raises:
            DescriptorError: the bytes do not begin like a descriptor.
        """
        start = len(_MAGIC) + _FIELD.size
        if data[:start] != _MAGIC + _FIELD.pack(_NODE_ID, 32) or len(data) < start + 32:
            raise DescriptorError("descriptor does not begin with a node id")
        return data[start : start + 32]

    @classmethod
    def parse(cls, data: bytes, engine: TunnelEngine) -> Descriptor:
        """Read and verify exactly one descriptor.

        Raises:
            DescriptorError: malformed, or not signed by the node that it names.
        """
        if not MIN_DESCRIPTOR_BYTES <= len(data) <= MAX_DESCRIPTOR_BYTES:
            raise DescriptorError(
                f"descriptor is {len(data)} bytes, at most {MAX_DESCRIPTOR_BYTES} are allowed"
            )
        body = data[:-_SIGNATURE_BYTES]
        if not body.startswith(_MAGIC):
            raise DescriptorError(f"descriptor begins with {body[:5].hex()}, expected {_MAGIC.hex()}")
        fields = _split_fields(body[len(_MAGIC) :])
        node_id = fields[_NODE_ID][0]
        try:
            engine.ed25519_verify(node_id, body, data[-_SIGNATURE_BYTES:])
        except BadSignature as error:
            raise DescriptorError("descriptor is not signed by the node that it names") from error
        onion_keys = tuple(OnionKeyInfo(*_ONION_KEY.unpack(value)) for value in fields[_ONION])
        addresses = tuple(Address.unpack(value) for value in fields[_ADDRESS])
        if any(key.not_before >= key.not_after for key in onion_keys) or any(not a.port for a in addresses):
            raise DescriptorError(
                "descriptor has an onion key that is never valid, or an address with port 0"
            )
        flags, exit_policy = fields[_FLAGS][0][0], fields[_EXIT_POLICY][0][0]
        if flags & ~_UNLISTED or exit_policy:
            raise DescriptorError(f"descriptor has flags 0x{flags:02x} and exit policy {exit_policy}")
        return cls(
            node_id=node_id,
            link_key=fields[_LINK_KEY][0],
            onion_keys=onion_keys,
            addresses=addresses,
            profiles=_known_profiles(fields[_PROFILES][0]),
            sequence=int.from_bytes(fields[_SEQUENCE][0], "big"),
            expiry=int.from_bytes(fields[_EXPIRY][0], "big"),
            unlisted=bool(flags & _UNLISTED),
            signed=data,
            family=fields[_FAMILY][0] if fields[_FAMILY] else None,
        )


def _split_fields(body: bytes) -> dict[int, list[bytes]]:
    fields: dict[int, list[bytes]] = {kind: [] for kind in _FIELDS}
    position = previous = 0
    while position < len(body):
        if position + _FIELD.size > len(body):
            raise DescriptorError("descriptor ends inside a field head")
        kind, length = _FIELD.unpack_from(body, position)
        position += _FIELD.size
        value = body[position : position + length]
        position += length
        if kind not in _FIELDS or kind < previous:
            raise DescriptorError(f"descriptor field {kind} after field {previous}: unknown, or out of order")
        least, greatest, _, _ = _FIELDS[kind]
        if len(value) != length or not least <= length <= greatest:
            raise DescriptorError(
                f"descriptor field {kind} has {length} bytes, expected {least} to {greatest}"
            )
        fields[kind].append(value)
        previous = kind
    for kind, (_, _, fewest, most) in _FIELDS.items():
        if not fewest <= len(fields[kind]) <= most:
            raise DescriptorError(
                f"descriptor field {kind} appears {len(fields[kind])} times, expected {fewest} to {most}"
            )
    return fields


def _known_profiles(values: bytes) -> tuple[int, ...]:
    """Omit profiles that this version does not know: a newer node may offer more."""
    known = []
    for value in values:
        try:
            known.append(Profile.from_byte(value).byte)
        except ProfileError:
            continue
    return tuple(known)

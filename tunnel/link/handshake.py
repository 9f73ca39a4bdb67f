"""The link handshake: Noise XK with settings and descriptors, as a state machine over bytes.

M1: version 4 ‖ puzzle 12 ‖ e 32 ‖ tag 16.  M2: e 32 ‖ sealed settings ‖ tag.  M3: s 48 ‖ sealed settings and
the initiator's signed descriptor, padded to 512 ‖ tag.  All three have one length each, so a reader knows
what to collect before it believes a byte. The responder is proven by the key that the initiator knew before;
the initiator by its static key, which its signed descriptor must name. Source: docs/protocol.md, "Link
handshake".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tunnel.descriptor import Descriptor
from tunnel.errors import DescriptorError, HandshakeError, LocalTunnelError
from tunnel.geometry import PROTOCOL_VERSION
from tunnel.link.noise import LinkKeys, NoiseXK
from tunnel.primitives import TunnelEngine, X25519Private

__all__ = ["M1_BYTES", "M2_BYTES", "M3_BYTES", "Initiator", "Responder", "Settings"]

_MAGIC = b"MT"
_HELLO = struct.Struct(">2sH12s")
_SETTINGS = struct.Struct(">IIB3sI8s")
_M3_PLAIN_BYTES = 512
_LENGTH = struct.Struct(">H")

M1_BYTES = _HELLO.size + 32 + 16
M2_BYTES = 32 + _SETTINGS.size + 16
M3_BYTES = 48 + _M3_PLAIN_BYTES + 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What a side tells about itself.

    Attributes:
        max_streams: streams that the peer may open on this link; 1 under policy `once`.
        window_bytes: initial credit of a stream; 0 = no credit (policy `once`).
        clock_s: the sender's clock, rounded to 60 s: lets the peer see a wrong clock, not identify it.
        profiles: profile bytes that it accepts, at most 8.
    """

    clock_s: int
    profiles: tuple[int, ...]
    max_streams: int = 1
    window_bytes: int = 0
    padding_mode: int = 0

    @classmethod
    def make(cls, now_s: float, profiles: tuple[int, ...]) -> Settings:
        return cls(round(now_s / 60) * 60, profiles)

    def pack(self) -> bytes:
        return _SETTINGS.pack(
            self.max_streams,
            self.window_bytes,
            self.padding_mode,
            bytes(3),
            self.clock_s,
            bytes(self.profiles).ljust(8, b"\0"),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Settings:
        """Raises HandshakeError when a field holds what this version does not know."""
        streams, window, padding, zero, clock, profiles = _SETTINGS.unpack(data)
        if padding or zero != bytes(3) or (streams, window) != (1, 0):
            raise HandshakeError(
                f"settings name {streams} streams, window {window}, padding mode {padding}; expected 1, 0, 0"
            )
        known = profiles.rstrip(b"\0")
        if not known or 0 in known:
            raise HandshakeError(f"settings list the profiles {profiles.hex()}, expected some, then zeros")
        return cls(clock, tuple(known), streams, window, padding)


def _check_length(message: bytes, expected: int, name: str) -> None:
    if len(message) != expected:
        raise HandshakeError(f"{name} is {len(message)} bytes, expected {expected}")


def _prologue(network_id: bytes) -> bytes:
    return b"mtun1" + network_id


class Initiator:
    """The dialling side: `hello`, send it, give the answer to `reply`, send what it returns, then `finish`.

    Args:
        network_id: 16 bytes; both sides must be of one network.
        link_private: this node's static key; remote_link_key: the responder's, from its descriptor.
        descriptor: this node's own signed descriptor.
        fixed_ephemeral_for_tests_only: makes the handshake reproducible.
    """

    def __init__(
        self,
        *,
        network_id: bytes,
        link_private: X25519Private,
        remote_link_key: bytes,
        descriptor: Descriptor,
        settings: Settings,
        engine: TunnelEngine,
        fixed_ephemeral_for_tests_only: bytes | None = None,
    ) -> None:
        self._noise = NoiseXK(
            "initiator",
            prologue=_prologue(network_id),
            static_private=link_private,
            remote_static=remote_link_key,
            engine=engine,
            fixed_ephemeral_for_tests_only=fixed_ephemeral_for_tests_only,
        )
        self._descriptor = descriptor
        self._settings = settings
        self.peer_settings: Settings | None = None

    def hello(self) -> bytes:
        """M1."""
        return _HELLO.pack(_MAGIC, PROTOCOL_VERSION, bytes(12)) + self._noise.write_message(b"")

    def reply(self, message: bytes) -> bytes:
        """Take M2, return M3. Raises HandshakeError: not from the node that was dialled, or changed."""
        _check_length(message, M2_BYTES, "M2")
        self.peer_settings = Settings.unpack(self._noise.read_message(message))
        signed = self._descriptor.signed
        plain = self._settings.pack() + _LENGTH.pack(len(signed)) + signed
        return self._noise.write_message(plain.ljust(_M3_PLAIN_BYTES, b"\0"))

    def finish(self) -> LinkKeys:
        return self._noise.finish()


class Responder:
    """The listening side: `hello` takes M1 and returns M2, `final` takes M3 and returns who dialled."""

    def __init__(
        self,
        *,
        network_id: bytes,
        link_private: X25519Private,
        settings: Settings,
        engine: TunnelEngine,
        fixed_ephemeral_for_tests_only: bytes | None = None,
    ) -> None:
        self._noise = NoiseXK(
            "responder",
            prologue=_prologue(network_id),
            static_private=link_private,
            engine=engine,
            fixed_ephemeral_for_tests_only=fixed_ephemeral_for_tests_only,
        )
        self._engine = engine
        self._settings = settings
        self._has_accepted = False
        self.peer_settings: Settings | None = None

    def hello(self, message: bytes) -> bytes:
        """Take M1, return M2.

        Raises:
            HandshakeError: another protocol, another version, another network, or not meant for this node.
        """
        _check_length(message, M1_BYTES, "M1")
        magic, version, puzzle = _HELLO.unpack_from(message)
        if magic != _MAGIC:
            raise HandshakeError(f"first bytes are {magic.hex()}, expected {_MAGIC.hex()}: not this protocol")
        if version != PROTOCOL_VERSION:
            raise HandshakeError(f"peer speaks protocol version {version}, this is {PROTOCOL_VERSION}")
        if puzzle != bytes(12):
            raise HandshakeError("puzzle answer where none was asked for")
        self._noise.read_message(message[_HELLO.size :])
        return self._noise.write_message(self._settings.pack())

    def final(self, message: bytes, *, now_s: float) -> Descriptor:
        """Take M3, return the initiator's verified descriptor.

        Raises:
            HandshakeError: changed, or the descriptor is not of the node that holds the static key, or
                expired.
        """
        _check_length(message, M3_BYTES, "M3")
        plain = self._noise.read_message(message)
        self.peer_settings = Settings.unpack(plain[: _SETTINGS.size])
        (length,) = _LENGTH.unpack_from(plain, _SETTINGS.size)
        start = _SETTINGS.size + _LENGTH.size
        signed, padding = plain[start : start + length], plain[start + length :]
        if len(signed) != length or padding.strip(b"\0"):
            raise HandshakeError(f"descriptor of {length} bytes does not fit, or what follows it is not zero")
        try:
            descriptor = Descriptor.parse(signed, self._engine)
        except DescriptorError as error:
            raise HandshakeError(f"initiator's descriptor: {error}") from error
        if descriptor.link_key != self._noise.remote_static:
            raise HandshakeError("initiator's static key is not the link key of the descriptor that it shows")
        if descriptor.expiry < now_s:
            raise HandshakeError(f"initiator's descriptor expired {int(now_s) - descriptor.expiry} s ago")
        self._has_accepted = True
        return descriptor

    def finish(self) -> LinkKeys:
        """The keys of the link. Raises LocalTunnelError: `final` has not accepted the initiator."""
        # Noise is content once M3 has opened; whether its sender may have a link is decided after that.
        if not self._has_accepted:
            raise LocalTunnelError("finish before the initiator was accepted")
        return self._noise.finish()


assert (M1_BYTES, M2_BYTES, M3_BYTES) == (64, 72, 576)

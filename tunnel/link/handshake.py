"""The link handshake: Noise XK with settings and descriptors, as a state machine over bytes.

M1: version 4 ‖ puzzle 12 ‖ e 32 ‖ tag 16.  M2: e 32 ‖ sealed settings ‖ tag.  M3: s 48 ‖ sealed settings and
the initiator's signed descriptor, padded to 512 ‖ tag.  Each has a fixed length, so a reader knows how much
to collect before it trusts a byte. The responder is authenticated by the key that the initiator already knew,
the initiator by its static key, which its signed descriptor must name.

Under load a responder answers M1 with RETRY, which is as long as M2, before any computation with keys. The
initiator solves the puzzle in it and sends M1 again with the answer. `_INITIATOR` and `_RESPONDER` list the
legal next messages. Source: docs/protocol.md, "Link handshake".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from readwrite_comp.primitives import random_bytes
from tunnel.codes import clock_text
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.errors import DescriptorError, HandshakeError, LocalTunnelError
from tunnel.geometry import MAX_PROFILES, PROTOCOL_VERSION
from tunnel.identity.descriptor import Descriptor
from tunnel.link.noise import LinkKeys, NoiseXK

__all__ = [
    "M1_BYTES",
    "M2_BYTES",
    "M3_BYTES",
    "MAX_BITS",
    "Initiator",
    "PaddingMode",
    "Puzzle",
    "Responder",
    "Settings",
]


# The puzzle makes M1 more expensive for its sender than for its reader.
#
# The answer is 12 bytes for which SHA-256("mtun1 puzzle" ‖ challenge 16 ‖ e 32 ‖ answer 12) begins with the
# required number of zero bits. The challenge belongs to one connection and e to one handshake, so an answer
# works once. Each bit doubles the work: 12 bits are about 4,096 hashes, some milliseconds. A check is one
# hash. Source: docs/protocol.md, "Link handshake"; Juels, Brainard, "Client puzzles" (NDSS 1999).
ANSWER_BYTES = 12
# About 65,000 hashes, a tenth of a second. RETRY is not authenticated, so whoever is dialled, or can write
# into the connection, may demand this work.
MAX_BITS = 16
_LABEL = b"mtun1 puzzle"


@dataclass(slots=True)
class Puzzle:
    """One puzzle and the progress of its search.

    Attributes:
        challenge: 16 bytes from the responder.
        ephemeral: e of M1, 32 bytes.
        bits: leading zero bits of the hash, 1 to MAX_BITS.
        answer: 12 bytes, once `search` has found them; never all zero, which means "no answer" in M1.
    """

    challenge: bytes
    ephemeral: bytes
    bits: int
    answer: bytes | None = None
    _next: int = 1

    def search(self, tries: int) -> bool:
        """Try `tries` candidates; True once `answer` is found. Between calls other services can run.

        10,000 tries take about 10 ms.
        """
        if self.answer is not None:
            return True
        prefix = sha256(_LABEL + self.challenge + self.ephemeral)
        limit = 1 << (64 - self.bits)
        for number in range(self._next, self._next + tries):
            candidate = number.to_bytes(ANSWER_BYTES, "big")
            state = prefix.copy()
            state.update(candidate)
            if int.from_bytes(state.digest()[:8], "big") < limit:
                self.answer = candidate
                return True
        self._next += tries
        return False

    def accepts(self, answer: bytes) -> bool:
        """Whether these 12 bytes are an answer."""
        digest = sha256(_LABEL + self.challenge + self.ephemeral + answer).digest()
        return int.from_bytes(digest[:8], "big") < 1 << (64 - self.bits)


_MAGIC = b"MT"
_HELLO = struct.Struct(">2sH12s")
_SETTINGS = struct.Struct(f">IIB3sI{MAX_PROFILES}s")
_M3_PLAIN_BYTES = 512
_CHALLENGE_BYTES = 16
_LENGTH = struct.Struct(">H")
M1_BYTES = _HELLO.size + 32 + 16
M2_BYTES = 32 + _SETTINGS.size + 16
M3_BYTES = 48 + _M3_PLAIN_BYTES + 16


class _Step(Enum):
    """The message that a side expects next."""

    HELLO = "M1"
    HELLO_AGAIN = "M1 with the puzzle's answer"
    ANSWER = "M2"
    ANSWER_OR_RETRY = "M2 or RETRY"
    FINAL = "M3"
    DONE = "the end"


# Step -> event -> next step. Any other event is refused and changes nothing.
_INITIATOR: dict[_Step, dict[str, _Step]] = {
    _Step.HELLO: {"M1 written": _Step.ANSWER_OR_RETRY},
    _Step.ANSWER_OR_RETRY: {"RETRY read": _Step.HELLO_AGAIN, "M2 read": _Step.DONE},
    _Step.HELLO_AGAIN: {"M1 written": _Step.ANSWER},
    _Step.ANSWER: {"M2 read": _Step.DONE},
    _Step.DONE: {},
}
_RESPONDER: dict[_Step, dict[str, _Step]] = {
    _Step.HELLO: {"M1 read": _Step.FINAL, "RETRY written": _Step.HELLO_AGAIN},
    _Step.HELLO_AGAIN: {"M1 read": _Step.FINAL},
    _Step.FINAL: {"M3 read": _Step.DONE},
    _Step.DONE: {},
}
_RETRY_MAGIC = b"mtun1 retry".ljust(16, b"\0")  # an honest M2 begins with a random key
_RETRY = struct.Struct(">16s16sB47s")
_MAX_STREAMS = 65_536  # the most that settings may allow
_MAX_CLOCK_S = (1 << 32) - 1


class PaddingMode(Enum):
    """When a side sends padding records."""

    OFF = 0
    POISSON = 1  # at random times
    CONSTANT = 2  # records of one size at one rate, and no others


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that a side sends in the handshake.

    Attributes:
        max_streams: streams that the peer may have open on this link, 1 to 65,536.
        window_bytes: limit of all receive windows of this side together; 0: not stated.
        padding: of this side, so that the peer can do the same.
        clock_s: the sender's clock, rounded to 60 s. A difference does not show which clock is wrong.
        profiles: accepted profile bytes, at most 16.
    """

    clock_s: int
    profiles: tuple[int, ...]
    max_streams: int = 1
    window_bytes: int = 0
    padding: PaddingMode = PaddingMode.OFF

    @classmethod
    def make(
        cls,
        now_s: float,
        profiles: tuple[int, ...],
        *,
        max_streams: int = 1,
        window_bytes: int = 0,
        padding: PaddingMode = PaddingMode.OFF,
    ) -> Settings:
        """The settings to send at `now_s` (seconds since 1970)."""
        clock_s = min(max(round(now_s / 60) * 60, 0), _MAX_CLOCK_S)  # a wrong clock breaks no handshake
        return cls(clock_s, profiles, max_streams, window_bytes, padding)

    def pack(self) -> bytes:
        return _SETTINGS.pack(
            self.max_streams,
            self.window_bytes,
            self.padding.value,
            bytes(3),
            self.clock_s,
            bytes(self.profiles).ljust(MAX_PROFILES, b"\0"),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Settings:
        """Raises HandshakeError: a field has a value that this version does not know."""
        streams, window, padding, zero, clock, profiles = _SETTINGS.unpack(data)
        if not 1 <= streams <= _MAX_STREAMS or padding not in PaddingMode._value2member_map_:
            raise HandshakeError(
                f"settings name {streams} streams and padding mode {padding}; "
                f"expected 1 to {_MAX_STREAMS} and 0 to {len(PaddingMode) - 1}"
            )
        if zero != bytes(3):
            raise HandshakeError(f"settings have {zero.hex()} where zeros are expected")
        known = profiles.rstrip(b"\0")
        if not known or 0 in known:
            raise HandshakeError(f"settings list the profiles {profiles.hex()}, expected some, then zeros")
        return cls(clock, tuple(known), streams, window, PaddingMode(padding))


def _check_length(message: bytes, expected: int, name: str) -> None:
    if len(message) != expected:
        raise HandshakeError(f"{name} is {len(message)} bytes, expected {expected}")


def _next(table: dict[_Step, dict[str, _Step]], step: _Step, event: str) -> _Step:
    after = table[step].get(event)
    if after is None:
        raise LocalTunnelError(f"{event} where {step.value} was expected")
    return after


def _prologue(network_id: bytes) -> bytes:
    return b"mtun1" + network_id


class Initiator:
    """The dialling side: send `hello()`, read the answer, send `reply(answer)`, then `finish()`.

    If `is_retry(answer)`: solve the puzzle `retry(answer)`, send `hello_again(...)`, and read another answer.

    Args:
        network_id: 16 bytes, the same on both sides.
        link_private: this node's static key; remote_link_key: the responder's, from its descriptor.
        descriptor: of this node, signed.
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
        self._step = _Step.HELLO
        self._first = b""
        self.peer_settings: Settings | None = None

    def hello(self) -> bytes:
        """M1."""
        self._step = _next(_INITIATOR, self._step, "M1 written")
        self._first = self._noise.write_message(b"")
        return _HELLO.pack(_MAGIC, PROTOCOL_VERSION, bytes(ANSWER_BYTES)) + self._first

    def is_retry(self, message: bytes) -> bool:
        """Whether an answer (of the length of M2) is RETRY; it is not authenticated."""
        return message.startswith(_RETRY_MAGIC)

    def retry(self, message: bytes) -> Puzzle:
        """Take RETRY and return the puzzle to solve.

        Raises:
            HandshakeError: a second one, malformed, or more than MAX_BITS.
        """
        _check_length(message, M2_BYTES, "RETRY")
        magic, challenge, bits, zeros = _RETRY.unpack(message)
        if self._step is not _Step.ANSWER_OR_RETRY or magic != _RETRY_MAGIC:
            raise HandshakeError(f"not a RETRY, or a RETRY where {self._step.value} was expected")
        if not 1 <= bits <= MAX_BITS or zeros.strip(b"\0"):
            raise HandshakeError(f"puzzle of {bits} bits, expected 1 to {MAX_BITS}, followed by zeros")
        self._step = _next(_INITIATOR, self._step, "RETRY read")
        return Puzzle(challenge, self._first[:32], bits)

    def hello_again(self, answer: bytes) -> bytes:
        """M1 again, with the answer of the puzzle from `retry`."""
        self._step = _next(_INITIATOR, self._step, "M1 written")
        return _HELLO.pack(_MAGIC, PROTOCOL_VERSION, answer) + self._first

    def reply(self, message: bytes) -> bytes:
        """Take M2 and return M3. Raises HandshakeError: changed, or not from the node that was dialled."""
        _check_length(message, M2_BYTES, "M2")
        after = _next(_INITIATOR, self._step, "M2 read")
        self.peer_settings = Settings.unpack(self._noise.read_message(message))
        signed = self._descriptor.signed
        plain = self._settings.pack() + _LENGTH.pack(len(signed)) + signed
        self._step = after
        return self._noise.write_message(plain.ljust(_M3_PLAIN_BYTES, b"\0"))

    def finish(self) -> LinkKeys:
        return self._noise.finish()


class Responder:
    """The listening side: `hello` takes M1 and returns M2; `final` takes M3 and returns the initiator.

    Args:
        network_id, link_private, settings, engine: as for `Initiator`.
        load: 0, or the bits of a puzzle that the initiator must solve first, 1 to MAX_BITS.
        challenge: 16 unpredictable bytes for that puzzle, unique to this connection; by default random.
    """

    def __init__(
        self,
        *,
        network_id: bytes,
        link_private: X25519Private,
        settings: Settings,
        engine: TunnelEngine,
        load: int = 0,
        challenge: bytes | None = None,
        fixed_ephemeral_for_tests_only: bytes | None = None,
    ) -> None:
        if not 0 <= load <= MAX_BITS:
            raise LocalTunnelError(f"load is {load} bits, expected 0 to {MAX_BITS}")
        self._load = load
        self._challenge = random_bytes(_CHALLENGE_BYTES) if challenge is None else challenge
        self._step = _Step.HELLO
        self._first = b""
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

    @property
    def awaits_hello(self) -> bool:
        """Whether M1 is expected next: at first, and after `hello` has returned RETRY."""
        return self._step in (_Step.HELLO, _Step.HELLO_AGAIN)

    def hello(self, message: bytes) -> bytes:
        """Take M1 and return M2, or RETRY of the same length; then M1 must follow with the puzzle's answer.

        Raises:
            HandshakeError: another protocol, version or network, another node's key, a wrong answer, or an
                answer to no puzzle.
        """
        after = _next(_RESPONDER, self._step, "M1 read")
        _check_length(message, M1_BYTES, "M1")
        magic, version, puzzle = _HELLO.unpack_from(message)
        if magic != _MAGIC:
            raise HandshakeError(f"first bytes are {magic.hex()}, expected {_MAGIC.hex()}: not this protocol")
        if version != PROTOCOL_VERSION:
            raise HandshakeError(f"peer speaks protocol version {version}, this is {PROTOCOL_VERSION}")
        rest = message[_HELLO.size :]
        if self._step is _Step.HELLO_AGAIN:
            if rest != self._first or not Puzzle(self._challenge, rest[:32], self._load).accepts(puzzle):
                raise HandshakeError("M1 does not answer the puzzle, or belongs to another puzzle")
        elif puzzle != bytes(ANSWER_BYTES):
            raise HandshakeError("puzzle answer without a puzzle")
        elif self._load:
            # Before any computation with keys, which the puzzle protects.
            self._first = rest
            self._step = _next(_RESPONDER, self._step, "RETRY written")
            return _RETRY.pack(_RETRY_MAGIC, self._challenge, self._load, b"")
        self._noise.read_message(rest)
        self._step = after
        return self._noise.write_message(self._settings.pack())

    def final(self, message: bytes, *, now_s: float) -> Descriptor:
        """Take M3 and return the initiator's verified descriptor.

        Raises:
            HandshakeError: changed, or the descriptor is expired or does not have the static key.
        """
        _check_length(message, M3_BYTES, "M3")
        after = _next(_RESPONDER, self._step, "M3 read")
        plain = self._noise.read_message(message)
        self.peer_settings = Settings.unpack(plain[: _SETTINGS.size])
        (length,) = _LENGTH.unpack_from(plain, _SETTINGS.size)
        start = _SETTINGS.size + _LENGTH.size
        signed, padding = plain[start : start + length], plain[start + length :]
        if len(signed) != length or padding.strip(b"\0"):
            raise HandshakeError(
                f"descriptor of {length} bytes does not fit, or the bytes after it are not zero"
            )
        try:
            descriptor = Descriptor.parse(signed, self._engine)
        except DescriptorError as error:
            raise HandshakeError(f"initiator's descriptor: {error}") from error
        if descriptor.link_key != self._noise.remote_static:
            raise HandshakeError("initiator's static key is not the link key of the descriptor that it shows")
        if descriptor.expiry < now_s:
            raise HandshakeError(
                f"initiator's descriptor expired {int(now_s) - descriptor.expiry} s ago; its clock shows "
                f"{clock_text(self.peer_settings.clock_s)}, and the one here {clock_text(now_s)}"
            )
        self._has_accepted = True
        self._step = after
        return descriptor

    def finish(self) -> LinkKeys:
        """The keys of the link. Raises LocalTunnelError: `final` has not accepted the initiator."""
        # Noise is finished once M3 has opened; whether its sender gets a link is decided after that.
        if not self._has_accepted:
            raise LocalTunnelError("finish before the initiator was accepted")
        return self._noise.finish()


assert (M1_BYTES, M2_BYTES, M3_BYTES) == (64, 80, 576)

assert _RETRY.size == M2_BYTES

"""Noise_XK_25519_AESGCM_SHA256: the handshake of a link, as a state machine over bytes.

One pattern of the Noise Protocol Framework, revision 34; section numbers below refer to it. The three objects
of its section 5 are `CipherState`, `SymmetricState`, and `NoiseXK` as the HandshakeState. Rules:

* One table, `_MESSAGES`, has the tokens of each message and whose turn it is.
* A message is processed on a copy of the state, which replaces the state only on success. A refused message
  leaves hash chain, keys and turn unchanged, so a caller could wait for the right one; ours closes the link.
* `finish()` returns the keys; after it the object refuses every call. Records count their own nonces, so the
  keys are returned raw.
* Every fault of a peer is a `HandshakeError` that does not name the failed check.

Nonces are 4 zero bytes ‖ u64 *big*-endian (section 12.3, AESGCM), unlike ChaChaPoly's little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from readwrite_comp.errors import AuthenticationError
from readwrite_comp.primitives import ReadableBuffer, hkdf_sha256, random_bytes, sha256
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.errors import HandshakeError, LocalTunnelError, RefusedKey

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PROTOCOL_NAME",
    "CipherState",
    "LinkKeys",
    "NoiseXK",
    "Role",
    "SymmetricState",
    "nonce_of",
    "rekeyed",
]

PROTOCOL_NAME = b"Noise_XK_25519_AESGCM_SHA256"

MAX_MESSAGE_BYTES = 65_535
"""The longest Noise message (section 3)."""

_KEY_BYTES = 32
_TAG_BYTES = 16
_MAX_NONCE = 2**64 - 1  # section 5.1: reserved for REKEY, never used for a message

Role = Literal["initiator", "responder"]


class _Token(Enum):
    """One step in a message (section 7.1), e.g. ES: mix in the DH of initiator's e and responder's s."""

    E = "e"
    S = "s"
    EE = "ee"
    ES = "es"
    SE = "se"


# The pattern XK (section 7.5); its pre-message is the responder's static key, known to the initiator.
#   -> e, es    <- e, ee    -> s, se
_MESSAGES: tuple[tuple[Role, tuple[_Token, ...]], ...] = (
    ("initiator", (_Token.E, _Token.ES)),
    ("responder", (_Token.E, _Token.EE)),
    ("initiator", (_Token.S, _Token.SE)),
)

_REFUSED = "handshake message {} of 3 was refused: changed, cut, not for this node, or of another network"


def nonce_of(counter: int) -> bytes:
    """Return the AES-GCM nonce of a counter: 4 zero bytes ‖ u64 big-endian (section 12.3)."""
    return counter.to_bytes(12, "big")


def rekeyed(key: bytes, engine: TunnelEngine) -> bytes:
    """Return the key that follows `key`: REKEY of sections 4.2 and 11.3.

    The first 32 bytes of ENCRYPT(key, 2^64 - 1, empty, 32 zero bytes). The old key cannot be derived from it.
    """
    return engine.layers.aead(key).seal(nonce_of(_MAX_NONCE), bytes(_KEY_BYTES))[:_KEY_BYTES]


@dataclass(slots=True)
class CipherState:
    """A key and the counter of its next message (section 5.1). Without a key, text passes unchanged."""

    engine: TunnelEngine
    key: bytes | None = field(default=None, repr=False)
    nonce: int = 0

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """EncryptWithAd. Raises LocalTunnelError: all 2^64 - 1 nonces of this key are used up."""
        if self.key is None:
            return plaintext
        sealed = self.engine.layers.aead(self.key).seal(self._nonce(), plaintext, associated)
        self.nonce += 1
        return sealed

    def decrypt(self, associated: bytes, sealed: bytes) -> bytes:
        """DecryptWithAd.

        Raises:
            AuthenticationError: refused.
            LocalTunnelError: all nonces of this key are used up.
        On error: the counter stays.
        """
        if self.key is None:
            return sealed
        plaintext = self.engine.layers.aead(self.key).open(self._nonce(), sealed, associated)
        self.nonce += 1
        return plaintext

    def rekey(self) -> None:
        """Replace the key by its successor; the counter continues (section 11.3). Needs a key."""
        if self.key is None:
            raise LocalTunnelError("rekey of a cipher state that has no key yet")
        self.key = rekeyed(self.key, self.engine)

    def _nonce(self) -> bytes:
        if self.nonce >= _MAX_NONCE:
            raise LocalTunnelError(f"nonce {self.nonce} is reserved: this key has been used up")
        return nonce_of(self.nonce)


@dataclass(slots=True)
class SymmetricState:
    """The chaining key `ck`, the hash of everything so far `h`, and a cipher (section 5.2)."""

    cipher: CipherState
    chaining_key: bytes = field(repr=False)
    handshake_hash: bytes

    @classmethod
    def start(cls, engine: TunnelEngine) -> SymmetricState:
        """InitializeSymmetric: the protocol's name is shorter than a hash, so it is padded, not hashed."""
        name = PROTOCOL_NAME.ljust(32, b"\0")
        return cls(CipherState(engine), name, name)

    def copy(self) -> SymmetricState:
        """Return an independent copy."""
        return replace(self, cipher=replace(self.cipher))

    def mix_key(self, secret: bytes) -> None:
        """MixKey: the noise HKDF with two outputs is RFC 5869's with empty info and 64 bytes."""
        output = hkdf_sha256(self.chaining_key, secret, b"", 2 * _KEY_BYTES)
        self.chaining_key = output[:_KEY_BYTES]
        self.cipher = CipherState(self.cipher.engine, output[_KEY_BYTES:])

    def mix_hash(self, data: bytes) -> None:
        """MixHash: from here on, both sides agree on `data` or nothing more will open."""
        self.handshake_hash = sha256(self.handshake_hash, data)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """EncryptAndHash: seal, bound to all earlier messages."""
        sealed = self.cipher.encrypt(self.handshake_hash, plaintext)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """DecryptAndHash. Raises AuthenticationError: refused; the state stays as it was."""
        plaintext = self.cipher.decrypt(self.handshake_hash, sealed)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Split: the transport keys, initiator's first."""
        output = hkdf_sha256(self.chaining_key, b"", b"", 2 * _KEY_BYTES)
        return output[:_KEY_BYTES], output[_KEY_BYTES:]


@dataclass(frozen=True, slots=True)
class LinkKeys:
    """The result of a finished handshake.

    Attributes:
        send_key, receive_key: AES-256-GCM, 32 bytes; the peer has them swapped. Nonces begin at 0.
        handshake_hash: 32 bytes, the same on both sides and unique to this link: for channel binding.
    """

    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    handshake_hash: bytes = field(repr=False)


@dataclass(slots=True)
class _State:
    """All that a message changes; copied before each try."""

    symmetric: SymmetricState
    turn: int = 0
    ephemeral: X25519Private | None = None
    remote_ephemeral: bytes | None = None
    remote_static: bytes | None = None

    def copy(self) -> _State:
        return replace(self, symmetric=self.symmetric.copy())


class NoiseXK:
    """One side of one handshake: `write_message` and `read_message` in turn, then `finish`.

    Args:
        role: "initiator" (writes messages 1 and 3) or "responder" (writes message 2).
        prologue: bytes both sides must agree on; another prologue refuses the first message.
        static_private: this node's static key.
        remote_static: the responder's public key, 32 bytes: the initiator must know it, the responder learns
            the initiator's from message 3.
        engine: provides the primitives.
        fixed_ephemeral_for_tests_only: 32 bytes instead of a random ephemeral key, for vectors.
    Raises:
        LocalTunnelError: `remote_static` missing (initiator), given (responder) or not 32 bytes; bad role.
    Source: Noise Protocol Framework, revision 34, sections 5.3, 7.5 (XK).
    """

    def __init__(
        self,
        role: Role,
        *,
        prologue: bytes,
        static_private: X25519Private,
        remote_static: bytes | None = None,
        engine: TunnelEngine,
        fixed_ephemeral_for_tests_only: bytes | None = None,
    ) -> None:
        if role not in ("initiator", "responder"):
            raise LocalTunnelError(f"role is {role!r}, expected 'initiator' or 'responder'")
        if (remote_static is not None) != (role == "initiator"):
            raise LocalTunnelError("remote_static: the initiator must have it, the responder must not")
        if remote_static is not None and len(remote_static) != _KEY_BYTES:
            raise LocalTunnelError(f"remote_static is {len(remote_static)} bytes, expected {_KEY_BYTES}")
        self.role: Role = role
        self._engine = engine
        self._static = static_private
        self._fixed_ephemeral = fixed_ephemeral_for_tests_only
        self._taken = False
        symmetric = SymmetricState.start(engine)
        symmetric.mix_hash(prologue)
        symmetric.mix_hash(static_private.public if remote_static is None else remote_static)
        self.state = _State(symmetric, remote_static=remote_static)

    @property
    def is_finished(self) -> bool:
        """True once all three messages have passed: `finish` may be called."""
        return self.state.turn == len(_MESSAGES)

    @property
    def is_my_turn(self) -> bool:
        """True while the next step is `write_message`."""
        return not self.is_finished and _MESSAGES[self.state.turn][0] == self.role

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key; None at the responder before message 3. Proven when finished."""
        return self.state.remote_static

    @property
    def handshake_hash(self) -> bytes:
        """The hash of all messages so far; a channel binding only when finished."""
        return self.state.symmetric.handshake_hash

    def write_message(self, payload: ReadableBuffer) -> bytes:
        """Return the next message, carrying `payload`.

        Args:
            payload: protected by the keys mixed in so far (section 7.7). Message 1 has no forward secrecy
                against the responder's static key, and can be replayed.
        Raises:
            LocalTunnelError: not this side's turn, finished, or the message would exceed 65,535 bytes.
            HandshakeError: the peer's key, known by now, is of low order.
        On error: nothing changes.
        Source: section 5.3, WriteMessage.
        """
        tokens = self._tokens_of_turn(writing=True)
        state = self.state.copy()
        symmetric, message = state.symmetric, bytearray()
        try:
            for token in tokens:
                if token is _Token.E:
                    state.ephemeral = self._make_ephemeral()
                    message += state.ephemeral.public
                    symmetric.mix_hash(state.ephemeral.public)
                elif token is _Token.S:
                    message += symmetric.encrypt_and_hash(self._static.public)
                else:
                    symmetric.mix_key(self._exchange(state, token))
        except RefusedKey as error:
            raise HandshakeError(_REFUSED.format(state.turn + 1)) from error
        message += symmetric.encrypt_and_hash(bytes(payload))
        if len(message) > MAX_MESSAGE_BYTES:
            raise LocalTunnelError(f"handshake message is {len(message)} bytes, at most {MAX_MESSAGE_BYTES}")
        state.turn += 1
        self.state = state
        return bytes(message)

    def read_message(self, data: ReadableBuffer) -> bytes:
        """Take the peer's next message and return its payload.

        Args:
            data: the whole message, exactly.
        Raises:
            HandshakeError: refused: changed, cut, over 65,535 bytes, not for this key, another prologue.
            LocalTunnelError: it is this side's turn to write, or the handshake is finished.
        On error: nothing changes; the right message can still be read.
        Source: section 5.3, ReadMessage.
        """
        tokens = self._tokens_of_turn(writing=False)
        state = self.state.copy()
        symmetric, rest = state.symmetric, bytes(data)
        try:
            if len(rest) > MAX_MESSAGE_BYTES:
                raise HandshakeError(_REFUSED.format(state.turn + 1))
            for token in tokens:
                if token is _Token.E:
                    state.remote_ephemeral, rest = _cut(rest, _KEY_BYTES)
                    symmetric.mix_hash(state.remote_ephemeral)
                elif token is _Token.S:
                    sealed, rest = _cut(rest, _KEY_BYTES + _TAG_BYTES)
                    state.remote_static = symmetric.decrypt_and_hash(sealed)
                else:
                    symmetric.mix_key(self._exchange(state, token))
            payload = symmetric.decrypt_and_hash(rest)
        except (AuthenticationError, RefusedKey, _Short) as error:
            raise HandshakeError(_REFUSED.format(state.turn + 1)) from error
        state.turn += 1
        self.state = state
        return payload

    def finish(self) -> LinkKeys:
        """Return the transport keys and end this object's life: any further call is refused.

        Raises:
            LocalTunnelError: not finished yet, or finish was called before.
        Source: section 5.2, Split.
        """
        if not self.is_finished or self._taken:
            raise LocalTunnelError("finish was called before" if self._taken else self._where("finish"))
        initiator_key, responder_key = self.state.symmetric.split()
        self._taken = True
        self.state.ephemeral = None
        if self.role == "initiator":
            return LinkKeys(initiator_key, responder_key, self.handshake_hash)
        return LinkKeys(responder_key, initiator_key, self.handshake_hash)

    def _tokens_of_turn(self, *, writing: bool) -> tuple[_Token, ...]:
        call = "write_message" if writing else "read_message"
        if self.is_finished or self.is_my_turn != writing:
            raise LocalTunnelError(self._where(call))
        return _MESSAGES[self.state.turn][1]

    def _where(self, call: str) -> str:
        if self.is_finished:
            return f"{call} after the handshake ended"
        writer = _MESSAGES[self.state.turn][0]
        return f"{call} by the {self.role} before message {self.state.turn + 1}, which the {writer} writes"

    def _make_ephemeral(self) -> X25519Private:
        fixed = self._fixed_ephemeral
        return self._engine.x25519_private(random_bytes(_KEY_BYTES) if fixed is None else fixed)

    def _exchange(self, state: _State, token: _Token) -> bytes:
        """The DH that a two-letter token names: first letter the initiator's key, second the responder's."""
        letters = token.value if self.role == "initiator" else token.value[::-1]
        own, other = letters[0], letters[1]
        private = state.ephemeral if own == "e" else self._static
        public = state.remote_ephemeral if other == "e" else state.remote_static
        assert private is not None, "the pattern has no DH before its keys"
        assert public is not None, "the pattern has no DH before its keys"
        return private.exchange(public)


class _Short(Exception):
    """A message ends before its tokens do; never leaves this module."""


def _cut(data: bytes, length: int) -> tuple[bytes, bytes]:
    if len(data) < length:
        raise _Short
    return data[:length], data[length:]

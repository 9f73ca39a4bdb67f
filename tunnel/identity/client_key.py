"""The keys by which clients prove to a service that they may use it.

    key = ClientKey.generate()
    key.save(path)                                   the client keeps the file
    Published("127.0.0.1", 22, clients=[key.public(engine)])    the service lists the public key

Tunnels and queries hide their client, and most services want that. A service with a list of clients refuses
all others. The client proves its identity by a signature over the binding of its tunnel or query and the name
of the service: 96 bytes after that name. Nobody else can use the signature, because no other tunnel or query
has that binding. The service can distinguish its clients; the relays learn nothing.

A secret shared by several people becomes a client key too: `ClientKey.of_secret` derives it from the secret.
The secret itself is never sent, the node keeps only the public key, and each service that lists keys supports
secrets.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from readwrite_comp.primitives import random_bytes
from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import os_error_text, read_regular
from tunnel.errors import BadArgument, BadSignature, KeyFileError, LocalTunnelError, TargetNotAllowed
from tunnel.identity.state_dir import check_private, make_private

__all__ = ["CLIENT_KEY_BYTES", "LEAST_SECRET_BYTES", "Claim", "ClientKey"]

CLIENT_KEY_BYTES = 32
_LABEL = b"mtun client 1"
_FILE_VERSION = 1
_MOST_FILE_BYTES = 4_096
LEAST_SECRET_BYTES: Final = 16
"""Clients are anonymous, so guesses cannot be slowed down: a secret must be too long to be guessed."""
_MOST_SECRET_BYTES: Final = 1_024
_SECRET_LABEL: Final = b"mtun client secret 1"
# RFC 7914. 16 MiB and 50 ms for each guess of a node that a client has shown its public key.
_SCRYPT: Final = {"n": 1 << 14, "r": 8, "p": 1}
_ADVICE = "name the file that `mtun keygen --client FILE` has made"
_NO_FILE = f"that is a public key, and the file of the secret one is needed: {_ADVICE}"
_PUBLIC = re.compile(f"[0-9a-fA-F]{{{2 * CLIENT_KEY_BYTES}}}")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The secret of one client: the seed of an Ed25519 key, 32 bytes."""

    seed: bytes

    def __repr__(self) -> str:
        return "<ClientKey>"

    @classmethod
    def generate(cls) -> ClientKey:
        """A new key, from the system's randomness."""
        return cls(random_bytes(CLIENT_KEY_BYTES))

    @classmethod
    def of_secret(cls, secret: str) -> ClientKey:
        """The key of all clients that know a secret. Takes 50 ms.

        Raises:
            BadArgument: shorter than 16 or longer than 1,024 bytes of UTF-8. TypeError: not text.
        """
        if not isinstance(secret, str):
            raise TypeError(f"secret: expected text, got {type(secret).__name__}")
        raw = secret.encode("utf-8", "surrogateescape")
        if not LEAST_SECRET_BYTES <= len(raw) <= _MOST_SECRET_BYTES:
            raise BadArgument(
                f"secret: expected {LEAST_SECRET_BYTES} to {_MOST_SECRET_BYTES:,} bytes, got {len(raw)}: "
                "a short one can be guessed"
            )
        return cls(hashlib.scrypt(raw, salt=_SECRET_LABEL, dklen=CLIENT_KEY_BYTES, **_SCRYPT))

    @classmethod
    def load_secret(cls, path: Path) -> ClientKey:
        """The key of the secret in a file; line ends and blanks around it do not count.

        Raises:
            KeyFileError: no such file, not a secret, or others can read it; the text has file and fault.
        """
        advice = f"name a file with one line, a secret of at least {LEAST_SECRET_BYTES} bytes, mode 0600"
        try:
            secret = read_regular(path, _MOST_FILE_BYTES).decode("utf-8").strip()
            key = cls.of_secret(secret)
        except OSError as error:
            raise KeyFileError(os_error_text(error, path), advice) from error
        except UnicodeDecodeError as error:
            raise KeyFileError(f"{path} is not a secret: it is not text", advice) from error
        except LocalTunnelError as error:
            text = str(error).removeprefix("secret: ")
            raise KeyFileError(f"{path} is not a secret: {text}", advice) from error
        check_private(path, KeyFileError)
        return key

    def public(self, engine: TunnelEngine) -> bytes:
        """The public key that a service lists, 32 bytes."""
        return engine.ed25519_public(self.seed)

    def proof(self, engine: TunnelEngine, binding: bytes, target: bytes) -> bytes:
        """The proof for one sub-stream or query, 96 bytes.

        Args:
            binding: of the tunnel or the query. target: packed.
        """
        return self.public(engine) + engine.ed25519_sign(self.seed, _LABEL + binding + target)

    def save(self, path: Path) -> None:
        """Write the key to a new file, mode 0600. Raises FileExistsError; OSError."""
        record = {"mtun-client-key": _FILE_VERSION, "seed": self.seed.hex()}
        make_private(path, json.dumps(record, indent=1).encode("ascii"))

    @classmethod
    def load(cls, path: Path) -> ClientKey:
        """Read a file of `save`.

        Raises:
            KeyFileError: not a client key, or others can read it; the text has file and fault.
        """
        try:
            record = json.loads(read_regular(path, _MOST_FILE_BYTES).decode("ascii"))
            if record["mtun-client-key"] != _FILE_VERSION:
                raise ValueError(f"version {record['mtun-client-key']}, expected {_FILE_VERSION}")
            seed = bytes.fromhex(record["seed"])
            if len(seed) != CLIENT_KEY_BYTES:
                raise ValueError(f"a seed of {len(seed)} bytes, expected {CLIENT_KEY_BYTES}")
        except OSError as error:
            is_key = _PUBLIC.fullmatch(path.name)
            raise KeyFileError(os_error_text(error, path), _NO_FILE if is_key else _ADVICE) from error
        except json.JSONDecodeError as error:
            raise KeyFileError(f"{path} is not a client key: it is not JSON", _ADVICE) from error
        except (KeyError, TypeError) as error:
            raise KeyFileError(f"{path} is not a client key, but a file of another kind", _ADVICE) from error
        except (LocalTunnelError, ValueError, RecursionError) as error:
            raise KeyFileError(f"{path} is not a client key: {error}", _ADVICE) from error
        check_private(path, KeyFileError)
        return cls(seed)


@dataclass(frozen=True, slots=True)
class Claim:
    """The proof of a client key in a query or sub-stream. Nothing is verified before `check`.

    Attributes:
        binding: of the query or the tunnel; b"": no binding, so nothing can be proved.
        target: of the service, packed. proof: 96 bytes; b"": no proof was given.
    """

    binding: bytes = field(default=b"", repr=False)
    target: bytes = b""
    proof: bytes = field(default=b"", repr=False)

    def check(self, engine: TunnelEngine, clients: Collection[bytes]) -> None:
        """Check that one of the clients made the proof. A signature takes a millisecond with pycryptodome.

        Args:
            clients: their public keys.
        Raises:
            TargetNotAllowed: no proof, a proof of another client, or a wrong signature. The client cannot
                distinguish these cases.
        """
        public, signature = self.proof[:CLIENT_KEY_BYTES], self.proof[CLIENT_KEY_BYTES:]
        try:
            if not self.binding:  # a signature of the target alone would be good everywhere
                raise BadSignature("nothing binds the proof to this query")
            # Before the list: otherwise the time of the answer would tell a stranger whose keys are listed.
            engine.ed25519_verify(public, _LABEL + self.binding + self.target, signature)
            if public not in clients:
                raise BadSignature("not a listed client")
        except BadSignature as error:
            raise TargetNotAllowed("the service is for clients with a listed key") from error

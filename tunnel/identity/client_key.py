"""The keys by which clients prove to a published service that they may use it.

    key = ClientKey.generate()
    key.save(path)                                   the client keeps the file
    Published("127.0.0.1", 22, clients=[key.public(engine)])    the service lists the public key

A tunnel hides its client, and most services want that. A service with a list of clients refuses all others.
The client signs the binding of its tunnel and the target: 96 bytes behind the target of OPEN. Nobody else can
use the signature, because no other tunnel has that binding. The service learns which of its clients it is;
the relays learn nothing.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from readwrite_comp.primitives import random_bytes
from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import os_error_text, read_regular
from tunnel.errors import BadSignature, KeyFileError, LocalTunnelError, TargetNotAllowed
from tunnel.identity.state_dir import check_private, make_private

__all__ = ["CLIENT_KEY_BYTES", "ClientKey", "check_proof"]

CLIENT_KEY_BYTES = 32
_LABEL = b"mtun client 1"
_FILE_VERSION = 1
_MOST_FILE_BYTES = 4_096
_ADVICE = "name the file that `mtun keygen --client FILE` has made"


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

    def public(self, engine: TunnelEngine) -> bytes:
        """The public key that a service lists, 32 bytes."""
        return engine.ed25519_public(self.seed)

    def proof(self, engine: TunnelEngine, binding: bytes, target: bytes) -> bytes:
        """The proof for one sub-stream, 96 bytes.

        Args:
            binding: of the tunnel. target: packed.
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
            KeyFileError: not a client key; the text has file and fault. StateError: others can read it.
        """
        try:
            record = json.loads(read_regular(path, _MOST_FILE_BYTES).decode("ascii"))
            if record["mtun-client-key"] != _FILE_VERSION:
                raise ValueError(f"version {record['mtun-client-key']}, expected {_FILE_VERSION}")
            seed = bytes.fromhex(record["seed"])
            if len(seed) != CLIENT_KEY_BYTES:
                raise ValueError(f"a seed of {len(seed)} bytes, expected {CLIENT_KEY_BYTES}")
        except OSError as error:
            raise KeyFileError(os_error_text(error, path), _ADVICE) from error
        except json.JSONDecodeError as error:
            raise KeyFileError(f"{path} is not a client key: it is not JSON", _ADVICE) from error
        except (KeyError, TypeError) as error:
            raise KeyFileError(f"{path} is not a client key, but a file of another kind", _ADVICE) from error
        except (LocalTunnelError, ValueError, RecursionError) as error:
            raise KeyFileError(f"{path} is not a client key: {error}", _ADVICE) from error
        check_private(path)
        return cls(seed)


def check_proof(
    engine: TunnelEngine, clients: Collection[bytes], proof: bytes, binding: bytes, target: bytes
) -> None:
    """Check that a sub-stream comes from one of the clients.

    Raises:
        TargetNotAllowed: no proof, of another client, or a wrong signature: all look the same from outside.
    """
    public, signature = proof[:CLIENT_KEY_BYTES], proof[CLIENT_KEY_BYTES:]
    try:
        if public not in clients:
            raise BadSignature("not a listed client")
        engine.ed25519_verify(public, _LABEL + binding + target, signature)
    except BadSignature as error:
        raise TargetNotAllowed("the service is for clients with a listed key") from error

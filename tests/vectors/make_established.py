"""The scenario files of `tests/vectors/established`: the chunks of two ends, and chunks that an end refuses.

    python -m tests.vectors.make_established             # prints what would change, changes nothing
    python -m tests.vectors.make_established --write     # writes the files

Seed of the DEST slot: "mtun1 tunnel key". Ephemeral private keys: SHA-256("mtun1 tunnel vector: " ‖ "alice"),
and "bob". Geometry 1; each end offers a window of 4 chunks and 4 sub-streams, and sends 6 chunks under a key.
A file has the operations, and for each chunk in order: its sender, its kind, its bytes after the proxies'
layers were removed. In a negative file the receiver refuses the last chunk with BAD_CONTENT and accepts all
earlier ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.vectors.scenario_files import write_scenarios
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.established import End, EstablishedTunnel, Target, TargetKind, TunnelLimits
from tunnel.established.receipts import BobChallenges
from tunnel.geometry import INTERACTIVE
from tunnel.onion.key_schedule import Direction, end_to_end_key

__all__ = ["FOLDER", "LIMITS", "SEED", "build", "make_ends", "receive"]

FOLDER = Path(__file__).with_name("established")
SEED = b"mtun1 tunnel key"
LIMITS = TunnelLimits(window_chunks=4, sub_streams=4, rekey_chunks=6)

Scenario = dict[str, Any]


class _Nobody:
    """A notifier without waiters."""

    def set(self) -> None:
        pass


Tunnel = EstablishedTunnel[_Nobody]


def make_ends(engine: TunnelEngine, *, early: bool = False) -> dict[str, Tunnel]:
    """Alice and Bob, with fixed ephemeral keys."""

    def end(name: str) -> Tunnel:
        private = sha256(f"mtun1 tunnel vector: {name}".encode()).digest()
        limits = replace(LIMITS, early=early)
        return EstablishedTunnel(
            SEED,
            INTERACTIVE,
            End(name),
            engine=engine,
            make_notifier=_Nobody,
            limits=limits,
            random_bytes=lambda length: private[:length],
        )

    return {"alice": end("alice"), "bob": end("bob")}


def receive(ends: dict[str, Tunnel], sender: str, chunk: bytes) -> None:
    """Give the chunk to the other end."""
    ends["bob" if sender == "alice" else "alice"].received(memoryview(bytearray(chunk)))


class _Run:
    """Two ends, and the chunks that pass between them."""

    def __init__(self, about: str, engine: TunnelEngine, *, early: bool = False) -> None:
        self.about = about
        self.early = early
        self.ends = make_ends(engine, early=early)
        self.alice, self.bob = self.ends["alice"], self.ends["bob"]
        self.chunks: list[dict[str, str]] = []

    def send(self, sender: str, what: str) -> bytes:
        """The sender's next chunk, delivered."""
        out = bytearray(INTERACTIVE.chunk_bytes)
        assert self.ends[sender].next_chunk(memoryview(out), 0.0), f"{sender} has nothing to send: {what}"
        self.chunks.append({"from": sender, "what": what, "chunk": out.hex()})
        receive(self.ends, sender, bytes(out))
        return bytes(out)

    def send_all(self, *steps: tuple[str, str]) -> None:
        for sender, what in steps:
            self.send(sender, what)

    def hello(self) -> None:
        self.send_all(("alice", "HELLO"), ("bob", "HELLO"), ("alice", "REKEY"))

    def refuse(self, sender: str, what: str, chunk: bytes) -> Scenario:
        """A chunk that the other end must refuse."""
        self.chunks.append({"from": sender, "what": what, "chunk": chunk.hex()})
        try:
            receive(self.ends, sender, chunk)
        except MalformedMessage as error:
            if error.code is ErrorCode.BAD_CONTENT:
                return self.scenario(refused=True)
        raise AssertionError(f"{what} was taken")

    def scenario(self, *, refused: bool = False) -> Scenario:
        return {"about": self.about, "early": self.early, "refused": refused, "chunks": self.chunks}


def _messages(engine: TunnelEngine) -> Scenario:
    run = _Run("one message each way, then both ends close", engine)
    run.hello()
    run.alice.outgoing.write(b"ping")
    run.alice.outgoing.end()
    run.send("alice", "END ping")
    run.bob.outgoing.write(b"pong")
    run.bob.outgoing.end()
    run.send("bob", "END pong")
    run.alice.close()
    run.send("alice", "CLOSE 0")
    run.bob.close()
    run.send_all(("bob", "CLOSE 0"), ("bob", "PAD LAST"), ("alice", "PAD LAST"))
    assert run.alice.is_finished
    return run.scenario()


def _sub_stream(engine: TunnelEngine) -> Scenario:
    run = _Run("a sub-stream to example.org:80, credit, half-close, a key step in between", engine)
    run.hello()
    sub = run.alice.open(Target(TargetKind.DOMAIN, b"example.org", 80))
    run.send("alice", "OPEN 1")
    theirs = run.bob.accept()
    theirs.confirm()
    run.send("bob", "OPENED 1")
    for _ in range(2):
        sub.write(bytes(974))
        run.send("alice", "MSG 1, 974 bytes")
    assert theirs.readinto(bytearray(2_000)) == 1_948
    run.send("bob", "CREDIT 1, 1948 bytes")
    sub.write(b"last")
    sub.close()
    run.send_all(("alice", "MSG 1, last"), ("alice", "CLOSE 1"))
    theirs.write(b"answer")
    theirs.close()
    run.send_all(("bob", "MSG 1, answer"), ("bob", "CLOSE 1"))
    run.alice.outgoing.write(b"ping")
    run.alice.outgoing.end()
    run.send_all(("alice", "REKEY, after 5 chunks"), ("alice", "END ping"))
    return run.scenario()


def _given_up(engine: TunnelEngine) -> Scenario:
    run = _Run("Bob gives the tunnel up: SERVICE_FAILED", engine)
    run.hello()
    run.bob.give_up(ErrorCode.SERVICE_FAILED)
    run.send_all(
        ("bob", "CLOSE 0, SERVICE_FAILED"), ("bob", "PAD LAST"), ("alice", "CLOSE 0"), ("alice", "PAD LAST")
    )
    assert run.alice.is_finished
    return run.scenario()


def _probes(engine: TunnelEngine) -> Scenario:
    run = _Run("a probe of each end, and its answer", engine)
    run.hello()
    run.alice.silence.probe()
    run.send_all(("alice", "PAD 01"), ("bob", "PAD 02"))
    run.bob.silence.probe()
    run.send_all(("bob", "PAD 01"), ("alice", "PAD 02"))
    return run.scenario()


class _AsksAtOnce(BobChallenges):
    """Asks once, before the first content: the limit of geometry 1 would make a long file."""

    has_asked = False

    def is_due(self, sent: int, received: int) -> bool:
        return not self.has_asked

    def take(self, sent: int) -> bytes:
        self.has_asked = True
        return super().take(sent)


def _receipts(engine: TunnelEngine) -> Scenario:
    run = _Run("a challenge of Bob before a message, and Alice's receipt", engine)
    run.bob.proofs = _AsksAtOnce(INTERACTIVE, lambda length: sha256(b"challenge").digest()[:length])
    run.hello()
    run.bob.outgoing.write(b"pong")
    run.bob.outgoing.end()
    challenge = sha256(b"challenge").hexdigest()[:32]
    run.send_all(("bob", f"CHALLENGE {challenge}"), ("bob", "END pong"), ("alice", f"CHALLENGE {challenge}"))
    return run.scenario()


def _unasked_receipt(engine: TunnelEngine) -> Scenario:
    run = _Run("a receipt for a challenge that Bob has not sent", engine)
    run.hello()
    run.alice.proofs.arrived(bytes(16))  # as if Bob had sent it
    out = bytearray(INTERACTIVE.chunk_bytes)
    assert run.alice.next_chunk(memoryview(out), 0.0)
    return run.refuse("alice", "CHALLENGE unasked", bytes(out))


def _unasked_answer(engine: TunnelEngine) -> Scenario:
    run = _Run("an answer to a probe that Bob has not sent", engine, early=True)
    run.send("alice", "HELLO")
    plain = bytes([3, 0, 0, 0, 0, 1, 2])
    return run.refuse("alice", "PAD 02", _sealed(engine, _early_key(Direction.FORWARD), 1, plain))


def _early(engine: TunnelEngine) -> Scenario:
    run = _Run("a message before Bob's HELLO", engine, early=True)
    run.alice.outgoing.write(b"ping")
    run.alice.outgoing.end()
    run.send_all(("alice", "HELLO"), ("alice", "END ping, early"), ("bob", "HELLO"), ("alice", "REKEY"))
    return run.scenario()


def _replayed_hello(engine: TunnelEngine) -> Scenario:
    run = _Run("Alice's HELLO once more", engine)
    hello = run.send("alice", "HELLO")
    return run.refuse("alice", "HELLO replayed", hello)


def _low_order_hello(engine: TunnelEngine) -> Scenario:
    run = _Run("a HELLO whose ephemeral key is all zero", engine)
    key = _early_key(Direction.FORWARD)
    plain = bytes([5, 0, 0, 0, 0, 38]) + bytes(32) + (4 * 974).to_bytes(4, "big") + (4).to_bytes(2, "big")
    return run.refuse("alice", "HELLO of low order", _sealed(engine, key, 0, plain))


def _before_hello(engine: TunnelEngine) -> Scenario:
    run = _Run("a message before HELLO", engine)
    plain = bytes([2, 0, 0, 0, 0, 4]) + b"ping"
    return run.refuse("alice", "END before HELLO", _sealed(engine, _early_key(Direction.FORWARD), 0, plain))


def _old_key(engine: TunnelEngine) -> Scenario:
    run = _Run("a chunk under the seed's key behind the key switch", engine)
    run.hello()
    plain = bytes([2, 0, 0, 0, 0, 4]) + b"ping"
    return run.refuse(
        "alice", "END under the old key", _sealed(engine, _early_key(Direction.FORWARD), 2, plain)
    )


def _padding(engine: TunnelEngine) -> Scenario:
    run = _Run("an early chunk whose padding is not zero", engine, early=True)
    run.send("alice", "HELLO")
    plain = bytes([2, 0, 0, 0, 0, 4]) + b"ping" + b"\x01"
    return run.refuse("alice", "END, padding", _sealed(engine, _early_key(Direction.FORWARD), 1, plain))


def _repeated_before_rekey(engine: TunnelEngine) -> Scenario:
    run = _Run("a chunk from before a REKEY, repeated where the counter is the same again", engine)
    run.hello()
    first = b""
    for number in range(5):
        run.alice.pad()
        chunk = run.send("alice", f"PAD {number}")
        first = first or chunk
    run.alice.pad()
    run.send("alice", "REKEY")
    return run.refuse("alice", "PAD 0 repeated", first)


def _window_exceeded(engine: TunnelEngine) -> Scenario:
    run = _Run("a fifth full chunk on a window of four", engine, early=True)
    run.send("alice", "HELLO")
    plain = bytes([1, 0, 0, 0]) + (974).to_bytes(2, "big") + bytes(974)
    key = _early_key(Direction.FORWARD)
    for number in range(1, 5):
        chunk = _sealed(engine, key, number, plain)
        run.chunks.append({"from": "alice", "what": f"MSG {number}", "chunk": chunk.hex()})
        receive(run.ends, "alice", chunk)
    return run.refuse("alice", "MSG 5", _sealed(engine, key, 5, plain))


def _early_key(direction: Direction) -> bytes:
    return end_to_end_key(SEED, direction)


def _sealed(engine: TunnelEngine, key: bytes, counter: int, plain: bytes) -> bytes:
    padded = plain + bytes(INTERACTIVE.chunk_bytes - 16 - len(plain))
    return engine.layers.aead(key).seal(counter.to_bytes(12, "big"), padded)


_SCENARIOS: dict[str, Callable[[TunnelEngine], Scenario]] = {
    "messages": _messages,
    "sub_stream": _sub_stream,
    "given_up": _given_up,
    "early": _early,
    "probes": _probes,
    "receipts": _receipts,
    "bad_receipt_unasked": _unasked_receipt,
    "bad_answer_unasked": _unasked_answer,
    "bad_hello_replayed": _replayed_hello,
    "bad_hello_of_low_order": _low_order_hello,
    "bad_message_before_hello": _before_hello,
    "bad_old_key": _old_key,
    "bad_padding": _padding,
    "bad_repeated_before_rekey": _repeated_before_rekey,
    "bad_window_exceeded": _window_exceeded,
}


def build(engine: TunnelEngine) -> dict[str, Scenario]:
    """Every scenario by its file's name."""
    return {name: make(engine) for name, make in _SCENARIOS.items()}


if __name__ == "__main__":
    sys.exit(write_scenarios(build(tunnel_engine()), FOLDER, (__doc__ or "").splitlines()[0]))

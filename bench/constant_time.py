"""Whether checks of secrets take the same time for right and wrong: `python -m bench.constant_time`.

Each check gets two classes of input that an attacker would like to tell apart, such as a tag whose first byte
is wrong and one whose last byte is wrong. Calls of both classes are timed in a random order, the slowest of
all are left out, and Welch's t compares the means. Source: Reparaz, Balasch, Verbauwhede, "Dude, is my code
constant time?" (2017), who take |t| below 4.5 for no sign of a difference, and above 10 for a sure one.

With care: a small t proves nothing about another machine, library or number of calls, and a large one may be
far too small a difference to be seen over a network: the report has it in nanoseconds. The first case is a
comparison that stops at the first difference: the measurement must find it.

    python -m bench.constant_time --calls 20000
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from bench.command import make_parser, positive_count, run, settings_of, watcher
from bench.report import Machine, report, table
from readwrite_comp.errors import LayerError
from readwrite_comp.primitives import engine_names, equal
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import TunnelError
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.link.handshake import Puzzle
from tunnel.onion.header import Command, Slot
from tunnel.onion.message_head import answer_ticket, answered_query
from tunnel.onion.reply_block import HomeTicket

__all__ = ["CONTROL", "Case", "Settings", "main", "measure", "record", "text"]

CONTROL: Final = "bytes one by one (control)"
_KEPT: Final = 0.9  # of the calls; the slowest were interrupted
_INPUTS: Final = 64  # of each class: one alone would measure where it lies in memory
_SIGN: Final = 4.5
_SURE: Final = 10.0

Check = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters.

    Attributes:
        calls: of each class. repeats: calls of one input that are timed together.
    """

    calls: int = 20_000
    repeats: int = 5
    seed: int = 1

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(calls=300)


@dataclass(frozen=True, slots=True)
class Case:
    """One check.

    Attributes:
        classes: what is told apart. t: Welch's. difference_ns: of the mean times of one call; mean_ns: of
            the first class.
    """

    name: str
    classes: str
    t: float
    difference_ns: float
    mean_ns: float

    @property
    def verdict(self) -> str:
        size = abs(self.t)
        return "no sign" if size < _SIGN else "unclear" if size < _SURE else "differs"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A check, and inputs of two classes. A refusal is an error of the check, and part of its time."""

    name: str
    classes: str
    check: Check
    first: Sequence[Any]
    second: Sequence[Any]


# --- the checks -------------------------------------------------------------------------------------------


def _changed(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0xFF
    return bytes(changed)


def _with_tags(name: str, check: Check, right: Sequence[bytes], tag: slice = slice(None)) -> _Kind:
    """A check of a tag within each input, of which the first or the last byte is wrong."""
    first, last = (range(len(right[0]))[tag][at] for at in (0, -1))
    return _Kind(
        name,
        "tag: first or last byte wrong",
        check,
        [_changed(data, first) for data in right],
        [_changed(data, last) for data in right],
    )


def _kinds(draw: random.Random) -> list[_Kind]:
    found = [_control(draw), _equal(draw), *(_aead(name, draw) for name in engine_names())]
    found += [_home_ticket(draw), _answer_ticket(draw), *_claims(draw), _puzzle(draw)]
    return found


def _control(draw: random.Random) -> _Kind:
    secret = draw.randbytes(32)

    def one_by_one(data: bytes) -> bool:
        return all(left == right for left, right in zip(data, secret, strict=True))

    return _with_tags(CONTROL, one_by_one, [bytes(bytearray(secret)) for _ in range(_INPUTS)])


def _equal(draw: random.Random) -> _Kind:
    secret = draw.randbytes(32)
    return _with_tags("equal", lambda data: equal(data, secret), [bytes(bytearray(secret))] * _INPUTS)


def _aead(name: str, draw: random.Random) -> _Kind:
    aead, nonce = tunnel_engine(name).layers.aead(draw.randbytes(32)), bytes(12)
    sealed = [aead.seal(nonce, draw.randbytes(996)) for _ in range(_INPUTS)]
    return _with_tags(f"AES-GCM tag, {name}", lambda data: aead.open(nonce, data), sealed, slice(-16, None))


def _home_ticket(draw: random.Random) -> _Kind:
    home_key = draw.randbytes(32)

    def slot(data: bytes) -> Slot:
        return Slot(Command.HOME, 0, data[:16], data[16:])

    seeds = [draw.randbytes(16) for _ in range(_INPUTS)]
    tickets = [seed + HomeTicket(draw.randbytes(8), 3).pack(home_key, seed) for seed in seeds]
    kind = _with_tags("MAC of a reply ticket", str, tickets, slice(-16, None))
    return _Kind(
        kind.name,
        kind.classes,
        lambda made: HomeTicket.unpack(made, home_key),
        [slot(data) for data in kind.first],
        [slot(data) for data in kind.second],
    )


def _answer_ticket(draw: random.Random) -> _Kind:
    home_key = draw.randbytes(32)
    tickets = [answer_ticket(home_key, draw.randbytes(8)) for _ in range(_INPUTS)]
    return _with_tags(
        "MAC of an answer's ticket", lambda data: answered_query(home_key, data), tickets, slice(8, None)
    )


def _claims(draw: random.Random) -> list[_Kind]:
    """Whether somebody's public key is listed must not show; he has no signature of it.

    Each input has a key of its own: the time of a signature may depend on the key, which is no secret.
    """
    found = []
    for name in engine_names():
        checker = tunnel_engine(name)
        keys = [ClientKey(draw.randbytes(32)).public(checker) for _ in range(2 * _INPUTS)]
        claims = [Claim(b"b" * 32, b"target", key + draw.randbytes(63) + b"\0") for key in keys]
        check = _claim_check(checker, frozenset(keys[:_INPUTS]))
        classes = "wrong signature: key listed or not"
        found.append(_Kind(f"client key, {name}", classes, check, claims[:_INPUTS], claims[_INPUTS:]))
    return found


def _claim_check(checker: TunnelEngine, listed: frozenset[bytes]) -> Check:
    return lambda claim: claim.check(checker, listed)


def _puzzle(draw: random.Random) -> _Kind:
    """No secret: the answer is checked by one hash, whatever it is."""
    puzzle = Puzzle(draw.randbytes(16), draw.randbytes(32), 8)
    answers = [draw.randbytes(12) for _ in range(1 << 13)]
    right = [answer for answer in answers if puzzle.accepts(answer)]
    wrong = [answer for answer in answers if not puzzle.accepts(answer)]
    return _Kind("answer of a puzzle", "right or wrong", puzzle.accepts, right, wrong[: len(right)])


# --- the measurement --------------------------------------------------------------------------------------


def _time(check: Check, value: Any, repeats: int) -> float:
    """Nanoseconds of one call."""
    began = time.perf_counter_ns()
    for _ in range(repeats):
        with suppress(LayerError, TunnelError):
            check(value)
    return (time.perf_counter_ns() - began) / repeats


def _measure_kind(kind: _Kind, settings: Settings, draw: random.Random) -> Case:
    order = [number % 2 for number in range(2 * settings.calls)]
    draw.shuffle(order)
    inputs = kind.first, kind.second
    rows = []
    gc.disable()
    try:
        for which in order:
            rows.append((_time(kind.check, draw.choice(inputs[which]), settings.repeats), which))
    finally:
        gc.enable()
    rows.sort()
    kept = rows[: int(_KEPT * len(rows))]
    first, second = ([took for took, which in kept if which == wanted] for wanted in (0, 1))
    means = statistics.fmean(first), statistics.fmean(second)
    spread = statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    t = (means[1] - means[0]) / spread**0.5 if spread else 0.0
    return Case(kind.name, kind.classes, t, means[1] - means[0], means[0])


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure one check after the other."""
    draw = random.Random(settings.seed)
    cases = []
    for kind in _kinds(draw):
        cases.append(_measure_kind(kind, settings, draw))
        progress(f"{kind.name}: t = {cases[-1].t:.1f}")
    return cases


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            case.name,
            case.classes,
            f"{case.mean_ns:,.0f}",
            f"{case.difference_ns:+,.1f}",
            f"{case.t:.1f}",
            case.verdict,
        )
        for case in cases
    ]
    title = f"Checks of secrets, {settings.calls:,} timings of each class; |t| above {_SIGN} is a sign"
    heads = ("check", "classes", "ns", "difference", "t", "verdict")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("constant time", settings, cases, where)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.constant_time",
        "Whether checks of secrets take the same time for two kinds of input.",
        short="other defaults: a few calls, which show only the control",
        example="--calls 50000",
    )
    full = Settings()
    parser.add_argument("--calls", type=positive_count, help=f"of each class (default {full.calls:,})")
    parser.add_argument("--seed", type=int, help="other inputs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record)


if __name__ == "__main__":
    sys.exit(main())

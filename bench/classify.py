"""What a proxy can guess about the frames that it relays: `python -m bench.classify`.

A hostile proxy keeps all that it sees of each frame: slot fields, sizes, counts and times of all cells in
both directions, but not who its neighbours are. Queries of every mode, cover frames and tunnels run in three
networks. Two classifiers learn from the first, the better one is chosen by the second, and it guesses the
frames of the third. A guess counts against the most frequent answer, which needs no look at the frame.

Each question is asked with three amounts of knowledge, which the attacker can only extend: the forward half,
which is the frame itself; the counts of both halves; and their times. The times are taken on loopback, and in
a network whose links have latencies. The document claims only some of this (`claim`): the report says which
claims hold, and shows what leaks beside them.

    python -m bench.classify --queries 1000 --late-queries 400
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from bench.classifier import Classifier, NaiveBayes, Sample, Score, Tree, score_of
from bench.command import make_parser, positive_count, run, settings_of, watcher
from bench.hop_views import HopView, Knowledge, Recorder, features_of
from bench.observer import Watched
from bench.report import Machine, report, table
from reactor import Service
from tunnel.errors import ErrorCode, PeerError, QueryFailed
from tunnel.geometry import INTERACTIVE, Profile
from tunnel.modes import MODES, ReplyMode
from tunnel.node import Limits
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.cover import CoverPlan
from tunnel.routing.route import Route
from tunnel.services import InnerService
from tunnel.services.base import Query, Reply

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

_PROFILE: Final = Profile(INTERACTIVE)
_HOPS: Final = (2, 3, 4)
_NODES: Final = 10  # two ends, and four proxies each way
_PATIENCE_S: Final = 60.0
# Two lengths of messages in one PADMÉ bucket: ten chunks, after padding.
_SHORT, _LONG = (8 * INTERACTIVE.chunk_data_bytes + 200, 10 * INTERACTIVE.chunk_data_bytes - 200)
_COVER: Final = ("drop", "loop")
_MODES: Final = ("none", "known-dest", "route", "other-route", "cached")
_KINDS: Final = (*_MODES, "tunnel", *_COVER)
_BY_BLOCK: Final = ("route", "other-route")
_FAILING: Final = 0.3
_LEAST: Final = 5 * len(_KINDS)  # fewer queries may leave a question without an answer
_HEAD_BYTES: Final = 4
_ORIGIN_BYTES: Final = 90  # of a message that names Alice, beside her descriptor
_POINTS: Final = 0.03  # as close to chance as a claim must be
_RUNS: Final = 3
_THREATS: Final = "Threat model"


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters.

    Attributes:
        queries, late_queries: of each of three runs, on loopback and with latencies. late_s: the least and
            the most time on a wire with latency, in seconds; drawn for each. seed: of the schedule.
    """

    queries: int = 1_000
    late_queries: int = 400
    late_s: tuple[float, float] = (0.002, 0.02)
    seed: int = 1

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(queries=_LEAST, late_queries=_LEAST, late_s=(0.001, 0.004))


@dataclass(frozen=True, slots=True)
class Truth:
    """What a proxy wants to know about one frame.

    Attributes:
        kind: a mode of queries, "tunnel", "drop" or "loop". is_reply: a frame along a reply block, or Bob's
            own to Alice. place: proxies before this one on the route of the query; None at a reply.
        hops: proxies of that route. is_long: of two lengths in one bucket. has_failed: Bob's service.
        number: of the query.
    """

    kind: str
    is_reply: bool
    place: int | None
    hops: int
    is_long: bool
    has_failed: bool
    number: int


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a frame.

    Attributes:
        label: the answer; None: the frame is left out.
        claim: by `Knowledge`, where docs/protocol.md claims that a proxy cannot tell.
    """

    name: str
    label: Callable[[Truth], Hashable | None]
    claim: dict[Knowledge, str]


def _succeeds(label: Callable[[Truth], Hashable | None]) -> Callable[[Truth], Hashable | None]:
    """The same question without failing queries: they look like others, and hide what the rest shows."""
    return lambda truth: None if truth.has_failed else label(truth)


def _of_queries(*kinds: str, label: Callable[[Truth], Hashable]) -> Callable[[Truth], Hashable | None]:
    return lambda truth: label(truth) if truth.kind in kinds and not truth.is_reply else None


QUESTIONS: Final = (
    Question(
        "position, of 3 proxies",
        _succeeds(lambda truth: None if truth.hops != 3 or truth.is_reply else truth.place),
        {Knowledge.FORWARD: _THREATS},
    ),
    Question(
        "length of the route, 2 to 4", _succeeds(lambda truth: truth.hops), {Knowledge.FORWARD: _THREATS}
    ),
    Question(
        "length of the content, in one bucket",
        _succeeds(lambda truth: None if truth.kind == "tunnel" else truth.is_long),
        dict.fromkeys(Knowledge, _THREATS),
    ),
    Question(
        "query or reply, by a block",
        _succeeds(lambda truth: truth.is_reply if truth.kind in _BY_BLOCK else None),
        {Knowledge.FORWARD: _THREATS},
    ),
    Question(
        "query, DROP or loop",
        _succeeds(
            _of_queries(*_MODES, *_COVER, label=lambda truth: truth.kind if truth.kind in _COVER else "query")
        ),
        {Knowledge.FORWARD: _THREATS},
    ),
    Question(
        "mode of a query",
        _succeeds(_of_queries(*_MODES, label=lambda truth: truth.kind)),
        {Knowledge.FORWARD: _THREATS},
    ),
    Question(
        "query or tunnel",
        _succeeds(_of_queries(*_MODES, "tunnel", label=lambda truth: truth.kind == "tunnel")),
        {},
    ),
    Question("success, mode route", _of_queries("route", label=lambda truth: not truth.has_failed), {}),
    Question("success, mode none", _of_queries("none", label=lambda truth: not truth.has_failed), {}),
)


# --- the traffic ------------------------------------------------------------------------------------------


class _Answering(InnerService):
    """Fails if the first byte of the content says so; else replies with as many zeros as the next two say."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        content = b""
        while piece := (yield from query.read()):
            content += piece
        if content[0]:
            raise PeerError("this query is to fail", ErrorCode.SERVICE_FAILED)
        yield from reply.write(bytes(int.from_bytes(content[1:3], "big")))


@dataclass(frozen=True, slots=True)
class _Plan:
    """One query, cover frame or tunnel; `route` by the numbers of nodes, both ends included."""

    kind: str
    route: tuple[int, ...]
    is_long: bool
    is_reply_long: bool
    has_failed: bool

    @classmethod
    def draw(cls, number: int, rng: random.Random) -> _Plan:
        kind = _KINDS[number % len(_KINDS)]
        route = tuple(rng.sample(range(_NODES), rng.choice(_HOPS) + 2))
        if kind == "loop":
            route = (*route[:-1], route[0])
        has_failed = kind in _MODES and rng.random() < _FAILING
        return cls(kind, route, rng.random() < 0.5, rng.random() < 0.5, has_failed)

    def content(self, head_bytes: int) -> bytes:
        """Content for a message of one of the two lengths."""
        reply_bytes = _message_bytes(self.is_reply_long) - _HEAD_BYTES
        start = bytes([self.has_failed]) + reply_bytes.to_bytes(2, "big")
        return start.ljust(_message_bytes(self.is_long) - head_bytes, b"\0")


def _message_bytes(is_long: bool) -> int:
    return _LONG if is_long else _SHORT


class _Traffic:
    """Runs plans one after the other and labels the views of the proxies."""

    def __init__(self, watched: Watched, recorder: Recorder) -> None:
        self._watched = watched
        self._recorder = recorder
        self._ids = [node.id for node in watched.nodes]

    def views(self, plan: _Plan, number: int) -> list[tuple[HopView, Truth]]:
        """Run one plan; returns what each proxy saw of each of its frames."""
        ids = [self._ids[index] for index in plan.route]
        self._run(plan, Route(tuple(ids[1:-1]), ids[-1]))
        self._watched.group.wait_until(lambda: all(node.is_idle for node in self._watched.nodes))
        found = []
        for view in self._recorder.take():
            step = (view.previous, view.node)
            place = next((at for at, pair in enumerate(pairwise(ids)) if pair == step), None)
            is_reply = place is None
            is_long = plan.is_reply_long if is_reply else plan.is_long
            found.append(
                (view, Truth(plan.kind, is_reply, place, len(ids) - 2, is_long, plan.has_failed, number))
            )
        return found

    def _run(self, plan: _Plan, route: Route) -> None:
        node = self._watched.nodes[plan.route[0]]
        if plan.kind in _COVER:
            content_bytes = _message_bytes(plan.is_long) - _HEAD_BYTES
            is_loop = plan.kind == "loop"
            node.send_cover(CoverPlan(route, _PROFILE, content_bytes, is_loop)).result(_PATIENCE_S)
        elif plan.kind == "tunnel":
            node.tunnel(route.destination, _speaker(plan), route=route, profile=_PROFILE).result(_PATIENCE_S)
        else:
            self._ask(plan, route)

    def _ask(self, plan: _Plan, route: Route) -> None:
        node, row = self._watched.nodes[plan.route[0]], MODES[ReplyMode(plan.kind)]
        head_bytes = _HEAD_BYTES + row.reply_blocks * INTERACTIVE.reply_block_bytes
        if row.names_alice:
            head_bytes += _ORIGIN_BYTES + len(node.descriptor.signed)
        query = node.query(
            route.destination, plan.content(head_bytes), route=route, mode=plan.kind, profile=_PROFILE
        )
        try:
            query.result(_PATIENCE_S).close()
        except QueryFailed as error:
            if not (plan.has_failed and error.code is ErrorCode.SERVICE_FAILED):
                raise


def _speaker(plan: _Plan) -> Callable[[NodeTunnel], Service[None]]:
    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.send(plan.content(_HEAD_BYTES))
        yield from tunnel.receive()

    return use


def _observe(settings: Settings, run_number: int, is_late: bool) -> list[tuple[dict[Knowledge, Any], Truth]]:
    """One network and its traffic: the features of each view, by knowledge, and the truth."""
    rng = random.Random(f"{settings.seed} {run_number} {is_late}")
    waits = {frozenset((a, b)): rng.uniform(*settings.late_s) for a in range(_NODES) for b in range(a)}
    limits = Limits(links_ahead=_NODES - 1, link_tick_s=0.02)

    def delay_s(source: int, target: int) -> float:
        return waits[frozenset((source, target))] if is_late else 0.0

    found = []
    with Watched(_NODES, limits, service=_Answering(), delay_s=delay_s) as watched, Recorder() as recorder:
        traffic = _Traffic(watched, recorder)
        for number in range(settings.late_queries if is_late else settings.queries):
            wall_s = time.time()
            for view, truth in traffic.views(_Plan.draw(number, rng), number):
                found.append(({level: features_of(view, level, wall_s) for level in Knowledge}, truth))
    return found


# --- the questions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One question, asked with some knowledge.

    Attributes:
        network: "loopback" or "latencies". frames: guessed. score: of the better classifier. claim: the
            section of docs/protocol.md that claims that a proxy cannot tell; "": none does.
    """

    question: str
    knowledge: str
    network: str
    frames: int
    score: Score
    claim: str

    @property
    def verdict(self) -> str:
        """One of "chance" (within three points of the majority guess, as a claim must be), "leaks", and
        "unclear" where the margin allows both."""
        ahead = self.score.accuracy - self.score.majority
        if ahead <= _POINTS:
            return "chance"
        return "leaks" if ahead - self.score.margin > _POINTS else "unclear"


_Views = list[tuple[dict[Knowledge, dict[Hashable, float]], Truth]]


def _samples(views: _Views, question: Question, knowledge: Knowledge) -> list[Sample]:
    return [
        Sample(label, features[knowledge])
        for features, truth in views
        if (label := question.label(truth)) is not None
    ]


def _coarse(samples: Sequence[Sample]) -> list[Sample]:
    """Times in steps of 40 %, for naive Bayes, which needs features of few values."""

    def step(name: Hashable, value: float) -> float:
        is_time = isinstance(name, tuple) and str(name[-1]).endswith("ms")
        return round(2 * math.log2(value + 0.1)) if is_time else value

    return [
        Sample(each.label, {name: step(name, value) for name, value in each.features.items()})
        for each in samples
    ]


def _ask(runs: Sequence[_Views], question: Question, knowledge: Knowledge, network: str) -> Case:
    """Train on the first run, choose the classifier by the second, and score it on the third."""
    train, choose, test = (_samples(views, question, knowledge) for views in runs)
    kinds: list[tuple[Classifier, Callable[[Sequence[Sample]], Sequence[Sample]]]] = [
        (Tree(train), lambda samples: samples),
        (NaiveBayes(_coarse(train)), _coarse),
    ]
    best, prepare = max(kinds, key=lambda kind: score_of(kind[0], kind[1](choose)).accuracy)
    # The frames of one query are alike, so only queries count as independent.
    queries = {truth.number for _, truth in runs[-1] if question.label(truth) is not None}
    score = score_of(best, prepare(test), len(queries))
    name = knowledge.name.lower()
    return Case(question.name, name, network, len(test), score, question.claim.get(knowledge, ""))


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Ask every question. Raises QueryFailed: a query failed that was not to."""
    cases = []
    for network, is_late in (("loopback", False), ("latencies", True)):
        runs = [_observe(settings, number, is_late) for number in range(_RUNS)]
        for question in QUESTIONS:
            for knowledge in Knowledge:
                # Sizes and counts are the same with latencies.
                if not is_late or knowledge is Knowledge.TIMES:
                    cases.append(_ask(runs, question, knowledge, network))
                    progress(f"{question.name}, {cases[-1].knowledge}: {cases[-1].score.accuracy:.1%}")
    return sorted(cases, key=lambda case: [question.name for question in QUESTIONS].index(case.question))


# --- the report -------------------------------------------------------------------------------------------


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            case.question,
            case.knowledge if case.knowledge != "times" else f"times, {case.network}",
            case.frames,
            f"{case.score.majority:.1%}",
            f"{case.score.accuracy:.1%}",
            f"± {case.score.margin:.1%}",
            case.claim or "not claimed",
            case.verdict,
        )
        for case in cases
    ]
    title = (
        f"What a proxy guesses of a frame: trained on {settings.queries} queries, tested on as many of "
        f"another network; {settings.late_queries} with latencies of {1e3 * settings.late_s[0]:g} to "
        f"{1e3 * settings.late_s[1]:g} ms"
    )
    heads = ("question", "knowledge", "frames", "majority", "accuracy", "", "claim", "verdict")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("classify", settings, cases, where, verdicts=[case.verdict for case in cases])


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.classify",
        "What a proxy can guess about the frames that it relays, against the majority guess.",
        short="other defaults: a few queries, which show nothing",
        example="--queries 300 --late-queries 100",
    )
    full = Settings()
    parser.add_argument(
        "--queries", type=positive_count, help=f"of each run, on loopback (default {full.queries})"
    )
    parser.add_argument(
        "--late-queries", type=positive_count, help=f"with latencies (default {full.late_queries})"
    )
    parser.add_argument("--seed", type=int, help="another schedule")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    if min(settings.queries, settings.late_queries) < _LEAST:
        parser.error(f"at least {_LEAST} queries of each")
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record)


if __name__ == "__main__":
    sys.exit(main())

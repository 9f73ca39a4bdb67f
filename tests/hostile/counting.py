"""Seeded random mixtures of broken rules and of changed recordings against one node, counted.

An input is one rule broken with one value, or one record of a valid session that was changed. Several are
sent over the same link for as long as it lives. Most links skip the work of the handshake, which is what
rules of the handshake are for.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.hostile.frames import PROFILE, ChunkSealer, header, message
from tests.hostile.network import Hang, MemoryNetwork, Unanswered
from tests.hostile.peer import ROLES, HostilePeer
from tests.hostile.rules import CONNECTED, Rule
from tests.hostile.rules_header import slot_for
from tests.hostile.rules_link import cell
from tests.hostile.tables import TABLES
from tunnel.link.cells import CellType, pack_fin, pack_go_away, pack_open, pack_ping
from tunnel.node import Limits

__all__ = ["Flood", "Totals"]

# Tables of the node that fill up in any case, and then stay, must be full before memory is compared.
LIMITS: Final = Limits(replay_tags=5_000)
_LOOK_EVERY: Final = 500  # inputs between two looks at honest traffic and memory
_MOST_ON_A_LINK: Final = 20
_SETTLE_S: Final = 500.0  # fake seconds after which nothing may be left: services have up to 450


@dataclass
class Totals:
    """What a run has shown.

    Attributes:
        inputs: by table. links: that carried them.
        faults: logged errors, tracebacks, and services that ended with an exception.
        hangs: what did not end.
        honest_ms: of a query through the node and a message on a tunnel through it: before, during, after.
        objects: living objects of the process at each look. rss_kb: its memory.
        left: sizes of the node's tables that grew (before, after).
    """

    inputs: Counter[str] = field(default_factory=Counter)
    links: int = 0
    faults: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    honest_ms: dict[str, list[float]] = field(
        default_factory=lambda: {"before": [], "during": [], "after": []}
    )
    objects: list[int] = field(default_factory=list)
    rss_kb: list[int] = field(default_factory=list)
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.inputs.values())

    @property
    def growth(self) -> float:
        """Objects at the end for each that was there halfway."""
        return self.objects[-1] / self.objects[len(self.objects) // 2]

    @property
    def is_clean(self) -> bool:
        return not (self.faults or self.hangs or self.left)

    def lines(self) -> list[str]:
        """For people."""
        middle = len(self.objects) // 2
        return [
            f"inputs            {self.total:,} in {self.seconds:.0f} s over {self.links:,} links",
            *(f"  {name:<16}{count:,}" for name, count in sorted(self.inputs.items())),
            f"exceptions        {len(self.faults)}",
            f"hangs             {len(self.hangs)}",
            f"objects           {self.objects[0]:,} at first, {self.objects[middle]:,} halfway, "
            f"{self.objects[-1]:,} at the end",
            f"memory            {self.rss_kb[0]:,} kB, {self.rss_kb[middle]:,} kB, {self.rss_kb[-1]:,} kB",
            f"left in tables    {self.left or 'nothing'}",
            *(
                f"honest, {when:<10}{statistics.median(times):.1f} ms in the median, "
                f"{max(times):.1f} ms at most, of {len(times)}"
                for when, times in self.honest_ms.items()
                if times
            ),
            *self.hangs[:3],
            *self.faults[:3],
        ]


def _where(hang: Hang) -> str:
    """The rule that hung."""
    places = [f"{frame.name} in line {frame.lineno}" for frame in traceback.extract_tb(hang.__traceback__)]
    return f"{hang}: {', '.join(places[-4:])}"


def _rss_kb() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Flood:
    """One run against one node.

    Args:
        seed: of all choices; ciphers have keys of their own.
    """

    def __init__(self, network: MemoryNetwork, seed: int) -> None:
        self.network = network
        self.totals = Totals()
        self._rng = random.Random(seed)
        rules = [
            (table, rule)
            for table in TABLES
            if table.network is MemoryNetwork
            for rule in table.rules
            if not rule.is_slow
        ]
        self._on_links = [each for each in rules if each[1].points != CONNECTED]
        self._alone = [each for each in rules if each[1].points == CONNECTED]

    def run(self, inputs: int, seconds: float, tell: Callable[[str], None] = lambda _: None) -> Totals:
        """Send until there were so many inputs, or the time is over."""
        totals, began_s = self.totals, time.perf_counter()
        for _ in range(5):
            self._honest("before")
        before = self.network.tables()
        due = 0
        while totals.total < inputs and time.perf_counter() - began_s < seconds:
            self._step()
            if totals.total >= due:
                due = totals.total + _LOOK_EVERY
                self._honest("during")
                self._measure()
                tell(f"{totals.total:,} inputs, {len(totals.faults)} exceptions, {len(totals.hangs)} hangs")
        self.network.pass_time(_SETTLE_S)
        self.network.settle()
        for _ in range(5):
            self._honest("after")
        after = self.network.tables()
        totals.left = {name: (before[name], after[name]) for name in before if after[name] > before[name]}
        self._measure()
        totals.seconds = time.perf_counter() - began_s
        return totals

    def _step(self) -> None:
        """One link, or one handshake that fails."""
        draw = self._rng.random()
        try:
            if draw < 0.05:
                self._break_alone()
            elif draw < 0.6:
                self._break_on_link()
            else:
                self._change_recording()
        except Unanswered:
            pass  # an earlier input has ended what this one builds on
        except Hang as hang:
            self.totals.hangs.append(_where(hang))
        self._take_faults()

    def _take_faults(self) -> None:
        self.totals.faults += self.network.records.faults
        self.network.records.faults.clear()

    def _peer(self, rule: Rule | None = None) -> HostilePeer:
        self.totals.links += 1
        role = self._rng.choice(ROLES if rule is None else rule.roles)
        return HostilePeer(self.network, role, rng=random.Random(self._rng.getrandbits(64)))

    def _break(self, peer: HostilePeer, table: str, rule: Rule) -> None:
        self.totals.inputs[table] += 1
        rule.do(peer, self._rng.choice(rule.values))

    def _break_alone(self) -> None:
        table, rule = self._rng.choice(self._alone)
        peer = self._peer(rule)
        try:
            self._break(peer, table.name, rule)
            peer.reaction(1.0)
        finally:
            peer.leave()

    def _break_on_link(self) -> None:
        peer = self._peer().link_up()
        try:
            for _ in range(self._rng.randint(1, _MOST_ON_A_LINK)):
                table, rule = self._rng.choice(self._on_links)
                if peer.role in rule.roles:
                    self._break(peer, table.name, rule)
                    peer.look()
                if peer.seen.is_closed:
                    return
        finally:
            peer.leave()

    def _change_recording(self) -> None:
        """A valid session, of which each record is sent as it is, changed, twice, or not at all."""
        peer = self._peer().link_up()
        try:
            for record in recorded_session(peer):
                self.totals.inputs["recording"] += 1
                for cells in _changed(record, self._rng):
                    peer.send_cells(cells)
                if self._rng.random() < 0.3:
                    peer.look()
                    if peer.seen.is_closed:
                        return
            peer.look()
        finally:
            peer.leave()

    def _honest(self, when: str) -> None:
        began_s = time.perf_counter()
        try:
            self.network.check_honest()
        except Hang as hang:
            self.totals.hangs.append(_where(hang))
        self.totals.honest_ms[when].append(1e3 * (time.perf_counter() - began_s))

    def _measure(self) -> None:
        self._take_faults()
        gc.collect()
        self.totals.objects.append(len(gc.get_objects()))
        self.totals.rss_kb.append(_rss_kb())


def recorded_session(peer: HostilePeer) -> list[bytes]:
    """The cells of each record of an honest neighbour: a PING, two queries, and the end of the link."""
    records = [pack_ping(peer.rng.randbytes(7), is_answer=False)]
    for _ in range(2):
        number = peer.next_stream()
        slot = slot_for(peer)
        head = header([(peer.target.descriptor, slot)], peer.network.wall_s())
        chunks = message(ChunkSealer.forward(slot.seed), bytes(4) + b"\4echo" + peer.rng.randbytes(1500))
        records.append(pack_open(number, PROFILE, 0) + cell(CellType.DATA, number, head))
        size = PROFILE.geometry.chunk_bytes
        records += [cell(CellType.DATA, number, chunks[at : at + size]) for at in range(0, len(chunks), size)]
        records.append(cell(CellType.CREDIT, number, b"\0\0\4\0") + pack_fin(number))
    return [*records, pack_go_away()]


def _changed(cells: bytes, rng: random.Random) -> list[bytes]:
    """The records that are sent in place of one."""
    draw = rng.random()
    if draw < 0.4:
        return [cells]
    if draw < 0.5:
        return [cells, cells]
    if draw < 0.55:
        return []
    changed = bytearray(cells)
    for _ in range(rng.choice((1, 1, 2, 8))):
        # Heads are where most checks are.
        at = rng.randrange(min(len(changed), 16) if rng.random() < 0.7 else len(changed))
        changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255))
    if draw > 0.95:
        del changed[rng.randrange(len(changed)) :]
    return [bytes(changed)]

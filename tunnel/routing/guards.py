"""Guards: the few nodes that a node's routes begin with, kept for months and across restarts.

A client that draws a new first hop for every route will eventually draw a node of an attacker. If the
attacker also watches Bob, he sees both ends. With a small fixed set most clients never have a hostile first
hop, and for the others the risk does not grow with the number of routes (Wright et al. 2002; Tor proposals
236 and 271).

The rules and their reasons:

* A guard is drawn uniformly among listed nodes that this node has dialled or that its user configured; of
  those of one network that it was told of, one takes part. No two are of one network or family: one owner
  must not be the whole set.
* The first usable guard of the set is used, always in the same order: a random choice of three would show the
  traffic to three nodes instead of one.
* A guard that fails stays, and is used again when it is back. Otherwise an attacker could make guards fail
  until his own node is drawn. One more is drawn only if no guard of the set answers, up to `most`; a guard
  that is suspected of spoiling routes answers.
* A guard leaves after a random time of 60 to 120 days: long enough to protect, and a hostile guard does not
  stay forever. It also leaves after 7 days outside the directory.

Pure: peers, time and randomness are arguments. The caller stores the state (`to_bytes`) on disk. Layout:
"mtgd" ‖ version 1 ‖ count 1 ‖ count × (node id 32 ‖ since u32 ‖ until u32 ‖ missing since u32, 0 = listed),
in order of use. Source: docs/routes.md, "Guards".
"""

from __future__ import annotations

import random
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tunnel.errors import KeyFileError
from tunnel.identity.descriptor import Descriptor
from tunnel.routing.addresses import AddressRules

__all__ = ["MAX_GUARDS", "MOST_GUARDS", "Guard", "Guards"]

_DAY_S: Final = 24 * 3600
_LIFE_DAYS: Final = (60, 120)
_MISSING_S: Final = 7 * _DAY_S
_MAGIC: Final = b"mtgd\x01"
_ENTRY: Final = struct.Struct(">32sIII")
MOST_GUARDS: Final = 9
"""Largest set, with the guards that were drawn because no other was usable."""
MAX_GUARDS: Final = 16
"""Largest number in a stored state; above the size of any set."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard; times in seconds since 1970.

    Attributes:
        since_s, until_s: when it was drawn, and when it leaves.
        missing_since_s: when it left the directory; 0: it is listed.
    """

    node_id: bytes
    since_s: int
    until_s: int
    missing_since_s: int = 0


class Guards:
    """A node's guards.

    Args:
        guards: of the last run (`from_bytes`).
        size: of the normal set.
        most: with the guards that were drawn because no other was usable.
    """

    def __init__(self, guards: Iterable[Guard] = (), *, size: int = 3, most: int = MOST_GUARDS) -> None:
        self._guards = list(guards)[:MAX_GUARDS]
        self._size = size
        self._most = min(most, MAX_GUARDS)

    def __iter__(self) -> Iterator[Guard]:
        return iter(tuple(self._guards))

    def __len__(self) -> int:
        return len(self._guards)

    def choose(
        self,
        peers: Collection[Descriptor],
        usable: Collection[bytes],
        crowd: Collection[bytes] = (),
        shunned: Collection[bytes] = (),
        *,
        now_s: float,
        rules: AddressRules,
        rng: random.Random,
    ) -> bytes | None:
        """The guard for a route.

        Args:
            peers: all nodes of the directory that may be guards of this node.
            usable: ids of those that can be the first hop of this route now.
            crowd: ids of those that are not to be drawn now; one that is a guard already stays one.
            shunned: ids of guards that may have spoiled routes: used only if no other guard is usable. They
                are not replaced by new guards.
            rules: which nodes count as one owner's.
        Returns:
            None: no guard is usable, and no more may be drawn.
        """
        self._age(peers, int(now_s))
        candidates = [peer for peer in peers if peer.node_id not in crowd]
        while len(self._guards) < self._size and self._draw(candidates, peers, int(now_s), rules, rng):
            pass
        in_use = [guard.node_id for guard in self._guards if guard.node_id in usable]
        if in_use:
            return next((node_id for node_id in in_use if node_id not in shunned), in_use[0])
        if len(self._guards) < self._most:
            fit = [peer for peer in candidates if peer.node_id in usable]
            if self._draw(fit, peers, int(now_s), rules, rng):
                return self._guards[-1].node_id
        return None

    def _age(self, peers: Collection[Descriptor], now_s: int) -> None:
        """Drop expired guards, and note which guards have left the directory."""
        listed = {peer.node_id for peer in peers}
        kept = []
        for guard in self._guards:
            if guard.node_id in listed:
                guard = replace(guard, missing_since_s=0)
            elif not guard.missing_since_s:
                guard = replace(guard, missing_since_s=now_s)
            is_gone = guard.missing_since_s and now_s - guard.missing_since_s > _MISSING_S
            if now_s < guard.until_s and not is_gone:
                kept.append(guard)
        self._guards = kept

    def _draw(
        self,
        candidates: Iterable[Descriptor],
        peers: Iterable[Descriptor],
        now_s: int,
        rules: AddressRules,
        rng: random.Random,
    ) -> bool:
        """Add a guard. False: no candidate is left."""
        present = {guard.node_id for guard in self._guards}
        taken = {owner for peer in peers if peer.node_id in present for owner in rules.owners(peer)}
        free = sorted(
            peer.node_id
            for peer in candidates
            if peer.node_id not in present and not (taken and rules.owners(peer) & taken)
        )
        if not free:
            return False
        life_s = rng.randrange(_LIFE_DAYS[0] * _DAY_S, _LIFE_DAYS[1] * _DAY_S)
        self._guards.append(Guard(rng.choice(free), now_s, now_s + life_s))
        return True

    def to_bytes(self) -> bytes:
        """The state, for the next run. Keep it private: it names the nodes that see this node's traffic."""
        entries = [
            _ENTRY.pack(guard.node_id, guard.since_s, guard.until_s, guard.missing_since_s)
            for guard in self._guards
        ]
        return _MAGIC + bytes([len(entries)]) + b"".join(entries)

    @classmethod
    def from_bytes(cls, state: bytes, *, size: int = 3, most: int = MOST_GUARDS) -> Guards:
        """Read the output of `to_bytes`.

        Raises:
            KeyFileError: damaged, or of another version. Without it new guards are drawn.
        """
        head = len(_MAGIC) + 1
        if not state.startswith(_MAGIC) or len(state) < head:
            raise KeyFileError("the state of the guards is damaged or of another version: remove it")
        count = state[head - 1]
        if count > MAX_GUARDS or len(state) != head + count * _ENTRY.size:
            raise KeyFileError(
                f"the state of {count} guards is {len(state)} bytes, expected "
                f"{head + count * _ENTRY.size} for at most {MAX_GUARDS}: remove it"
            )
        guards = [Guard(*fields) for fields in _ENTRY.iter_unpack(state[head:])]
        if len({guard.node_id for guard in guards}) != count:
            raise KeyFileError("the state of the guards contains a node twice: remove it")
        return cls(guards, size=size, most=most)

"""Onion keys over time: made, published, used, erased; each with a replay table of its own.

    next        published, not valid yet: opens frames of senders whose clock is fast, 600 s ahead
    current     what senders seal to now
    previous    what they sealed to before: its frames may be under way until they expire
    (erased)    nothing sealed to it can be accepted any more, so nothing recorded can be opened either

A key moves down one line at a time, by `advance`, which the node calls now and then (`next_change_s` says
when something will happen). A pure state machine: the caller brings the time. A clock that was ahead for a
moment, and is set right again, leaves a key that begins in the future, or a table that refuses all headers as
expired: then `advance` begins anew. Rules for changing it: a key is published at least an epoch before it is
needed; a table lives as long as its key and no longer; after a stop that was not clean there is no table, so
there must be no key.
Source: docs/protocol.md, "Onion key epochs".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import read_regular
from tunnel.errors import ReplayFileError
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey, new_onion_key
from tunnel.identity.state_dir import remove_file, write_private
from tunnel.onion.header import CLOCK_SKEW_S, HOUR_S, LATEST_S, Hop, OpeningKey, clock_text
from tunnel.onion.replay import DEFAULT_LIMIT, ReplayTable

__all__ = ["EARLY_ROTATION_S", "KEEP_PREVIOUS_S", "Epoch", "KeyRing"]

log = logging.getLogger("tunnel.node")

# A sender with a slow clock seals until 600 s after the key's end; an expiry is accepted that is 4 hours and
# 600 s ahead of that; and headers are taken until 600 s after their expiry.
KEEP_PREVIOUS_S = CLOCK_SKEW_S + (LATEST_S + CLOCK_SKEW_S) + CLOCK_SKEW_S
EARLY_ROTATION_S = 3_600  # at most one early change an hour: each makes others fetch the descriptor
_NEXT_SERVES_S = EPOCH_S  # the next key serves so long after the current one
_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Epoch:
    """One onion key that can open, and the table that its headers go into."""

    key: OpeningKey
    table: ReplayTable


@dataclass(frozen=True, slots=True)
class _State:
    """All that changes together. The epochs are those of the keys: current, previous, next."""

    keys: NodeKeys
    epochs: dict[OnionKey, Epoch]

    @property
    def current(self) -> Epoch:
        return self.epochs[self.keys.onion]


def _present(keys: NodeKeys) -> list[OnionKey]:
    return [key for key in (keys.onion, keys.previous, keys.next) if key is not None]


def _with_next(keys: NodeKeys) -> NodeKeys:
    return keys if keys.next is not None else replace(keys, next=new_onion_key(keys.onion.not_after))


class KeyRing:
    """The onion keys of one node.

    Args:
        keys: as loaded or generated. Only current and, if they are there, previous and next are used.
        limit: tags in each replay table; there are at most three.
        share: of one neighbour in each; by default a quarter.

    A query may be built in another thread while this one changes: keys and epochs are replaced together, in
    one step, and what reads both takes them once.
    """

    def __init__(
        self, keys: NodeKeys, engine: TunnelEngine, *, limit: int = DEFAULT_LIMIT, share: int | None = None
    ) -> None:
        self.engine = engine
        self._limit = limit
        self._share = share
        self._state = _State(keys, {})
        self._become(keys)

    @property
    def keys(self) -> NodeKeys:
        """All keys of the node, as they are now; save them after each change."""
        return self._state.keys

    # --- opening -------------------------------------------------------------------------------------------

    def opening(self, now_s: float) -> tuple[Epoch, ...]:
        """The keys to try, in order: current, previous, and next if it begins within 600 s."""
        state = self._state
        keys, epochs = state.keys, state.epochs
        found = [keys.onion]
        if keys.previous is not None and now_s < keys.previous.not_after + KEEP_PREVIOUS_S:
            found.append(keys.previous)
        if keys.next is not None and keys.next.epoch - now_s <= CLOCK_SKEW_S:
            found.append(keys.next)
        return tuple(epochs[key] for key in found)

    def own_hop(self) -> Hop:
        """The current key as others see it: for the last slot of this node's own reply blocks."""
        key = self._state.current.key
        return Hop(key.private.public, key.epoch)

    # --- time ----------------------------------------------------------------------------------------------

    @property
    def wants_rotation(self) -> bool:
        """A replay table refused somebody for lack of room: call `rotate_early`."""
        return self._state.current.table.wants_rotation

    @property
    def next_change_s(self) -> float:
        """When `advance` will have something to do, in seconds since 1970."""
        keys = self.keys
        if keys.next is None:
            return 0.0
        times = [keys.next.epoch]
        if keys.previous is not None:
            times.append(keys.previous.not_after + KEEP_PREVIOUS_S)
        return float(min(times))

    def advance(self, now_s: float) -> bool:
        """Do what is due: make a next key, move on to it, erase the previous one.

        A clock that was set back so far that nobody can use the current key, or that its table takes no new
        header, is an error in the log, and a fresh key is made, as after a start without replay tables.

        Returns:
            Whether `keys` has changed: then save it, and publish a new descriptor. May be called at any time.
        """
        before = keys = self.keys
        if fault := self._clock_fault(now_s):
            log.error(
                "%s; the clock was set back, so a new onion key is made, and the old ones erased", fault
            )
            keys = keys.rotated(now_s)
        elif keys.onion.not_after + _NEXT_SERVES_S <= now_s:
            # Nobody has a key of this node that is valid now: it was off, or asleep. Begin anew.
            keys = keys.rotated(now_s)
        keys = _with_next(keys)
        # A clock that jumped ahead by hours: one step for each epoch, at most two after the check above.
        while keys.next is not None and keys.next.epoch <= now_s:
            keys = _with_next(replace(keys, previous=keys.onion, onion=keys.next, next=None))
        if keys.previous is not None and now_s >= keys.previous.not_after + KEEP_PREVIOUS_S:
            keys = replace(keys, previous=None)
        self._become(keys)
        return keys != before

    def rotate_early(self, now_s: float) -> bool:
        """Replace the current key at once, with an empty table for the new one; at most once an hour.

        The old one becomes the previous; whoever has not seen the new descriptor still seals to it, and is
        still served from its table while there is room. The next key is made anew as well.

        Returns:
            Whether it was done: then save the keys, and publish a new descriptor.
        """
        current = self.keys.onion
        if now_s < current.epoch + CLOCK_SKEW_S + EARLY_ROTATION_S:
            return False
        ended = replace(current, not_after=int(now_s))
        fresh = new_onion_key(int(now_s) - CLOCK_SKEW_S)
        keys = _with_next(replace(self.keys, previous=ended, onion=fresh, next=None))
        self._become(keys, {ended: self._state.current})
        return True

    def next_sequence(self, now_s: float, known: int = 0) -> int:
        """The sequence number of a new descriptor: the time, or more where the clock was set back since.

        Of two descriptors of one node the higher number holds, so it is kept with the keys, for the next run.

        Args:
            known: that of the last descriptor, as others know it.
        """
        sequence = max(int(now_s), self.keys.sequence + 1, known + 1)
        self._become(replace(self.keys, sequence=sequence))
        return sequence

    def _clock_fault(self, now_s: float) -> str | None:
        """What shows that the clock was ahead before, for the log; None: nothing does that matters."""
        state = self._state
        if state.keys.onion.epoch > now_s + CLOCK_SKEW_S:
            what, then_s = "this node's onion key begins at", float(state.keys.onion.epoch)
        elif state.current.table.latest_now_s > now_s + HOUR_S:
            # Senders draw expiries from an hour ahead on: it would refuse some of them.
            what, then_s = "this node's replay table has seen the time", state.current.table.latest_now_s
        else:
            return None
        return f"{what} {clock_text(then_s)}, and the clock shows {clock_text(now_s)}"

    def _become(self, keys: NodeKeys, kept: dict[OnionKey, Epoch] | None = None) -> None:
        """Epochs for exactly the keys that there are: what is not there any more is erased with its table."""
        known = self._state.epochs | (kept or {})
        self._state = _State(keys, {key: known.get(key) or self._epoch(key) for key in _present(keys)})

    def _epoch(self, key: OnionKey) -> Epoch:
        table = ReplayTable(key.table, limit=self._limit, share=self._share)
        return Epoch(key.opening_key(self.engine), table)

    # --- over a restart ------------------------------------------------------------------------------------

    def stop(self, key_path: Path, table_path: Path) -> None:
        """Write keys and tables at a clean stop, for `resume`. Nothing may be opened afterwards.

        Raises OSError; then the next start makes new onion keys.
        """
        parts = []
        for key, epoch in self._state.epochs.items():
            table = epoch.table.dump(key.epoch)
            parts.append(len(table).to_bytes(_SIZE_BYTES, "big") + table)
        self.keys.save(key_path)
        write_private(table_path, b"".join(parts))

    @classmethod
    def resume(
        cls,
        key_path: Path,
        table_path: Path,
        engine: TunnelEngine,
        *,
        now_s: float,
        limit: int = DEFAULT_LIMIT,
        share: int | None = None,
    ) -> KeyRing:
        """The ring of the last run if that was stopped in order; else the same node with new onion keys.

        The table's file is removed as it is read, before anything is opened: a crash from now on leaves none,
        and the next start makes new onion keys. Publish a new descriptor in any case.

        Raises:
            KeyFileError: the keys cannot be read. ReplayFileError: there are tables, but damaged ones; says
                what to do. OSError: a file cannot be written or removed.
        """
        keys = NodeKeys.load(key_path)
        try:
            data = read_regular(table_path)
        except FileNotFoundError:
            ring = cls(keys.rotated(now_s), engine, limit=limit, share=share)
        else:
            ring = cls(keys, engine, limit=limit, share=share)
            try:
                ring._restore(data)
            except ReplayFileError as error:
                raise ReplayFileError(
                    f"{table_path}: {error}. Delete the file: the node then starts with a new onion key, and "
                    "its peers need its new descriptor"
                ) from error
            remove_file(table_path)
        ring.advance(now_s)
        ring.keys.save(key_path)
        return ring

    def _restore(self, data: bytes) -> None:
        epochs = self._state.epochs
        for key in epochs:
            size = int.from_bytes(data[:_SIZE_BYTES], "big")
            end = _SIZE_BYTES + size
            if len(data) < end:
                raise ReplayFileError(f"the file ends {end - len(data)} bytes before its table does")
            table, data = data[_SIZE_BYTES:end], data[end:]
            restored = ReplayTable.restored(table, key.table, key.epoch, limit=self._limit, share=self._share)
            epochs[key] = replace(epochs[key], table=restored)
        if data:
            raise ReplayFileError(f"{len(data)} bytes behind the last replay table")

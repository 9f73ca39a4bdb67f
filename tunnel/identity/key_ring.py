"""The onion keys of a node over time, each with its replay table.

    next        published, not valid yet; opens headers of senders whose clock is up to 600 s fast
    current     senders seal to it now
    previous    senders sealed to it before; its frames may be in transit until they expire
    (erased)    headers for it are no longer accepted, and recorded ones can no longer be opened

`advance` moves a key down one line at a time; the node calls it every minute. A clock that was ahead and
is corrected leaves a key that begins in the future, or a table that refuses all headers as expired; then
`advance` starts again with a fresh key.

Rules for changing it: a key is published at least one epoch before it is used; a table lives exactly as long
as its key; an unclean stop leaves no table, so the next start must not use the old keys.

A pure state machine, except for `stop` and `resume`: time is an argument.
Source: docs/protocol.md, "Onion key epochs".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tunnel.codes import clock_text
from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import read_regular
from tunnel.errors import ReplayFileError
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey, new_onion_key
from tunnel.identity.state_dir import remove_file, write_private
from tunnel.onion.header import CLOCK_SKEW_S, HOUR_S, LATEST_S, Hop, OpeningKey
from tunnel.onion.replay import DEFAULT_LIMIT, ReplayTable

__all__ = ["EARLY_ROTATION_S", "FULL_ROTATION_S", "KEEP_PREVIOUS_S", "Epoch", "KeyRing"]

log = logging.getLogger("tunnel.node")

# A sender with a slow clock seals until 600 s after the key's end, the expiry may be 4 hours and 600 s later,
# and headers are accepted until 600 s after their expiry.
KEEP_PREVIOUS_S = CLOCK_SKEW_S + (LATEST_S + CLOCK_SKEW_S) + CLOCK_SKEW_S
EARLY_ROTATION_S = 3_600  # least time between early changes: after each, peers fetch the descriptor
# The same when the table is filling up: a flood at the node's rate of headers fills it in 1,000 s.
FULL_ROTATION_S = 600
_NEXT_SERVES_S = EPOCH_S  # life of the next key after the current one
_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Epoch:
    """An onion key for opening, and its replay table."""

    key: OpeningKey
    table: ReplayTable


@dataclass(frozen=True, slots=True)
class _State:
    """Everything that changes together. The epochs are those of the current, previous and next key."""

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
        keys: as loaded or generated.
        limit: tags in each replay table; there are at most three.
        share: of one neighbour in each; by default a quarter.

    Another thread may build a query while the ring changes. So keys and epochs are replaced together, in one
    step, and code that needs both reads them once.
    """

    def __init__(
        self, keys: NodeKeys, engine: TunnelEngine, *, limit: int = DEFAULT_LIMIT, share: int | None = None
    ) -> None:
        self.engine = engine
        self._limit = limit
        self._share = share
        self.state = _State(keys, {})
        self.become(keys)

    @property
    def keys(self) -> NodeKeys:
        """All current keys of the node; save them after each change."""
        return self.state.keys

    # --- opening -------------------------------------------------------------------------------------------

    def opening(self, now_s: float) -> tuple[Epoch, ...]:
        """The keys to try, in order: current, previous, and next if it begins within 600 s."""
        state = self.state
        keys, epochs = state.keys, state.epochs
        found = [keys.onion]
        if keys.previous is not None and now_s < keys.previous.not_after + KEEP_PREVIOUS_S:
            found.append(keys.previous)
        if keys.next is not None and keys.next.epoch - now_s <= CLOCK_SKEW_S:
            found.append(keys.next)
        return tuple(epochs[key] for key in found)

    def own_hop(self) -> Hop:
        """The current public key, for the last slot of this node's reply blocks."""
        key = self.state.current.key
        return Hop(key.private.public, key.epoch)

    # --- time ----------------------------------------------------------------------------------------------

    @property
    def wants_rotation(self) -> bool:
        """The current replay table has refused a header for lack of room, or may soon."""
        table = self.state.current.table
        return table.wants_rotation or table.is_filling_up

    def advance(self, now_s: float) -> bool:
        """Make, promote and erase keys as due. May be called at any time.

        If the clock was set back so far that the current key is not valid yet, or that its table refuses new
        headers, an error is logged and a fresh key is made, as after a start without replay tables.

        Returns:
            Whether `keys` has changed: then save it, and publish a new descriptor.
        """
        before = keys = self.keys
        if fault := self.clock_fault(now_s):
            log.error("%s; the clock was set back: making a new onion key, erasing the old ones", fault)
            keys = keys.rotated(now_s)
        elif keys.onion.not_after + _NEXT_SERVES_S <= now_s:
            # No published key is valid now: the node was off, or asleep. Start with a fresh one.
            keys = keys.rotated(now_s)
        keys = _with_next(keys)
        # After a jump of the clock: one step for each epoch, at most two after the check above.
        while keys.next is not None and keys.next.epoch <= now_s:
            keys = _with_next(replace(keys, previous=keys.onion, onion=keys.next, next=None))
        if keys.previous is not None and now_s >= keys.previous.not_after + KEEP_PREVIOUS_S:
            keys = replace(keys, previous=None)
        self.become(keys)
        return keys != before

    def rotate_early(self, now_s: float) -> bool:
        """Replace the current key now; the new one has an empty table.

        At most once an hour, or every ten minutes while the table is filling up. This erases the key before
        the previous one, so old reply blocks no longer open; a node that refuses everybody would be worse.

        The old key becomes the previous one. Senders without the new descriptor still seal to it, and its
        table accepts their headers while it has room. The next key is replaced as well.

        Returns:
            Whether it was done: then save the keys, and publish a new descriptor.
        """
        current = self.keys.onion
        is_urgent = self.state.current.table.is_filling_up
        least_s = FULL_ROTATION_S if is_urgent else EARLY_ROTATION_S
        if now_s < current.epoch + CLOCK_SKEW_S + least_s:
            return False
        ended = replace(current, not_after=int(now_s))
        fresh = new_onion_key(int(now_s) - CLOCK_SKEW_S)
        keys = _with_next(replace(self.keys, previous=ended, onion=fresh, next=None))
        self.become(keys, {ended: self.state.current})
        return True

    def next_sequence(self, now_s: float, known: int = 0) -> int:
        """The sequence number of a new descriptor: the time, or more after the clock was set back.

        The descriptor with the highest number counts, so the number is saved with the keys.

        Args:
            known: number of the last published descriptor.
        """
        sequence = max(int(now_s), self.keys.sequence + 1, known + 1)
        self.become(replace(self.keys, sequence=sequence))
        return sequence

    def clock_fault(self, now_s: float) -> str | None:
        """Describe, for the log, a harmful sign that the clock was ahead before; None: no such sign."""
        state = self.state
        if state.keys.onion.epoch > now_s + CLOCK_SKEW_S:
            what, then_s = "this node's onion key begins at", float(state.keys.onion.epoch)
        elif state.current.table.latest_now_s > now_s + HOUR_S:
            # Senders draw expiries of at least an hour ahead, so the table would refuse some of them.
            what, then_s = "this node's replay table has seen the time", state.current.table.latest_now_s
        else:
            return None
        return f"{what} {clock_text(then_s)}, and the clock shows {clock_text(now_s)}"

    def become(self, keys: NodeKeys, kept: dict[OnionKey, Epoch] | None = None) -> None:
        """Keep epochs for exactly these keys. Other keys are erased with their tables."""
        known = self.state.epochs | (kept or {})
        self.state = _State(keys, {key: known.get(key) or self._epoch(key) for key in _present(keys)})

    def _epoch(self, key: OnionKey) -> Epoch:
        table = ReplayTable(key.table, limit=self._limit, share=self._share)
        return Epoch(key.opening_key(self.engine), table)

    # --- over a restart ------------------------------------------------------------------------------------

    def stop(self, key_path: Path, table_path: Path) -> None:
        """Write keys and tables at a clean stop, for `resume`. Open no header afterwards.

        Raises OSError; then the next start makes new onion keys.
        """
        parts = []
        for key, epoch in self.state.epochs.items():
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
        """The ring of the last run if it stopped cleanly; otherwise the same node with new onion keys.

        The file with the tables is removed when it is read. After a crash it is therefore missing, and the
        next start makes new onion keys. Publish a new descriptor in any case.

        Raises:
            KeyFileError: the keys cannot be read. ReplayFileError: the tables are damaged; the text has the
                remedy. OSError: a file cannot be written or removed.
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
                    "its peers need its new descriptor",
                    f"if {key_path} is the key file of another node, put this node's own there instead",
                ) from error
            remove_file(table_path)
        ring.advance(now_s)
        ring.keys.save(key_path)
        return ring

    def _restore(self, data: bytes) -> None:
        epochs = self.state.epochs
        for key in epochs:
            size = int.from_bytes(data[:_SIZE_BYTES], "big")
            end = _SIZE_BYTES + size
            if len(data) < end:
                raise ReplayFileError(f"the file is {end - len(data)} bytes shorter than its table")
            table, data = data[_SIZE_BYTES:end], data[end:]
            restored = ReplayTable.restored(table, key.table, key.epoch, limit=self._limit, share=self._share)
            epochs[key] = replace(epochs[key], table=restored)
        if data:
            raise ReplayFileError(f"{len(data)} bytes after the last replay table")

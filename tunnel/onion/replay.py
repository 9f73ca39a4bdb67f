"""The replay table, which refuses a header that was accepted before.

There is one table for each onion key. A tag is HMAC(table key, slot 0), cut to 8 bytes; without the key,
headers cannot be made to collide. Tags are grouped by expiry hour and dropped 600 s after that hour, by a
clock that never steps back. A header of a dropped hour is refused, even if the node's clock was set back and
shows it as fresh.

A full table refuses new headers: if it forgot old ones, they could be replayed. To keep hostile neighbours
from filling the table, each neighbour may hold only a quarter of the space that is still free. Later
neighbours get less, but find room even after dozens of hostile ones. A neighbour without room is refused, and
the table asks for an early change of the onion key, which brings an empty table. It asks more urgently when
it is filling up. Source of the shares: Choudhury and Hahne, "Dynamic queue length thresholds" (1998).

A table can be saved over a restart (`dump`, `restored`). The layout is fixed and ends with a MAC: a damaged
or truncated table, or one of another key, is refused whole.

Pure: time is an argument. Source: docs/protocol.md, "Replay table" and "Order of checks".
"""

from __future__ import annotations

import struct
from collections import Counter

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.errors import ErrorCode, PeerError, ReplayFileError, TableFull
from tunnel.geometry import SLOT_BYTES
from tunnel.onion.header import CLOCK_SKEW_S, HOUR_S

__all__ = ["DEFAULT_LIMIT", "ReplayTable"]

DEFAULT_LIMIT = 1_000_000
_SHARES = 4  # a neighbour may hold a quarter of what is free: 62 hostile ones fill the default table
_FILLING_UP = 0.5
_TAG_BYTES = 8
_MAC_BYTES = 32
_MAGIC = b"mtunrpl\x01"
_FILE_HEAD = struct.Struct(">8sIdI")  # magic, epoch, latest time seen, number of hours
_HOUR_HEAD = struct.Struct(">II")  # hour, number of tags; then (tag, neighbour's tag) each
_PAIR_BYTES = 2 * _TAG_BYTES
_MAC_LABEL = b"replay file"


class ReplayTable:
    """Tags of the accepted headers, bounded.

    Args:
        key: 32 random bytes, kept as long as the onion key.
        limit: most tags; each takes about 135 bytes of memory.
        share: most tags of one neighbour; by default a quarter of what is free.

    Attributes:
        wants_rotation: a header was refused for lack of room: the onion key should change early.
    """

    def __init__(self, key: bytes, *, limit: int = DEFAULT_LIMIT, share: int | None = None) -> None:
        self._key = key
        self._limit = limit
        self._share = share
        # hour → tag → tag of the neighbour that sent it: the file must not contain the neighbour's id.
        self.hours: dict[int, dict[bytes, bytes]] = {}
        self._held: Counter[bytes] = Counter()
        self._count = 0
        self._latest_now_s = 0.0
        self.wants_rotation = False

    def __len__(self) -> int:
        return self._count

    @property
    def latest_now_s(self) -> float:
        """The latest time that this table has seen: headers that had expired by then are refused."""
        return self._latest_now_s

    @property
    def is_filling_up(self) -> bool:
        """Whether half of it is taken, and the onion key should change as soon as it may."""
        return self._count >= _FILLING_UP * self._limit

    def held_by(self, neighbour: bytes) -> int:
        """The number of tags of one neighbour."""
        return self._held[self._tag(neighbour)]

    def insert(self, header: bytes, expiry: int, *, now_s: float, neighbour: bytes = b"") -> None:
        """Test and remember a header that was just opened, in one step.

        Args:
            header: the whole header; the tag is made of its first slot.
            expiry: of the opened slot, already checked.
            now_s: seconds since 1970.
            neighbour: its share pays for the tag.
        Raises:
            PeerError (EXPIRED): its hour is dropped already, by the latest time that this table has seen.
            PeerError (REPLAYED): accepted before. TableFull: the share or the table is full.
        On error: nothing changes.
        """
        self._forget(now_s)
        if expiry < self._latest_now_s - CLOCK_SKEW_S:
            raise PeerError(
                "header had expired at the latest time seen here: the clock has stepped back",
                ErrorCode.EXPIRED,
            )
        tag = self._tag(header[:SLOT_BYTES])
        # Rounded up here too: odd expiries must not create thousands of groups with one tag each.
        hour = -(-expiry // HOUR_S) * HOUR_S
        if any(tag in tags for tags in self.hours.values()):
            raise PeerError("this header was accepted before", ErrorCode.REPLAYED)
        who = self._tag(neighbour)
        held = self._held[who]
        free = self._limit - self._count
        has_share = _SHARES * held < free if self._share is None else held < self._share
        if not free or not has_share:
            self.wants_rotation = True
            what = (
                f"this neighbour's share of the replay table ({held} headers)" if free else "the replay table"
            )
            raise TableFull(f"{what} is full until some expire or the onion key changes")
        self.hours.setdefault(hour, {})[tag] = who
        self._held[who] = held + 1
        self._count += 1

    def _forget(self, now_s: float) -> None:
        self._latest_now_s = max(self._latest_now_s, now_s)
        past = [hour for hour in self.hours if hour < self._latest_now_s - CLOCK_SKEW_S]
        for hour in past:
            tags = self.hours.pop(hour)
            self._count -= len(tags)
            self._held -= Counter(tags.values())  # also drops entries that reach zero

    def _tag(self, data: bytes) -> bytes:
        return hmac_sha256(self._key, data)[:_TAG_BYTES]

    def dump(self, epoch: int) -> bytes:
        """The table as bytes, for `restored`. `epoch` names the onion key."""
        parts = [_FILE_HEAD.pack(_MAGIC, epoch, self._latest_now_s, len(self.hours))]
        for hour, tags in self.hours.items():
            parts.append(_HOUR_HEAD.pack(hour, len(tags)))
            parts += [tag + who for tag, who in tags.items()]
        body = b"".join(parts)
        return body + hmac_sha256(self._key, _MAC_LABEL, body)

    @classmethod
    def restored(
        cls,
        data: bytes,
        key: bytes,
        epoch: int,
        *,
        limit: int = DEFAULT_LIMIT,
        share: int | None = None,
    ) -> ReplayTable:
        """Read the bytes of `dump`.

        Raises:
            ReplayFileError: damaged, truncated, of another key or epoch, or larger than `limit`.
        """
        table = cls(key, limit=limit, share=share)
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if len(data) < _FILE_HEAD.size + _MAC_BYTES or not body.startswith(_MAGIC):
            raise ReplayFileError(
                f"{len(data)} bytes that begin with {data[:8].hex()} are not a replay table"
            )
        if not equal(mac, hmac_sha256(key, _MAC_LABEL, body)):
            raise ReplayFileError("wrong MAC: the replay table is damaged or belongs to another key")
        _, found, table._latest_now_s, hours = _FILE_HEAD.unpack_from(body)
        if found != epoch:
            raise ReplayFileError(f"the replay table is of epoch {found}, expected {epoch}")
        position = _FILE_HEAD.size
        for _ in range(hours):
            position = table._restore_hour(body, position)
        if position != len(body):
            raise ReplayFileError(f"the replay table ends at byte {position} of {len(body)}")
        if table._count > limit:
            # If some were dropped, those headers could be replayed.
            raise ReplayFileError(f"the replay table holds {table._count} headers, the limit is now {limit}")
        return table

    def _restore_hour(self, body: bytes, position: int) -> int:
        """Read the tags of one hour. Returns where they end. Raises ReplayFileError: they are not there."""
        start = position + _HOUR_HEAD.size
        hour, count = _HOUR_HEAD.unpack(body[position:start].ljust(_HOUR_HEAD.size, b"\0"))
        end = start + int(count) * _PAIR_BYTES
        places = range(start, min(end, len(body)), _PAIR_BYTES)
        tags = {body[at : at + _TAG_BYTES]: body[at + _TAG_BYTES : at + _PAIR_BYTES] for at in places}
        if end > len(body) or len(tags) != count or hour in self.hours:
            raise ReplayFileError(f"the replay table has no {count} different headers at byte {position}")
        self.hours[hour] = tags
        self._held.update(tags.values())
        self._count += count
        return end

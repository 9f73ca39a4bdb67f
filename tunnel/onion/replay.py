"""The replay table: no header is accepted twice while it has not expired. One table for each onion key.

A tag is HMAC(table key, slot 0) cut to 8 bytes; without the key nobody can make two headers share one. Tags
are kept by expiry hour and dropped with the hour, 600 s late, by a clock that never steps back. A header
whose hour was dropped is refused, even when the node's clock was set back since and calls it fresh.

Full tables fail closed: forgetting would reopen the door. So that one neighbour cannot shut it for the
others, each may fill its share only; whoever is at its share, or whoever comes when the whole table is full,
is refused, and the table asks for an early change of the onion key, with which an empty table comes.

A table can be kept over a restart (`dump`, `restored`). The bytes are of fixed layout and end with a MAC, so
that a table which was damaged, cut or exchanged for an older one's is refused whole. Source:
docs/protocol.md, "Replay table".
"""

from __future__ import annotations

import struct
from collections import Counter

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.errors import ErrorCode, PeerError, ReplayFileError, TableFull
from tunnel.geometry import SLOT_BYTES
from tunnel.onion.header import CLOCK_SKEW_S, HOUR_S

__all__ = ["DEFAULT_LIMIT", "HeaderRate", "ReplayTable"]

DEFAULT_LIMIT = 1_000_000
_SHARES = 4  # a neighbour may fill a quarter: four hostile ones, not one, are needed to fill the table
_TAG_BYTES = 8
_MAC_BYTES = 32
_MAGIC = b"mtunrpl\x01"
_FILE_HEAD = struct.Struct(">8sIdI")  # magic, epoch, latest time seen, number of hours
_HOUR_HEAD = struct.Struct(">II")  # hour, number of tags; then (tag, neighbour's tag) each
_PAIR_BYTES = 2 * _TAG_BYTES
_MAC_LABEL = b"replay file"


class ReplayTable:
    """Tags of the headers seen, bounded.

    Args:
        key: 32 random bytes, kept as long as the onion key.
        limit: most tags held at once; each costs about 135 bytes of memory.
        share: most tags of one neighbour; by default a quarter of `limit`, at least 1.

    Attributes:
        wants_rotation: somebody was refused for lack of room: the onion key should be changed early.
    """

    def __init__(self, key: bytes, *, limit: int = DEFAULT_LIMIT, share: int | None = None) -> None:
        self._key = key
        self._limit = limit
        self._share = max(1, limit // _SHARES) if share is None else share
        # hour → tag → tag of the neighbour it came from, whose id is nobody's business on a disk.
        self._hours: dict[int, dict[bytes, bytes]] = {}
        self._held: Counter[bytes] = Counter()
        self._count = 0
        self._latest_now_s = 0.0
        self.wants_rotation = False

    def __len__(self) -> int:
        return self._count

    @property
    def latest_now_s(self) -> float:
        """The latest time that this table was told: what had expired by then is refused."""
        return self._latest_now_s

    def held_by(self, neighbour: bytes) -> int:
        """How many tags `neighbour` has in the table."""
        return self._held[self._tag(neighbour)]

    def insert(self, header: bytes, expiry: int, *, now_s: float, neighbour: bytes = b"") -> None:
        """Remember a header that has just been opened; test and insert are one step.

        Args:
            header: the whole header; its first slot is what is remembered.
            expiry: of the opened slot, already checked.
            now_s: seconds since 1970.
            neighbour: whose share this takes from.
        Raises:
            PeerError (EXPIRED): its hour was forgotten already, by the latest time that this table was told.
            PeerError (REPLAYED): it was here before. TableFull: no room, for this neighbour or for anybody.
        On error: no header is remembered or lost.
        """
        self._forget(now_s)
        if expiry < self._latest_now_s - CLOCK_SKEW_S:
            raise PeerError(
                "header expired by the latest time that was seen here: the clock has stepped back",
                ErrorCode.EXPIRED,
            )
        tag = self._tag(header[:SLOT_BYTES])
        # Rounded up here too, so that senders of odd expiries cannot make thousands of sets of one tag each.
        hour = -(-expiry // HOUR_S) * HOUR_S
        if any(tag in tags for tags in self._hours.values()):
            raise PeerError("this header was accepted before", ErrorCode.REPLAYED)
        who = self._tag(neighbour)
        held = self._held[who]
        if self._count >= self._limit or held >= self._share:
            self.wants_rotation = True
            if held >= self._share:
                what, most = "this neighbour has its share", self._share
            else:
                what, most = "replay table holds its limit", self._limit
            raise TableFull(f"{what} of {most} headers; refusing until some expire or the onion key changes")
        self._hours.setdefault(hour, {})[tag] = who
        self._held[who] = held + 1
        self._count += 1

    def _forget(self, now_s: float) -> None:
        self._latest_now_s = max(self._latest_now_s, now_s)
        past = [hour for hour in self._hours if hour < self._latest_now_s - CLOCK_SKEW_S]
        for hour in past:
            tags = self._hours.pop(hour)
            self._count -= len(tags)
            self._held -= Counter(tags.values())  # drops those that have none left

    def _tag(self, data: bytes) -> bytes:
        return hmac_sha256(self._key, data)[:_TAG_BYTES]

    def dump(self, epoch: int) -> bytes:
        """The table as bytes for `restored`. `epoch` names the onion key that it belongs to."""
        parts = [_FILE_HEAD.pack(_MAGIC, epoch, self._latest_now_s, len(self._hours))]
        for hour, tags in self._hours.items():
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
        """The table that `dump` gave, for the same key and epoch.

        Raises:
            ReplayFileError: damaged, cut, of another key or epoch, or larger than `limit`.
        """
        table = cls(key, limit=limit, share=share)
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if len(data) < _FILE_HEAD.size + _MAC_BYTES or not body.startswith(_MAGIC):
            raise ReplayFileError(f"{len(data)} bytes that begin with {data[:8].hex()} are no replay table")
        if not equal(mac, hmac_sha256(key, _MAC_LABEL, body)):
            raise ReplayFileError("the replay table's MAC is wrong: it was damaged, or is another key's")
        _, found, table._latest_now_s, hours = _FILE_HEAD.unpack_from(body)
        if found != epoch:
            raise ReplayFileError(f"the replay table is of epoch {found}, expected {epoch}")
        position = _FILE_HEAD.size
        for _ in range(hours):
            hour, count = _HOUR_HEAD.unpack_from(body, position)
            position += _HOUR_HEAD.size
            pairs = body[position : position + count * _PAIR_BYTES]
            position += len(pairs)
            tags = {
                pairs[at : at + _TAG_BYTES]: pairs[at + _TAG_BYTES : at + _PAIR_BYTES]
                for at in range(0, len(pairs), _PAIR_BYTES)
            }
            table._hours[hour] = tags
            table._held.update(tags.values())
            table._count += len(tags)
        if table._count > limit:
            # Dropping some would open the door to them again.
            raise ReplayFileError(f"the replay table holds {table._count} headers, the limit is now {limit}")
        return table


# How many headers a neighbour may have opened: a token bucket for each.
#
# Opening a slot is the one public-key operation that a stranger's bytes can ask of a node, 0.07 ms with
# OpenSSL and 0.5 ms with pycryptodome. Pure: the caller brings the time. Source: docs/protocol.md, "Order
# of checks".


class HeaderRate:
    """Token buckets by neighbour.

    Args:
        per_s: headers a second that a neighbour may send on average. By default 500: a quarter of a core with
            the slower engine.
        burst: headers at once, after a pause.
        neighbours: buckets kept. Neighbours are live links, which have a limit of their own; buckets that are
            full again are forgotten first, for nothing is lost with them.
    """

    def __init__(self, *, per_s: float = 500.0, burst: float = 1_000.0, neighbours: int = 4_096) -> None:
        self._per_s = per_s
        self._burst = burst
        self._neighbours = neighbours
        self._buckets: dict[bytes, tuple[float, float]] = {}  # neighbour → tokens, and when they were counted

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, neighbour: bytes, *, now_s: float) -> None:
        """Count one header of `neighbour`.

        Args:
            now_s: any clock in seconds. A clock that steps back refills nothing for that once; one that
                steps forward fills the bucket, and no more.
        Raises:
            PeerError (BUSY): it has had its share for now; nothing was counted.
        """
        tokens = self._tokens(neighbour, now_s)
        if tokens < 1:
            raise PeerError(
                f"a neighbour sends more than {self._per_s:g} headers a second; refused until it slows down",
                ErrorCode.BUSY,
            )
        if neighbour not in self._buckets and len(self._buckets) >= self._neighbours:
            self._forget_full(now_s)
        self._buckets[neighbour] = (tokens - 1, now_s)

    def _tokens(self, neighbour: bytes, now_s: float) -> float:
        tokens, then_s = self._buckets.get(neighbour, (self._burst, now_s))
        return min(self._burst, tokens + max(0.0, now_s - then_s) * self._per_s)

    def _forget_full(self, now_s: float) -> None:
        full = [who for who in self._buckets if self._tokens(who, now_s) >= self._burst]
        for who in full:
            del self._buckets[who]
        if not full:
            raise PeerError(
                f"{self._neighbours} neighbours are sending headers; refusing a further one", ErrorCode.BUSY
            )

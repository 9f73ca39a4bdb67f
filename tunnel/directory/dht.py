"""A directory that also uses a distributed hash table: OpenDHT, through its Python binding.

It is for networks that outgrow peer exchange and have no operator: a node needs one address of the hash table
to begin with. Entries must be signed, the highest sequence number wins, and they go into the bounded table of
peer exchange (exchange.py), charged to the hash table as one source.

A node stores its signed descriptor in one of 16 member lists, chosen by its id. A thread of this directory
stores and fetches from time to time; `lookup` and `sample` use the local table only. So the hash table learns
that a node exists, but not its routes. It can withhold nodes, but cannot invent nodes that answer: see
docs/routes.md, "Hash table".

OpenDHT comes from PyPI (the extra `dht`) or with the system (Debian: python3-opendht); it is imported when a
`DhtDirectory` is made. Facts about the binding: callbacks run in threads of OpenDHT, and no method releases
the interpreter's lock. A method that takes a lock of OpenDHT therefore hangs while a callback runs: the port
is read before anything else, and `join` is called after the callback of `shutdown`. A port in use shows as
port 0. A `get` before the first other node has answered returns nothing immediately. Values live for ten
minutes.
"""

from __future__ import annotations

import errno
import importlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from tunnel.arguments import LEAST_SECONDS, MOST_PORT, MOST_SECONDS, checked_count, checked_seconds
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory.exchange import ExchangeDirectory
from tunnel.errors import DescriptorError, MissingLibrary
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Descriptor
from tunnel.routing.addresses import PUBLIC, AddressRules

__all__ = ["MOST_CHECKED", "DhtDirectory"]

log = logging.getLogger("tunnel.directory")

_SOURCE: Final = b"dht"
_LISTS: Final = 16
_PUT_S: Final = 240.0  # more than twice within a value's life
_WAIT_S: Final = 30.0  # for one answer of the hash table
_ALONE_S: Final = 10.0  # between two polls that find nothing
# Any node may store values under a key. Those taken of one answer, and those looked at to draw them:
_MAX_VALUES: Final = 256
_MOST_SEEN: Final = 16_384
MOST_CHECKED: Final = 256
"""Signatures that are verified in one poll: values that never become an entry come again with each."""


class DhtDirectory(ExchangeDirectory):
    """Configured descriptors, and others from neighbours and from a hash table.

    Args:
        configured, engine, rules, limit, rng: see `ExchangeDirectory`.
        network_id: part of all keys, so that networks do not mix.
        bootstrap: host and UDP port of any node of the hash table; None: this node is the first.
        port: UDP port of this node; 0 lets the system choose.
        refresh_s, soon_s: time between two polls of the member lists, without and with news.
        now_s: for polls; wall_clock: for the expiry of descriptors.
        module: `opendht`, or a substitute in tests.
    Raises:
        MissingLibrary: OpenDHT cannot be imported. OSError: the port is in use.
    """

    def __init__(
        self,
        configured: Iterable[Descriptor] = (),
        *,
        engine: TunnelEngine,
        network_id: bytes,
        bootstrap: tuple[str, int] | None = None,
        port: int = 0,
        rules: AddressRules = PUBLIC,
        limit: int = 4096,
        refresh_s: float = 60.0,
        soon_s: float = 2.0,
        wall_clock: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        module: Any = None,
    ) -> None:
        super().__init__(engine=engine, rules=rules, limit=limit, rng=rng)
        self._now_s = now_s
        self._dht = _import_opendht() if module is None else module
        self._network = network_id.hex()
        self._refresh_s = checked_seconds(refresh_s, "refresh_s", least=LEAST_SECONDS, most=MOST_SECONDS)
        self._soon_s = checked_seconds(soon_s, "soon_s", least=LEAST_SECONDS, most=MOST_SECONDS)
        checked_count(port, "port", most=MOST_PORT)
        self._wall_clock = wall_clock
        self._own: dict[bytes, float] = {}  # node id → when it was put last
        self._wake = threading.Event()
        self._looked = threading.Condition()
        self._is_settled = False
        self._has_closed = False
        for descriptor in configured:
            super().publish(descriptor)  # their own nodes store them in the hash table
        self._runner = self._dht.DhtRunner()
        self._runner.run(port=port)
        self._port = int(self._runner.getBound().getPort())
        if not self._port:
            self._runner.join()
            raise OSError(errno.EADDRINUSE, f"UDP port {port} for the hash table is in use")
        if bootstrap is not None:
            self._runner.bootstrap(bootstrap[0], str(bootstrap[1]))
        self._thread = threading.Thread(target=self._run, name="directory dht", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The UDP port of this node of the hash table."""
        return self._port

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor, and store it in the hash table unless it is unlisted."""
        super().publish(descriptor)
        if not descriptor.unlisted:
            self._own[descriptor.node_id] = float("-inf")
            self._wake.set()

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until a poll of the hash table has found peers, and the next poll no further ones.

        For short-lived clients; a node learns while it runs. Blocks.

        Returns:
            False: timed out.
        """
        with self._looked:
            return self._looked.wait_for(lambda: self._is_settled or self._has_closed, timeout_s)

    def close(self) -> None:
        """Leave the hash table. Returns when its threads have ended. Idempotent."""
        if self._has_closed:
            return
        self._has_closed = True
        self._wake.set()
        self._thread.join()
        ended = threading.Event()
        self._runner.shutdown(ended.set)
        ended.wait(_WAIT_S)
        self._runner.join()

    # -- in the background -----------------------------------------------------------------------------

    def _run(self) -> None:
        wait_s, due_s = self._soon_s, float("-inf")
        while not self._has_closed:
            self._wake.clear()
            self._put_own()
            if self._now_s() >= due_s and not self._has_closed:
                seen, news = self._get([self._list_key(number) for number in range(_LISTS)])
                with self._looked:
                    self._is_settled = bool(seen) and not news
                    self._looked.notify_all()
                # A node that has found no other node of the hash table yet is likely to find one soon.
                longest_s = self._refresh_s if seen else min(_ALONE_S, self._refresh_s)
                wait_s = self._soon_s if news else min(2 * wait_s, longest_s)
                due_s = self._now_s() + wait_s * self._rng.uniform(0.5, 1.0)
                self.expire(self._wall_clock())
            self._wake.wait(max(0.0, due_s - self._now_s()))

    def _put_own(self) -> None:
        for node_id, last_s in list(self._own.items()):
            now_s = self._now_s()
            if now_s - last_s < _PUT_S or self._has_closed:
                continue
            # Marked before the lookup: one that is published meanwhile, from another thread, is due again.
            self._own[node_id] = now_s
            descriptor = self.lookup(node_id)
            key = self._list_key(node_id[0] % _LISTS)
            if descriptor is None or not self._put(key, descriptor.signed):
                self._own[node_id] = float("-inf")

    def _put(self, key: Any, signed: bytes) -> bool:
        done = threading.Event()
        outcome = [False]

        def put_done(success: bool, _: object) -> None:
            outcome[0] = success
            done.set()

        self._runner.put(key, self._dht.Value(signed), put_done)
        return done.wait(_WAIT_S) and outcome[0]

    def _get(self, keys: list[Any]) -> tuple[int, int]:
        """Fetch and learn the values of some keys. Returns the number of other nodes' values, and of news."""
        if self._has_closed:
            return 0, 0
        answers = [_Answer(self._rng) for _ in keys]
        for key, answer in zip(keys, answers, strict=True):
            self._runner.get(key, get_cb=answer.take, done_cb=answer.end)
        ends_s = self._now_s() + _WAIT_S
        for answer in answers:
            answer.ended.wait(max(0.0, ends_s - self._now_s()))
        values = {signed for answer in answers for signed in tuple(answer.values)}
        fresh = [signed for signed in sorted(values) if not self._is_useless(signed, _SOURCE)]
        news = 0
        # Others each time: any node may store values, and there is neither time nor room for all at once.
        for signed in self._rng.sample(fresh, min(len(fresh), MOST_CHECKED)):
            try:
                news += self.learn((signed,), source=_SOURCE, own_id=b"", now_s=self._wall_clock())
            except DescriptorError as error:
                # Any node may store values, so an invalid one proves no fault of a particular node.
                log.debug("a value of the hash table is not a descriptor: %s", error)
        own = {descriptor.signed for node_id in list(self._own) if (descriptor := self.lookup(node_id))}
        return len(values - own), news

    def _may_verify(self, source: bytes, now_s: float) -> bool:
        """The hash table's share is that of each poll, `MOST_CHECKED`: a flood must not hide the others."""
        return source == _SOURCE or super()._may_verify(source, now_s)

    def _list_key(self, number: int) -> Any:
        return self._dht.InfoHash.get(f"mtun1 members {self._network} {number}")


class _Answer:
    """The values of one key: a random part of them, if there are many, or the first would hide the others.

    `take` and `end` are called in a thread of OpenDHT.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._seen = 0
        self.values: list[bytes] = []
        self.ended = threading.Event()

    def take(self, value: Any) -> bool:
        """Take one value. Returns whether more are wanted. Source: Vitter, "Random sampling with a
        reservoir" (1985), algorithm R."""
        data = bytes(value.data)
        self._seen += 1
        if len(data) > MAX_DESCRIPTOR_BYTES:
            pass
        elif len(self.values) < _MAX_VALUES:
            self.values.append(data)
        elif (place := self._rng.randrange(self._seen)) < _MAX_VALUES:
            self.values[place] = data
        return self._seen < _MOST_SEEN

    def end(self, *_: object) -> None:
        """All values have come."""
        self.ended.set()


def _import_opendht() -> Any:
    try:
        return importlib.import_module("opendht")
    except ImportError as error:
        raise MissingLibrary(
            f"the hash table needs OpenDHT's Python binding, which cannot be imported here: {error}",
            "pip install 'mydht-tunnel[dht]'; or Debian's python3-opendht, for the system's Python",
        ) from error

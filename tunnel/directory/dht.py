"""A directory that also asks a distributed hash table: OpenDHT, an existing one, through its Python binding.

For networks that outgrow peer exchange and have no operator: a node needs one address of the hash table to
begin with. What is found there is only a rumour until its signature is verified; of two descriptors of one
node the higher sequence number holds; the table that takes it in is that of peer exchange, bounded and with
its rule of who goes (exchange.py). The hash table is one source of it.

Under two keys a node puts its signed descriptor: one of its own (`request` asks there for one node), and one
of 16 member lists, by its id. A thread of this directory puts and gets, now and then; `lookup` and `sample`
answer from the table and never ask anybody. So the hash table sees that a node is there, and not which routes
it takes. It may hide nodes and cannot invent any that answer: see docs/routes.md, "Hash table".

OpenDHT comes from PyPI (the extra `dht`) or with the system (Debian: python3-opendht); it is imported when a
`DhtDirectory` is made. Facts about the binding: callbacks come in threads of OpenDHT, and no method gives up
the interpreter's lock. So what takes a lock of OpenDHT's own hangs while a callback is under way: the port is
asked for before anything else is, and `join` is called when the callback of `shutdown` has come. A port that
is taken shows as port 0. A `get` before the first other node has answered ends at once, with nothing. Values
live for ten minutes.
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

from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory.exchange import ExchangeDirectory
from tunnel.errors import DescriptorError, MissingLibrary
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Descriptor
from tunnel.routing.addresses import PUBLIC, AddressRules

__all__ = ["DhtDirectory"]

log = logging.getLogger("tunnel.directory")

_RANDOM: Final = random.SystemRandom()
_SOURCE: Final = b"dht"
_LISTS: Final = 16
_PUT_S: Final = 240.0  # twice within a value's life, and once more
_WAIT_S: Final = 30.0  # for one answer of the hash table
_ALONE_S: Final = 10.0  # between two looks that find nothing
_MAX_VALUES: Final = 1024  # of one answer: anybody may put anything under a key
_MAX_REQUESTS: Final = 64


class DhtDirectory(ExchangeDirectory):
    """Descriptors that were configured, that neighbours tell, and that a hash table has.

    Args:
        configured, engine, rules, limit: see `ExchangeDirectory`.
        network_id: nodes of other networks are under other keys.
        bootstrap: host and UDP port of any node of the hash table; None: this one is the first.
        port: UDP port of this node; 0 lets the system choose.
        refresh_s: between two looks at the member lists when there is no news; `soon_s` when there is.
        module: `opendht`, or what stands in for it in tests.
    Raises:
        MissingLibrary: OpenDHT cannot be imported. OSError: the port is taken.
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
        module: Any = None,
    ) -> None:
        super().__init__(engine=engine, rules=rules, limit=limit)
        self._dht = _import_opendht() if module is None else module
        self._network = network_id.hex()
        self._refresh_s = refresh_s
        self._soon_s = soon_s
        self._wall_clock = wall_clock
        self._own: dict[bytes, float] = {}  # node id → when it was put last
        self._requests: dict[bytes, None] = {}
        self._wake = threading.Event()
        self._looked = threading.Condition()
        self._is_settled = False
        self._has_closed = False
        for descriptor in configured:
            super().publish(descriptor)  # others have put theirs into the hash table
        self._runner = self._dht.DhtRunner()
        self._runner.run(port=port)
        self._port = int(self._runner.getBound().getPort())
        if not self._port:
            self._runner.join()
            raise OSError(errno.EADDRINUSE, f"UDP port {port} is not free for the hash table")
        if bootstrap is not None:
            self._runner.bootstrap(bootstrap[0], str(bootstrap[1]))
        self._thread = threading.Thread(target=self._run, name="directory dht", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The UDP port of this node of the hash table."""
        return self._port

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor, and put it into the hash table unless it is unlisted."""
        super().publish(descriptor)
        if not descriptor.unlisted:
            self._own[descriptor.node_id] = float("-inf")
            self._wake.set()

    def request(self, node_id: bytes) -> None:
        """Ask the hash table for one node, in the background.

        Whoever is near its key sees who asks for whom: for a node that the member lists do not have, not for
        those of routes.
        """
        if len(self._requests) < _MAX_REQUESTS:
            self._requests[node_id] = None
            self._wake.set()

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until the hash table has shown some peers, and a further look has found no more.

        For a client that lives for a moment; a node learns while it runs. Blocks.

        Returns:
            False: that is not so after `timeout_s`.
        """
        with self._looked:
            return self._looked.wait_for(lambda: self._is_settled or self._has_closed, timeout_s)

    def close(self) -> None:
        """Leave the hash table; returns when its threads have ended. Idempotent."""
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
            while self._requests and not self._has_closed:
                node_id = next(iter(self._requests))
                del self._requests[node_id]
                self._get([self._node_key(node_id)])
            if time.monotonic() >= due_s and not self._has_closed:
                seen, news = self._get([self._list_key(number) for number in range(_LISTS)])
                with self._looked:
                    self._is_settled = bool(seen) and not news
                    self._looked.notify_all()
                # One that has found no other node of the hash table yet is likely to find one soon.
                longest_s = self._refresh_s if seen else min(_ALONE_S, self._refresh_s)
                wait_s = self._soon_s if news else min(2 * wait_s, longest_s)
                due_s = time.monotonic() + wait_s * _RANDOM.uniform(0.5, 1.0)
                self.expire(self._wall_clock())
            self._wake.wait(max(0.0, due_s - time.monotonic()))

    def _put_own(self) -> None:
        for node_id, last_s in list(self._own.items()):
            now_s = time.monotonic()
            if now_s - last_s < _PUT_S or self._has_closed:
                continue
            # Marked before the lookup: one that is published meanwhile, from another thread, is due again.
            self._own[node_id] = now_s
            descriptor = self.lookup(node_id)
            keys = (self._node_key(node_id), self._list_key(node_id[0] % _LISTS))
            if descriptor is None or not all([self._put(key, descriptor.signed) for key in keys]):
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
        """Take in what is under some keys; returns how many values are others', and how many were news."""
        if self._has_closed:
            return 0, 0
        values: set[bytes] = set()
        ends = []
        for key in keys:
            done = threading.Event()
            self._runner.get(key, get_cb=_collector(values), done_cb=_setter(done))
            ends.append(done)
        ends_s = time.monotonic() + _WAIT_S
        for done in ends:
            done.wait(max(0.0, ends_s - time.monotonic()))
        news = 0
        for signed in list(values):
            try:
                news += self.learn((signed,), source=_SOURCE, own_id=b"", now_s=self._wall_clock())
            except DescriptorError as error:
                # Anybody may put anything: what is no descriptor is nobody's in particular.
                log.debug("a value of the hash table is no descriptor: %s", error)
        own = {descriptor.signed for node_id in list(self._own) if (descriptor := self.lookup(node_id))}
        return len(values - own), news

    def _node_key(self, node_id: bytes) -> Any:
        return self._dht.InfoHash.get(f"mtun1 node {self._network} {node_id.hex()}")

    def _list_key(self, number: int) -> Any:
        return self._dht.InfoHash.get(f"mtun1 members {self._network} {number}")


def _collector(values: set[bytes]) -> Callable[[Any], bool]:
    """A callback that collects the values of one key, in a thread of OpenDHT's."""
    count = 0

    def got(value: Any) -> bool:
        nonlocal count
        count += 1
        data = bytes(value.data)
        if len(data) <= MAX_DESCRIPTOR_BYTES:
            values.add(data)
        return count < _MAX_VALUES

    return got


def _setter(done: threading.Event) -> Callable[..., None]:
    return lambda *_: done.set()


def _import_opendht() -> Any:
    try:
        return importlib.import_module("opendht")
    except ImportError as error:
        raise MissingLibrary(
            f"the hash table needs OpenDHT's Python binding, which cannot be imported here: {error}",
            "pip install 'mydht-tunnel[dht]'; or Debian's python3-opendht, for the system's Python",
        ) from error

"""An in-memory substitute for the part of OpenDHT's binding that the directory uses.

For systems without OpenDHT, and for values that only a hostile node would put into a real table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import sha1

from tests.support.network import PATIENCE_S

__all__ = ["FakeDht"]


class _Value:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data


class _InfoHash:
    @staticmethod
    def get(key: str) -> bytes:
        return sha1(key.encode()).digest()


class _Address:
    def getPort(self) -> int:
        return 4222


class FakeDht:
    """Stands in for the module `opendht`.

    Attributes:
        table: values by key, in the order in which they were put.
        asked: every key that was looked up.
        is_up: whether puts succeed.
        on_put: called at the start of each put.
    """

    Value = _Value
    InfoHash = _InfoHash

    def __init__(self) -> None:
        self.table: dict[bytes, list[bytes]] = {}
        self.asked: list[bytes] = []
        self.is_up = True
        self.on_put: Callable[[], None] = lambda: None
        self.runners = 0
        self._changed = threading.Condition()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked at each put and lookup. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S)

    def tell(self) -> None:
        """Check the conditions: there was a put or a lookup."""
        with self._changed:
            self._changed.notify_all()

    def DhtRunner(self) -> _Runner:
        self.runners += 1
        return _Runner(self)


class _Runner:
    """Answers each call from a new thread, as the real one does."""

    def __init__(self, dht: FakeDht) -> None:
        self._dht = dht
        self._threads: list[threading.Thread] = []

    def run(self, port: int = 0) -> None: ...

    def bootstrap(self, host: str, port: str) -> None: ...

    def getBound(self) -> _Address:
        return _Address()

    def put(self, key: bytes, value: _Value, done: Callable[[bool, list[object]], None]) -> None:
        self._dht.on_put()
        if self._dht.is_up:
            self._dht.table.setdefault(key, []).append(value.data)
        self._in_thread(lambda: done(self._dht.is_up, []))

    def get(
        self, key: bytes, get_cb: Callable[[_Value], bool], done_cb: Callable[[bool, list[object]], None]
    ) -> None:
        self._dht.asked.append(key)
        values = list(self._dht.table.get(key, []))

        def answer() -> None:
            for data in values:
                if not get_cb(_Value(data)):
                    break
            done_cb(True, [])

        self._in_thread(answer)

    def shutdown(self, done: Callable[[], None]) -> None:
        self._in_thread(done)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._dht.runners -= 1

    def _in_thread(self, call: Callable[[], None]) -> None:
        self._dht.tell()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=call)
        self._threads.append(thread)
        thread.start()

"""No text that this project writes shows a secret: `repr` and `str` of objects, errors, the log at any level.

Two checks. The first reads the classes: a field with the name of a secret is not shown. The second looks at
every object of a network at work, and searches their texts for the secrets that these objects hold.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import logging
import pkgutil
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import reactor
import readwrite_comp
import tunnel
from reactor import Service, Signal
from tests.support.network import PATIENCE_S, wait_until
from tunnel import LocalNetwork, QueryFailed, ReplyMode
from tunnel.identity.client_key import ClientKey
from tunnel.identity.keys import NodeKeys
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.onion.key_schedule import StatusKeys
from tunnel.services import Query, Reply

PACKAGES = (tunnel, reactor, readwrite_comp)

SECRET = re.compile(
    r"(^|_)(seeds?|private|secret|identity|home|table|password|login|mac|trail|pad|signature|ticket|answer"
    r"|send_key|receive_key|chaining_key|header|content|next_id|end_to_end_seed|master_seed)$"
)
"""Names of fields with secrets, and with what belongs to users or shows a route."""

HELD = re.compile(
    r"^_?(seeds?|private|identity|home|table|password|mac|trail|pad|send_key|receive_key|chaining_key"
    r"|end_to_end_seed|master_seed|key)$"
)
"""Names of attributes whose bytes the second check searches for."""

PUBLIC = {
    ("Puzzle", "answer"): "it is sent in the clear",
    ("FilesClient", "table"): "not bytes",
    ("ReadResult", "content"): "of the test kit",
}


def classes() -> Iterator[type]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    names = {package.__name__ for package in PACKAGES}
    for name, found in sorted(sys.modules.items()):
        if name.split(".")[0] in names:
            yield from (
                each for each in vars(found).values() if inspect.isclass(each) and each.__module__ == name
            )


def test_a_field_with_the_name_of_a_secret_is_not_shown() -> None:
    shown, checked = set(), 0
    for kind in classes():
        fields: tuple[Any, ...] = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        for field in fields:
            if not SECRET.search(field.name) or not re.search("bytes|Content|Login", str(field.type)):
                continue
            checked += 1
            if field.repr and kind.__repr__.__qualname__ != f"{kind.__name__}.__repr__":
                shown.add((kind.__name__, field.name))
    assert checked > 25, "the search finds the classes"
    assert shown - set(PUBLIC) == set()


def secret_forms(value: bytes) -> list[str]:
    return [repr(value)[2:-1], value.hex(), str(list(value))[1:-1]]


def test_texts_of_keys() -> None:
    keys, client = NodeKeys.generate(1_800_000_000), ClientKey.generate()
    status = StatusKeys.derive(bytes(range(16)))
    secrets = [
        *(keys.identity, keys.link, keys.home, keys.onion.private, keys.onion.table),
        *(client.seed, status.mac, status.trail, status.pad),
    ]
    for shown in (keys, [keys], {"keys": keys}, keys.onion, client, (client,), status):
        for text in (repr(shown), str(shown), f"{shown}"):
            assert not any(form in text for secret in secrets for form in secret_forms(secret)), text


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                yield name, getattr(thing, name)


def secrets_and_texts() -> tuple[set[bytes], dict[str, str]]:
    """The secrets that all objects of this project hold, and the texts of these objects."""
    secrets: set[bytes] = set()
    texts: dict[str, str] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if not str(getattr(kind, "__module__", "")).startswith(("tunnel", "reactor", "readwrite_comp")):
            continue
        for name, value in attributes(thing):
            for each in value if isinstance(value, tuple | list) else (value,):
                if HELD.match(name) and isinstance(each, bytes) and len(each) >= 16 and any(each):
                    secrets.add(each)
        for text in (repr(thing), str(thing)):
            texts[text] = kind.__name__
    return secrets, texts


@pytest.mark.full
def test_texts_of_a_network_at_work(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    content = b"what the user asks for, and nobody else is to read"

    def slow(query: Query, reply: Reply) -> Service[None]:
        asked = b""
        while piece := (yield from query.read()):
            asked += piece
        if asked == b"fail":
            raise ValueError("a service that fails")
        yield from reply.write(asked)
        yield Signal()  # never set: the queries stay open until they are cancelled

    def use(opened: NodeTunnel) -> Service[None]:
        yield from opened.send(content)
        yield from opened.receive()

    with LocalNetwork(peers=7, service=slow) as net:
        errors = []
        for mode in (ReplyMode.ROUTE, ReplyMode.CACHED):
            with pytest.raises(QueryFailed) as caught:
                net[0].query(net[6].id, b"fail", hops=2, mode=mode).result(PATIENCE_S)
            errors += [caught.value, caught.value.__cause__]
        running: list[Future[Any]] = [
            net[0].query(net[6].id, content, hops=2, mode=mode)
            for mode in ReplyMode
            if mode is not ReplyMode.ESTABLISHED
        ]
        running.append(net[0].tunnel(net[6].id, use, hops=2))
        wait_until(net, lambda: net[6].counters.answer_bytes_in or net[6].open_streams >= len(running))

        def look() -> Service[tuple[set[bytes], dict[str, str]]]:
            yield from ()
            return secrets_and_texts()

        secrets, texts = net.submit(look()).result(PATIENCE_S)

        for each in running:
            each.cancel()
    texts |= {text: type(error).__name__ for error in errors for text in (repr(error), str(error))}
    texts[caplog.text] = "the log"
    assert len(secrets) > 50
    forms = {form for secret in secrets for form in secret_forms(secret)} | set(secret_forms(content))
    found = {name for text, name in texts.items() if any(form in text for form in forms)}
    assert found == set()

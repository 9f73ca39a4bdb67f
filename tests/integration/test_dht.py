"""The directory over OpenDHT: with the real library if it is installed, and with a table in memory."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reactor import ReactorThread
from tests.support.fake_dht import FakeDht
from tests.support.leaks import no_leaks
from tests.support.network import PATIENCE_S, wait_until
from tests.support.strangers import strangers
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits
from tunnel.cli import main
from tunnel.config import load_config
from tunnel.directory import DhtDirectory
from tunnel.errors import MissingLibrary
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.routing.addresses import LOCAL
from tunnel.running.configured_node import ConfiguredNode

NETWORK = b"a network of its"
HAS_OPENDHT = importlib.util.find_spec("opendht") is not None
needs_opendht = pytest.mark.skipif(
    not HAS_OPENDHT, reason="opendht cannot be imported: it is in the extra dht"
)


@pytest.fixture
def dht() -> Iterator[FakeDht]:
    fake = FakeDht()
    yield fake
    assert fake.runners == 0, "a directory was left open"


def _directory(dht: FakeDht) -> DhtDirectory:
    return DhtDirectory(
        engine=OPENSSL, network_id=NETWORK, rules=LOCAL, refresh_s=0.05, soon_s=0.01, module=dht
    )


def _descriptor(
    keys: NodeKeys | None = None, at_s: float = 0, *, host: str | None = "127.0.0.1"
) -> Descriptor:
    keys = keys or NodeKeys.generate(time.time())
    addresses = () if host is None else (Address(host, 4000),)
    return keys.descriptor(addresses, time.time() + at_s, OPENSSL)


def test_published_descriptors_are_learned_and_the_newest_wins(dht: FakeDht) -> None:
    keys = NodeKeys.generate(time.time())
    old, new = _descriptor(keys), _descriptor(keys, 5)
    with no_leaks():
        left, right = _directory(dht), _directory(dht)
        try:
            left.publish(old)
            dht.wait_until(lambda: right.lookup(old.node_id) == old)
            left.publish(new)
            dht.wait_until(lambda: right.lookup(old.node_id) == new)
            # The table still has the old one, and returns it repeatedly.
            asked = len(dht.asked)
            dht.wait_until(lambda: len(dht.asked) > asked + 64)
            assert right.lookup(old.node_id) == new
            assert list(right) == [new]
            assert right.sample() == [], "a hash table proves nothing: nobody has dialled it"
        finally:
            left.close()
            right.close()
            right.close()


def test_a_descriptor_published_during_a_put_is_put_too(dht: FakeDht) -> None:
    keys = NodeKeys.generate(time.time())
    old, new = _descriptor(keys), _descriptor(keys, 5)
    directory = _directory(dht)

    def publish_once() -> None:
        dht.on_put = lambda: None
        directory.publish(new)

    try:
        dht.on_put = publish_once
        directory.publish(old)
        dht.wait_until(lambda: any(new.signed in values for values in dht.table.values()))
    finally:
        directory.close()


def test_forged_malformed_and_unlisted_descriptors_are_ignored(dht: FakeDht) -> None:
    good, hidden = _descriptor(), _descriptor(host=None)
    directory = _directory(dht)
    try:
        forged = bytearray(_descriptor().signed)
        forged[-1] ^= 1
        for number in range(16):
            key = FakeDht.InfoHash.get(f"mtun1 members {NETWORK.hex()} {number}")
            dht.table[key] = [bytes(forged), b"", bytes(10_000), hidden.signed, good.signed]
        dht.wait_until(lambda: directory.lookup(good.node_id) is not None)
        assert list(directory) == [good]
        directory.publish(hidden)  # this node's own, perhaps; it is not published
        own = _descriptor()
        directory.publish(own)
        dht.wait_until(lambda: any(own.signed in values for values in dht.table.values()))
        assert sum(hidden.signed in values for values in dht.table.values()) == 16  # those above
    finally:
        directory.close()


def test_only_the_member_lists_are_asked(dht: FakeDht) -> None:
    """A lookup sends nothing, and no key of a single node is ever asked for or stored under."""
    lists = {FakeDht.InfoHash.get(f"mtun1 members {NETWORK.hex()} {number}") for number in range(16)}
    directory = _directory(dht)
    try:
        directory.publish(_descriptor())
        assert directory.lookup(_descriptor().node_id) is None
        dht.wait_until(lambda: len(dht.asked) > 32 and bool(dht.table))
        assert set(dht.asked) == lists
        assert lists.issuperset(dht.table)
    finally:
        directory.close()


def test_a_failed_put_is_repeated(dht: FakeDht) -> None:
    dht.is_up = False
    own = _descriptor()
    directory = _directory(dht)
    try:
        directory.publish(own)
        asked = len(dht.asked)
        dht.wait_until(lambda: len(dht.asked) > asked + 16)
        assert not dht.table
        dht.is_up = True
        dht.wait_until(lambda: len(dht.table) == 1)
    finally:
        directory.close()


def test_without_the_library_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingLibrary, match="OpenDHT") as caught:
        DhtDirectory(engine=OPENSSL, network_id=NETWORK)
    assert "mydht-tunnel[dht]" in caught.value.hint


# Twenty nodes of the real library learn of each other in 3 s as a rule, and now and then not in two minutes.
@pytest.mark.parametrize(
    "kind", ["in memory", pytest.param("opendht", marks=[needs_opendht, pytest.mark.slow])]
)
@pytest.mark.full
def test_twenty_nodes_that_know_one_address_of_the_hash_table(kind: str) -> None:
    """Their directories contain only themselves at first: the test passes on no descriptor."""
    fake = FakeDht() if kind == "in memory" else None
    made: list[DhtDirectory] = []

    def make() -> DhtDirectory:
        directory = DhtDirectory(
            engine=OPENSSL,
            network_id=NETWORK,
            rules=LOCAL,
            refresh_s=2.0,
            soon_s=0.2,
            bootstrap=("127.0.0.1", made[0].port) if made else None,
            module=fake,
        )
        made.append(directory)
        return directory

    # No peer exchange: no node links to any before it has a query.
    limits = Limits(exchange_s=1000, link_tick_s=1000)
    with strangers(20, limits=limits, make_directory=make, knows_bootstrap=False) as network:
        everyone = {stranger.node.id for stranger in network.all}
        network.wait_until(
            lambda: all({peer.node_id for peer in directory.sample()} == everyone for directory in made),
            patience_s=120,
        )
        for index in range(20):
            target = network[(index + 7) % 20].id
            assert network[index].query(target, b"hello", hops=3).result(PATIENCE_S).read() == b"hello"


@pytest.mark.full
@pytest.mark.parametrize("kind", ["in memory", pytest.param("opendht", marks=needs_opendht)])
def test_a_configuration_chooses_the_hash_table_for_nodes_and_commands(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two nodes and a client without peer files, which share one address of the hash table."""
    fake = FakeDht()
    if kind == "in memory":
        monkeypatch.setitem(sys.modules, "opendht", fake)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name / "node.toml"
        path.parent.mkdir()
        path.write_text(text + f'[peers]\ndht = true\ndht_bootstrap = "{bootstrap}"\n')
        return path

    with contextlib.ExitStack() as stack:
        bootstrap = ""
        nodes: list[ConfiguredNode] = []
        for name in ("first", "second"):
            config = load_config(write(name, '[service]\nnames = ["ping"]\n'), {})
            config.state.mkdir(mode=0o700)
            NodeKeys.generate(time.time()).save(config.keys)
            thread = ReactorThread()
            node = stack.enter_context(ConfiguredNode(config, thread.reactor))
            stack.enter_context(thread)
            thread.submit(node.serve(lambda: None))
            assert isinstance(node.directory, DhtDirectory)
            nodes.append(node)
            bootstrap = bootstrap or f"127.0.0.1:{node.directory.port}"
        wait_until(thread, lambda: all(len(node.directory) == 2 for node in nodes))
        client = write("client", '[node]\nkeys = "none"\n')
        assert main(["peers", "--config", str(client), "--json"]) == 0
        peers = {peer["id"] for peer in json.loads(capsys.readouterr().out)["peers"]}
        assert node.node.id.hex() in peers
        assert len(peers) == 2
        ping = ["ping", node.node.id.hex(), "--config", str(client), "--hops", "1", "--count", "1"]
        assert main([*ping, "--json"]) == 0
    assert fake.runners == 0


def test_a_command_names_the_library_that_the_hash_table_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opendht", None)
    (tmp_path / "c.toml").write_text('[node]\nkeys = "none"\n[peers]\ndht = true\n')
    assert main(["peers", "--config", str(tmp_path / "c.toml")]) == 2
    shown = capsys.readouterr().err
    assert "error: the hash table needs OpenDHT" in shown
    assert "hint: pip install 'mydht-tunnel[dht]'" in shown


@needs_opendht
def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        with pytest.raises(OSError, match="in use"):
            DhtDirectory(engine=OPENSSL, network_id=NETWORK, port=other.getsockname()[1])

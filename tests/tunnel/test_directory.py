"""The peer list: the newest descriptor of each node, verified when it is read."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ENGINES, NOW_S, OPENSSL, make_keys
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.errors import KeyFileError
from tunnel.identity.descriptor import Address, Descriptor


def descriptor(name: str, at_s: float = NOW_S) -> Descriptor:
    return make_keys(name).descriptor((Address("127.0.0.1", 80),), at_s, OPENSSL)


def test_lookup() -> None:
    directory = StaticDirectory([descriptor("a"), descriptor("b")])
    assert len(directory) == 2
    assert directory.lookup(descriptor("a").node_id) == descriptor("a")
    assert directory.lookup(descriptor("c").node_id) is None
    assert directory.lookup(b"") is None
    assert {each.node_id for each in directory} == {descriptor("a").node_id, descriptor("b").node_id}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_the_highest_sequence_number_wins(order: list[int]) -> None:
    plain = descriptor("a")
    directory = StaticDirectory(
        [replace(plain, sequence=number, expiry=at) for at, number in enumerate(order)]
    )
    found = directory.lookup(plain.node_id)
    assert found is not None
    assert found.sequence == max(order)
    assert len(directory) == 1
    # Of equal ones the last: a node that signs twice within a second means the second.
    assert found.expiry == max(at for at, number in enumerate(order) if number == max(order))


def test_forgotten_nodes_are_unknown() -> None:
    directory = StaticDirectory([descriptor("a"), descriptor("b")])
    directory.forget(descriptor("a").node_id)
    directory.forget(descriptor("a").node_id)
    assert [each.node_id for each in directory] == [descriptor("b").node_id]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_round_trip(tmp_path: Path, engine: TunnelEngine) -> None:
    path = tmp_path / "peers"
    every = [descriptor(name) for name in "abc"]
    StaticDirectory(every).save(path)
    assert list(StaticDirectory.load(path, engine)) == every
    assert path.read_text().startswith("# ")


def test_comments_blank_lines_and_older_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    lines = [base64.b64encode(descriptor("a", at).signed).decode() for at in (NOW_S, NOW_S + 5, NOW_S - 5)]
    path.write_text("# peers\n\n" + "\n   \n# more\n".join(lines))
    (found,) = StaticDirectory.load(path, OPENSSL)
    assert found == descriptor("a", NOW_S + 5)


def test_an_empty_file_and_an_empty_directory(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    path.write_text("")
    assert len(StaticDirectory.load(path, OPENSSL)) == 0
    StaticDirectory().save(path)
    assert len(StaticDirectory.load(path, OPENSSL)) == 0


GOOD = base64.b64encode(descriptor("a").signed).decode()


@pytest.mark.parametrize(
    "line",
    ["x", "====", "????", GOOD[:-4], GOOD[:-1], " " + GOOD, GOOD + "AAAA", "AAAA", GOOD.lower()],
    ids=lambda line: f"{len(line)} {line[:4]}",
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peers"
    path.write_text(f"# one\n{GOOD}\n{line}\n")
    with pytest.raises(KeyFileError) as caught:
        StaticDirectory.load(path, OPENSSL)
    assert f"{path}, line 3" in str(caught.value)


def test_a_forged_descriptor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    forged = bytearray(descriptor("a").signed)
    forged[50] ^= 1
    path.write_text(base64.b64encode(forged).decode())
    with pytest.raises(KeyFileError, match=r"line 1.*not signed"):
        StaticDirectory.load(path, OPENSSL)


@pytest.mark.parametrize("content", [b"\xff", "é".encode(), b"\0"], ids=repr)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=str(path)):
        StaticDirectory.load(path, OPENSSL)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeyFileError, match=str(path)):
            StaticDirectory.load(path, OPENSSL)


@given(st.text(max_size=60))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("directory") / "peers"
    path.write_text(text, encoding="utf-8")
    try:
        directory = StaticDirectory.load(path, OPENSSL)
    except KeyFileError:
        return
    assert len(directory) == 0

"""The documents agree with the code: errors, lengths, limits, codes, sections named in docstrings."""

from __future__ import annotations

import ast
import re
from enum import Enum
from pathlib import Path

import pytest

import reactor.errors
import readwrite_comp.errors
import tunnel.errors
from tunnel.codes import CODES
from tunnel.errors import ErrorCode
from tunnel.geometry import (
    ALL_PROFILES,
    DEFAULT,
    GEOMETRIES,
    INTERACTIVE,
    MAX_BLOCKS,
    MAX_BLOCKS_BYTES,
    padme,
)
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES
from tunnel.identity.key_ring import EARLY_ROTATION_S, FULL_ROTATION_S, KEEP_PREVIOUS_S
from tunnel.identity.keys import EPOCH_S
from tunnel.link.cells import CELL_HEAD_BYTES, CELLS, CellType
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES, MAX_BITS
from tunnel.link.records import MAX_RECORD_BYTES, RECORD_OVERHEAD, REKEY_AFTER, record_bytes_for
from tunnel.link.scheduler import MIN_FIXED_UNITS
from tunnel.link.stream import TRANSITIONS, Half
from tunnel.link.stream_table import MuxLimits
from tunnel.link.turns import HEADERS_PER_S
from tunnel.modes import ERROR_MODES, MODES
from tunnel.node.limits import Limits
from tunnel.onion.header import CLOCK_SKEW_S
from tunnel.onion.message import ChunkType
from tunnel.onion.message_head import HeadFlag

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
PACKAGES = {"tunnel": tunnel.errors, "readwrite_comp": readwrite_comp.errors, "reactor": reactor.errors}


def _section(document: str, title: str) -> str:
    """The text from a heading to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", document, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def _rows(document: str, title: str, *first: str) -> list[dict[str, str]]:
    """The rows of the table in a section whose first columns are named `first`, by column name."""
    lines = iter(_section(document, title).splitlines())
    start = "| " + " | ".join(first)
    names = next(_cells(line) for line in lines if line.startswith(start))
    assert set(next(lines)) <= set("|- ")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip()[1:-1].split("|")]


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _classes(package: str) -> dict[str, type[BaseException]]:
    module = PACKAGES[package]
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_error_is_explained_and_no_other(package: str) -> None:
    rows = {row["class"]: row for row in _rows(ERRORS, f"Package {package}", "class")}
    classes = _classes(package)
    assert rows.keys() == classes.keys()
    for name, row in rows.items():
        parents = [parent.strip().strip("`") for parent in row["is a"].split(",")]
        assert parents == [parent.__name__ for parent in classes[name].__bases__], name
        assert row["meaning"], name
        code = getattr(classes[name], "code", None)
        if isinstance(code, ErrorCode) and "code" in vars(classes[name]) and name != "PeerError":
            assert row["meaning"].startswith(code.name), name


def test_every_error_class_is_in_the_public_list() -> None:
    for package, module in PACKAGES.items():
        defined = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
        }
        assert defined == _classes(package).keys()


@pytest.mark.parametrize(
    ("document", "title"),
    [(ERRORS, "Codes"), (PROTOCOL, "Error codes")],
    ids=["errors", "protocol"],
)
def test_every_code_is_explained(document: str, title: str) -> None:
    rows = _rows(document, title, "code", "name")
    assert [(_number(row["code"]), row["name"]) for row in rows] == [(code, code.name) for code in ErrorCode]
    assert all(row["meaning"] for row in rows)


def test_the_table_of_codes_is_that_of_the_code() -> None:
    assert list(CODES) == list(ErrorCode)
    for row, entry in zip(_rows(ERRORS, "Codes", "code", "name"), CODES.values(), strict=True):
        assert (row["meaning"], row["where"], row["what to do"]) == (
            entry.meaning,
            entry.location.value,
            entry.advice,
        )
        assert row["who sends it"]
        assert row["again?"] == ("yes" if entry.may_pass else "no")
        assert row["suspects"] == entry.suspects


def test_the_lengths_of_a_status() -> None:
    rows = {_number(row["N"]): row for row in _rows(PROTOCOL, "Status", "N")}
    assert rows.keys() == {geometry.slots for geometry in GEOMETRIES.values()}
    for geometry in GEOMETRIES.values():
        row = {name: _number(value) for name, value in rows[geometry.slots].items()}
        assert row["attribution MACs"] == geometry.attribution_bytes
        assert row["STATUS bytes"] == geometry.status_bytes
        assert row["body"] + row["hold times"] + row["attribution MACs"] == row["STATUS bytes"]


def test_the_chunks_of_an_established_tunnel() -> None:
    named = {row["chunk"] for row in _rows(PROTOCOL, "Established tunnels", "chunk")}
    assert named == {kind.name for kind in ChunkType} - {"STATUS"}


def test_each_length_of_the_profile_table_follows_from_the_geometry() -> None:
    rows = _rows(PROTOCOL, "Profiles", "geometry")
    assert len(rows) == len(GEOMETRIES)
    for row in rows:
        geometry = GEOMETRIES[_number(row["geometry"])]
        assert row == {
            "geometry": f"{geometry.code}",
            "name": geometry.name,
            "N": f"{geometry.slots:,}",
            "C": f"{geometry.chunk_bytes:,}",
            "header bytes": f"{geometry.header_bytes:,}",
            "data bytes": f"{geometry.chunk_data_bytes:,}",
            "chunk units": f"{record_bytes_for(CELL_HEAD_BYTES + geometry.chunk_bytes) // 1024:,}",
            "header units": f"{record_bytes_for(CELL_HEAD_BYTES + geometry.header_bytes) // 1024:,}",
            "reply block bytes": f"{geometry.reply_block_bytes:,}",
            "max proxies": f"{geometry.max_proxies:,}",
            "max reply blocks": f"{min(MAX_BLOCKS, MAX_BLOCKS_BYTES // geometry.reply_block_bytes):,}",
        }
        assert (geometry.chunk_bytes + CELL_HEAD_BYTES + RECORD_OVERHEAD) % 1024 == 0


def test_the_padme_rule_as_it_is_written() -> None:
    for count in [*range(1, 3000), *(2**k + d for k in range(12, 60) for d in (-1, 0, 1))]:
        exponent = count.bit_length() - 1
        bits = exponent.bit_length()  # floor(log2 e) + 1, and 0 for 0
        step = 2 ** (exponent - bits) if count > 1 else 1
        assert padme(count) == -(-count // step) * step
    assert [padme(n) for n in (8, 9, 100, 1_000)] == [8, 10, 104, 1_024]


def test_the_other_lengths_that_the_text_names() -> None:
    for title, text in [
        ("Link handshake", f"responder, {M1_BYTES} bytes"),
        ("Link handshake", f"initiator, {M2_BYTES} bytes"),
        ("Link handshake", f"responder, {M3_BYTES} bytes"),
        ("Descriptor", f"to {MAX_DESCRIPTOR_BYTES} bytes"),
        ("Link record", f"record {REKEY_AFTER:,},"),
        ("Link cells", f"1 to {MAX_RECORD_BYTES - RECORD_OVERHEAD - CELL_HEAD_BYTES:,} bytes"),
        ("Message head", f"at most {MAX_BLOCKS_BYTES:,} bytes together"),
    ]:
        assert text in _section(PROTOCOL, title), text


def test_cell_and_chunk_types() -> None:
    cells = {_number(row["type"]): row["name"] for row in _rows(PROTOCOL, "Link cells", "type", "name")}
    assert cells == {int(cell): cell.name.replace("_", "-") for cell in CellType}
    chunks = ", ".join(f"{int(chunk)} {chunk.name}" for chunk in ChunkType)
    assert f"| {chunks}." in _section(PROTOCOL, "Content chunk")


def test_the_link_cells_table_is_that_of_the_code() -> None:
    rows = {_number(row["type"]): row for row in _rows(PROTOCOL, "Link cells", "type", "name")}
    for number, rule in enumerate(CELLS):
        row = rows[number]
        if rule is None:
            continue
        least = {(True, False): "≥ 1", (True, True): "≥ 0", (False, True): "0"}[rule.of_stream, rule.of_link]
        assert row["stream"] == least, rule.name
        if rule.min_bytes != rule.max_bytes:
            assert row["payload"] == f"{rule.min_bytes} to {rule.max_bytes:,} bytes", rule.name


def test_the_states_table_is_that_of_the_code() -> None:
    rows = {(row["half"], row["state"]): row for row in _rows(PROTOCOL, "Streams", "half", "state")}
    names = {
        Half.FORWARD_OPEN: ("forward", "open"),
        Half.FORWARD_ENDED: ("forward", "ended"),
        Half.BACKWARD_OPEN: ("backward", "open"),
        Half.BACKWARD_STATUS_DUE: ("backward", "status due"),
        Half.BACKWARD_ENDED: ("backward", "ended"),
    }
    assert rows.keys() == set(names.values())
    for half, name in names.items():
        for kind in (CellType.DATA, CellType.FIN, CellType.STATUS):
            after = TRANSITIONS[half].get(kind)
            word = "refused" if after is None else "stays" if after is half else names[after][1]
            assert rows[name][kind.name] == word, (name, kind.name)


def test_the_numbers_of_credit_and_puzzle() -> None:
    limits = MuxLimits()
    for title, text in [
        ("Credit", f"up to {limits.max_window_bytes:,} bytes"),
        ("Credit", f"(here {limits.window_bytes:,} bytes: {limits.max_streams:,} streams"),
        ("Padding", f"one size, {MIN_FIXED_UNITS} to 63 units"),
        ("Link handshake", f"d, 1 to {MAX_BITS}"),
    ]:
        assert text in " ".join(_section(PROTOCOL, title).split()), text
    grown = 4 * (limits.max_window_bytes - DEFAULT.window_bytes)
    assert limits.max_streams * DEFAULT.window_bytes + grown <= limits.window_bytes


def test_the_limits_table_is_that_of_the_code() -> None:
    limits = Limits()
    rows = {row["limit"]: row["default"] for row in _rows(PROTOCOL, "Life of a link", "limit")}
    # The limits of established tunnels are in their own section.
    names = set(limits.__slots__) - {"tunnel"}
    assert rows == {name: _shown(getattr(limits, name)) for name in names}


def _shown(value: float | Enum) -> str:
    return value.name.lower() if isinstance(value, Enum) else f"{value:,g}" if value < 1e6 else f"{value:,}"


def test_the_modes_are_those_of_the_tables_in_the_code() -> None:
    yes = {True: "yes", False: "no"}
    reply_modes = {
        mode.value: {
            "reply blocks": str(row.reply_blocks),
            "backward content": yes[row.backward_content],
            "names Alice": yes[row.names_alice],
            "reply carries blocks": yes[row.replies_carry_blocks],
        }
        for mode, row in MODES.items()
    }
    error_modes = {
        mode.value: {"proxies' flags": str(row.proxy_flags), "last slot's flags": str(row.dest_flags)}
        for mode, row in ERROR_MODES.items()
    }
    for title, modes in [("Reply modes", reply_modes), ("Error modes", error_modes)]:
        rows = {row.pop("mode"): row for row in _rows(PROTOCOL, title, "mode")}
        assert list(rows) == list(modes)
        for mode, row in rows.items():
            assert all(row.values()), f"an empty cell of {mode}"
            assert modes[mode].items() <= row.items()


def test_the_flags_of_a_head_and_the_profiles_are_named() -> None:
    section = _section(PROTOCOL, "Message head")
    for flag in HeadFlag:
        assert f"bit {flag.bit_length() - 1} {flag.name}" in section
    assert [profile.byte for profile in ALL_PROFILES] == [1, 2, 3, 4, 5, 17, 18, 19, 20, 21]
    assert "1 to 5 and 17 to 21" in _section(PROTOCOL, "Profiles")
    assert f"{4 * INTERACTIVE.chunk_data_bytes:,}" in _section(PROTOCOL, "Profiles")


def test_the_times_and_the_rate_of_the_text() -> None:
    epochs = _section(PROTOCOL, "Onion key epochs")
    for seconds in (EPOCH_S, KEEP_PREVIOUS_S, EARLY_ROTATION_S, FULL_ROTATION_S, CLOCK_SKEW_S):
        assert f"{seconds:,} s" in epochs
    fast, slow = HEADERS_PER_S["openssl"], HEADERS_PER_S["pycryptodome"]
    assert f"{fast:,} a second, {slow:,} with the slower engine" in " ".join(PROTOCOL.split())


def test_each_section_that_a_docstring_names_is_there() -> None:
    headings = set(re.findall(r"^#+ (.*)$", PROTOCOL, re.MULTILINE))
    named = 0
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = re.sub(r"\s+(# )?", " ", path.read_text(encoding="utf-8"))
            for places in re.findall(r'docs/protocol\.md, ("[^"]+"(?: and "[^"]+")*)', text):
                for title in re.findall(r'"([^"]+)"', places):
                    assert title in headings, f"{path.name} names the section {title!r}"
                    named += 1
    assert named >= 15


def test_each_place_that_the_architecture_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`([\w./]+(?:/|\.py))(?::([\w.]+))?`", page))
    missing = [
        f"{path}:{name}" if name else path
        for path, name in sorted(places)
        if not (ROOT / path).exists() or (name and name not in _defined_in(ROOT / path))
    ]
    assert not missing
    assert len(places) > 80


def _defined_in(path: Path) -> set[str]:
    """The functions and classes of a module, and the members of its classes as Class.member."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (each for each in node.body if isinstance(each, ast.FunctionDef))
            found |= {f"{node.name}.{member.name}" for member in members}
    return found


def test_each_link_of_a_document_leads_to_a_file() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "newsfragments" / "README.md"]
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(links) > 30
    assert not [
        f"{document.name}: {target}" for document, target in links if not (document.parent / target).exists()
    ]

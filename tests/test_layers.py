"""The import rules of the architecture, read from the code itself.

readwrite_comp knows no socket, clock or thread; reactor knows no tunnel and no cipher; inside tunnel all
that decides about bytes is free of sockets and clocks, and only tunnel/node joins it to the reactor. Crypto
libraries are named in two modules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CRYPTO = {"Crypto", "cryptography", "nacl", "OpenSSL", "ssl"}
OUTSIDE = {"socket", "select", "selectors", "ssl", "asyncio", "threading", "concurrent", "time", "subprocess"}
# The parts of tunnel that turn bytes into bytes: time and randomness are arguments there.
BYTES_ONLY = (
    "addresses",
    "cover",
    "codes",
    "descriptor",
    "engine",
    "errors",
    "established",
    "geometry",
    "guards",
    "link",
    "modes",
    "onion",
    "outgoing",
    "primitives",
    "reports",
    "tunnel",
    "tunnel_reader",
    "way_builder",
)
# What joins bytes to sockets, clocks and threads.
JOINS = ("node", "cli", "client", "control", "local_network", "services", "__init__", "__main__")
MAY_NAME_CRYPTO = {"readwrite_comp/primitives.py", "tunnel/primitives.py"}


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, dotted; relative imports made absolute."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield ".".join(part for part in (base, node.module or "") if part)


def _tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


@pytest.mark.parametrize("path", _files("readwrite_comp"), ids=lambda path: path.stem)
def test_layers_import_the_standard_library_only(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"readwrite_comp"}
    if str(path.relative_to(ROOT)) in MAY_NAME_CRYPTO:
        allowed |= CRYPTO
    assert _tops(path) <= allowed
    assert not _tops(path) & OUTSIDE


@pytest.mark.parametrize("path", _files("reactor"), ids=lambda path: path.stem)
def test_reactor_imports_the_standard_library_only(path: Path) -> None:
    assert _tops(path) <= set(sys.stdlib_module_names) | {"reactor"}
    assert not _tops(path) & CRYPTO


@pytest.mark.parametrize("path", _files("tunnel"), ids=lambda path: str(path.relative_to(ROOT / "tunnel")))
def test_tunnel_keeps_bytes_apart_from_the_world(path: Path) -> None:
    relative = path.relative_to(ROOT)
    top = relative.parts[1].removesuffix(".py")
    allowed = set(sys.stdlib_module_names) | {"tunnel", "reactor", "readwrite_comp"}
    if str(relative) in MAY_NAME_CRYPTO:
        allowed |= CRYPTO
    assert _tops(path) <= allowed
    if top in BYTES_ONLY:
        assert not _tops(path) & (OUTSIDE | {"reactor"})
        joined = {
            name for name in _imports(path) if name.startswith(tuple(f"tunnel.{part}" for part in JOINS))
        }
        assert not joined


def test_the_rules_cover_every_module() -> None:
    parts = {path.relative_to(ROOT).parts[1].removesuffix(".py") for path in _files("tunnel")}
    # Files and choice: no socket, and not bytes alone.
    neutral = {"config", "disk", "state_dir", "keys", "key_ring", "private_file", "directory", "route"}
    assert parts == set(BYTES_ONLY) | set(JOINS) | neutral


def test_nothing_points_back() -> None:
    for package, forbidden in [
        ("readwrite_comp", {"reactor", "tunnel"}),
        ("reactor", {"readwrite_comp", "tunnel"}),
    ]:
        for path in _files(package):
            assert not _tops(path) & forbidden, path


def test_files_hold_one_idea() -> None:
    long = {str(path.relative_to(ROOT)): count for path in (ROOT).glob("*/**/*.py")
            if path.relative_to(ROOT).parts[0] in ("reactor", "readwrite_comp", "tunnel")
            and (count := len(path.read_text(encoding="utf-8").splitlines())) > 700}  # fmt: skip
    assert not long

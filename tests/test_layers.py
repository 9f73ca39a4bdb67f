"""The import rules of the architecture, read from the code itself.

readwrite_comp knows no socket, clock or thread; reactor knows no tunnel and no cipher; inside tunnel all
that decides about bytes is free of sockets and clocks, and only tunnel/node joins it to the reactor. Crypto
libraries are named in two modules. Tests use public names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("reactor", "readwrite_comp", "tunnel")
CRYPTO = {"Crypto", "cryptography", "nacl", "OpenSSL", "ssl"}
OUTSIDE = {"socket", "select", "selectors", "ssl", "asyncio", "threading", "concurrent", "time", "subprocess"}
# The parts of tunnel that turn bytes into bytes: time and randomness are arguments there.
BYTES_ONLY = (
    "arguments",
    "codes",
    "crypto",
    "errors",
    "established",
    "front/handshake",
    "front/targets",
    "geometry",
    "identity/descriptor",
    "link",
    "modes",
    "onion",
    "routing/addresses",
    "routing/guards",
)
# The parts that join bytes to sockets, clocks and threads.
JOINS = ("node", "cli", "client", "control", "local_network", "running", "services", "__init__", "__main__")
# More than bytes, but no sockets of their own: files, random choice, and the rest of the front.
NEUTRAL = ("config", "disk", "identity", "directory", "routing", "front")
MAY_NAME_CRYPTO = {"readwrite_comp/primitives.py", "tunnel/crypto/primitives.py"}


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


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported_files(path: Path, modules: Collection[str]) -> Iterator[str]:
    """Those of `modules` that a file imports, or imports names from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from {name if name in modules else str(node.module)} & {*modules}
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & {*modules}


def _tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def _offences(package: str, *, allowed: set[str], forbidden: set[str]) -> dict[str, set[str]]:
    """The imports of a package other than the standard library and `allowed`, and those in `forbidden`."""
    found = {}
    for path in _files(package):
        name, tops = str(path.relative_to(ROOT)), _tops(path)
        own = allowed | (CRYPTO if name in MAY_NAME_CRYPTO else set())
        found[name] = (tops - own - set(sys.stdlib_module_names)) | (tops & forbidden)
    assert len(found) > 10, "the package was not looked into"
    return {name: imports for name, imports in found.items() if imports}


def test_layers_import_the_standard_library_only() -> None:
    assert _offences("readwrite_comp", allowed={"readwrite_comp"}, forbidden=OUTSIDE) == {}


def test_reactor_imports_the_standard_library_only() -> None:
    assert _offences("reactor", allowed={"reactor"}, forbidden=CRYPTO) == {}


def test_tunnel_imports_the_standard_library_and_the_other_packages_only() -> None:
    assert _offences("tunnel", allowed={"tunnel", "reactor", "readwrite_comp"}, forbidden=set()) == {}


def test_byte_state_machines_import_no_socket_clock_or_thread() -> None:
    joins = tuple(f"tunnel.{part}" for part in JOINS)
    found = {}
    for path in _files("tunnel"):
        relative = path.relative_to(ROOT)
        within = str(relative.relative_to("tunnel")).removesuffix(".py") + "/"
        if within.startswith(tuple(f"{part}/" for part in BYTES_ONLY)):
            found[str(relative)] = _tops(path) & (OUTSIDE | {"reactor"})
            found[str(relative)] |= {name for name in _imports(path) if name.startswith(joins)}
    assert len(found) > 30, "the package was not looked into"
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_the_rules_cover_every_module() -> None:
    parts = {path.relative_to(ROOT).parts[1].removesuffix(".py") for path in _files("tunnel")}
    named = {part.split("/")[0] for part in (*BYTES_ONLY, *JOINS, *NEUTRAL)}
    assert parts == named


def test_nothing_points_back() -> None:
    for package, forbidden in [
        ("readwrite_comp", {"reactor", "tunnel"}),
        ("reactor", {"readwrite_comp", "tunnel"}),
    ]:
        for path in _files(package):
            assert not _tops(path) & forbidden, path


def test_the_core_of_the_reactor_knows_nothing_built_on_it() -> None:
    rooms = ("reactor.sync", "reactor.io", "reactor.run")
    found = {path.name: [name for name in _imports(path) if name.startswith(rooms)]
             for path in _files("reactor/core")}  # fmt: skip
    assert len(found) > 5, "the room was not looked into"
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_no_more_than_three_files_import_each_other() -> None:
    """Imports under TYPE_CHECKING count, because a reader follows them too."""
    files = {_module(path): path for package in PACKAGES for path in _files(package)}
    assert len(files) > 100, "the packages were not looked into"
    imports = {name: set(_imported_files(path, files.keys())) - {name} for name, path in files.items()}
    reached: dict[str, set[str]] = {}
    for name in imports:
        found, ahead = set[str](), [name]
        while ahead:
            new = imports[ahead.pop()] - found
            found |= new
            ahead += new
        reached[name] = found
    circles = {name: sorted(far for far in found if name in reached[far]) for name, found in reached.items()}
    assert {name: circle for name, circle in circles.items() if len(circle) > 3} == {}


# Room → rooms that it does not import; each folder's `__init__` states the same.
BELOW = {
    "reactor/core": ("reactor.sync", "reactor.io", "reactor.run"),
    "reactor/sync": ("reactor.io", "reactor.run"),
    "reactor/io": ("reactor.run",),
    "reactor/run": ("reactor.io",),
    "tunnel/config": ("tunnel.client", "tunnel.cli", "tunnel.control", "tunnel.running"),
    "tunnel/crypto": ("tunnel.identity", "tunnel.onion", "tunnel.link", "tunnel.node"),
    "tunnel/directory": ("reactor", "tunnel.link", "tunnel.node"),
    "tunnel/front": (
        "tunnel.client",
        "tunnel.cli",
        "tunnel.config",
        "tunnel.control",
        "tunnel.running",
    ),
    "tunnel/identity": ("reactor", "tunnel.link", "tunnel.node"),
    "tunnel/link": (
        "tunnel.onion",
        "tunnel.established",
        "tunnel.routing",
        "tunnel.directory",
        "tunnel.node",
    ),
    "tunnel/node": (
        "tunnel.client",
        "tunnel.cli",
        "tunnel.config",
        "tunnel.control",
        "tunnel.front",
        "tunnel.running",
    ),
    "tunnel/routing": ("reactor", "tunnel.link", "tunnel.node"),
    "tunnel/running": ("tunnel.client", "tunnel.cli"),
    "tunnel/services": ("tunnel.client", "tunnel.front", "tunnel.link", "tunnel.node", "tunnel.onion"),
}


def test_no_room_imports_a_room_above_it() -> None:
    offences = []
    for room, above in BELOW.items():
        files = _files(room)
        assert files, room
        for path in files:
            for name in _imports(path):
                if f"{name}.".startswith(tuple(f"{each}." for each in above)):
                    offences.append(f"{path.relative_to(ROOT)} imports {name}")
    for path in _files("tunnel"):
        if path.parts[-2] != "cli" and path.name != "__main__.py":
            uses = any(f"{name}.".startswith("tunnel.cli.") for name in _imports(path))
            offences += [f"{path.relative_to(ROOT)} imports tunnel.cli"] if uses else []
    assert not offences


def test_files_hold_one_idea() -> None:
    """Those of tests and benches too: a reader looks for one case in them."""
    files = [path for folder in (*PACKAGES, "tests", "bench", "examples") for path in _files(folder)]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files
    }
    assert {name: lines for name, lines in lengths.items() if lines > 700} == {}


MOST_BODY_LINES = 50
LONGER = {
    # Each call in it would be made for each step of each service.
    "reactor/core/loop.py:_step",
}


def test_functions_are_short() -> None:
    """Only the lines after the docstring count: a signature with many options has one option per line."""
    long = set()
    for path in (path for package in PACKAGES for path in _files(package)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                if (node.end_lineno or 0) - first.lineno >= MOST_BODY_LINES:
                    long.add(f"{path.relative_to(ROOT)}:{node.name}")
    assert long == LONGER


# Private names that tests may use: (file, name).
MAY_LOOK_INSIDE = {
    # Reproduces by hand what two threads do simultaneously.
    ("tests/reactor/test_shared_channel.py", "_claim"),
    ("tests/reactor/test_shared_channel.py", "_offer"),
    ("tests/reactor/test_shared_channel.py", "_receivers"),
    ("tests/reactor/test_shared_channel.py", "_take"),
    # A function of pycryptodome, which may change.
    ("tests/readwrite_comp/test_hctr.py", "_raw_strxor"),
}


def _private_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute of another object, import, and name that a patch gives as text.

    `super()._hook()` is none: an override calls the hook that it overrides.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                continue
            case ast.Attribute(attr=name):
                names = [name]
            case ast.ImportFrom(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr" | "object"), args=arguments):
                texts = [each.value for each in arguments[:2] if isinstance(each, ast.Constant)]
                names = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
            case _:
                continue
        yield from ((node.lineno, name) for name in names if name.startswith("_") and name[:2] != "__")


def test_tests_use_public_names() -> None:
    """State that tests read is public in its module, even if not in the API, so that a reader knows."""
    found = [
        (str(path.relative_to(ROOT)), line, name)
        for path in _files("tests")
        for line, name in _private_names(path)
    ]
    used = {(path, name) for path, _, name in found}
    assert [each for each in found if (each[0], each[2]) not in MAY_LOOK_INSIDE] == []
    assert MAY_LOOK_INSIDE - used == set(), "exceptions that no test needs any more"

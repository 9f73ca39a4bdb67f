"""Rules of inner services: files, attachments and the exit. The hostile peer is Alice, the victim is Bob."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

from tests.hostile.frames import CLOSE, OPEN, ChunkSealer, message
from tests.hostile.network import MemoryNetwork
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import Expect, Rule, answered, nothing, outside, status
from tests.hostile.rules_header import send_frame, slot_for
from tests.hostile.rules_tunnel import HostileEnd
from tunnel.errors import ErrorCode
from tunnel.services import Echo, Exit, Files, Query, Reply, Services, save_attachments
from tunnel.services.file_requests import FileStatus
from tunnel.services.files import FilesSettings

__all__ = ["RULES", "serving_network"]

_BACKWARD: Final = b"\0\x08\0\0"  # the head of a query in mode cached
_FILE: Final = b"stored before"
_DIGEST: Final = hashlib.sha256(_FILE).digest()
_PUT, _GET, _LIST, _OFFER = 1, 2, 3, 4


def serving_network() -> MemoryNetwork:
    """A network whose victim has services."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    (folder / "files").mkdir()
    (folder / "files" / "stored").write_bytes(_FILE)
    (folder / "secret").write_bytes(b"not for them")
    (folder / "files" / "way out").symlink_to(folder / "secret")

    def save(query: Query, reply: Reply) -> Generator[Any, Any, None]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield from save_attachments(query.read, Path(place))

    settings = FilesSettings(file_bytes=10_000, quota_bytes=20_000)
    services = Services(
        {"echo": Echo(), "files": Files(folder / "files", settings), "save": save},
        exit=Exit(["allow example.org 443"]),
    )
    return MemoryNetwork(service=services)


# --- files -------------------------------------------------------------------------------------------------


def _request(
    operation: int,
    name: bytes = b"new",
    size: int = 0,
    offset: int = 0,
    digest: bytes = bytes(32),
    *,
    length: int | None = None,
) -> bytes:
    head = struct.pack(">BBQQ32s", operation, len(name) if length is None else length, size, offset, digest)
    return head + name


def _ask(service: bytes, make: Callable[[HostilePeer, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    """Send a query in mode `cached`."""

    def do(peer: HostilePeer, value: Any) -> None:
        slot = slot_for(peer)
        content = bytes([len(service)]) + service + make(peer, value)
        send_frame(peer, slot, message(ChunkSealer.forward(slot.seed), _BACKWARD + content))
        peer.send_fin(stream=peer.stream)

    return do


def _put(content: bytes, size: int | None = None, digest: bytes | None = None, offset: int = 0) -> bytes:
    whole = len(content) if size is None else size
    return _request(_PUT, b"new", whole, offset, digest or hashlib.sha256(content).digest()) + content


_BAD_NAMES: Final = (
    b".",
    b"..",
    b"../secret",
    b"a/b",
    b"/etc/passwd",
    b"a\0b",
    b"\xff\xfe",
    b"a\nb",
    b"\xc0\xaf",
    b"",
)
_UNUSED: Final = "Fields that an operation does not use are zero."
_STATUS: Final = "| 0x85 | `NAME` | the node, or its file system, does not allow this name |"
_BIG: Final = (1 << 62) + 1

_MALFORMED: Final[tuple[tuple[str, str, Callable[[HostilePeer, Any], bytes], Any], ...]] = (
    (
        "operation",
        "| operation | 1 | 1 PUT, 2 GET, 3 LIST, 4 OFFER |",
        lambda _, n: _request(n),
        outside(1, 4, 8),
    ),
    (
        "cut head",
        "| operation | 1 | 1 PUT, 2 GET, 3 LIST, 4 OFFER |",
        lambda _, n: _request(_GET)[:n],
        range(1, 50),
    ),
    ("cut name", "| name length | 1 | |", lambda _, n: _request(_GET, b"x", length=n), range(2, 256)),
    (
        "name",
        "| name | | LIST: only names after this one; may be empty |",
        lambda _, name: _request(_GET, name),
        _BAD_NAMES,
    ),
    (
        "name of PUT",
        "| name | | LIST: only names after this one; may be empty |",
        lambda _, name: _request(_PUT, name),
        _BAD_NAMES,
    ),
    ("size", "Sizes are at most 2^62.", lambda _, n: _request(_PUT, size=n), range(_BIG, 1 << 63)),
    (
        "offset",
        "| offset | 8 | PUT: ",
        lambda _, n: _request(_PUT, size=10, offset=n),
        range(11, 1 << 63),
    ),
    ("GET: size", _UNUSED, lambda _, n: _request(_GET, size=n), range(1, 1 << 63)),
    ("GET: offset", "or zeros with offset 0", lambda _, n: _request(_GET, offset=n), range(1, 1 << 63)),
    ("LIST: size", _UNUSED, lambda _, n: _request(_LIST, size=n), range(1, 1 << 63)),
    ("LIST: digest", _UNUSED, lambda _, n: _request(_LIST, digest=bytes(31) + bytes([n])), range(1, 256)),
    ("OFFER: offset", _UNUSED, lambda _, n: _request(_OFFER, size=1 << 20, offset=n), range(1, 1 << 63)),
)

_REFUSED: Final[tuple[tuple[str, str, Callable[[HostilePeer, Any], bytes], FileStatus, Any], ...]] = (
    (
        "not there",
        "| 0x82 | `NOT_FOUND` | there is no such file |",
        lambda _, name: _request(_GET, name),
        FileStatus.NOT_FOUND,
        (b"new", b"way out", b"secret"),
    ),
    (
        "other content",
        "a different file of this name is stored, and is not replaced",
        lambda _, __: _request(_OFFER, b"stored", 5, 0, bytes(32)),
        FileStatus.EXISTS,
        (None,),
    ),
    (
        "too large",
        "the file exceeds a limit: its size, the total size, or the number of files",
        lambda _, n: _put(b"x", n),
        FileStatus.FULL,
        range(10_001, 1 << 62),
    ),
    (
        "resumed elsewhere",
        "offset or digest do not match the stored file: start again",
        lambda _, n: _put(b"x" * 10, 100, offset=n),
        FileStatus.CHANGED,
        range(1, 90),
    ),
    (
        "GET beyond the end",
        "offset or digest do not match the stored file: start again",
        lambda _, n: _request(_GET, b"stored", 0, n, _DIGEST),
        FileStatus.CHANGED,
        range(len(_FILE) + 1, 1 << 62),
    ),
    (
        "digest",
        "the content does not match its digest, and was removed",
        lambda _, n: _put(bytes(n), digest=b"\1" * 32),
        FileStatus.DIGEST,
        range(1, 1000),
    ),
    (
        "shorter",
        "the content is shorter than announced",
        lambda _, n: _put(bytes(n), n + 1),
        FileStatus.SIZE,
        range(1, 1000),
    ),
    (
        "longer",
        "or longer (it was removed)",
        lambda _, n: _put(bytes(n), n - 1),
        FileStatus.SIZE,
        range(2, 1000),
    ),
)


# --- attachments -------------------------------------------------------------------------------------------


def _attachment(
    name: bytes = b"a",
    content: bytes = b"content",
    *,
    length: int | None = None,
    digest: bytes = b"",
    kind: int = 1,
) -> bytes:
    piece = len(content).to_bytes(4, "big") + content if content else b""
    head = bytes([kind, len(name) if length is None else length]) + name
    return head + piece + bytes(4) + (digest or hashlib.sha256(content).digest())


_LAYOUT: Final = "length of the name (u8), name, pieces, `00000000`, SHA-256 of its content (32 bytes)"
_ATTACHMENTS: Final[tuple[tuple[str, str, Callable[[HostilePeer, Any], bytes], Any], ...]] = (
    ("kind", _LAYOUT, lambda _, n: _attachment(kind=n) + b"\0", range(2, 256)),
    ("no name", _LAYOUT, lambda _, __: _attachment(b"") + b"\0", (None,)),
    ("name", _LAYOUT, lambda _, name: _attachment(name) + b"\0", _BAD_NAMES[:-1]),
    ("twice", _LAYOUT, lambda _, __: _attachment() * 2 + b"\0", (None,)),
    ("too many", _LAYOUT, lambda _, n: b"".join(_attachment(b"%d" % i) for i in range(n)) + b"\0", (17, 20)),
    (
        "piece",
        _LAYOUT,
        lambda _, n: b"\1\1a" + n.to_bytes(4, "big") + bytes(100),
        range((1 << 20) + 1, 1 << 32),
    ),
    ("digest", _LAYOUT, lambda _, n: _attachment(digest=bytes([n]) * 32) + b"\0", range(256)),
    ("behind the end", _LAYOUT, lambda _, n: _attachment() + bytes(1 + n), range(1, 100)),
    ("cut", _LAYOUT, lambda _, n: _attachment()[:n], range(1, 40)),
)


# --- services that are not there, and the exit --------------------------------------------------------------


def _no_service(peer: HostilePeer, name: bytes) -> None:
    slot = slot_for(peer)
    send_frame(peer, slot, message(ChunkSealer.forward(slot.seed), bytes(4) + name))
    peer.send_fin(stream=peer.stream)


def _connect(peer: HostilePeer, target: bytes) -> None:
    """A sub-stream to a target that is refused: it alone ends, and the tunnel goes on."""
    end = HostileEnd(peer).establish()
    end.send(OPEN, target, 1)
    peer.network.pass_time(1.0)
    peer.look()
    closed = [chunk for chunk in end.received() if chunk[0] == CLOSE and chunk[1] == 1]
    assert closed, "the sub-stream was not refused"
    assert closed[0][2] == int(ErrorCode.TARGET_NOT_ALLOWED).to_bytes(2, "big")


def _domain(name: bytes, port: int = 443) -> bytes:
    return b"\3" + port.to_bytes(2, "big") + bytes([len(name)]) + name


def _ipv4(*parts: int, port: int = 443) -> bytes:
    return b"\1" + port.to_bytes(2, "big") + b"\4" + bytes(parts)


_TARGETS: Final = (
    _domain(b"example.com"),
    _domain(b"example.org", 80),
    _domain(b"localhost"),
    _domain(b"127.0.0.1"),
    _domain(b"127.1"),
    _domain(b"2130706433"),
    _domain(b"0x7f000001"),
    _domain(b".example.org"),
    _domain(b"a" * 255),
    _domain(b"-"),
    _ipv4(127, 0, 0, 1),
    _ipv4(169, 254, 169, 254, port=80),
    _ipv4(0, 0, 0, 0),
    _ipv4(255, 255, 255, 255),
    b"\4\1\xbb\x10" + bytes(15) + b"\1",
    b"\4\1\xbb\x10" + bytes(10) + b"\xff\xff\x7f\0\0\1",
    b"\0\0\0\x07nothing",
)


def _of(kind: str, service: bytes, rows: Any, expect: Expect) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{kind}: {name}", text, _ask(service, make), expect, values, document="docs/services.md")
        for name, text, make, values in rows
    )


RULES: Final = (
    *_of("files", b"files", _MALFORMED, status(ErrorCode.BAD_REQUEST)),
    *(
        Rule(
            f"files: {name}",
            text,
            _ask(b"files", make),
            answered(bytes([state])),
            values,
            document="docs/services.md",
        )
        for name, text, make, state, values in _REFUSED
    ),
    *_of("attachments", b"save", _ATTACHMENTS, status(ErrorCode.BAD_REQUEST)),
    Rule(
        "exit: target",
        "| TARGET_NOT_ALLOWED | the rules, a malformed name |",
        _connect,
        nothing,
        _TARGETS,
        document="docs/services.md",
    ),
    Rule(
        "services: name",
        "the far end has no service of that name",
        _no_service,
        status(ErrorCode.TARGET_NOT_ALLOWED),
        (b"\7nothing", b"\4Echo"),
    ),
)

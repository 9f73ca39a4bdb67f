"""Archives with members of negative length, which `tarfile` reads and does not write, and of many levels."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

import pytest

from tunnel.cli.folders import unpack_archive
from tunnel.errors import LocalTunnelError


def header_of(kind: bytes, length: int = 0) -> bytes:
    """A header by hand, since `tarfile` writes no negative length."""
    member = tarfile.TarInfo("member")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = length.to_bytes(12, "big", signed=True) if length else header[124:136]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("length", [-1, -512, -1_024, -(1 << 40)])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, b"V", b"S", b"x", b"g", b"L", b"K"], ids=repr
)
@pytest.mark.parametrize("before", [1, 4])
def test_an_archive_whose_members_have_negative_lengths_ends(
    tmp_path: Path, before: int, kind: bytes, length: int
) -> None:
    """Such a member leads back to an earlier one, and `tarfile` would read them again for ever."""
    path = tmp_path / "x.tar"
    path.write_bytes(before * header_of(tarfile.DIRTYPE) + header_of(kind, length) + bytes(1_024))
    with contextlib.suppress(LocalTunnelError):
        assert len(unpack_archive(path, tmp_path / "target")) <= 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("record", ["size=-1", "size=-1536", "size=-99999", "GNU.sparse.size=-1536"])
def test_an_extended_header_with_a_negative_length_ends(tmp_path: Path, record: str) -> None:
    """It replaces the length in the header behind it."""
    line = f"{len(record) + 4} {record}\n".encode()
    path = tmp_path / "x.tar"
    extended = header_of(b"x", len(line)) + line.ljust(512, b"\0")
    path.write_bytes(2 * header_of(tarfile.DIRTYPE) + 2 * (extended + header_of(b"V")) + bytes(1_024))
    with contextlib.suppress(LocalTunnelError):
        assert len(unpack_archive(path, tmp_path / "target")) <= 2


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE], ids=repr)
@pytest.mark.parametrize("is_cut", [False, True])
def test_folders_deeper_than_python_removes_are_not_made(tmp_path: Path, is_cut: bool, kind: bytes) -> None:
    """`shutil.rmtree` would raise RecursionError, and leave them."""
    path, target = tmp_path / "x.tar", tmp_path / "target"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for depth in range(200, 1_901, 100):
            member = tarfile.TarInfo("/".join("a" * depth))
            member.type, member.linkname = tarfile.DIRTYPE, "b"
            tar.addfile(member)
        member.type = kind
        tar.addfile(member)
    if is_cut:
        path.write_bytes(path.read_bytes().rstrip(b"\0"))
        with pytest.raises(LocalTunnelError):
            unpack_archive(path, target)
    else:
        assert len(unpack_archive(path, target)) == 18
        assert sum(1 for _ in target.rglob("*")) == 199
    assert not list(tmp_path.glob(".*"))

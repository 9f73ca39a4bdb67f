"""Files of another node: put, list, get. Both ends compare digests; interrupted transfers resume."""

import tempfile
from pathlib import Path

from tunnel import LocalNetwork
from tunnel.client import get, list_files, put
from tunnel.services import Echo, Files, FilesSettings, Services

folder = Path(tempfile.mkdtemp())
report = folder / "report.txt"
report.write_bytes(b"line of a long report\n" * 200_000)
files = Files(folder / "served", FilesSettings(quota_bytes=10_000_000))

with LocalNetwork(peers=6, service=Services({"files": files, "echo": Echo()})) as net:
    alice, bob = net[0], net[5].id
    stored = put(alice, bob, report, service="files").result(timeout=60)
    print(f"stored {stored.size:,} bytes, SHA-256 {stored.digest.hex()[:16]}…")
    for entry in list_files(alice, bob, service="files").result(timeout=60):
        print(f"the node stores {entry.name}, {entry.size:,} bytes")
    fetched = get(net[1], bob, "report.txt", folder / "copy.txt", service="files").result(timeout=60)
    print(f"the copy is the same: {(folder / 'copy.txt').read_bytes() == report.read_bytes()}")
    assert fetched.digest == stored.digest

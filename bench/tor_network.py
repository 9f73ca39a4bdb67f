"""A private network of C Tor on loopback, to compare with: an authority, three relays and a client.

    with TorNetwork(folder, BEST) as net:
        print(net.port, net.pids["exit"])

The client's circuits pass the three relays in order; the last one is the exit. Nothing leaves this machine:
the only authority is ours (`TestingTorNetwork 1`), and all addresses are of loopback.

Source: tor(1), "Testing network options"; the way of chutney, the test kit of the Tor project.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["BEST", "SHIPPED", "TorFailed", "TorNetwork", "tor_version"]

SHIPPED: Final[Mapping[str, str]] = {}
BEST: Final[Mapping[str, str]] = {"Schedulers": "KISTLite", "KISTSchedRunInterval": "1 msec"}
"""The configuration that is fastest on loopback, with `disable_nagle`: cells wait 1 ms for the scheduler, not
10, and 0 ms for the acknowledgement of earlier ones, not 40."""

RELAYS: Final = 3
_START_S: Final = 120.0
_LOOK_S: Final = 0.2
_READY: Final = "Bootstrapped 100%"
_PASSPHRASE: Final = b"for tests only\n"

_LIBC: Final = ctypes.CDLL(None)
_PIDFD_GETFD: Final = 438  # the number of the system call, on all architectures since Linux 5.6

_COMMON: Final = """\
TestingTorNetwork 1
RunAsDaemon 0
ShutdownWaitLength 0
Log notice file {folder}/log
DataDirectory {folder}
Address 127.0.0.1
AssumeReachable 1
PathsNeededToBuildCircuits 0.25
{authority}
"""
_RELAY: Final = """\
Nickname {name}
ORPort 127.0.0.1:{port}
ContactInfo nobody
SocksPort 0
"""
_AUTHORITY: Final = """\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
DirPort 127.0.0.1:{dir_port}
ExitPolicy reject *:*
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingAuthDirTimeToLearnReachability 0
TestingMinExitFlagThreshold 0
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
"""
_EXIT: Final = """\
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicyRejectLocalInterfaces 0
ExitPolicy accept *:*
"""
_NO_EXIT: Final = "ExitPolicy reject *:*\n"
_CLIENT: Final = """\
SocksPort 127.0.0.1:{port}
EntryNodes {entry}
MiddleNodes {middle}
ExitNodes {exit}
EnforceDistinctSubnets 0
MaxCircuitDirtiness 1 hour
LearnCircuitBuildTimeout 0
ConfluxEnabled 0
VanguardsLiteEnabled 0
"""


class TorFailed(Exception):
    """The private network did not start. The text has the end of a log."""


def tor_version() -> str | None:
    """The version of `tor`; None: it or `tor-gencert` is not installed."""
    if shutil.which("tor") is None or shutil.which("tor-gencert") is None:
        return None
    shown = subprocess.run(["tor", "--version"], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\.$", "", shown.splitlines()[0].removeprefix("Tor version "))


class TorNetwork:
    """A context manager that starts authority, relays and client, and ends them.

    Args:
        folder: an empty one, for keys and logs.
        options: of all processes, in addition; such as BEST.
    Attributes:
        port: SOCKS port of the client.
        pids: of the client, both relays and the exit.
    Raises (on entry):
        TorFailed: a process ended, or the client has no circuit in time.
    """

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self._folder = folder
        self._options = "".join(f"{name} {value}\n" for name, value in options.items())
        self._authority_line = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cleanup = ExitStack()
        self.port = 0
        self.pids: dict[str, int] = {}

    def __enter__(self) -> TorNetwork:
        with self._cleanup:
            relays = [f"relay{number}" for number in range(1, RELAYS + 1)]
            ports = _free_ports(RELAYS + 3)
            self._start_authority(*ports[:2])
            for name, port in zip(relays, ports[2:-1], strict=True):
                exits = _EXIT if name == relays[-1] else _NO_EXIT
                self._start(name, _RELAY.format(name=name, port=port) + exits)
            self.port = ports[-1]
            entry, middle, last = relays
            # A client that learns of a network without them looks again only when that is outdated.
            self._wait_for(lambda: self._are_known(relays), "authority")
            self._start("client", _CLIENT.format(port=self.port, entry=entry, middle=middle, exit=last))
            self._wait_for(lambda: _READY in self._read("client", "log"), "client")
            names = {"client": "client", "relay 1": entry, "relay 2": middle, "exit": last}
            self.pids = {name: self._processes[process].pid for name, process in names.items()}
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def disable_nagle(self) -> None:
        """Set TCP_NODELAY on all connections that stand; Tor has no option for it."""
        for process in self._processes.values():
            _disable_nagle(process.pid)

    def _start_authority(self, port: int, dir_port: int) -> None:
        folder = self._folder / "authority"
        keys = folder / "keys"
        keys.mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        _make_authority_keys(keys, dir_port)
        identity = _only(r"^fingerprint (\w{40})$", (keys / "authority_certificate").read_text("ascii"))
        relay = _RELAY.format(name="authority", port=port)
        # Each configuration has a line with its fingerprint, its own too.
        command = ["tor", "--list-fingerprint", "-f", "/dev/null", "--ignore-missing-torrc", "--quiet"]
        options = ["--ORPort", str(port), "--Nickname", "authority", "--DataDirectory", str(folder)]
        found = _run([*command, *options])
        fingerprint = _only(r"^authority ([\w ]{49})$", found)
        self._authority_line = (
            f"DirAuthority authority orport={port} v3ident={identity} 127.0.0.1:{dir_port} {fingerprint}"
        )
        self._start("authority", relay + _AUTHORITY.format(dir_port=dir_port))

    def _start(self, name: str, text: str) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True, mode=0o700)
        configuration = folder / "torrc"
        common = _COMMON.format(folder=folder, authority=self._authority_line)
        configuration.write_text(common + self._options + text, encoding="ascii")
        process = subprocess.Popen(
            ["tor", "-f", str(configuration), "--defaults-torrc", "/dev/null", "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes[name] = process
        self._cleanup.callback(_end, process)

    def _are_known(self, relays: Sequence[str]) -> bool:
        """Whether the authority has published all of them."""
        consensus = self._read("authority", "cached-microdesc-consensus")
        return all(f"\nr {name} " in consensus for name in relays)

    def _wait_for(self, condition: Callable[[], bool], name: str) -> None:
        until_s = time.monotonic() + _START_S
        while not condition():
            ended = [other for other, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > until_s:
                tails = [f"{other}: {self._read(other, 'log')[-1500:]}" for other in ended or [name]]
                raise TorFailed("\n".join(["the private network of Tor did not start:", *tails]))
            time.sleep(_LOOK_S)

    def _read(self, name: str, file: str) -> str:
        path = self._folder / name / file
        return path.read_text("utf-8", "replace") if path.exists() else ""


def _make_authority_keys(keys: Path, dir_port: int) -> None:
    names = ["authority_identity_key", "authority_signing_key", "authority_certificate"]
    places = [word for option, name in zip("isc", names, strict=True) for word in (f"-{option}", keys / name)]
    command = ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12"]
    _run([*command, *map(str, places), "-a", f"127.0.0.1:{dir_port}"])


def _disable_nagle(pid: int) -> None:
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            # A copy of the descriptor shares its socket; so its options are set from outside.
            copy = _LIBC.syscall(_PIDFD_GETFD, process, int(name), 0)
            if copy < 0:
                continue  # closed meanwhile
            if not stat.S_ISSOCK(os.fstat(copy).st_mode):
                os.close(copy)
                continue
            with socket.socket(fileno=copy) as sock:
                if sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    finally:
        os.close(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _run(command: Sequence[str]) -> str:
    ended = subprocess.run(command, input=_PASSPHRASE, capture_output=True, check=False)
    if ended.returncode:
        raise TorFailed(f"{command[0]} ended with status {ended.returncode}: {ended.stderr.decode()[-1500:]}")
    return ended.stdout.decode()


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise TorFailed(f"expected {pattern} in: {text[-1500:]}")
    return found[1]


def _free_ports(count: int) -> list[int]:
    """Free ports of loopback. Another program could take one before Tor does; then Tor ends with an error."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]

"""A node in a process of its own, as the program that started it sees it.

The child's standard input is a pipe that only its parent holds: when the parent ends, in whatever way, the
pipe ends, and the child stops in order (`mtun node --stop-at-eof`). It has a session of its own, so that
Ctrl-C reaches the parent only. Its standard output brings one JSON line when it is ready, and its end when it
ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from reactor import RunInThread, Service, Signal
from reactor.core.poller import FileDescriptor
from tunnel.cli.network import NODE_FILE

__all__ = ["ChildNode"]

_READ_BYTES = 65_536
_TAIL_BYTES = 2_000


class ChildNode:
    """One node of a network, run by `mtun up`.

    Attributes:
        name: of its folder. config, log: its files.
        ready: what it has said when it was ready; None before.
        is_settled: set when it is ready or has ended.
        status: its exit status, or minus the signal that ended it; None while it runs.
    """

    def __init__(self, folder: Path, *, verbose: int = 0) -> None:
        self.name = folder.name
        self.config = folder / NODE_FILE
        self.log = folder / "log"
        self.ready: dict[str, Any] | None = None
        self.is_settled = Signal()
        self.status: int | None = None
        self._flags = ["-v"] * verbose
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; its log is made anew. Raises OSError."""
        arguments = ["-m", "tunnel", *self._flags, "node", "--config", str(self.config), "--json"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, "--stop-at-eof"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def follow(self) -> Service[int]:
        """Read what it says until it has ended. Returns its status."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        stdout = FileDescriptor(process.stdout)
        line = b""
        try:
            while data := (yield from _read(stdout)):
                line = (line + data)[-_READ_BYTES:]
                if self.ready is None and b"\n" in line:
                    event = json.loads(line.split(b"\n", 1)[0])
                    if event["ok"]:  # else it is why the node does not start; its log has that too
                        self.ready = event
                        self.is_settled.set()
            # Its output has ended, so it is about to; and a wait that blocks is for a thread.
            self.status = yield RunInThread(process.wait)
        finally:
            stdout.close_notify()
            self.is_settled.set()
        return process.returncode

    def terminate(self) -> None:
        """Tell it to stop in order."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def reap(self) -> None:
        """See that nothing of it is left: no process, no zombie, no pipe."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def log_tail(self) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except OSError as error:
            return f"(no log: {error.strerror})"


def _read(source: FileDescriptor) -> Service[bytes]:
    while True:
        try:
            return os.read(source.fileno(), _READ_BYTES)
        except BlockingIOError:
            yield source.readable

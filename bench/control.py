"""Child processes that receive requests over their standard input, one JSON object a line.

Parent to child: `{"id": 1, "do": "usage", …}`. Child to parent: any number of `{"id": 1, "event": …, …}` and
then either `{"id": 1, "result": {…}}` or `{"id": 1, "error": {"kind": …, "text": …, "code": …}}`. The first
message of a child is the result of request 0, which is not sent: the child's report that it is ready.

No child outlives its parent: it ends when its standard input does, because the parent closed it, ended or was
killed. The parent waits for each child a limited time and then kills it.

`ControlledProcess` is the parent's end, `ControlPipe` the child's.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

__all__ = [
    "ControlPipe",
    "ControlledProcess",
    "Message",
    "ProcessEnded",
    "ProcessError",
    "RequestRefused",
    "stop_processes",
]

Message = dict[str, Any]

PROJECT = Path(__file__).resolve().parent.parent
CALL_TIMEOUT_S = 30.0
_LOG_TAIL_BYTES = 2_000
# A child whose output has ended is about to exit; its exit status is known only then.
_REAP_S = 5.0


class ProcessError(Exception):
    """The base of all errors of child processes."""


class ProcessEnded(ProcessError):
    """The child has ended and cannot answer. The text has its exit status and the end of its log."""


class RequestRefused(ProcessError):
    """The child could not carry out a request. It continues to run.

    Attributes:
        kind: the class of the child's error.
        code: the name of its `ErrorCode`, if it has one.
    """

    def __init__(self, name: str, kind: str, text: str, code: str | None) -> None:
        super().__init__(f"{name}: {kind}: {text}")
        self.kind = kind
        self.text = text
        self.code = code


@dataclass(slots=True)
class _Request:
    """A request that waits for its result."""

    future: Future[Message] = field(default_factory=Future)
    on_event: Callable[[Message], None] | None = None


class ControlledProcess:
    """The parent's end: starts `python -m MODULE ARGUMENTS`, sends requests, returns the answers.

    Args:
        module, arguments: what to run; the module answers with a `ControlPipe`.
        name: for messages.
        log_path: where the child's standard error goes.
        prefix: a command that runs the child, such as `ip netns exec NAME`.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        name: str,
        log_path: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._log_path = log_path
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _requests, _has_ended and writes to the pipe
        hello = _Request()
        self._requests: dict[int, _Request] = {0: hello}
        self._has_ended = False
        self.hello: Future[Message] = hello.future
        path = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), *([path] if path else [])])}
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._reader = threading.Thread(target=self._read, name=f"{name} control", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """The child's standard error so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def request(
        self, do: str, fields: Message | None = None, *, on_event: Callable[[Message], None] | None = None
    ) -> Future[Message]:
        """Send a request.

        Args:
            do: its name. fields: its arguments.
            on_event: called in another thread for each event of this request.
        Returns:
            A future of the result; its errors are RequestRefused and ProcessEnded.
        """
        number = next(self._numbers)
        request = _Request(on_event=on_event)
        line = json.dumps({"id": number, "do": do, **(fields or {})}) + "\n"
        assert self._process.stdin is not None
        with self._lock:
            if self._has_ended:
                raise self._ended()
            self._requests[number] = request
            try:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # ValueError: we have closed it
                del self._requests[number]
                raise self._ended() from error
        return request.future

    def call(self, do: str, fields: Message | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> Message:
        """Send a request and wait for its result.

        Raises:
            RequestRefused, ProcessEnded; TimeoutError: no answer in time.
        """
        return self.request(do, fields).result(timeout_s)

    def close_input(self) -> None:
        """Close the child's input, so that it ends; a second call has no effect."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                return  # it has ended already

    def kill(self) -> None:
        """Kill the child (SIGKILL) and wait for its end."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the child; False after the timeout."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def release(self) -> None:
        """Release pipes and thread of an ended child."""
        self.close_input()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._lock:
                request = self._requests.get(message["id"])
                if request is not None and "event" not in message:
                    del self._requests[message["id"]]
            if request is not None:
                self._answer(request, message)
        self.wait(_REAP_S)
        with self._lock:
            self._has_ended = True
            left, self._requests = list(self._requests.values()), {}
        for request in left:
            request.future.set_exception(self._ended())

    def _answer(self, request: _Request, message: Message) -> None:
        if "event" in message:
            if request.on_event is not None:
                request.on_event(message)
        elif "error" in message:
            error = message["error"]
            request.future.set_exception(
                RequestRefused(self.name, error["kind"], error["text"], error.get("code"))
            )
        else:
            request.future.set_result(message["result"])

    def _ended(self) -> ProcessEnded:
        status = self._process.poll()
        tail = self.log()[-_LOG_TAIL_BYTES:].strip()
        return ProcessEnded(
            f"{self.name} has ended (status {status})" + (f"; its log ends:\n{tail}" if tail else "")
        )


def stop_processes(processes: Sequence[ControlledProcess], timeout_s: float = 10.0) -> list[str]:
    """End all children: ask each, wait for all, kill the rest.

    Args:
        timeout_s: for all of them together.
    Returns:
        The names of the killed ones.
    """
    until_s = time.monotonic() + timeout_s
    for process in processes:
        process.close_input()
    killed = []
    for process in processes:
        if not process.wait(until_s - time.monotonic()):
            process.kill()
            killed.append(process.name)
        process.release()
    return killed


class ControlPipe:
    """The child's end: requests in, messages out, from any thread.

    It owns standard input and output: other prints of the program go to standard error.
    """

    def __init__(self) -> None:
        self._input: IO[bytes] = os.fdopen(os.dup(0), "rb")
        self._output: IO[bytes] = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def requests(self) -> Iterator[Message]:
        """Every request until the parent closes the pipe."""
        for line in self._input:
            yield json.loads(line)

    def result(self, number: int, fields: Message) -> None:
        self._send({"id": number, "result": fields})

    def event(self, number: int, name: str, fields: Message) -> None:
        self._send({"id": number, "event": name, **fields})

    def error(self, number: int, error: BaseException) -> None:
        """Report that a request failed, with the error's code, if any."""
        code = getattr(error, "code", None)
        fields = {"kind": type(error).__name__, "text": str(error), "code": getattr(code, "name", None)}
        self._send({"id": number, "error": fields})

    def _send(self, message: Message) -> None:
        with self._lock:
            try:
                self._output.write(json.dumps(message).encode() + b"\n")
                self._output.flush()
            except BrokenPipeError:
                return  # the parent is gone: `requests` ends too, and with it this process

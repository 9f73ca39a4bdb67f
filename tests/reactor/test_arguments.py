"""A wrong type is refused at the call, with the name of the argument and the expected type."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reactor import (
    BadRequest,
    Channel,
    Coroutine,
    Reactor,
    ReactorThread,
    ReadYield,
    SocketStream,
    ThreadPool,
    UnixListener,
    WeakHandle,
    WriteYield,
    connect_unix,
    in_scope,
    move_on_after,
    needs_yield_from,
    run_main,
    timeout_after,
)
from reactor.core.poller import FileDescriptor, WaitReadable, WaitWritable
from reactor.core.task import Join
from reactor.run.aio import AsyncioBridge, EmbeddedReactor
from reactor.run.debug import dump
from tests.reactor.helpers import forever, give, run

TAKERS: dict[str, Callable[[Any], object]] = {
    "Join: expected the handle of a service": Join,
    "WeakHandle: expected the handle of a service": WeakHandle,
    "WaitReadable: expected a FileDescriptor": WaitReadable,
    "WaitWritable: expected a FileDescriptor": WaitWritable,
    "FileDescriptor: expected a file, a socket or a number": FileDescriptor,
    "SocketStream: expected a socket": SocketStream,
    "ReadYield: expected a stream": ReadYield,
    "WriteYield: expected a stream": WriteYield,
    "path: expected the path of a socket": UnixListener,
    "threads: expected a whole number": ThreadPool,
    "reactor: expected a Reactor": ReactorThread,
    "reactor: expected a Reactor, got": AsyncioBridge,
    "reactor: expected a Reactor, ": EmbeddedReactor,
    "reactor: expected a Reactor,": Coroutine,
    "reactor: expected a ": dump,
    "reactor: expected": lambda given: run_main(given, forever()),
    "needs_yield_from: expected a generator function": needs_yield_from,
    "clock: expected an object with `now`": lambda given: Reactor(clock=given),
}


@pytest.mark.filterwarnings("ignore:the call of forever")
@pytest.mark.parametrize("given", [1.5, object(), [1], Channel], ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("text", TAKERS)
def test_a_wrong_type_is_named(text: str, given: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(text)) as caught:
        TAKERS[text](given)
    assert "got " in str(caught.value)


@pytest.mark.parametrize("given", [None, 5, give, b"x"])
@pytest.mark.parametrize("limit", [timeout_after, move_on_after])
def test_a_time_limit_on_a_wrong_type_is_refused(limit: Any, given: Any, fake: Reactor) -> None:
    with pytest.raises(BadRequest, match="a service is a generator, got"):
        run(fake, limit(5, given))
    with pytest.raises(BadRequest, match="a service is a generator, got"):
        run(fake, in_scope(lambda scope: given))


def test_a_scope_without_a_function_and_a_socket_without_a_path_are_refused(fake: Reactor) -> None:
    with pytest.raises(TypeError, match="body: expected a generator function"):
        run(fake, in_scope(give(1)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path: expected"):
        run(fake, connect_unix(5))  # type: ignore[arg-type]


def test_the_right_types_are_taken(fake: Reactor, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    stream = SocketStream(left)
    ReadYield(stream)
    WriteYield(stream)
    UnixListener(tmp_path / "socket").close()
    assert FileDescriptor(right).fileno() == FileDescriptor(right.fileno()).fileno()
    stream.close()
    right.close()

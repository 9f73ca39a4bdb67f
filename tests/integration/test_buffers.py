"""Buffers of all formats and shapes through real nodes: each kind of client counts bytes, not items."""

from __future__ import annotations

import array
import hashlib
import io
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import Reactor, Service
from tests.integration.client_kinds import KINDS, play
from tests.support.buffers import NO_BUFFERS, SHAPES
from tests.support.network import PATIENCE_S
from tunnel import LocalNetwork
from tunnel.client.clients import make_call
from tunnel.node.query.contents import as_content, open_content
from tunnel.services import Query, Reply, Services, blocking
from tunnel.services.attachments import AttachmentParser, pack_attachments

Steps = Generator[Any, Any, Any]

# A chunk of `default` holds 16,356 bytes: numbers of items, and of bytes, around that.
SIZES = [8, 16_352, 16_360, 65_424, 200_000]


def content_of(size: int) -> bytes:
    return hashlib.shake_256(b"content").digest(size)


def digest(query: Query, reply: Reply) -> Service[None]:
    hashed = hashlib.sha256()
    while piece := (yield from query.read()):
        hashed.update(piece)
    yield from reply.write(memoryview(array.array("I", hashed.digest())))  # type: ignore[arg-type]


def giver(query: Query, reply: Reply) -> Service[None]:
    """Answers with a buffer of the requested shape. A query is its name, a space and a size."""
    wanted = b""
    while piece := (yield from query.read()):
        wanted += piece
    shape, size = wanted.decode().rsplit(" ", 1)
    yield from reply.write(SHAPES[shape](content_of(int(size))))


@blocking
def blocking_giver(query: Any, reply: Any) -> None:
    shape, size = query.read().decode().rsplit(" ", 1)
    reply.write(SHAPES[shape](content_of(int(size))))


def text_giver(query: Query, reply: Reply) -> Service[None]:
    try:
        yield from reply.write("text")  # type: ignore[arg-type]
    except TypeError as error:
        yield from reply.write(str(error).encode())


SERVICES = Services({"digest": digest, "giver": giver, "blocking": blocking_giver, "text": text_giver})


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=3, service=SERVICES) as net:
        yield net


@pytest.mark.parametrize("kind", KINDS)
def test_queries_messages_and_sub_streams_send_all_bytes(kind: str, net: LocalNetwork) -> None:
    shapes = list(SHAPES.values())

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[2].id, hops=0)
        wrong = []
        for number, size in enumerate(SIZES * 3):
            expected = hashlib.sha256(content_of(size)).digest()
            data = shapes[number % len(shapes)](content_of(size))
            result = yield lambda data=data: client.query(net[2].id, data, service="digest", hops=0)
            named = b"\6digest" + content_of(size) + b"\0"  # 8 bytes more: any shape fits
            message = shapes[number % len(shapes)](named)
            answer = yield lambda message=message: tunnel.ask(message)
            stream = yield lambda: tunnel.open("digest")
            yield lambda data=data, stream=stream: stream.write(data)
            stream.close()
            read = b""
            while piece := (yield lambda stream=stream: stream.read()):
                read += piece
            with_name = hashlib.sha256(content_of(size) + b"\0").digest()
            if (result.read(), answer, read) != (expected, with_name, expected):
                wrong.append((number, size))
        yield lambda: tunnel.close()
        return wrong

    assert play(kind, net, scenario) == []


@pytest.mark.parametrize("service", ["giver", "blocking"])
def test_a_service_answers_with_any_buffer(service: str, net: LocalNetwork) -> None:
    asked = []
    for number, shape in enumerate(SHAPES):
        size = SIZES[number % len(SIZES)]
        call = make_call(net[0], net[2].id, f"{shape} {size}".encode(), service, {"hops": 0})
        asked.append((shape, size, net.submit(net[0].query_service(call))))
    for shape, size, future in asked:
        assert (shape, future.result(PATIENCE_S).read()) == (shape, content_of(size))


def test_a_service_that_answers_with_text_gets_an_error_that_names_the_expected_type(
    net: LocalNetwork,
) -> None:
    call = make_call(net[0], net[2].id, b"", "text", {"hops": 0})
    answer = net.submit(net[0].query_service(call)).result(PATIENCE_S).read()
    assert answer == b"data: expected bytes or another buffer, got str: encode it first"


@pytest.mark.parametrize("kind", KINDS)
def test_a_non_buffer_is_refused_and_the_tunnel_survives(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[2].id, hops=0)
        stream = yield lambda: tunnel.open("digest")
        for value, word in NO_BUFFERS.values():
            for call in (tunnel.send, tunnel.ask, tunnel.write, stream.write):
                with pytest.raises(TypeError, match=rf"expected .*{word}"):
                    yield lambda call=call, value=value: call(value)
        for value in (NO_BUFFERS[key][0] for key in ("text", "number", "None", "every other byte")):
            with pytest.raises(TypeError):
                yield lambda value=value: client.query(net[2].id, value, service="digest", hops=0)
        stream.close()
        answer = yield lambda: tunnel.ask(b"\6digest")
        stream_answer = yield lambda: stream.read()
        yield lambda: tunnel.close()
        return answer, stream_answer

    empty = hashlib.sha256(b"").digest()
    assert play(kind, net, scenario) == (empty, empty)


@pytest.mark.parametrize("shape", SHAPES)
def test_content_of_any_shape_becomes_bytes_before_it_is_sent(shape: str) -> None:
    content = content_of(96)
    for given in (SHAPES[shape](content), iter([SHAPES[shape](content)])):
        reader = open_content(given)
        assert b"".join(_pieces(reader)) == content
    assert bytes(as_content(SHAPES[shape](content))) == content  # type: ignore[arg-type]
    parser = AttachmentParser()
    packed = b"".join(pack_attachments([("name", SHAPES[shape](content))]))
    padded = SHAPES[shape](packed + bytes(-len(packed) % 8))
    with pytest.raises(Exception, match="bytes after the end"):
        list(parser.feed(padded))
    assert content in packed


def _pieces(reader: Any) -> Iterator[bytes]:
    """The pieces that a reader of content returns; it waits for a thread, so a reactor runs it."""

    def read() -> Service[list[bytes]]:
        found = []
        while piece := (yield from reader.read()):
            found.append(piece)
        return found

    with Reactor() as reactor:
        yield from reactor.run(read())


@pytest.mark.parametrize("piece", ["text", 5, [1], None, memoryview(bytes(8))[::2]])
def test_a_piece_of_content_that_is_not_a_buffer_is_refused(piece: Any) -> None:
    class File(io.RawIOBase):
        def read(self, size: int = -1) -> Any:
            return piece

    def service() -> Service[Any]:
        yield from ()
        return piece

    given: list[Any] = [iter([piece]), service]
    for content in given if piece is None else [*given, File()]:
        with pytest.raises(TypeError, match="a piece of the content: expected"):
            list(_pieces(open_content(content)))


@pytest.mark.parametrize("given", [b"bytes", "text", None, [b"bytes"]])
def test_content_from_a_plain_function_is_refused_with_a_hint(given: Any) -> None:
    def plain() -> Any:
        return given

    with pytest.raises(TypeError, match=r"plain\(\) returned \w+, expected a service, which is a generator"):
        list(_pieces(open_content(plain)))


def test_text_files_are_refused_at_the_call(net: LocalNetwork, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    with path.open() as file, pytest.raises(TypeError, match="binary mode"):
        net[0].query(net[2].id, file, hops=0)  # type: ignore[arg-type]


def test_asynchronous_content_gives_bytes_or_is_refused(net: LocalNetwork) -> None:
    async def pieces(*given: Any) -> AsyncIterator[Any]:
        for piece in given:
            yield piece

    def scenario(client: Any) -> Steps:
        views = [SHAPES[shape](content_of(64)) for shape in SHAPES]
        result = yield lambda: client.query(net[2].id, pieces(b"", *views), service="digest", hops=0)
        with pytest.raises(TypeError, match="a piece of the content: expected"):
            yield lambda: client.query(net[2].id, pieces(5), service="digest", hops=0)
        return result.read()

    assert play("asyncio", net, scenario) == hashlib.sha256(content_of(64) * len(SHAPES)).digest()

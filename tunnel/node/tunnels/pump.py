"""`pump` moves the chunks of a tunnel at either of its ends, between its stream and its state machine.

One service sends, one receives, one keeps the tunnel alive. Two watches run beside them: one ends a tunnel
that is idle for long, the other a silent one on which traffic waits. The first failure ends the tunnel.
"""

from __future__ import annotations

from collections.abc import Callable

from reactor import ReadYield, Service, Signal, Sleep, WriteYield
from tunnel.errors import PeerError, TunnelSilent, TunnelStopped
from tunnel.established import EstablishedTunnel
from tunnel.node.context import NodeContext, Stream
from tunnel.node.waits import idle_watch, read_rest, run_with_guards

__all__ = ["Layers", "pump"]

Layers = Callable[[memoryview, int], None]
"""Transforms each chunk in place: (chunk, its number from 0)."""


def pump(
    node: NodeContext,
    stream: Stream,
    core: EstablishedTunnel[Signal],
    *,
    first: memoryview | None = None,
    add_layers: Layers | None = None,
    remove_layers: Layers | None = None,
    heard: Callable[[], None] | None = None,
) -> Service[None]:
    """Move a tunnel's chunks until both directions have ended cleanly.

    Args:
        first: a chunk that was already read from the stream.
        add_layers: Alice's layers, for chunks that she sends. remove_layers: the layers of the proxies, for
            received chunks.
        heard: called once, after the first authentic chunk.
    Raises:
        PeerError: the stream broke, or its content is not a tunnel of this peer. The tunnel has failed too.
    """
    received = Signal()

    def send() -> Service[None]:
        yield from _send(node, stream, core, add_layers)
        yield received

    def receive() -> Service[None]:
        yield from _receive(node, stream, core, first, remove_layers, heard)
        received.set()

    count = node.counters.tally(
        tunnel_bytes_in=lambda: stream.content_in, tunnel_bytes_out=lambda: stream.content_out
    )
    node.tunnels.enter(core)
    try:
        idle = idle_watch([_Heard(stream)], node.limits.idle_s, count)
        yield from run_with_guards(
            send(), receive(), _keep_alive(node, core), idle, _watch_silence(node, core)
        )
    except PeerError as error:
        core.fail(error)
        raise
    except BaseException:
        core.fail(TunnelStopped("the tunnel was ended by its own node"))
        raise
    finally:
        node.tunnels.leave(core)
        count()


def _send(
    node: NodeContext, stream: Stream, core: EstablishedTunnel[Signal], add_layers: Layers | None
) -> Service[None]:
    writer = WriteYield(stream)
    buffer = bytearray(stream.profile.geometry.chunk_bytes)
    chunk = memoryview(buffer)
    number = 0
    while not core.has_ended_sending:
        if not core.next_chunk(chunk, node.now_s()):
            yield core.sendable
            continue
        if add_layers is not None:
            add_layers(chunk, number)
        number += 1
        yield from writer.write_all(buffer)
    stream.finish()


def _receive(
    node: NodeContext,
    stream: Stream,
    core: EstablishedTunnel[Signal],
    first: memoryview | None,
    remove_layers: Layers | None,
    heard: Callable[[], None] | None,
) -> Service[None]:
    reader = ReadYield(stream)
    chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes)) if first is None else first
    number = 0
    while True:
        if first is None:
            count = yield from reader.readinto(chunk)
            if not count:
                core.received_fin()
                return
            if count < len(chunk):
                yield from read_rest(reader, chunk, count)
        first = None
        if remove_layers is not None:
            remove_layers(chunk, number)
        number += 1
        core.received(chunk)
        if heard is not None:
            heard()
            heard = None
        node.tunnels.received(core, len(chunk))


class _Heard:
    """Counts only the received bytes of a stream, for the idle watch.

    Both ends send keep-alive chunks. If nothing arrives, the other end has gone, even if this end can still
    send into the streams of the hops between.
    """

    content_out = 0

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def content_in(self) -> int:
        return self._stream.content_in


def _watch_silence(node: NodeContext, core: EstablishedTunnel[Signal]) -> Service[None]:
    """Look whether the other end still answers, while traffic waits for it.

    Raises:
        TunnelSilent: it does not.
    """
    silence = core.silence
    while True:
        yield silence.stirred
        while not silence.is_settled:
            yield Sleep(silence.tick_s)
            try:
                core.look(node.now_s())
            except TunnelSilent:
                node.counters.tunnels_silent += 1
                raise


def _keep_alive(node: NodeContext, core: EstablishedTunnel[Signal]) -> Service[None]:
    """Send an empty chunk from time to time, so that no hop considers the tunnel idle."""
    while True:
        yield Sleep(node.limits.idle_s / 3)
        core.pad()

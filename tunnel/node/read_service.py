"""The read service: one per incoming link. Handshake, header, and then whoever the frame is for.

A frame to be forwarded is handed to the global service, which lends the link to a write service; frames that
end here are served by the local service. The read service owns the link all the time: it alone tells the
neighbour of an error, in one place, and ends the link.
"""

from __future__ import annotations

import logging

from reactor import ReadYield, Service, SocketStream, TimedOut, UnexpectedEnd, timeout_after
from tunnel.descriptor import short
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    HandshakeError,
    IdleTimeout,
    LocalTunnelError,
    PeerError,
    ProfileError,
    StreamReset,
)
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext
from tunnel.node.forward import Forward
from tunnel.node.links import accept_link, end_link
from tunnel.node.local_service import drop_service, home_service, local_service
from tunnel.node.relay import guarded, idle_watch
from tunnel.node.wire import LinkStream
from tunnel.onion.header import Command, Opened

__all__ = ["read_service"]

log = logging.getLogger("tunnel.node")


def read_service(node: NodeContext, socket: SocketStream) -> Service[None]:
    """Serve one incoming connection to its end. Errors of the peer end it, and are logged here.

    The listener has counted the connection, once as open and once as half open; both are taken back here.
    """
    try:
        link = yield from _accept(node, socket)
        if link is not None:
            yield from _serve_link(node, link)
    finally:
        node.connections -= 1


def _accept(node: NodeContext, socket: SocketStream) -> Service[LinkStream | None]:
    try:
        return (yield from accept_link(node, socket))
    except (HandshakeError, PeerError) as error:
        log.warning("node %s refused a connection: %s: %s", node.name, type(error).__name__, error)
        socket.close()
        return None
    except BaseException:
        socket.close()
        raise
    finally:
        node.half_open -= 1


def _serve_link(node: NodeContext, link: LinkStream) -> Service[None]:
    try:
        yield from _serve(node, link)
    except PeerError as error:
        _log(node, link, error)
        link.reset(error.code)
    except LocalTunnelError as error:
        log.error("node %s: %s: %s", node.name, type(error).__name__, error)
        link.reset(ErrorCode.INTERNAL)
    except BaseException:
        link.close()
        raise
    yield from end_link(node, link)


def _log(node: NodeContext, link: LinkStream, error: PeerError) -> None:
    # Who talks to whom stays below INFO; that and why a node refused something does not.
    level = logging.INFO if isinstance(error, StreamReset) else logging.WARNING
    log.log(level, "node %s ended a frame: %s: %s", node.name, type(error).__name__, error)
    log.debug("node %s: that frame came from %s", node.name, short(link.peer_id))


def _serve(node: NodeContext, link: LinkStream) -> Service[None]:
    profile, header = yield from _read_header(node, link)
    opened = node.tunnel.open_frame(header, profile, neighbour=link.peer_id, now_s=node.wall_clock())
    if opened.slot.command is Command.RELAY:
        forward = Forward(link, profile, opened)
        yield from node.forwards.send(forward)
        yield from forward.wait_returned()
        return
    yield from _local(node, link, profile, opened)


def _local(node: NodeContext, link: LinkStream, profile: Profile, opened: Opened) -> Service[None]:
    slot = opened.slot
    if slot.command is Command.DEST:
        yield from local_service(node, link, slot, profile)
        return
    is_home = slot.command is Command.HOME
    service = home_service(node, link, slot, profile) if is_home else drop_service(link, profile)
    yield from guarded(service, idle_watch([link], node.limits.idle_s))


def _read_header(node: NodeContext, link: LinkStream) -> Service[tuple[Profile, bytes]]:
    limit_s = node.limits.header_s
    try:
        return (yield from timeout_after(limit_s, _collect_header(node, link)))
    except TimedOut as error:
        raise IdleTimeout(f"no header within {limit_s:g} s of the handshake") from error
    except UnexpectedEnd as error:
        raise FrameTruncated("FIN inside the onion header") from error


def _collect_header(node: NodeContext, link: LinkStream) -> Service[tuple[Profile, bytes]]:
    reader = ReadYield(link)
    profile: Profile = yield from reader.call(LinkStream.read_open)
    if not node.descriptor.offers(profile):
        raise ProfileError(f"peer opens a frame of profile {profile.name!r}, which this node does not offer")
    header = bytearray(profile.geometry.header_bytes)
    yield from reader.read_exactly(memoryview(header))
    return profile, bytes(header)

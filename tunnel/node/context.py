"""What the services of one node share: made by `Node`, read by all, and only the tables in it change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from reactor import Channel, CurrentTime, Scope, Service
from tunnel.descriptor import Descriptor, short
from tunnel.directory import Directory
from tunnel.node.forward import Forward
from tunnel.link.mux import Budget, MuxLimits, MuxStream
from tunnel.node.limits import Limits
from tunnel.node.pending import PendingQuery
from tunnel.primitives import TunnelEngine, X25519Private
from tunnel.services import InnerService
from tunnel.tunnel import Tunnel

__all__ = ["FrameReport", "NodeContext", "report_frame"]


@dataclass(frozen=True, slots=True)
class FrameReport:
    """One direction of a frame has passed a node: for tables and tests on the node's own machine.

    Attributes:
        node, neighbour: who sent it on, and to whom (node ids).
        bytes_in: header and chunks as received; 0 where the frame begins.
        bytes_out: header and chunks as sent.
        started_s, ended_s: on the reactor's clock: the first byte taken in hand, the last one sent.
    """

    node: bytes
    neighbour: bytes
    bytes_in: int
    bytes_out: int
    started_s: float
    ended_s: float


@dataclass(slots=True)
class NodeContext:
    """Attributes:
    scope: owns every service of the node; one that fails harms no other.
    forwards: frames that read services hand over for proxying.
    pending: queries of this node that wait for a reply, by query id.
    queries: queries of this node under way, in any mode.
    own: those of them that have a first hop, or are about to: told when the node ends.
    connections, half_open: incoming ones, and those of them without a finished handshake.
    ending: links that this node dialled and that are being ended.
    observe: called with a FrameReport when a frame has been sent on; None = nobody looks.
    """

    engine: TunnelEngine
    network_id: bytes
    link_private: X25519Private
    descriptor: Descriptor
    directory: Directory
    tunnel: Tunnel
    service: InnerService
    limits: Limits
    scope: Scope
    forwards: Channel[Forward]
    observe: Callable[[FrameReport], None] | None = None
    wall_clock: Callable[[], float] = time.time
    pending: dict[bytes, PendingQuery] = field(default_factory=dict)
    queries: int = 0
    own: set[PendingQuery] = field(default_factory=set)
    connections: int = 0
    half_open: int = 0
    ending: int = 0

    @property
    def name(self) -> str:
        """The node's id as the log shows it: its first four bytes in hex."""
        return short(self.descriptor.node_id)


def report_frame(
    node: NodeContext, stream: MuxStream, started_s: float, *, content_in: int
) -> Service[None]:
    """Tell the observer, if there is one, that a frame has been sent on over `stream`."""
    if node.observe is not None:
        ended_s: float = yield CurrentTime()
        node.observe(
            FrameReport(
                node.descriptor.node_id, stream.peer_id, content_in, stream.content_out, started_s, ended_s
            )
        )

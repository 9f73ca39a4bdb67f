"""The global service: takes frames to be forwarded and gives each a write service, which is lent the link.

No content passes through it; it decides only whether a frame may go on and to whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reactor import Signal
from tunnel.errors import LocalTunnelError, TunnelError
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext, Service
from tunnel.node.wire import LinkStream
from tunnel.node.write_service import write_service
from tunnel.onion.header import Opened

__all__ = ["Forward", "global_service"]


@dataclass(slots=True)
class Forward:
    """A frame on its way through: the lent link, and how it comes back."""

    link: LinkStream
    profile: Profile
    opened: Opened
    # What ended the frame; until the write service says how it went, the worst is assumed.
    error: TunnelError | None = field(default_factory=lambda: LocalTunnelError("write service ended early"))
    returned: Signal = field(default_factory=Signal)

    def wait_returned(self) -> Service[None]:
        """Wait until the write service gives the link back; raise the error that ended the frame, if any."""
        yield self.returned
        if self.error is not None:
            raise self.error


def global_service(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    while True:
        forward = yield from node.forwards.receive()
        yield from node.scope.spawn(_forward(node, forward), name=f"{node.name} write")


def _forward(node: NodeContext, forward: Forward) -> Service[None]:
    try:
        yield from write_service(node, forward.link, forward.profile, forward.opened)
        forward.error = None
    except TunnelError as error:
        forward.error = error
    finally:
        forward.returned.set()

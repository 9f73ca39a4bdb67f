"""The global service: takes frames to be forwarded and gives each a write service, which is lent the stream.

No content passes through it; it decides only whether a frame may go on and to whom.
"""

from __future__ import annotations

from reactor import Service
from tunnel.errors import TunnelError
from tunnel.node.context import NodeContext
from tunnel.node.forward import Forward
from tunnel.node.write_service import write_service

__all__ = ["global_service"]


def global_service(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    while True:
        forward = yield from node.forwards.receive()
        yield from node.scope.spawn(_forward(node, forward), name=f"{node.name} write")


def _forward(node: NodeContext, forward: Forward) -> Service[None]:
    try:
        yield from write_service(node, forward)
        forward.error = None
    except TunnelError as error:
        forward.error = error
    finally:
        forward.returned.set()

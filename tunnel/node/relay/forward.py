"""A frame on its way through a node: what the read service hands over, and how it gets it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reactor import Service, Signal
from readwrite_comp.helpers import renewed
from tunnel.errors import LocalTunnelError, TunnelError
from tunnel.onion.header import Opened

if TYPE_CHECKING:
    from tunnel.node.context import Stream
    from tunnel.node.relay.status_reporter import Reporter

__all__ = ["Forward"]


@dataclass(slots=True)
class Forward:
    """The lent stream, what its header says, and who tells the neighbour how it went.

    Attributes:
        error: what ended the frame; until the write service says how it went, the worst is assumed.
    """

    stream: Stream
    opened: Opened
    reporter: Reporter
    error: TunnelError | None = field(default_factory=lambda: LocalTunnelError("write service ended early"))
    returned: Signal = field(default_factory=Signal)

    def wait_returned(self) -> Service[None]:
        """Wait until the write service gives the stream back; raise what ended the frame, if anything."""
        yield self.returned
        if self.error is not None:
            raise renewed(self.error)

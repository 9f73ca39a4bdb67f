"""What `Tunnel` gives out: ways, frames and queries to send. Plain data, with its layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from readwrite_comp import WideBlockR, WideBlockW
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.frame import FrameR, FrameW
from tunnel.onion.suites import permutation
from tunnel.primitives import TunnelEngine
from tunnel.route import Route

__all__ = ["OutgoingFrame", "OutgoingQuery", "Way", "WayBack"]


@dataclass(frozen=True, slots=True)
class Way:
    """A header over a route, and Alice's secrets of it: what every mode begins with.

    Attributes:
        first_id: the node to send it to.
        header: 128·N bytes.
        seeds: 16 bytes for each node of the route, the proxies' first; the last is the end-to-end seed.
    """

    first_id: bytes
    profile: Profile
    header: bytes
    seeds: tuple[bytes, ...] = field(repr=False)

    @property
    def proxy_seeds(self) -> tuple[bytes, ...]:
        """Those of the proxies, proxy 1 first."""
        return self.seeds[:-1]

    @property
    def end_to_end_seed(self) -> bytes:
        """That of the last node."""
        return self.seeds[-1]

    def forward_layers(self, engine: TunnelEngine) -> list[WideBlockW]:
        """For writing towards Bob. Layer 0 is next to the stream: proxy 1's, which comes off first."""
        return [WideBlockW(permutation(self.profile, seed, b"forward", engine)) for seed in self.proxy_seeds]

    def backward_layers(self, engine: TunnelEngine) -> list[WideBlockR]:
        """For reading what comes back over the same streams. Proxy 1 put its layer on last."""
        return [
            WideBlockR(permutation(self.profile, seed, b"backward", engine), inverse=True)
            for seed in self.proxy_seeds
        ]


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    """A frame to send.

    Attributes:
        first_id: to whom. profile: in which shape.
        layer: writes it: header, content, end.
        query_id: under which an answer to it comes home; None: none can.
    """

    first_id: bytes
    profile: Profile
    layer: FrameW
    query_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class WayBack:
    """A reply block's way, and what Alice needs to read what becomes of a frame on it.

    Attributes:
        route: in the order in which the reply travels, Alice last.
        profile: of the block.
    """

    route: Route
    profile: Profile
    master_seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutgoingQuery:
    """A query's frame, and what Alice keeps until the answer is there.

    Attributes:
        backward: mode `cached`: reads the reply from the backward half; else None.
        way: the header and the secrets of its hops, for the error channel.
        ways_back: of its reply blocks, in their order.
    """

    route: Route
    frame: OutgoingFrame
    mode: ReplyMode
    error_mode: ErrorMode
    way: Way = field(repr=False)
    backward: FrameR | None = None
    ways_back: tuple[WayBack, ...] = ()

    @property
    def query_id(self) -> bytes | None:
        """The id under which the reply will come home; None where it does not come by a frame of its own."""
        return self.frame.query_id

"""The facade over the onion protocol: frames to send, frames to open. Bytes only, no socket, no waiting.

`TunnelReader` opens and reads (`tunnel.tunnel_reader`). `Tunnel` adds what needs routes, keys and randomness:
queries in every mode, replies that carry blocks, answers to somebody who named herself, cover traffic. What a
mode needs is read from its row in `tunnel.modes`.
Source: docs/protocol.md, "Reply modes" and "Building a query".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from readwrite_comp.primitives import random_bytes as system_random_bytes
from tunnel.arguments import member
from tunnel.descriptor import Descriptor
from tunnel.directory import Directory
from tunnel.errors import BadRoute, LocalTunnelError
from tunnel.geometry import SEED_BYTES, Profile
from tunnel.key_ring import KeyRing
from tunnel.modes import MODES, ErrorMode, ReplyMode
from tunnel.onion.frame import FrameR, FrameW
from tunnel.onion.header import Command
from tunnel.onion.header_rate import HeaderRate
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead, OriginClaim
from tunnel.onion.origin import Origin, answer_ticket, claim_origin
from tunnel.onion.reply_block import ReplyBlock
from tunnel.onion.secrets import end_to_end_key
from tunnel.outgoing import OutgoingFrame, OutgoingQuery, Way, WayBack
from tunnel.route import Route
from tunnel.tunnel_reader import TunnelReader, UsedBlocks
from tunnel.way_builder import WayBuilder

__all__ = ["OutgoingFrame", "OutgoingQuery", "Tunnel", "TunnelReader", "Way", "WayBack"]

_QUERY_ID_BYTES = 8
_USED_BLOCKS = 1_000_000


class Tunnel(TunnelReader):
    """A reader that can also write: for Alice, for Bob's replies, and for cover traffic.

    Args:
        ring: this node's keys.
        directory: where the descriptors of routes come from.
        header_rate: limit on headers that are opened for each neighbour; None: no limit.
        random_bytes: seeds, ids, delays and padding; the operating system's generator unless a test fixes it.
    """

    def __init__(
        self,
        *,
        ring: KeyRing,
        directory: Directory,
        header_rate: HeaderRate | None = None,
        random_bytes: Callable[[int], bytes] = system_random_bytes,
    ) -> None:
        node_id = ring.keys.node_id(ring.engine)
        super().__init__(
            node_id=node_id, ring=ring, used_blocks=UsedBlocks(_USED_BLOCKS), header_rate=header_rate
        )
        self._random_bytes = random_bytes
        self._builder = WayBuilder(node_id=node_id, ring=ring, directory=directory, random_bytes=random_bytes)

    # --- Alice ---------------------------------------------------------------------------------------------

    def query(
        self,
        route: Route,
        mode: ReplyMode,
        profile: Profile,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
        reply_routes: Sequence[Route] = (),
        reply_profile: Profile | None = None,
        blocks: int | None = None,
        descriptor: Descriptor | None = None,
        mean_delay_s: float = 0.0,
    ) -> OutgoingQuery:
        """Build a query's frame over `route`, in any mode but `established` (see `way`).

        Args:
            reply_routes: other-route and reply-on-reply: ways back, from Bob's first proxy to this node,
                their destination. reply-on-reply takes the query's proxies in reverse if there are none.
            reply_profile: of the reply blocks; by default the query's.
            blocks: how many reply blocks, each for one reply; the ways back are used in turn. By default one
                for each way.
            descriptor: known-dest: this node's own, as it is now.
            mean_delay_s: of the random delay at each proxy, there and back by block; 0: none.
        Raises:
            BadRoute: a node that is unknown, visited twice, does not offer the profile, or has no onion key
                that can be sealed to now.
            ProfileError: a route is longer than its profile holds.
            LocalTunnelError: arguments that the mode has no use for, or that it lacks.
        """
        mode, error_mode = member(ReplyMode, mode, "mode"), member(ErrorMode, error_mode, "error_mode")
        row = MODES[mode]
        if mode is ReplyMode.ESTABLISHED:
            raise LocalTunnelError("an established tunnel is no message: build it on `Tunnel.way`")
        if row.names_alice != (descriptor is not None):
            raise LocalTunnelError(f"mode {mode}: `descriptor` is for known-dest, and is needed there")
        if blocks is not None and not row.reply_blocks:
            raise LocalTunnelError(f"mode {mode} has no use for `blocks`")
        ways_back = self._ways_back(route, mode, reply_routes)
        query_id = self._random_bytes(_QUERY_ID_BYTES) if row.reply_blocks or row.names_alice else None
        blocks_and_ways: list[tuple[ReplyBlock, WayBack]] = []
        if query_id is not None and ways_back:
            blocks_and_ways = self._reply_blocks(
                ways_back,
                reply_profile or profile,
                user=route.destination,
                query_id=query_id,
                blocks=blocks,
                now_s=now_s,
                mean_delay_s=mean_delay_s,
            )
        way = self.way(route, profile, now_s=now_s, error_mode=error_mode, mean_delay_s=mean_delay_s)
        origin = None
        if descriptor is not None and query_id is not None:
            origin = self._claim(descriptor, route.destination, way, query_id)
        head = MessageHead(
            tuple(block for block, _ in blocks_and_ways),
            origin,
            backward=row.backward_content,
            wants_blocks=row.replies_carry_blocks,
        )
        return OutgoingQuery(
            route,
            self._frame(way, head, query_id),
            mode,
            error_mode,
            way,
            self._backward(way) if row.backward_content else None,
            tuple(way_back for _, way_back in blocks_and_ways),
        )

    def way(
        self,
        route: Route,
        profile: Profile,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
        mean_delay_s: float = 0.0,
    ) -> Way:
        """A header over `route` and its secrets, without a message: what an established tunnel begins with.

        Raises BadRoute and ProfileError as `query`.
        """
        error_mode = member(ErrorMode, error_mode, "error_mode")
        return self._builder.way(
            route, profile, now_s=now_s, error_mode=error_mode, mean_delay_s=mean_delay_s
        )

    # --- Bob -----------------------------------------------------------------------------------------------

    def reply(
        self,
        block: ReplyBlock,
        *,
        now_s: float,
        reply_routes: Sequence[Route] = (),
        reply_profile: Profile | None = None,
        blocks: int | None = None,
        wants_blocks: bool = False,
        mean_delay_s: float = 0.0,
    ) -> OutgoingFrame:
        """A frame along a reply block; with `reply_routes`, one that carries reply blocks itself.

        Args:
            reply_routes: ways back to this node (reply-on-reply), the others as in `query`.
            wants_blocks: with `reply_routes`: what comes back along them is to carry blocks again.
        Returns:
            The frame; its `query_id` is the one under which what Alice sends along those blocks comes home.
        Raises:
            Those of `TunnelReader.reply`, and of `query` for the blocks.
        """
        if not reply_routes:
            return super().reply(block, now_s=now_s)
        query_id = self._random_bytes(_QUERY_ID_BYTES)
        # Who uses them is not known, only that she is not the first of the way to her unless it is direct.
        reply_blocks = self._reply_blocks(
            reply_routes,
            reply_profile or block.profile,
            user=None,
            query_id=query_id,
            blocks=blocks,
            now_s=now_s,
            mean_delay_s=mean_delay_s,
        )
        head = MessageHead(tuple(own for own, _ in reply_blocks), wants_blocks=wants_blocks)
        return self._reply(block, head, now_s, query_id)

    def answer(
        self,
        origin: Origin,
        route: Route,
        profile: Profile,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
        mean_delay_s: float = 0.0,
    ) -> OutgoingQuery:
        """Bob's own query to somebody who named herself (mode `known-dest`): it carries her ticket.

        Args:
            origin: checked, from `TunnelReader.origin`.
            route: of this node's choice; its destination is the origin, who need not be in the directory here
                (but in that of the last proxy, or linked to it).
        Raises:
            BadRoute, ProfileError: as `query`; also when the route leads to somebody else.
        """
        if route.destination != origin.descriptor.node_id:
            raise BadRoute("the route of an answer ends at another node than the one that asked")
        way = self._builder.way(
            route,
            profile,
            now_s=now_s,
            error_mode=error_mode,
            mean_delay_s=mean_delay_s,
            destination=origin.descriptor,
        )
        frame = self._frame(way, MessageHead(answer=origin.ticket), None)
        return OutgoingQuery(route, frame, ReplyMode.NONE, error_mode, way)

    # --- cover traffic -------------------------------------------------------------------------------------

    def drop(
        self, route: Route, profile: Profile, *, now_s: float, mean_delay_s: float = 0.0
    ) -> OutgoingFrame:
        """A frame that its last node throws away. Write any content into it, zeros for instance.

        Raises BadRoute and ProfileError as `query`.
        """
        way = self._builder.way(route, profile, Command.DROP, now_s=now_s, mean_delay_s=mean_delay_s)
        return self._frame(way, MessageHead(), None)

    def loop(
        self, route: Route, profile: Profile, *, now_s: float, mean_delay_s: float = 0.0
    ) -> OutgoingFrame:
        """A frame that comes back to this node: Alice uses a reply block of her own.

        Args:
            route: at least two proxies (one would be told to send it back where it came from), and this node.
        Returns:
            The frame; it comes home as a HOME frame with its `query_id`, unless somebody dropped it.
        Raises:
            BadRoute, ProfileError: as `query`.
        """
        if len(route.proxies) < 2:
            raise BadRoute(f"a loop over {len(route.proxies)} proxies, expected at least 2")
        query_id = self._random_bytes(_QUERY_ID_BYTES)
        block = self._builder.reply_block(
            route,
            profile,
            user=None,
            query_id=query_id,
            number=0,
            master_seed=self._random_bytes(SEED_BYTES),
            now_s=now_s,
            mean_delay_s=mean_delay_s,
        )
        return self._reply(block, MessageHead(), now_s, query_id)

    # --- parts ---------------------------------------------------------------------------------------------

    def _ways_back(self, route: Route, mode: ReplyMode, reply_routes: Sequence[Route]) -> Sequence[Route]:
        reverse = Route(route.proxies[::-1], self.node_id)
        match mode:
            case ReplyMode.ROUTE if not reply_routes:
                return (reverse,)
            case ReplyMode.OTHER_ROUTE if reply_routes:
                return reply_routes
            case ReplyMode.REPLY_ON_REPLY:
                return reply_routes or (reverse,)
            case ReplyMode.OTHER_ROUTE:
                raise LocalTunnelError("mode other-route needs `reply_routes`")
        if reply_routes:
            raise LocalTunnelError(f"mode {mode} has no use for `reply_routes`")
        return ()

    def _reply_blocks(
        self,
        routes: Sequence[Route],
        profile: Profile,
        *,
        user: bytes | None,
        query_id: bytes,
        blocks: int | None,
        now_s: float,
        mean_delay_s: float,
    ) -> list[tuple[ReplyBlock, WayBack]]:
        count = len(routes) if blocks is None else blocks
        if not 1 <= count <= profile.geometry.max_reply_blocks:
            raise LocalTunnelError(
                f"{count} reply blocks of profile {profile.name!r}, expected 1 to "
                f"{profile.geometry.max_reply_blocks}"
            )
        found = []
        for number in range(count):
            way_back = WayBack(routes[number % len(routes)], profile, self._random_bytes(SEED_BYTES))
            block = self._builder.reply_block(
                way_back.route,
                profile,
                user=user,
                query_id=query_id,
                number=number,
                master_seed=way_back.master_seed,
                now_s=now_s,
                mean_delay_s=mean_delay_s,
            )
            found.append((block, way_back))
        return found

    def _claim(self, descriptor: Descriptor, destination: bytes, way: Way, query_id: bytes) -> OriginClaim:
        keys = self.ring.keys
        return claim_origin(
            descriptor,
            keys.identity,
            ticket=answer_ticket(keys.home, query_id),
            destination=destination,
            dest_seed=way.end_to_end_seed,
            engine=self.engine,
        )

    def _frame(self, way: Way, head: MessageHead, query_id: bytes | None) -> OutgoingFrame:
        key = end_to_end_key(way.end_to_end_seed, b"forward")
        message = MessageW(way.profile, key, engine=self.engine, head=head)
        layer = FrameW(way.header, way.forward_layers(self.engine), message)
        return OutgoingFrame(way.first_id, way.profile, layer, query_id)

    def _backward(self, way: Way) -> FrameR:
        key = end_to_end_key(way.end_to_end_seed, b"backward")
        return FrameR(way.backward_layers(self.engine), MessageR(way.profile, key, engine=self.engine))

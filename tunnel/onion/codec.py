"""The facade of the onion protocol: frames to send, frames to open. Bytes only; nothing here waits.

`OnionCodec` opens headers, with every check in its order, makes the layers and readers for a frame, and
builds frames: queries in every mode, replies, answers to an origin (mode `known-dest`), and cover traffic.
The properties of a mode are read from its row in `tunnel.modes`.

Source: docs/protocol.md, "Order of checks", "Reply modes" and "Building a query".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from readwrite_comp import WideBlockR, WideBlockW
from readwrite_comp.primitives import random_bytes as system_random_bytes
from readwrite_comp.wideblock import WidePermutation
from tunnel.arguments import member
from tunnel.directory import Directory
from tunnel.errors import BadRoute, ErrorCode, LocalTunnelError, PeerError
from tunnel.geometry import SEED_BYTES, Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.modes import MODES, ErrorMode, ReplyMode
from tunnel.onion.header import LATEST_S, MAX_DELAY_10MS, Command, Opened, Slot, check_expiry, open_header
from tunnel.onion.header_builder import Circuit, HeaderBuilder, OutgoingFrame, OutgoingQuery, ReplyPath
from tunnel.onion.key_schedule import (
    Direction,
    end_to_end_key,
    permutation,
    reply_end_to_end_seed,
    reply_hop_seed,
)
from tunnel.onion.message import FrameR, FrameW, MessageR, MessageW, seal_receipt
from tunnel.onion.message_head import (
    MessageHead,
    Origin,
    OriginClaim,
    answer_ticket,
    answered_query,
    check_origin,
    claim_origin,
)
from tunnel.onion.replay import ReplayTable
from tunnel.onion.reply_block import HomeTicket, ReplyBlock
from tunnel.routing.route import Route

__all__ = [
    "Circuit",
    "OnionCodec",
    "OutgoingFrame",
    "OutgoingQuery",
    "ReplyPath",
    "UsedBlocks",
]


_OWN = b"own"
_QUERY_ID_BYTES = 8
_USED_BLOCKS = 1_000_000


class UsedBlocks:
    """The reply blocks that this node has used: a second frame on one would reuse its nonces.

    A block is known by its end-to-end seed, from which the key comes. It is kept for the longest life of a
    block, not until its expiry, which its maker could raise. The table is separate from those of headers, so
    that answers do not use up a neighbour's share there. It is not saved: blocks arrive with queries, and no
    query is accepted twice, even after a restart. After the clock was set back, this table continues from the
    latest time it saw.
    """

    def __init__(self, limit: int) -> None:
        self._table = ReplayTable(system_random_bytes(32), limit=limit, share=limit)
        self._set_back_s = 0.0

    def use(self, block: ReplyBlock, *, now_s: float) -> None:
        """Mark a block as used. Raises PeerError (REPLAYED, EXPIRED), TableFull as `ReplayTable.insert`."""
        self._set_back_s = max(self._set_back_s, self._table.latest_now_s - now_s)
        now_s += self._set_back_s
        self._table.insert(block.end_to_end_seed, int(now_s) + LATEST_S, now_s=now_s, neighbour=_OWN)


class OnionCodec:
    """Opens, reads and writes the frames of one node.

    Args:
        ring: onion keys with their replay tables, and the home key.
        directory: source of the descriptors of routes.
        random_bytes: source of seeds, ids, delays and padding; the operating system's, except in tests.
    """

    def __init__(
        self,
        *,
        ring: KeyRing,
        directory: Directory,
        random_bytes: Callable[[int], bytes] = system_random_bytes,
    ) -> None:
        self.node_id = ring.keys.node_id(ring.engine)
        self.ring = ring
        self.engine = ring.engine
        self._used_blocks = UsedBlocks(_USED_BLOCKS)
        self._random_bytes = random_bytes
        self.builder = HeaderBuilder(
            node_id=self.node_id, ring=ring, directory=directory, random_bytes=random_bytes
        )

    # --- every node -----------------------------------------------------------------------------------------

    def open_frame(
        self, header: bytes, profile: Profile, *, neighbour: bytes, now_s: float, payer: bytes | None = None
    ) -> Opened:
        """Open and check a header, in the documented order, and remember it.

        Args:
            header: 128·N bytes. neighbour: id of its sender. now_s: seconds since 1970.
            payer: whose share of the replay table it takes; by default the neighbour's.
        Raises:
            PeerError: BAD_HEADER, UNKNOWN_NEXT, EXPIRED or REPLAYED, for the RESET. TableFull: no room.
        On error: the header is not remembered.
        """
        epochs = self.ring.opening(now_s)
        opened = open_header(header, profile, [epoch.key for epoch in epochs], engine=self.engine)
        slot = opened.slot
        if slot.delay_10ms > MAX_DELAY_10MS:
            raise PeerError(
                f"slot asks for a delay of {slot.delay_10ms * 10} ms, at most 30,000 are allowed",
                ErrorCode.BAD_HEADER,
            )
        if slot.command is Command.RELAY and slot.next_id in (self.node_id, neighbour):
            raise PeerError(
                "slot names this node itself, or the neighbour that sent it, as the next",
                ErrorCode.UNKNOWN_NEXT,
            )
        check_expiry(slot.expiry, now_s)
        (table,) = (epoch.table for epoch in epochs if epoch.key.epoch == opened.epoch)
        table.insert(header, slot.expiry, now_s=now_s, neighbour=payer or neighbour)
        return opened

    # --- proxy ----------------------------------------------------------------------------------------------

    def relay_layers(self, slot: Slot, profile: Profile) -> tuple[WidePermutation, WidePermutation]:
        """A proxy's permutations (forward, backward), whose `decrypt` it applies to each chunk."""
        return (
            permutation(profile, slot.seed, Direction.FORWARD, self.engine),
            permutation(profile, slot.seed, Direction.BACKWARD, self.engine),
        )

    # --- Bob ------------------------------------------------------------------------------------------------

    def destination_reader(self, slot: Slot, profile: Profile) -> MessageR:
        """Bob's reader of a query. After its header is read, `head` contains the reply mode and its data."""
        return MessageR(profile, end_to_end_key(slot.seed, Direction.FORWARD), engine=self.engine)

    def origin(self, slot: Slot, head: MessageHead) -> Origin:
        """Verify the origin of a message in mode `known-dest`.

        Raises:
            MalformedMessage: the claim is invalid. LocalTunnelError: the message has no origin.
        """
        if head.origin is None:
            raise LocalTunnelError(f"a message of mode {head.mode} has no origin")
        return check_origin(head.origin, destination=self.node_id, dest_seed=slot.seed, engine=self.engine)

    def cached_reply(self, slot: Slot, profile: Profile) -> MessageW:
        """Bob's writer of a reply over the query's own streams.

        Call it once for each query: a second writer would reuse the nonces of the first.
        """
        return MessageW(profile, end_to_end_key(slot.seed, Direction.BACKWARD), engine=self.engine)

    def reply(
        self,
        block: ReplyBlock,
        *,
        now_s: float,
        reply_routes: Sequence[Route] = (),
        blocks: int | None = None,
        wants_blocks: bool = False,
    ) -> OutgoingFrame:
        """A frame along a reply block; with `reply_routes`, it carries reply blocks itself.

        Args:
            reply_routes: routes back to this node (reply-on-reply); the other arguments as in `query`.
            wants_blocks: with `reply_routes`: the answers along them should carry blocks again.
        Returns:
            The frame; its `query_id` is the id of those answers.
        Raises:
            PeerError: EXPIRED: the block is too old. UNKNOWN_NEXT: its first node is this node. REPLAYED: it
                was used before.
            TableFull: too many blocks were used in the last hours.
            BadRoute, ProfileError, LocalTunnelError: as `query`, for the new blocks.
        """
        if not reply_routes:
            return self._reply(block, MessageHead(), now_s)
        query_id = self._random_bytes(_QUERY_ID_BYTES)
        # The user of the blocks is unknown.
        reply_blocks = self._reply_blocks(
            reply_routes,
            block.profile,
            user=None,
            query_id=query_id,
            blocks=blocks,
            now_s=now_s,
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
    ) -> OutgoingQuery:
        """Bob's own query to the origin of a message in mode `known-dest`; it carries the origin's ticket.

        Args:
            origin: verified, from `origin`.
            route: to the origin, which need not be in this node's directory, but must be in that of the last
                proxy, or linked to it.
        Raises:
            BadRoute, ProfileError: as `query`; also: the route leads to another node.
        """
        if route.destination != origin.descriptor.node_id:
            raise BadRoute("the route of the answer does not lead to the node that sent the query")
        circuit = self.builder.circuit(
            route,
            profile,
            now_s=now_s,
            error_mode=error_mode,
            destination=origin.descriptor,
        )
        frame = self._frame(circuit, MessageHead(answer=origin.ticket), None)
        return OutgoingQuery(route, frame, ReplyMode.NONE, error_mode, circuit)

    # --- Alice ----------------------------------------------------------------------------------------------

    def query(
        self,
        route: Route,
        mode: ReplyMode,
        profile: Profile,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
        reply_routes: Sequence[Route] = (),
        blocks: int | None = None,
        descriptor: Descriptor | None = None,
    ) -> OutgoingQuery:
        """Build the frame of a query, in any mode except `established` (see `circuit`).

        Args:
            reply_routes: modes other-route and reply-on-reply: routes from Bob to this node. By default,
                reply-on-reply takes the query's proxies in reverse.
            blocks: number of reply blocks, each for one reply, over the reply routes in turn. By default one
                for each route.
            descriptor: known-dest: this node's own, as it is now.
        Raises:
            BadRoute: a node is unknown, is visited twice, does not offer the profile, or has no onion key
                that is valid now.
            ProfileError: a route does not fit its profile.
            LocalTunnelError: an argument that the mode does not use, or a missing one.
        """
        mode, error_mode = member(ReplyMode, mode, "mode"), member(ErrorMode, error_mode, "error_mode")
        row = MODES[mode]
        if mode is ReplyMode.ESTABLISHED:
            raise LocalTunnelError("an established tunnel is not a message: use `OnionCodec.circuit`")
        if row.names_alice != (descriptor is not None):
            raise LocalTunnelError(f"mode {mode}: `descriptor` belongs to known-dest, which requires it")
        if blocks is not None and not row.reply_blocks:
            raise LocalTunnelError(f"mode {mode} does not use `blocks`")
        routes_back = self._reply_routes(route, mode, reply_routes)
        query_id = self._random_bytes(_QUERY_ID_BYTES) if row.reply_blocks or row.names_alice else None
        blocks_and_paths: list[tuple[ReplyBlock, ReplyPath]] = []
        if query_id is not None and routes_back:
            blocks_and_paths = self._reply_blocks(
                routes_back,
                profile,
                user=route.destination,
                query_id=query_id,
                blocks=blocks,
                now_s=now_s,
            )
        circuit = self.circuit(route, profile, now_s=now_s, error_mode=error_mode)
        origin = None
        if descriptor is not None and query_id is not None:
            origin = self._claim(descriptor, route.destination, circuit, query_id)
        head = MessageHead(
            tuple(block for block, _ in blocks_and_paths),
            origin,
            backward=row.backward_content,
            wants_blocks=row.replies_carry_blocks,
        )
        return OutgoingQuery(
            route,
            self._frame(circuit, head, query_id),
            mode,
            error_mode,
            circuit,
            self.backward_reader(circuit) if row.backward_content else None,
            tuple(reply_path for _, reply_path in blocks_and_paths),
        )

    def receipt(
        self, route: Route, profile: Profile, challenge: bytes, *, now_s: float
    ) -> tuple[bytes, bytes]:
        """A frame that returns a challenge of mode `cached` to Bob: its first node, and all of its bytes.

        Raises BadRoute and ProfileError as `query`.
        """
        circuit = self.circuit(route, profile, now_s=now_s)
        key = end_to_end_key(circuit.end_to_end_seed, Direction.FORWARD)
        chunk = seal_receipt(profile, key, challenge, self.engine)
        for seed in reversed(circuit.proxy_seeds):
            permutation(profile, seed, Direction.FORWARD, self.engine).encrypt(chunk, 0)
        return circuit.first_id, circuit.header + bytes(chunk)

    def circuit(
        self,
        route: Route,
        profile: Profile,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
    ) -> Circuit:
        """A header over `route` without a message: the start of an established tunnel.

        Raises BadRoute and ProfileError as `query`.
        """
        error_mode = member(ErrorMode, error_mode, "error_mode")
        return self.builder.circuit(route, profile, now_s=now_s, error_mode=error_mode)

    def backward_reader(self, circuit: Circuit) -> FrameR:
        key = end_to_end_key(circuit.end_to_end_seed, Direction.BACKWARD)
        return FrameR(
            circuit.backward_layers(self.engine), MessageR(circuit.profile, key, engine=self.engine)
        )

    def home_ticket(self, slot: Slot) -> HomeTicket:
        """The ticket of a reply. Raises PeerError (BAD_HEADER): the slot was not made here."""
        return HomeTicket.unpack(slot, self.ring.keys.home)

    def home_reader(self, slot: Slot, ticket: HomeTicket, profile: Profile) -> FrameR:
        """Alice's reader of a reply by block: the layer of the last proxy is removed first."""
        layers = [
            WideBlockR(
                permutation(profile, reply_hop_seed(slot.seed, proxy), Direction.FORWARD, self.engine),
                inverse=True,
            )
            for proxy in range(ticket.proxies - 1, -1, -1)
        ]
        key = end_to_end_key(reply_end_to_end_seed(slot.seed), Direction.FORWARD)
        return FrameR(layers, MessageR(profile, key, engine=self.engine))

    def receipts_writer(self, slot: Slot, ticket: HomeTicket, profile: Profile) -> FrameW:
        """Alice's writer of receipts, on the backward half of a reply by block; it has no header."""
        seeds = [reply_hop_seed(slot.seed, proxy) for proxy in range(ticket.proxies - 1, -1, -1)]
        layers = [WideBlockW(permutation(profile, seed, Direction.BACKWARD, self.engine)) for seed in seeds]
        key = end_to_end_key(reply_end_to_end_seed(slot.seed), Direction.BACKWARD)
        return FrameW(b"", layers, MessageW(profile, key, engine=self.engine))

    def receipts_reader(self, block: ReplyBlock) -> MessageR:
        """Bob's reader of the receipts for a reply along `block`."""
        key = end_to_end_key(block.end_to_end_seed, Direction.BACKWARD)
        return MessageR(block.profile, key, engine=self.engine)

    def answered_query(self, head: MessageHead) -> bytes | None:
        """The id of the query that a message answers (mode `known-dest`); None: it is itself a query.

        Raises:
            MalformedMessage: its ticket was not made here.
        """
        return None if head.answer is None else answered_query(self.ring.keys.home, head.answer)

    # --- cover traffic --------------------------------------------------------------------------------------

    def drop(
        self, route: Route, profile: Profile, *, now_s: float, mean_delay_s: float = 0.0
    ) -> OutgoingFrame:
        """A frame that its last node discards. Write any content, such as zeros.

        `mean_delay_s` is the mean of the random delay at each proxy; 0: none.

        Raises BadRoute and ProfileError as `query`.
        """
        circuit = self.builder.circuit(route, profile, Command.DROP, now_s=now_s, mean_delay_s=mean_delay_s)
        return self._frame(circuit, MessageHead(), None)

    def loop(
        self, route: Route, profile: Profile, *, now_s: float, mean_delay_s: float = 0.0
    ) -> OutgoingFrame:
        """A frame that returns to this node, along one of its own reply blocks.

        Args:
            route: at least two proxies, then this node. (A single proxy would send it back to the previous
                node, which hops refuse.)
        Returns:
            The frame; it returns as a HOME frame with its `query_id`.
        Raises:
            BadRoute, ProfileError: as `query`.
        """
        if len(route.proxies) < 2:
            raise BadRoute(f"a loop over {len(route.proxies)} proxies, expected at least 2")
        query_id = self._random_bytes(_QUERY_ID_BYTES)
        block = self.builder.reply_block(
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

    # --- parts ----------------------------------------------------------------------------------------------

    def _reply(
        self, block: ReplyBlock, head: MessageHead, now_s: float, query_id: bytes | None = None
    ) -> OutgoingFrame:
        check_expiry(block.expiry, now_s)
        if block.first_id == self.node_id:
            raise PeerError("reply block names this node itself as the first node", ErrorCode.UNKNOWN_NEXT)
        self._used_blocks.use(block, now_s=now_s)
        key = end_to_end_key(block.end_to_end_seed, Direction.FORWARD)
        message = MessageW(block.profile, key, engine=self.engine, head=head)
        return OutgoingFrame(block.first_id, block.profile, FrameW(block.header, [], message), query_id)

    def _reply_routes(self, route: Route, mode: ReplyMode, reply_routes: Sequence[Route]) -> Sequence[Route]:
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
            raise LocalTunnelError(f"mode {mode} does not use `reply_routes`")
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
    ) -> list[tuple[ReplyBlock, ReplyPath]]:
        count = len(routes) if blocks is None else blocks
        if not 1 <= count <= profile.geometry.max_reply_blocks:
            raise LocalTunnelError(
                f"{count} reply blocks of profile {profile.name!r}, expected 1 to "
                f"{profile.geometry.max_reply_blocks}"
            )
        found = []
        for number in range(count):
            reply_path = ReplyPath(routes[number % len(routes)], profile, self._random_bytes(SEED_BYTES))
            block = self.builder.reply_block(
                reply_path.route,
                profile,
                user=user,
                query_id=query_id,
                number=number,
                master_seed=reply_path.master_seed,
                now_s=now_s,
            )
            found.append((block, reply_path))
        return found

    def _claim(
        self, descriptor: Descriptor, destination: bytes, circuit: Circuit, query_id: bytes
    ) -> OriginClaim:
        keys = self.ring.keys
        return claim_origin(
            descriptor,
            keys.identity,
            ticket=answer_ticket(keys.home, query_id),
            destination=destination,
            dest_seed=circuit.end_to_end_seed,
            engine=self.engine,
        )

    def _frame(self, circuit: Circuit, head: MessageHead, query_id: bytes | None) -> OutgoingFrame:
        key = end_to_end_key(circuit.end_to_end_seed, Direction.FORWARD)
        message = MessageW(circuit.profile, key, engine=self.engine, head=head)
        layer = FrameW(circuit.header, circuit.forward_layers(self.engine), message)
        return OutgoingFrame(circuit.first_id, circuit.profile, layer, query_id)

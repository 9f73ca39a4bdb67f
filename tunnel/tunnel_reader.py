"""`TunnelReader`: the light half of a tunnel, all that a service which reads frames needs.

It opens headers with every check in its order, makes the layers for what a header says, and can answer where
the way back is in the message or in the stream. It has no directory, makes no reply blocks and builds no
route; what it cannot do alone it says with `NeedsTunnel`, and the node then hands the frame to its `Tunnel`.
It shares the key ring and its tables with that: any number of readers may be made.
Source: docs/protocol.md, "Order of checks".
"""

from __future__ import annotations

from readwrite_comp import WideBlockR
from readwrite_comp.primitives import random_bytes as system_random_bytes
from readwrite_comp.wideblock import WidePermutation
from tunnel.errors import HeaderError, LocalTunnelError, NeedsTunnel, UnknownNext
from tunnel.geometry import Profile
from tunnel.key_ring import KeyRing
from tunnel.modes import MODES, ReplyMode
from tunnel.onion.delay import MAX_DELAY_10MS
from tunnel.onion.expiry import LATEST_S, check_expiry
from tunnel.onion.frame import FrameR, FrameW
from tunnel.onion.header import Command, Opened, Slot, open_header
from tunnel.onion.header_rate import HeaderRate
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.origin import Origin, answered_query, check_origin
from tunnel.onion.replay import ReplayTable
from tunnel.onion.reply_block import HomeTicket, ReplyBlock
from tunnel.onion.secrets import end_to_end_key, reply_end_to_end_seed, reply_hop_seed
from tunnel.onion.suites import permutation
from tunnel.outgoing import OutgoingFrame

__all__ = ["TunnelReader", "UsedBlocks"]

_OWN = b"own"


class UsedBlocks:
    """Reply blocks that this node has used. A second frame along one would have the nonces of the first.

    Known by their seeds, from which the key comes, for as long as any block can be alive, whatever expiry it
    names: whoever made it may write a later one into it. Apart from the replay tables of headers, so that
    answering fills nobody's share there. Not kept over a restart: a block comes with a query, and no query is
    accepted twice. A clock that was set back goes on here from the latest time: only how much passes counts.
    """

    def __init__(self, limit: int) -> None:
        self._table = ReplayTable(system_random_bytes(32), limit=limit, share=limit)
        self._set_back_s = 0.0

    def use(self, block: ReplyBlock, *, now_s: float) -> None:
        """Raises ReplayedHeader, TableFull or ExpiredHeader as `ReplayTable.insert`."""
        self._set_back_s = max(self._set_back_s, self._table.latest_now_s - now_s)
        now_s += self._set_back_s
        self._table.insert(block.end_to_end_seed, int(now_s) + LATEST_S, now_s=now_s, neighbour=_OWN)


class TunnelReader:
    """What a read service needs to know what a frame is, to read it, and to answer it where it can.

    Args:
        node_id: this node's own id.
        ring: its onion keys and their replay tables; its home key.
        used_blocks: shared by all readers of this node.
        header_rate: of each neighbour; None: no limit.
    """

    def __init__(
        self,
        *,
        node_id: bytes,
        ring: KeyRing,
        used_blocks: UsedBlocks,
        header_rate: HeaderRate | None = None,
    ) -> None:
        self.node_id = node_id
        self.ring = ring
        self.engine = ring.engine
        self._used_blocks = used_blocks
        self._header_rate = header_rate

    def reader(self) -> TunnelReader:
        """A light reader on the same keys, tables and limits."""
        return TunnelReader(
            node_id=self.node_id,
            ring=self.ring,
            used_blocks=self._used_blocks,
            header_rate=self._header_rate,
        )

    # --- every frame ---------------------------------------------------------------------------------------

    def open_frame(self, header: bytes, profile: Profile, *, neighbour: bytes, now_s: float) -> Opened:
        """Open and check a header, in the documented order; remember it.

        Args:
            header: 128·N bytes. neighbour: who it came from. now_s: seconds since 1970.
        Raises:
            TooManyHeaders, HeaderError, UnknownNext, ExpiredHeader, ReplayedHeader, TableFull: each has the
            code for a RESET.
        On error: no header was remembered.
        """
        if self._header_rate is not None:
            self._header_rate.take(neighbour, now_s=now_s)
        epochs = self.ring.opening(now_s)
        opened = open_header(header, profile, [epoch.key for epoch in epochs], engine=self.engine)
        slot = opened.slot
        if slot.delay_10ms > MAX_DELAY_10MS:
            raise HeaderError(
                f"slot asks for a delay of {slot.delay_10ms * 10} ms, at most 30,000 are allowed"
            )
        if slot.command is Command.RELAY and slot.next_id in (self.node_id, neighbour):
            raise UnknownNext("slot names this node itself, or the neighbour that it came from, as the next")
        check_expiry(slot.expiry, now_s)
        (table,) = (epoch.table for epoch in epochs if epoch.key.epoch == opened.epoch)
        table.insert(header, slot.expiry, now_s=now_s, neighbour=neighbour)
        return opened

    # --- proxy ---------------------------------------------------------------------------------------------

    def relay_layers(self, slot: Slot, profile: Profile) -> tuple[WidePermutation, WidePermutation]:
        """The permutations of a proxy, (forward, backward); it applies their `decrypt` to each chunk."""
        return (
            permutation(profile, slot.seed, b"forward", self.engine),
            permutation(profile, slot.seed, b"backward", self.engine),
        )

    # --- Bob -----------------------------------------------------------------------------------------------

    def destination_reader(self, slot: Slot, profile: Profile) -> MessageR:
        """Bob's reader of a query. When its header is read, `head` says how to answer."""
        return MessageR(profile, end_to_end_key(slot.seed, b"forward"), engine=self.engine)

    def reply_mode(self, head: MessageHead) -> ReplyMode:
        """How a message is to be answered, if this reader can do it alone: none, route or cached.

        Raises:
            NeedsTunnel: the answer needs a route of this node's own choice (known-dest, reply-on-reply).
        """
        row = MODES[head.mode]
        if row.names_alice or row.replies_carry_blocks:
            raise NeedsTunnel(f"a reply in mode {head.mode} needs a route: let the node's Tunnel write it")
        return head.mode

    def reply(self, block: ReplyBlock, *, now_s: float) -> OutgoingFrame:
        """A frame along a reply block.

        Raises:
            ExpiredHeader: the block is too old to be of use. UnknownNext: it begins at this node itself.
            ReplayedHeader: it was used before; a second frame would be sealed with the nonces of the first.
            TableFull: too many blocks were used in the last hours.
        """
        return self._reply(block, MessageHead(), now_s)

    def _reply(
        self, block: ReplyBlock, head: MessageHead, now_s: float, query_id: bytes | None = None
    ) -> OutgoingFrame:
        check_expiry(block.expiry, now_s)
        if block.first_id == self.node_id:
            raise UnknownNext("reply block names this node itself as the first of the way back")
        self._used_blocks.use(block, now_s=now_s)
        key = end_to_end_key(block.end_to_end_seed, b"forward")
        message = MessageW(block.profile, key, engine=self.engine, head=head)
        return OutgoingFrame(block.first_id, block.profile, FrameW(block.header, [], message), query_id)

    def cached_reply(self, slot: Slot, profile: Profile) -> MessageW:
        """Bob's writer of a reply over the query's own streams. Make it once for each query: a second one
        would use the nonces of the first.
        """
        return MessageW(profile, end_to_end_key(slot.seed, b"backward"), engine=self.engine)

    def origin(self, slot: Slot, head: MessageHead) -> Origin:
        """Who asks in mode `known-dest`, checked.

        Raises:
            MalformedMessage: she is not who she says.
            LocalTunnelError: the message names nobody: its mode is another.
        """
        if head.origin is None:
            raise LocalTunnelError(f"a message of mode {head.mode} names no origin")
        return check_origin(head.origin, destination=self.node_id, dest_seed=slot.seed, engine=self.engine)

    # --- Alice ---------------------------------------------------------------------------------------------

    def answered_query(self, head: MessageHead) -> bytes | None:
        """The id of the query that a message for this node answers (mode `known-dest`); None: it is a query.

        Raises:
            MalformedMessage: its ticket was not made here.
        """
        return None if head.answer is None else answered_query(self.ring.keys.home, head.answer)

    def home_ticket(self, slot: Slot) -> HomeTicket:
        """Whose reply this is. Raises HeaderError when the slot was not made here."""
        return HomeTicket.unpack(slot, self.ring.keys.home)

    def home_reader(self, slot: Slot, ticket: HomeTicket, profile: Profile) -> FrameR:
        """Alice's reader of a reply by block: the layers of the reply route's last proxy come off first."""
        layers = [
            WideBlockR(
                permutation(profile, reply_hop_seed(slot.seed, proxy), b"forward", self.engine), inverse=True
            )
            for proxy in range(ticket.proxies - 1, -1, -1)
        ]
        key = end_to_end_key(reply_end_to_end_seed(slot.seed), b"forward")
        return FrameR(layers, MessageR(profile, key, engine=self.engine))

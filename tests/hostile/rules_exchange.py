"""Rules of peer exchange, at a node that learns from its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.hostile.network import MemoryNetwork
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import ALL_POINTS, Rule, link, nothing, outside
from tests.hostile.rules_handshake import flipped
from tests.hostile.rules_link import cell
from tests.tunnel.helpers import OPENSSL
from tunnel.directory import ExchangeDirectory
from tunnel.link.cells import CellType
from tunnel.routing.addresses import LOCAL

__all__ = ["RULES", "learning_network"]

_MOST_BYTES: Final = 4_096


def learning_network() -> MemoryNetwork:
    """A network whose victim takes part in peer exchange."""
    return MemoryNetwork(directory=ExchangeDirectory(engine=OPENSSL, rules=LOCAL))


def _payload(
    told: tuple[bytes, ...] = (),
    *,
    version: int = 1,
    flags: int = 0,
    count: int | None = None,
    zero: int = 0,
    behind: bytes = b"",
) -> bytes:
    head = bytes([version, flags, len(told) if count is None else count, zero])
    return head + b"".join(len(each).to_bytes(2, "big") + each for each in told) + behind


def _tell(make: Callable[[HostilePeer, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    def do(peer: HostilePeer, value: Any) -> None:
        peer.send_cells(cell(CellType.PEER_EXCHANGE, 0, make(peer, value)[:_MOST_BYTES]))

    return do


def _signed(peer: HostilePeer) -> bytes:
    """A new descriptor of somebody."""
    return peer.network.identity().descriptor((), peer.network.wall_s(), OPENSSL).signed


def _with_length(peer: HostilePeer, length: int) -> bytes:
    signed = _signed(peer)
    return _payload(count=1) + length.to_bytes(2, "big") + signed


def _changed(peer: HostilePeer, bit: int) -> bytes:
    signed = _signed(peer)
    # Nor its sequence number, which may make it news, nor its expiry, which may make it none, matter here.
    return _payload((flipped(signed, bit % (8 * len(signed))),))


def _expired(peer: HostilePeer, days: int) -> bytes:
    then_s = peer.network.wall_s() - 86_400 * days
    return _payload((peer.network.identity().descriptor((), then_s, OPENSSL).signed,))


def _of_itself(peer: HostilePeer, value: None) -> bytes:
    return _payload((peer.target.descriptor.signed,))


_ANY_OTHER: Final = "a descriptor that is malformed or not signed by the node that it names, ends the link"
_NO_NOTICE: Final = (
    "Taken no notice of: descriptors that are UNLISTED, have expired, are of the receiver itself"
)

_TABLE: Final[tuple[tuple[str, str, Callable[[HostilePeer, Any], bytes], Any], ...]] = (
    ("version", "| 0 | version | 1 | 1 |", lambda _, n: _payload(version=n), outside(1, 1, 8)),
    (
        "flags",
        "the sender asks for a message in return, now; other bits zero",
        lambda _, n: _payload(flags=n),
        range(2, 256),
    ),
    (
        "count",
        "| 2 | count | 1 | of descriptors, 0 to 8 |",
        lambda p, n: _payload((_signed(p),) * 9, count=n),
        range(9, 256),
    ),
    ("zero", "| 3 | zero | 1 | 0 |", lambda _, n: _payload(zero=n), range(1, 256)),
    ("short head", _ANY_OTHER, lambda _, n: _payload()[:n], (1, 2, 3)),
    (
        "too few",
        "It ends with the last descriptor.",
        lambda p, n: _payload((_signed(p),), count=n),
        range(2, 9),
    ),
    ("too many", "It ends with the last descriptor.", lambda p, _: _payload((_signed(p),), count=0), (None,)),
    (
        "bytes behind",
        "It ends with the last descriptor.",
        lambda p, n: _payload((_signed(p),), behind=bytes(n)),
        range(1, 1000),
    ),
    ("length", "(length u16, 69 to 478 ‖ signed descriptor)", _with_length, outside(69, 478, 16)),
    ("changed descriptor", _ANY_OTHER, _changed, range(8 * 69, 2000)),
)

RULES: Final = (
    *(
        Rule(f"exchange: {name}", text, _tell(make), link(within_s=3.0), values, points=ALL_POINTS)
        for name, text, make, values in _TABLE
    ),
    Rule("exchange: expired", _NO_NOTICE, _tell(_expired), nothing, (8, 100)),
    Rule("exchange: of the receiver", _NO_NOTICE, _tell(_of_itself), nothing),
)

"""Scenario vectors of the onion protocol: the reaction of a node to given bytes, with the names of failures.

    python -m tests.vectors.make_scenarios             # prints what would change, changes nothing
    python -m tests.vectors.make_scenarios --write     # the files of tests/vectors/onion

One scenario per file, of one of nine kinds (tests/vectors/README.md has the fields): `exchange`, a whole
exchange with fixed draws; `follow_up`, one that Alice continues along a block of Bob's; `handed_on`, the
STATUS of a reply path on the query's backward half; `receipts`, a reply with challenges; `open`, headers
given to a node; `message`, chunks given to a reader; `block`, a reply block to be used; `home`, a returned
ticket; `origin`, a claim to be checked. A file has all that a reader needs. All random values come from
`secret(scenario, use)`, the ephemeral keys of HPKE included.

The bytes are the project's own and record its behaviour. `tests/tunnel/test_scenarios.py` makes them again
with both engines, and reads each file without this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.vectors.answer_makers import follow_up, handed_on
from tests.vectors.receipt_makers import bad_challenges, receipts
from tests.vectors.scenario_files import write_scenarios
from tests.vectors.scenario_makers import (
    CHUNK_DATA,
    EXPIRY,
    HCTR,
    NEIGHBOUR,
    NOW_S,
    SMALL,
    Maker,
    Scenario,
    block,
    chunk,
    cover,
    exchanged,
    flipped,
    home,
    message,
    opened,
    origin,
    with_head,
)
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import ErrorCode
from tunnel.geometry import HCTR_SUITE, STREAM, Profile
from tunnel.identity.keys import EPOCH_S
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.header import Command

__all__ = ["EXPECTED", "FOLDER", "build_all"]

FOLDER = Path(__file__).with_name("onion")
EXPECTED = 113
_MSG, _END, _PAD, _CHALLENGE = 1, 2, 3, 11
_NO_WAY = bytes(4)


def _exchanges() -> dict[str, Maker]:
    found = {}
    for mode in ReplyMode:
        if mode is ReplyMode.ESTABLISHED:
            continue
        answers = 0 if mode is ReplyMode.NONE else 1
        for profile in (SMALL, HCTR):
            name = f"exchange_{mode}_{profile.name}".replace("-", "_")
            found[name] = exchanged(name, mode, answers, profile)
    # The other lengths of header and chunk are computed alike; 15 slots is the odd number among them.
    name = "exchange_route_stream_hctr"
    found[name] = exchanged(name, ReplyMode.ROUTE, 1, Profile(STREAM, HCTR_SUITE))
    name = "exchange_two_replies"
    found[name] = exchanged(name, ReplyMode.ROUTE, 2)
    name = "exchange_three_replies"
    found[name] = exchanged(name, ReplyMode.OTHER_ROUTE, 3)
    for mode, profile in ((ReplyMode.ROUTE, SMALL), (ReplyMode.OTHER_ROUTE, HCTR)):
        name = f"exchange_unused_block_{profile.name}".replace("-", "_")
        found[name] = exchanged(name, mode, 2, profile, unused=1)
    for error in (ErrorMode.XOR, ErrorMode.NONE):
        name = f"exchange_error_mode_{error}"
        found[name] = exchanged(name, ReplyMode.CACHED, 1, error=error)
    found["cover_drop"], found["cover_loop"] = cover("cover_drop", False), cover("cover_loop", True)
    return found


def _answers() -> dict[str, Maker]:
    def status(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"handed_on_{name}", handed_on(f"handed_on_{name}", *arguments, **keywords)

    def follow(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"follow_up_{name}", follow_up(f"follow_up_{name}", *arguments, **keywords)

    return dict([
        status("success", 2),
        status("only_block", 0, blocks=1),
        status("failure_at_first_proxy", 1, origin=0, failure=ErrorCode.DISCONNECTED, about_next=True),
        status("failure_at_second_proxy", 0, origin=1, failure=ErrorCode.TIMEOUT, profile=HCTR),
        status("failure_at_alice", 2, failure=ErrorCode.BAD_CONTENT),
        status("changed_by_bob", 1, damage=flipped(40)),
        status("number_out_of_range", 3, expect="MalformedMessage"),
        status("second_for_the_same_block", 1, second=1, expect="trailing"),
        status("second_for_another_block", 1, second=2, expect="trailing"),
        status("last_missing", 1, flags=0, expect="MalformedMessage"),
        status("type_msg", 1, kind=_MSG, expect="MalformedMessage"),
        status("too_short", 1, damage=lambda status: status[:-1], expect="MalformedMessage"),
        status("padding_not_zero", 1, pad=b"\0\1", expect="MalformedMessage"),
        status("chunk_changed_by_a_proxy", 1, changed=True, expect="MalformedMessage"),
        follow("wants_blocks", wants_blocks=True),
        follow("two_answers", answers=2, profile=HCTR),
        follow("without_a_way_back", answers=0),
        follow("first_block_begins_at_alice", own_first=True, expect="PeerError"),
    ])  # fmt: skip


def _receipts() -> dict[str, Maker]:
    found = {}
    for mode in (ReplyMode.ROUTE, ReplyMode.CACHED):
        for profile in (SMALL, HCTR):
            name = f"receipts_{mode}_{profile.name}".replace("-", "_")
            found[name] = receipts(name, mode, profile)
    for what, kinds in {
        "first": (_CHALLENGE, _MSG, _END),
        "two_in_a_row": (_MSG, _CHALLENGE, _CHALLENGE, _END),
        "after_end": (*[_MSG] * 8, _END, _CHALLENGE),
        "nine_unanswered": (*[_MSG, _CHALLENGE] * 9, _END),
    }.items():
        found[f"receipts_challenge_{what}"] = bad_challenges(f"receipts_challenge_{what}", kinds)
    return found


def _opens() -> dict[str, Maker]:
    def named(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"open_{name}", opened(f"open_{name}", *arguments, **keywords)

    day = EPOCH_S
    late_expiry = EXPIRY + day
    return dict([
        named("relay", "ok"),
        named("dest", "ok", command=Command.DEST),
        named("longest_delay", "ok", delay_10ms=3_000),
        named("previous_epoch", "ok", wait_s=day, expiry=late_expiry, command=Command.DEST),
        named("epoch_before_the_previous", wait_s=2 * day, expiry=EXPIRY + 2 * day, command=Command.DEST),
        named("first_slot_changed", change=flipped(60)),
        named("point_changed", change=flipped(3)),
        named("tag_changed", change=flipped(127)),
        named("rest_changed", change=flipped(1_023)),
        named("another_epoch", epoch_shift=1),
        named("another_profile", seal_profile=HCTR),
        named("too_short", change=lambda header: header[:-1]),
        named("command_0", raw=lambda fields: b"\0" + fields[1:]),
        named("command_5", raw=lambda fields: b"\5" + fields[1:]),
        named("flag_8", raw=lambda fields: fields[:1] + b"\x08" + fields[2:]),
        named("delay_3001", delay_10ms=3_001),
        named("next_is_self", "PeerError", "UNKNOWN_NEXT", next_id=b"self"),
        named("next_is_neighbour", "PeerError", "UNKNOWN_NEXT", next_id=NEIGHBOUR),
        named("expired", "PeerError", "EXPIRED", expiry=int(NOW_S) - 600),
        named("just_not_expired", "ok", expiry=int(NOW_S) - 599),
        named("too_far_ahead", "PeerError", "EXPIRED", expiry=int(NOW_S) + 15_001),
        named("replayed", "PeerError", "REPLAYED", times=2),
    ])  # fmt: skip


def _messages() -> dict[str, Maker]:
    def named(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"message_{name}", message(f"message_{name}", *arguments, **keywords)

    nine = [chunk(_MSG, _NO_WAY + b"x"), *[chunk(_MSG, b"x")] * 7]
    return dict([
        named("five_chunks", None, "ok"),
        named("empty", with_head(_NO_WAY), "ok"),
        named("padded", [*nine, chunk(_END, b"y"), chunk(_PAD, b"", last=True)], "ok"),
        named("changed", None, "AuthenticationError", change=lambda s: [s[0], flipped(500)(s[1]), *s[2:]]),
        named("swapped", None, "AuthenticationError", change=lambda s: [s[0], s[2], s[1], *s[3:]]),
        named("repeated", None, "AuthenticationError", change=lambda s: [s[0], s[0], *s[1:]]),
        named("dropped", None, "AuthenticationError", change=lambda s: [*s[:2], *s[3:]]),
        named("truncated", None, "Truncated", "TRUNCATED", change=lambda s: s[:3]),
        named("truncated_in_a_chunk", None, "Truncated", "TRUNCATED", change=lambda s: [*s[:2], s[2][:500]]),
        named("extended", None, "trailing", change=lambda s: [*s, s[0]]),
        named("padding_not_zero", [chunk(_END, _NO_WAY, last=True, pad=b"\0\1")]),
        named("sub_stream_1", [chunk(_END, _NO_WAY, last=True, sub=1)]),
        named("flag_2", [chunk(_END, _NO_WAY, last=True, flags=2)]),
        named("length_too_long", [chunk(_END, _NO_WAY, last=True)], length=CHUNK_DATA + 1),
        named("type_0", [chunk(0, _NO_WAY, last=True)]),
        named("msg_without_content", [chunk(_MSG, b""), chunk(_END, _NO_WAY, last=True)]),
        named("last_too_early", [chunk(_MSG, _NO_WAY, last=True)]),
        named("last_missing", [chunk(_END, _NO_WAY)]),
        named("pad_missing", [*nine, chunk(_END, b"y", last=True)]),
        named("challenge_in_a_query", [chunk(_MSG, _NO_WAY), chunk(_CHALLENGE, b"c" * 16),
              chunk(_END, b"", last=True)]),
        named("two_ends", [*nine, chunk(_END, b""), chunk(_END, b"", last=True)]),
        named("pad_with_content", [*nine, chunk(_END, b""), chunk(_PAD, b"x", last=True)]),
        named("head_cut", with_head(b"\0\0\0")),
        named("head_reserved", with_head(b"\0\0\0\1")),
        named("head_flag_16", with_head(b"\0\x10\0\0")),
        named("head_nine_blocks", with_head(b"\x09\0\0\0")),
        named("head_unknown_profile", with_head(b"\1\0\0\0\x15")),
        named("head_two_ways_back", with_head(b"\0\x09\0\0")),
        named("head_wants_blocks_without_any", with_head(b"\0\x04\0\0")),
        named("head_origin_too_long", with_head(b"\0\x01\0\0" + bytes(24) + b"\x01\xe7")),
    ])  # fmt: skip


def build_all(engine: TunnelEngine) -> dict[str, Scenario]:
    """Every scenario by its name, made with `engine`."""
    makers = _exchanges() | _answers() | _receipts() | _opens() | _messages()
    for name, maker in {
        "block_used_twice": block("block_used_twice", "PeerError", "REPLAYED", times=2),
        "block_expired": block("block_expired", "PeerError", "EXPIRED", late_s=601),
        "block_begins_at_bob": block("block_begins_at_bob", "PeerError", "UNKNOWN_NEXT", own=True),
        "block_used": block("block_used", "ok", ""),
        "home": home("home", lambda ticket: ticket, "ok"),
        "home_forged_mac": home("home_forged_mac", flipped(31)),
        "home_other_query": home("home_other_query", flipped(0)),
        "home_not_zero": home("home_not_zero", flipped(12)),
        "origin": origin("origin", "", "ok"),
    }.items():
        makers[name] = maker
    for what in ("signature", "descriptor", "damaged descriptor", "other node", "other query"):
        name = f"origin_{what}".replace(" ", "_")
        makers[name] = origin(name, what)
    return {name: make(engine) for name, make in makers.items()}


if __name__ == "__main__":
    sys.exit(write_scenarios(build_all(tunnel_engine("openssl")), FOLDER, (__doc__ or "").splitlines()[0]))

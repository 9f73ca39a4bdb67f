"""The scenario files of `tests/vectors/status`: statuses on their way to Alice, good and bad.

    python -m tests.vectors.make_status             # prints what would change, changes nothing
    python -m tests.vectors.make_status --write     # writes the files

The slot seed of hop i is the first 16 bytes of SHA-256("mtun1 status vector: hop " ‖ i in decimal); hop i
holds the frame for 10·(i + 1) ms. A file has the geometry's N, the number of hops, the operations, the bytes
on each link from the origin to Alice, and Alice's report. These bytes record the project's behaviour.
`tests/support/second_status.py` reads them from the document alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.vectors.scenario_files import write_scenarios
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import ErrorCode
from tunnel.geometry import DEFAULT, INTERACTIVE, LONG, STREAM, Geometry
from tunnel.onion.key_schedule import StatusKeys
from tunnel.onion.status import StatusReport, originate_status, read_status, wrap_status

__all__ = ["FOLDER", "GEOMETRIES_BY_SLOTS", "build", "report_as_json", "seeds"]

FOLDER = Path(__file__).with_name("status")
GEOMETRIES_BY_SLOTS = {g.slots: g for g in (INTERACTIVE, DEFAULT, LONG, STREAM)}

Scenario = dict[str, Any]
Change = Callable[[bytes], bytes]


def seeds(hops: int) -> list[bytes]:
    """The slot seeds of a route."""
    return [sha256(f"mtun1 status vector: hop {hop}".encode()).digest()[:16] for hop in range(hops)]


def report_as_json(report: StatusReport) -> dict[str, Any]:
    """What Alice reads, as the files have it."""
    return {
        "origin": report.origin,
        "code": None if report.code is None else report.code.name,
        "about_next": report.about_next,
        "text": report.text,
        "suspects": list(report.suspects),
        "hold_ms": list(report.hold_ms),
        "succeeded": report.succeeded,
    }


def _flip(byte: int) -> Change:
    return lambda status: status[:byte] + bytes([status[byte] ^ 0x01]) + status[byte + 1 :]


def _scenario(
    about: str,
    geometry: Geometry,
    hops: int,
    origin: int,
    engine: TunnelEngine,
    *,
    code: ErrorCode | None = None,
    about_next: bool = False,
    text: str = "",
    changes: dict[int, Change] | None = None,
) -> Scenario:
    """`changes`: what is done to the bytes that leave a hop."""
    keys = [StatusKeys.derive(seed) for seed in seeds(hops)]
    status = b""
    links = []
    for hop in range(origin, -1, -1):
        hold_ms = 10 * (hop + 1)
        if hop == origin:
            status = originate_status(
                keys[hop],
                code,
                geometry=geometry,
                hold_ms=hold_ms,
                engine=engine,
                about_next=about_next,
                text=text,
            )
        else:
            status = wrap_status(status, keys[hop], geometry=geometry, hold_ms=hold_ms, engine=engine)
        if changes and hop in changes:
            status = changes[hop](status)
        links.append(status.hex())
    report = read_status(status, keys, geometry=geometry, engine=engine)
    return {
        "about": about,
        "slots": geometry.slots,
        "hops": hops,
        "seeds": [seed.hex() for seed in seeds(hops)],
        "links": links,
        "report": report_as_json(report),
    }


def build(engine: TunnelEngine) -> dict[str, Scenario]:
    """Every scenario by its file's name."""
    refused = ErrorCode.NEXT_REFUSED
    trail = 256 + 4 * INTERACTIVE.slots
    noise = sha256(b"noise").digest() * 14
    return {
        "success_8": _scenario("success over 3 hops", INTERACTIVE, 3, 2, engine),
        "success_15": _scenario("success over as many hops as N, an odd number", STREAM, 15, 14, engine),
        "success_32": _scenario("success over 5 hops", DEFAULT, 5, 4, engine),
        "success_128": _scenario("success over 4 hops, no attribution MACs", LONG, 4, 3, engine),
        "success_one_hop": _scenario("success, Bob is the only hop", INTERACTIVE, 1, 0, engine),
        "success_longest": _scenario("success over as many hops as N", INTERACTIVE, 8, 7, engine),
        "failure_at_first_hop": _scenario(
            "hop 0 could not dial hop 1", INTERACTIVE, 4, 0, engine, code=refused, about_next=True
        ),
        "failure_in_the_middle": _scenario(
            "hop 1 passes hop 2's RESET on, with a text",
            INTERACTIVE, 4, 1, engine,
            code=ErrorCode.EXPIRED, about_next=True, text="header expired 700 s ago – check the clocks",
        ),
        "failure_at_the_end": _scenario(
            "Bob's service failed", DEFAULT, 3, 2, engine, code=ErrorCode.SERVICE_FAILED
        ),
        "failure_128": _scenario("hop 1 timed out", LONG, 4, 1, engine, code=ErrorCode.TIMEOUT),
        "text_of_220_bytes": _scenario(
            "the longest text", INTERACTIVE, 2, 1, engine, code=ErrorCode.BUSY, text="0123456789" * 22
        ),
        "bad_body_changed_by_hop_2": _scenario(
            "a byte of the code changed behind hop 2", INTERACTIVE, 5, 4, engine, changes={2: _flip(33)}
        ),
        "bad_body_changed_by_hop_0": _scenario(
            "a byte of the MAC changed behind hop 0", INTERACTIVE, 5, 4, engine, changes={0: _flip(0)}
        ),
        "bad_mac_changed_by_hop_1": _scenario(
            "hop 1's own MAC, the one that Alice checks, changed",
            INTERACTIVE, 3, 2, engine, changes={1: _flip(trail + 4 * 6)},
        ),
        "changed_where_nothing_is_checked": _scenario(
            "a MAC of hop 1 for another distance changed: no difference",
            INTERACTIVE, 3, 2, engine, changes={1: _flip(trail + 4)},
        ),
        "bad_hold_time_changed_by_hop_1": _scenario(
            "hop 1 makes hop 2 look slow", INTERACTIVE, 4, 3, engine, changes={1: _flip(256 + 4)}
        ),
        "bad_replaced_by_hop_3": _scenario(
            "hop 3 sends noise", INTERACTIVE, 6, 5, engine, changes={3: lambda status: noise[: len(status)]}
        ),
        "bad_128_changed": _scenario(
            "a byte changed, no attribution MACs: nobody can be named", LONG, 4, 3, engine,
            changes={1: _flip(100)},
        ),
        "bad_success_from_the_middle": _scenario(
            "hop 1 of 3 claims success, which only the last hop may", INTERACTIVE, 3, 1, engine
        ),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(write_scenarios(build(tunnel_engine()), FOLDER, (__doc__ or "").splitlines()[0]))

"""`mtun ping`: is a node there, and how long does a round trip through proxies take?

Each ping is a query over a route of its own, drawn at random. It counts as answered when the node itself has
answered: with a reply, or by saying that it has no such service. With --retries one that failed for a proxy's
fault goes again over another route, and its time is that of all its attempts.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tunnel.cli.client import Client, add_client_options, add_target, proxies_text, wait
from tunnel.cli.options import add_json, add_retries, command, count, size
from tunnel.cli.terminal import complain, say, say_json
from tunnel.errors import QueryFailed
from tunnel.services import service_prefix

__all__ = ["add_parser"]

_EXAMPLE = """\
example:
  mtun ping node-7 --network mynet
  mtun ping 4307b306 --peers peers.txt --hops 5 --count 10 --json
"""
_MOST_BYTES = 1 << 20


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "ping", __doc__, _EXAMPLE, run)
    add_target(parser)
    parser.add_argument(
        "--count", type=count(1, 100_000), default=4, metavar="N", help="how often (default 4)"
    )
    parser.add_argument(
        "--size", type=size(0, _MOST_BYTES), default=64, metavar="SIZE", help="content of each (default 64)"
    )
    add_retries(parser, "each")
    add_client_options(parser)
    add_json(parser)


@dataclass(frozen=True, slots=True)
class _Pinged:
    """One ping. `milliseconds` is None when the node has not answered; `error` and `hint` say why."""

    hops: int
    milliseconds: float | None
    answer_bytes: int = 0
    error: str | None = None
    hint: str = ""
    retries: int = 0


def run(options: argparse.Namespace) -> int:
    """Ping. Returns the exit status: 1 when one of them was not answered."""
    pings = []
    with Client(options) as client:
        destination = client.names.resolve(options.id)
        name = client.names.name(destination)
        for number in range(1, options.count + 1):
            pinged = _ping(client, destination, options)
            pings.append(pinged)
            if not options.json:
                _show(number, name, pinged)
    times = [pinged.milliseconds for pinged in pings if pinged.milliseconds is not None]
    if options.json:
        outcome = {
            "id": destination.hex(),
            "hops": pings[0].hops,
            "sent": len(pings),
            "answered": len(times),
            "retried": sum(pinged.retries for pinged in pings),
            "milliseconds": [None if p.milliseconds is None else round(p.milliseconds, 3) for p in pings],
            "errors": [pinged.error for pinged in pings if pinged.milliseconds is None],
        }
        say_json(len(times) == len(pings), outcome)
    elif times:
        say(
            f"{len(times)} of {len(pings)} answered; least {min(times):.1f} ms, "
            f"median {statistics.median(times):.1f} ms, most {max(times):.1f} ms"
        )
    else:
        complain(f"error: {name} has not answered")
        known = all(pinged.hint for pinged in pings)
        advice = "-v shows what the client knows; --hops 0 dials it directly, over no proxy"
        complain(f"hint: {pings[0].hint if known else advice}")
    return 0 if len(times) == len(pings) else 1


def _ping(client: Client, destination: bytes, options: argparse.Namespace) -> _Pinged:
    route = client.route(destination)
    hops = len(route.proxies)
    content = service_prefix("ping") + secrets.token_bytes(options.size)
    started_s = time.perf_counter()
    try:
        query = client.node.query(destination, content, route=route, retries=options.retries)
        result = wait(query, options.timeout)
        answer_bytes, error, retries = result.reply_bytes, None, len(result.attempts)
        result.close()
    except QueryFailed as failure:
        report, retries = failure.report, max(0, len(failure.attempts) - 1)
        if report is None or report.is_about_reply or report.suspects or report.hop != hops:
            said = client.names.in_words(str(failure))
            return _Pinged(hops, None, error=said, hint=client.hint(failure), retries=retries)
        answer_bytes, error = 0, client.names.in_words(str(report))  # the node itself has said so
    return _Pinged(hops, (time.perf_counter() - started_s) * 1000, answer_bytes, error, retries=retries)


def _show(number: int, name: str, pinged: _Pinged) -> None:
    if pinged.milliseconds is None:
        say(f"{number}: no answer: {pinged.error}")
        return
    what = f"{pinged.answer_bytes} bytes" if pinged.error is None else f"({pinged.error})"
    again = f", after {pinged.retries} that failed" if pinged.retries else ""
    say(f"{number}: {what} from {name} in {pinged.milliseconds:.1f} ms {proxies_text(pinged.hops)}{again}")

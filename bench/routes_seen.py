"""Guessing routes from outside, by time alone: what follows soon after at the next node belongs together.

The observer sees everything on every wire and knows no key. An event is something that goes from one node to
another at a time: a connection that is opened, or the first record after a silence. An event that leaves a
node soon after another one came in there is taken for its continuation, unless that one has one already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.wire_records import Connection

__all__ = ["Event", "connections_as_events", "guess_routes", "records_as_events"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something went from node `source` to node `target`."""

    time_s: float
    source: int
    target: int


def connections_as_events(connections: Iterable[Connection]) -> list[Event]:
    """Each connection when it was opened."""
    return [Event(found.began_s, found.source, found.target) for found in connections]


def records_as_events(connections: Iterable[Connection], silence_s: float) -> list[Event]:
    """Each record that breaks a silence of its direction."""
    events = []
    for found in connections:
        for is_outward in (True, False):
            last_s = float("-inf")
            ends = (found.source, found.target) if is_outward else (found.target, found.source)
            for record in found.records:
                if record.is_outward is is_outward:
                    if record.time_s - last_s >= silence_s:
                        events.append(Event(record.time_s, *ends))
                    last_s = record.time_s
    return events


def guess_routes(events: Sequence[Event], within_s: float) -> list[tuple[int, ...]]:
    """Chain events.

    Args:
        within_s: the longest a node is thought to hold something.
    Returns:
        A route for each chain: the node where it began and all that follow.
    """
    chains: list[list[Event]] = []
    ends: list[list[Event]] = []  # chains that may continue, latest last
    for event in sorted(events, key=lambda event: event.time_s):
        for chain in reversed(ends):
            last = chain[-1]
            if event.time_s - last.time_s > within_s:
                continue
            # Nobody sends back where it came from, nor to whom has had it.
            if last.target == event.source and event.target not in {seen.source for seen in chain}:
                chain.append(event)
                ends.remove(chain)
                ends.append(chain)
                break
        else:
            chains.append([event])
            ends.append(chains[-1])
        ends = [chain for chain in ends if event.time_s - chain[-1].time_s <= within_s]
    return [(chain[0].source, *(event.target for event in chain)) for chain in chains]

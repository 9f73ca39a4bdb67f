"""`python -m bench`: the short form of every benchmark, in a few seconds.

It shows that all of them work. What it prints is no measurement: too little content, and one pair of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import echo, layers, links, observer, throughput
from bench.report import machine, write_json

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="The short form of every benchmark: shows that all work, and roughly how fast. "
        "To measure, run python -m bench.layers, bench.echo, bench.throughput, bench.links and "
        "bench.observer.",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON too; - for JSON alone, on standard output")
    options = parser.parse_args(arguments)
    where = machine()
    layer_settings, tunnel_settings = layers.Settings.short(), throughput.Settings.short()
    layer_cases = layers.measure(layer_settings)
    if options.json != "-":
        print(layers.text(layer_settings, layer_cases, where), end="\n\n", flush=True)
    echo_settings = echo.Settings.short()
    echo_cases, memory = echo.measure(echo_settings), echo.measure_memory(echo_settings)
    if options.json != "-":
        print(echo.text(echo_settings, echo_cases, memory, where), end="\n\n", flush=True)
    tunnel_cases = throughput.measure(tunnel_settings)
    if options.json != "-":
        print(throughput.text(tunnel_settings, tunnel_cases, where), end="\n\n", flush=True)
    link_settings, seen_settings = links.Settings.short(), observer.Settings.short()
    link_cases, held = links.measure(link_settings), links.measure_memory(link_settings)
    if options.json != "-":
        print(links.text(link_settings, link_cases, held, where), end="\n\n", flush=True)
    seen_cases = observer.measure(seen_settings)
    if options.json != "-":
        print(observer.text(seen_settings, seen_cases, where))
    if options.json is not None:
        benchmarks = [
            layers.record(layer_settings, layer_cases, where),
            echo.record(echo_settings, echo_cases, memory, where),
            throughput.record(tunnel_settings, tunnel_cases, where),
            links.record(link_settings, link_cases, held, where),
            observer.record(seen_settings, seen_cases, where),
        ]
        write_json({"benchmarks": benchmarks}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

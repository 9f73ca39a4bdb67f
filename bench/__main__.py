"""`python -m bench`: the short form of every benchmark, in a few seconds.

It shows that all of them work. What it prints is no measurement: too little content, and one pair of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import echo, layers, primitives, throughput
from bench.report import machine, write_json

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="The short form of every benchmark: shows that all work, and roughly how fast. "
        "To measure, run python -m bench.layers, bench.echo, bench.primitives and bench.throughput.",
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
    primitive_settings = primitives.Settings.short()
    primitive_cases = primitives.measure(primitive_settings)
    if options.json != "-":
        print(primitives.text(primitive_settings, primitive_cases, where), end="\n\n", flush=True)
    tunnel_cases = throughput.measure(tunnel_settings)
    if options.json != "-":
        print(throughput.text(tunnel_settings, tunnel_cases, where))
    if options.json is not None:
        benchmarks = [
            layers.record(layer_settings, layer_cases, where),
            echo.record(echo_settings, echo_cases, memory, where),
            primitives.record(primitive_settings, primitive_cases, where),
            throughput.record(tunnel_settings, tunnel_cases, where),
        ]
        write_json({"benchmarks": benchmarks}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

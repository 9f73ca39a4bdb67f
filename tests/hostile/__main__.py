"""`python -m tests.hostile`: how many hostile inputs a node takes without a fault, a hang or growth."""

from __future__ import annotations

import argparse
import logging
import sys

from tests.hostile.counting import LIMITS, Flood
from tests.hostile.network import MemoryNetwork


def main() -> int:
    """Run, print the totals, and return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=10_000, help="stop after so many (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="or after so long (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: %(default)s)")
    given = parser.parse_args()
    logging.getLogger("tunnel").addHandler(logging.NullHandler())
    logging.getLogger("reactor").addHandler(logging.NullHandler())
    with MemoryNetwork(limits=LIMITS) as network:
        totals = Flood(network, given.seed).run(
            given.inputs, given.seconds, lambda line: print(line, file=sys.stderr)
        )
    print("\n".join(totals.lines()))
    return 0 if totals.is_clean else 1


if __name__ == "__main__":
    raise SystemExit(main())

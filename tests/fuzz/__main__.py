"""Fuzz every parser and state machine.

    python -m tests.fuzz --seconds 60             all targets in turn, two at a time
    python -m tests.fuzz mux tunnel_end           these
    python -m tests.fuzz mux --input FILE         one input again, with its traceback
    python -m tests.fuzz --list                   the targets
    python -m tests.fuzz --keep                   keep the best of the kept and the new inputs

Needs the extra `fuzz` (atheris), except for `--input`, `--list` and `--keep`. An input that fails is written
to tests/fuzz/corpus/crashes and stays there when the fault is mended. The exit status is 1 if one failed. New
inputs collect in .fuzz/ until they are kept. tests/fuzz/test_corpus.py runs all that are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.fuzz import ENGINE_VARIABLE

_ROOT = Path(__file__).parents[2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--engine", choices=("openssl", "pycryptodome"), help="default: the faster one")
    parser.add_argument("--work", type=Path, default=_ROOT / ".fuzz", help="for new inputs (default .fuzz)")
    parser.add_argument("--input", type=Path, help="run one target on this file")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--keep", action="store_true", help="choose the inputs to keep")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    if options.engine:
        os.environ[ENGINE_VARIABLE] = options.engine
    if not (options.input or options.list or options.keep):
        return _run(options)
    from tests.fuzz.corpus import inputs_of, keep
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if options.input:
        TARGETS[names[0]](options.input.read_bytes())
        print(f"{names[0]}: no failure")
        return 0
    for name in names:
        if options.list:
            print(f"{name:24}{(TARGETS[name].run.__doc__ or '').splitlines()[0]}")
            continue
        paths = [*inputs_of(name), *inputs_of(name, options.work)]
        count = keep(TARGETS[name], [bytes(range(256)), *(path.read_bytes() for path in paths)])
        print(f"{name:24}{count} of {len(paths)} kept")
    return 0


def _run(options: argparse.Namespace) -> int:
    try:
        from tests.fuzz.guided import run_guided
        from tests.fuzz.targets import TARGETS
    except ImportError as error:
        print(f"fuzzing needs the extra `fuzz`, pip install '.[fuzz]': {error}", file=sys.stderr)
        return 2
    if unknown := set(options.targets) - set(TARGETS):
        print(f"no such target: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    names = options.targets or list(TARGETS)
    inputs, failed = 0, list[str]()
    print(f"{'target':24}{'inputs':>10}{'new':>6}{'slowest':>9}{'memory MB':>12}  failures")
    for outcome in run_guided(names, options.seconds, options.jobs, options.work.absolute()):
        inputs += outcome.inputs
        memory = f"{outcome.first_mb}→{outcome.most_mb}"
        print(
            f"{outcome.name:24}{outcome.inputs:10,}{outcome.new:6,}{outcome.slowest_s:7} s{memory:>12}"
            f"  {len(outcome.failures) if outcome.has_failed else '–'}",
            flush=True,
        )
        if outcome.has_failed:
            failed.append(outcome.name)
            print(f"    log: {outcome.log}")
            for path in outcome.failures:
                print(f"    again with: python -m tests.fuzz {outcome.name} --input {path}")
    print(f"{inputs:,} inputs, {len(failed)} of {len(names)} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

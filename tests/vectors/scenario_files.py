"""Scenario files as their generators write them: indented JSON, one file for each scenario."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_scenarios"]


def write_scenarios(
    scenarios: Mapping[str, Any], folder: Path, description: str, arguments: Sequence[str] | None = None
) -> int:
    """The command line of a generator: list the files that differ; with `--write`, update them.

    Args:
        scenarios: each by its file's name; `folder` is to hold these and no others.
        description: for `--help`.
    Returns:
        The exit status: 1 if files differ and `--write` was not given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help="write the files")
    options = parser.parse_args(arguments)
    folder.mkdir(exist_ok=True)
    known = {path.stem for path in folder.glob("*.json")}
    changed = 0
    for name, scenario in scenarios.items():
        path, text = folder / f"{name}.json", json.dumps(scenario, indent=1) + "\n"
        if not path.exists() or path.read_text(encoding="ascii") != text:
            changed += 1
            print(f"{'writes' if options.write else 'would write'} {path.name}")
            if options.write:
                path.write_text(text, encoding="ascii")
    for name in sorted(known - scenarios.keys()):
        changed += 1
        print(f"not made any more: {name}.json")
        if options.write:
            (folder / f"{name}.json").unlink()
    print(f"{len(scenarios)} scenarios, {changed} changed")
    return 0 if options.write or not changed else 1

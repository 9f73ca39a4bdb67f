"""Drawings of benchmarks. Needs the extra `plot`."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.report import Spread

__all__ = ["Panel", "can_draw", "draw_bars", "drawing"]

_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Panel:
    """One case.

    Attributes:
        unit: of the values; less is better.
        bars: by library.
    """

    title: str
    unit: str
    bars: Mapping[str, Spread]


def can_draw() -> bool:
    """Return whether matplotlib is installed; if not, print how to install it."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print("error: matplotlib is missing\nhint: pip install 'mydht-tunnel[plot]'", file=sys.stderr)
    return False


@contextmanager
def drawing(path: str, title: str, size: tuple[float, float]) -> Iterator[Any]:
    """Give a matplotlib `Figure` of `size` inches to draw into, then write it to `path`, in the format of its
    ending.
    """
    # Imported here: only drawings need the extra `plot`.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    if title:
        figure.suptitle(title, fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)


def draw_bars(panels: Sequence[Panel], *, ours: str, title: str, path: str) -> None:
    """Draw one panel of bars for each case, with median and range, to compare libraries.

    Args:
        ours: bars whose names begin with this are highlighted.
        path: as for `drawing`.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with drawing(path, title, (3.6 * columns, 2.8 * rows + 0.4)) as figure:
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, columns, place)
            names, spreads = list(panel.bars), list(panel.bars.values())
            axes.barh(
                names,
                [spread.median for spread in spreads],
                xerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
                color=["tab:orange" if name.startswith(ours) else "tab:blue" for name in names],
                capsize=2,
            )
            axes.invert_yaxis()
            axes.tick_params(labelsize="x-small")
            axes.set_title(panel.title, fontsize="small")
            axes.set_xlabel(panel.unit, fontsize="x-small")

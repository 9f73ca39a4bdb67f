"""Bars, one panel for each case, for benchmarks that compare libraries. Needs the extra `plot`."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report import Spread

__all__ = ["Panel", "can_draw", "draw_bars"]

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
    """Say whether matplotlib is installed, and on standard error what to do if not."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print("error: matplotlib is missing\nhint: pip install 'mydht-tunnel[plot]'", file=sys.stderr)
    return False


def draw_bars(panels: Sequence[Panel], *, ours: str, title: str, path: str) -> None:
    """Draw one panel for each case, median and range.

    Args:
        ours: bars whose name begins so stand out.
        path: of the image; the ending says which kind.
    """
    # Here, so that nobody needs the extra `plot` for anything else.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.suptitle(title, fontsize="x-small", wrap=True)
    figure.savefig(path, dpi=110)

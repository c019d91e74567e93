"""Colors and style of all figures."""

from typing import Any

# The palette of Okabe & Ito, which is safe for color blindness. Each line also has its own dash or marker.
INK, MUTED, RULE = "#1d2733", "#5b6775", "#d5dbe2"
BLUE, GREEN, VERMILION, ORANGE = "#0072b2", "#009e73", "#d55e00", "#e69f00"

STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "anchorage",  # makes the SVG reproducible
}

"""Tables in Markdown of the experiments: figures with their intervals and p-values as text."""

import math
from collections.abc import Iterable, Sequence

from cola_jax.report.tables import markdown_table
from cola_jax.runs.estimates import number_text, p_text
from cola_jax.scoring.net import Net
from cola_jax.scoring.saved_layers import SavedLayers
from cola_jax.scoring.statistics import Mean


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print("\n".join(markdown_table(tuple(head), [tuple(row) for row in rows])))


def points(net: Net | Mean, corrected: float | None = None, *, counts: bool = True) -> str:
    """Format a difference in points with its interval and p-value, also as corrected.

    Where too few questions differ, format hits and expected hits, unless
    those are no `counts`, as in a comparison of two runs.
    """
    if math.isnan(net.value):
        return "–"
    if isinstance(net, Net) and net.undecided:
        return "cannot be told from preference"
    value = number_text(net.value, "points")
    p = ""
    if isinstance(net, Net):
        p = f"p = {p_text(net.p)}".replace("= <", "< ")
        p += by_holm(corrected)
        if math.isnan(net.interval[0]) and not counts:
            return f"{value} (too few differ, {p})"
        if math.isnan(net.interval[0]):
            return f"{net.reached} of {net.n}, {net.expected:.1f} expected ({p})"
    interval = ""
    if not math.isnan(net.interval[0]):
        interval = " to ".join(number_text(bound, "points") for bound in net.interval)
    return f"{value} ({', '.join(filter(None, [interval, p]))})"


def layers(kept: SavedLayers, corrected: float | None = None) -> str:
    """Format a difference in layers with its interval and p-value, also as corrected."""
    if math.isnan(kept.interval[0]):
        return "–"
    numbers = (kept.difference, *kept.interval)
    value, low, high = (number_text(number, "layers more") for number in numbers)
    return f"{value} ({low} to {high}, p = {p_text(kept.p)}{by_holm(corrected)})"


def p_of(figure: Net | SavedLayers | None) -> float:
    """Return the p-value that a table corrects for, NaN for none."""
    if figure is None or (isinstance(figure, Net) and figure.undecided):
        return math.nan
    return figure.p


def by_holm(corrected: float | None) -> str:
    """Format a corrected p-value, unless it is 1."""
    return "" if corrected is None or corrected > 0.999 else f", corrected {p_text(corrected)}"

"""The figures of the paper as tables, from a small run."""

from experiments.paper.figures import FIGURES
from experiments.paper.results import read
from tests.small_runs import PARTS, make_run

CELLS = {
    "Figure 2": {"3.5 (3.5)", "4.0 (3.5)"},
    "Figure 3": {"C→C", "50.0 %", "100.0 %"},
    "Figure 4": {"20.0 %", "40.0 %"},
    "Figure 5": {"all", "1.386"},
    "Figure 6": {"skipped, early / middle / late", "0.00 / 0.00 / 0.00"},
    "Figure 7": {"shortest 5 %", "correct", "control"},
}


def test_figures_have_controls(tmp_path):
    run = str(make_run(tmp_path, *PARTS).directory)
    for name, cells in CELLS.items():
        head, rows = FIGURES[name](read([run]))
        assert rows
        assert all(len(row) == len(head) for row in rows)
        text = [*head, *(cell for row in rows for cell in row)]
        assert any("control" in cell for cell in text)
        assert cells <= set(text), name

"""Figure 4 of CoLa, with controls: what becomes of every question.

`python -m experiments.paper.figure4 RUN...` prints the share of questions whose identity path stays
the best, that are right on fewer layers (C→C), made right (W→C) and never right (W→W); and what
control searches reach from wrong answers.
"""

import sys

from cola_jax.report.table import format_percent
from cola_jax.scoring.statistics import Share
from experiments.paper.results import points, read, show

HEAD = ("model, task", "identity stays the best", "C→C", "W→C", "W→W", "control of W→C", "net")


def main(directories: list[str]) -> None:
    rows = []
    for one in read(directories):
        summary = one.summary
        n = summary.before.n
        counts = (summary.unchanged.hits, summary.shortened.hits, summary.corrected.hits)
        shares = [Share(hits, n).value for hits in (*counts, summary.unsolved.hits)]
        cells = [format_percent(value) for value in (*shares, summary.control.value)]
        rows.append([one.name, *cells, points(summary.net)])
    show(HEAD, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

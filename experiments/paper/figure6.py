"""Figure 6 of CoLa, with controls: which layers are skipped, repeated and moved.

`python -m experiments.paper.figure6 RUN...` prints, for each third of the layers, the share of
paths that skip a layer and the extra runs of one; the map of every layer is on a run's own page
(`cola report RUN`).
"""

import sys

import numpy as np

from cola_jax.report.table import format_mean
from cola_jax.scoring.statistics import mean
from experiments.paper.results import layer_uses, read, show

FIELDS = ("skipped", "repeats", "moved")


def main(directories: list[str]) -> None:
    rows = []
    for one, group, use in layer_uses(read(directories)):
        thirds = [np.array_split(getattr(use, field), 3) for field in FIELDS]
        cells = [" / ".join(format_mean(mean(x), 2) for x in parts) for parts in thirds]
        rows.append([one.name, group, *cells])
    show(["model, task", "paths", *(f"{field}, early / middle / late" for field in FIELDS)], rows)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Figure 5 of CoLa, with controls: how often each third of the layers runs, and how evenly all do.

`python -m experiments.paper.figure5 RUN...`; the map of every layer is on a run's own page
(`cola report RUN`).
"""

import math
import sys

from cola_jax.report.table import format_mean
from experiments.paper.results import layer_uses, read, show

HEAD = ("model, task", "paths", "early", "middle", "late", "entropy", "at most", "largest share")


def main(directories: list[str]) -> None:
    rows = []
    for one, group, use in layer_uses(read(directories)):
        thirds = [format_mean(third, 2) for third in use.thirds]
        most = use.runs.max() / use.runs.sum()
        even = [use.entropy, math.log(one.summary.num_layers), most]
        rows.append([one.name, group, *thirds, *(format_mean(x, 3) for x in even)])
    show(HEAD, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Figure 3 of CoLa, with controls: accuracy against depth.

`python -m experiments.paper.figure3 RUN...` prints, for every search and for depths from half of
the model's to a quarter more, the share of questions that are right on some path of at most so
many layers, and the share of control searches that reach their target on so many.
"""

import sys

from cola_jax.report.table import format_percent
from experiments.paper.results import GROUPS, read, show

DEPTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25)  # multiples of L


def main(directories: list[str]) -> None:
    rows = []
    for one in read(directories):
        allowed = [round(one.summary.num_layers * depth) for depth in DEPTHS]
        for group in GROUPS:
            share = one.summary.reach[group].share
            reached = [share[min(layers, len(share) - 1)] for layers in allowed]
            rows.append([one.name, group, *(format_percent(float(value)) for value in reached)])
    show(["model, task", "group", *(f"{depth:g} L" for depth in DEPTHS)], rows)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Figure 7 of CoLa, with controls: depth of the shortest 5, 10, 20 and 100 % of correct paths.

`python -m experiments.paper.figure7 RUN...` prints it for all correct evaluations of every search,
and for those of its control searches that gave their target.
"""

import sys

from cola_jax.report.layers import SHORTEST
from experiments.paper.results import depth, read, show


def main(directories: list[str]) -> None:
    rows = []
    for one in read(directories):
        for name, depths in (
            ("correct", one.summary.shortest),
            ("control", one.summary.shortest_control),
        ):
            rows.append([one.name, name, *(depth(each) for each in depths)])
    show(["model, task", "paths", *(f"shortest {100 * share:g} %" for share in SHORTEST)], rows)


if __name__ == "__main__":
    main(sys.argv[1:])

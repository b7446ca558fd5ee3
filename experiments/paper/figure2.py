"""Figure 2 of CoLa, with controls: mean depth and mean number of different layers.

`python -m experiments.paper.figure2 RUN...` prints them for the shortest correct paths of every
search: of questions that were right before, of those that were wrong, and of control searches.
"""

import sys

from experiments.paper.results import GROUPS, depth, read, show


def main(directories: list[str]) -> None:
    head = ("model, task", "L", *(f"{name}: layers (different)" for name in GROUPS))
    show(
        head,
        (
            (one.name, f"{one.summary.num_layers}", *(depth(one.summary.depths[g]) for g in GROUPS))
            for one in read(directories)
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])

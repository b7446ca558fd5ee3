"""Whether two runs hold the same rows: `python -m experiments.same_rows RUN OTHER`."""

import dataclasses
import sys

import tyro
from tyro.conf import Positional

from cola_jax.runs.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class SameRows:
    """Compare every evaluation and question of two runs, to the bit."""

    run: Positional[str]
    other: Positional[str]


def main(settings: SameRows) -> None:
    same = True
    for kind in ("evaluations", "questions"):
        first, second = (
            getattr(RunDirectory(d), kind)().to_pylist() for d in (settings.run, settings.other)
        )
        first, second = (sorted(map(repr, rows)) for rows in (first, second))
        different = sum(a != b for a, b in zip(first, second, strict=False))
        different += abs(len(first) - len(second))
        print(f"{kind}: {len(first)} and {len(second)} rows, {different} differ")
        same &= different == 0
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main(tyro.cli(SameRows))

"""`EvaluationSummary`: the correct answers of each path, and the sentence about all of them."""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cola_jax.errors import count
from cola_jax.path import format_path, identity
from cola_jax.scoring.number_format import (
    Row,
    Table,
    format_interval,
    format_p,
    format_percent,
    format_points,
    is_shown,
    table_html,
)
from cola_jax.scoring.statistics import Crossed, Difference, Share, holm

SHOWN = 10  # paths in a representation
WIDEST = 40  # characters of a path there
COLUMNS = ("path", "layers", "correct", "95 %", "n", "points more", "95 %")


@dataclasses.dataclass(frozen=True)
class PathShare:
    """The share of questions that a path answers correctly; ungraded answers do not count."""

    path: tuple[int, ...]
    is_identity: bool
    correct: Share
    # from the identity path, on the questions that both have; None of that path, and without it
    difference: Difference | Crossed | None
    p: float  # of the difference, corrected for the number of paths; NaN without one

    @property
    def order(self) -> tuple[float, int]:
        """A key that sorts the best path first, of equal ones the shorter, ungraded ones last."""
        return -self.correct.value if self.correct.n else 1, len(self.path)


@dataclasses.dataclass(frozen=True, repr=False)
class EvaluationSummary:
    """The results of paths on questions, each beside the identity path, if that ran."""

    paths: Sequence[PathShare]  # in their order

    @classmethod
    def of(
        cls, right: Mapping[tuple[int, ...], Mapping[Any, bool]], num_layers: int
    ) -> "EvaluationSummary":
        """Compare paths by whether each is right, by question, on those that it was graded on."""
        plain = identity(num_layers)
        differences = {
            path: paired(of_path, right[plain])
            for path, of_path in right.items()
            if plain in right and path != plain
        }
        p = dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))
        return cls(
            [
                PathShare(
                    path,
                    path == plain,
                    Share.of(np.array(list(of_path.values()), bool)),
                    differences.get(path),
                    p.get(path, math.nan),
                )
                for path, of_path in right.items()
            ]
        )

    @property
    def sentence(self) -> str:
        """Whether a path differs from the pretrained model; of one path alone, its accuracy."""
        best = sorted(self.paths, key=lambda share: share.order)
        compared = [(share, share.difference) for share in best if share.difference is not None]
        if not compared and len(best) == 1:
            return stated_accuracy(best[0])
        if not compared:
            return (
                "Nothing compared: the identity path, which is the pretrained model, is not among "
                f"these {len(best):,} paths."
            )
        different = [pair for pair in compared if is_shown(pair[0].p, pair[1].interval)]
        better = [pair for pair in different if pair[1].value > 0]
        share, difference = (better or different or compared)[0]
        interval = format_interval(difference.interval, signed=True)
        size = f"{format_points(difference.value)} points, 95 % interval {interval}"
        size, path = f"{size}, p {format_p(share.p)}", format_path(share.path)
        if different:
            more = "more" if better else "fewer"
            return f"Shown: path {path} answers {more} questions correctly than the model ({size})."
        return (
            f"Nothing shown: no path differs from the model beyond chance; {path} is best ({size})."
        )

    def rows(self) -> list[Row]:
        """Make the rows of the first paths, in the columns `COLUMNS`."""
        rows = []
        for share in self.paths[:SHOWN]:
            path, difference = format_path(share.path), share.difference
            correct = format_percent(share.correct.value), format_interval(share.correct.interval)
            more = ("", "")
            if difference is not None:
                interval = format_interval(difference.interval, signed=True)
                more = format_points(difference.value), interval
            cells = (str(len(share.path)), *correct, str(share.correct.n), *more)
            label = path if len(path) <= WIDEST else f"{path[: WIDEST - 3]}..."
            rows.append(Row(label, cells))
        return rows

    def to_pandas(self) -> Any:
        """Make a DataFrame with a row for each path, in order; needs pandas.

        The columns are path (text), length (layers), n (questions), correct (their share), low and
        high (its 95 % interval), and, where the identity path is among the paths, difference (of
        shares), difference_low, difference_high and p (corrected for the number of paths).
        """
        import pandas

        rows = []
        for share in self.paths:
            low, high = share.correct.interval
            row = {"path": format_path(share.path), "length": len(share.path)}
            row |= {"n": share.correct.n, "correct": share.correct.value, "low": low, "high": high}
            if share.difference is not None:
                low, high = share.difference.interval
                row["difference"] = share.difference.value
                row |= {"difference_low": low, "difference_high": high, "p": share.p}
            rows.append(row)
        return pandas.DataFrame(rows)

    def more(self) -> str:
        """Say how many paths are not shown, "" for none."""
        left = len(self.paths) - SHOWN
        return f"... and {count(left, 'path')} more: see summary().to_pandas()" if left > 0 else ""

    def __repr__(self) -> str:
        rows = [COLUMNS, *((row.label, *row.cells) for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(filter(None, [self.sentence, *lines, self.more()]))

    def _repr_html_(self) -> str:
        table = table_html(Table(self.rows(), columns=COLUMNS))
        return f"<p><b>{html.escape(self.sentence)}</b></p>{table}<p>{self.more()}</p>"


def stated_accuracy(share: PathShare) -> str:
    """State the accuracy of a path, or of the pretrained model."""
    name = "The model" if share.is_identity else f"Path {format_path(share.path)}"
    if not share.correct.n:
        return f"{name} was not graded on any question."
    return (
        f"{name} answers {share.correct.hits:,} of {count(share.correct.n, 'question')} "
        f"correctly, {format_percent(share.correct.value)} (95 % interval "
        f"{format_interval(share.correct.interval)})."
    )


def paired(first: Mapping[Any, bool], second: Mapping[Any, bool]) -> Difference:
    """Compare correct answers on the questions that both have."""
    both = [name for name in first if name in second]
    return Difference.of(*(np.array([each[b] for b in both], bool) for each in (first, second)))

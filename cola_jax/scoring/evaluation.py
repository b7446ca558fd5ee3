"""`Evaluation`: the verdicts of given paths on questions, and what they say about each path."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from cola_jax.errors import count
from cola_jax.path import STOP, format_path, identity, unpad_path
from cola_jax.question import Question
from cola_jax.scoring.number_format import format_interval, format_percent, format_points
from cola_jax.scoring.statistics import Difference, Share, holm
from cola_jax.scoring.verdicts import Verdicts

SHOWN = 10  # paths in a representation
WIDEST = 40  # characters of a path there


@dataclasses.dataclass(frozen=True)
class PathShare:
    """The share of questions that a path answers correctly; ungraded answers do not count."""

    path: tuple[int, ...]
    correct: Share
    difference: Difference | None  # from the identity path, on the questions that both have
    p: float  # of the difference, corrected for the number of paths; NaN without one


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """The verdicts of paths on questions, as `evaluate` returns them."""

    questions: list[Question]
    paths: np.ndarray  # [B, C, P], STOP-padded
    verdicts: Verdicts  # fields [B, C]
    num_layers: int  # of the model

    @property
    def present(self) -> tuple[np.ndarray, ...]:
        """The indices of all evaluations: of their questions, and of their paths."""
        return np.nonzero(self.paths[:, :, 0] != STOP)

    def to_pandas(self) -> Any:
        """Make a DataFrame with a row for each question and path; needs pandas.

        The columns are question (its id), path (text), length (layers), correct, margin and answer
        (the index of the option).
        """
        import pandas

        paths, verdicts = self.paths[self.present], self.verdicts.take(self.present)
        return pandas.DataFrame(
            {
                "question": [self.questions[b].id for b in self.present[0]],
                "path": [format_path(path) for path in paths],
                "length": (paths != STOP).sum(axis=1),
                "correct": verdicts.verdict,
                "margin": verdicts.margin.astype(float),
                "answer": verdicts.answer,
            }
        )

    def summary(self) -> Any:
        """Make a DataFrame with a row for each path, in order; needs pandas.

        The columns are path (text), length (layers), n (questions), correct (their share), low and
        high (its 95 % interval), and, where the identity path is among the paths, difference (of
        shares), difference_low, difference_high and p (corrected for the number of paths).
        """
        import pandas

        rows = []
        for share in self.by_path:
            low, high = share.correct.interval
            row = {"path": format_path(share.path), "length": len(share.path)}
            row |= {"n": share.correct.n, "correct": share.correct.value, "low": low, "high": high}
            if share.difference is not None:
                low, high = share.difference.interval
                row["difference"] = share.difference.value
                row |= {"difference_low": low, "difference_high": high, "p": share.p}
            rows.append(row)
        return pandas.DataFrame(rows)

    @functools.cached_property
    def by_path(self) -> list[PathShare]:
        """Each path's correct answers, compared with those of the identity path, if that ran."""
        right: dict[tuple[int, ...], dict[int, bool]] = {}  # by path and question
        verdicts, graded = self.verdicts.verdict, self.verdicts.graded
        for b, c in zip(*self.present, strict=True):
            of_path = right.setdefault(unpad_path(self.paths[b, c]), {})
            if graded[b, c]:
                of_path[int(b)] = bool(verdicts[b, c])
        plain = identity(self.num_layers)
        differences = {
            path: paired(of_path, right[plain])
            for path, of_path in right.items()
            if plain in right and path != plain
        }
        p = dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))
        return [
            PathShare(
                path,
                Share.of(np.array(list(of_path.values()), bool)),
                differences.get(path),
                p.get(path, math.nan),
            )
            for path, of_path in right.items()
        ]

    @property
    def title(self) -> str:
        """The numbers of questions and paths."""
        size = count(len(self.present[0]), "evaluation")
        return f"Evaluation of {count(len(self.questions), 'question')}, {size}"

    def rows(self) -> list[list[str]]:
        """Return the cells of the first paths, under their names."""
        rows = [["path", "layers", "correct", "95 %", "n", "points more", "95 %"]]
        for share in self.by_path[:SHOWN]:
            path, correct, difference = format_path(share.path), share.correct, share.difference
            row = [path if len(path) <= WIDEST else f"{path[: WIDEST - 3]}..."]
            row += [str(len(share.path)), format_percent(correct.value)]
            row += [format_interval(correct.interval), str(correct.n)]
            if difference is not None:
                row += [format_points(difference.value), format_interval(difference.interval, True)]
            rows.append(row + [""] * (len(rows[0]) - len(row)))
        return rows

    def more(self) -> str:
        """Say how many paths are not shown, "" for none."""
        left = len(self.by_path) - SHOWN
        return f"... and {count(left, 'path')} more: see summary()" if left > 0 else ""

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(filter(None, [self.title, *lines, self.more()]))

    def _repr_html_(self) -> str:
        head, *rows = self.rows()
        lines = [f"<tr><th>{'</th><th>'.join(head)}</th></tr>"]
        lines += [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows]
        return f"<p>{self.title}</p><table>{''.join(lines)}</table><p>{self.more()}</p>"


def paired(first: dict[int, bool], second: dict[int, bool]) -> Difference:
    """Compare correct answers on the questions that both have."""
    both = sorted(first.keys() & second.keys())
    return Difference.of(*(np.array([each[b] for b in both], bool) for each in (first, second)))

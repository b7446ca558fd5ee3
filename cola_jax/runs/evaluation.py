"""`Evaluation`: the verdicts of given paths on questions, and what they say about each path."""

import dataclasses
from typing import Any

import numpy as np

from cola_jax.errors import count
from cola_jax.layer_costs import LayerCosts, PartCosts
from cola_jax.path import STOP, LayerPath, format_path, unpad_path
from cola_jax.question import Question
from cola_jax.runs.path_results import path_estimates
from cola_jax.runs.results import Results
from cola_jax.scoring.verdicts import Verdicts


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """The verdicts of paths on questions, as `evaluate` returns them."""

    questions: list[Question]
    paths: np.ndarray  # [B, C, P], STOP-padded
    verdicts: Verdicts  # fields [B, C]
    num_layers: int  # of the model
    # [L][2], of the attention and the MLP of each layer in layers, by which the length of paths of
    # parts is counted; half of a layer each where None
    part_costs: PartCosts | None = None

    @property
    def costs(self) -> LayerCosts:
        """The costs by which the lengths of paths are counted."""
        costs = LayerCosts(self.num_layers)
        return costs if self.part_costs is None else costs.with_fractions(self.part_costs)

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
        layers = self.costs.layers
        return pandas.DataFrame(
            {
                "question": [self.questions[b].id for b in self.present[0]],
                "path": [format_path(path) for path in paths],
                "length": [layers(unpad_path(path)) for path in paths],
                "correct": verdicts.verdict,
                "margin": verdicts.margin.astype(float),
                "answer": verdicts.answer,
            }
        )

    def summary(self) -> Results:
        """Compare each path with the identity path, and state in a sentence what they show."""
        right: dict[LayerPath, dict[int, bool]] = {}  # by path and question
        verdicts, graded = self.verdicts.verdict, self.verdicts.graded
        for b, c in zip(*self.present, strict=True):
            of_path = right.setdefault(unpad_path(self.paths[b, c]), {})
            if graded[b, c]:
                of_path[int(b)] = bool(verdicts[b, c])
        return Results(path_estimates(right, self.costs))

    @property
    def title(self) -> str:
        """The numbers of questions and paths."""
        size = count(len(self.present[0]), "evaluation")
        return f"Evaluation of {count(len(self.questions), 'question')}, {size}"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.summary()!r}"

    def _repr_html_(self) -> str:
        return f"<p>{self.title}</p>{self.summary()._repr_html_()}"

"""`FunctionEvaluator`: a function of the user's own in place of a model."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cola_jax.errors import InputError, check_whole
from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

# a function of the user's own, which `FunctionEvaluator` checks
PathFunction = Callable[[np.ndarray], Verdicts | ArrayLike]


class FunctionEvaluator:
    """A function of the user's own from paths [B, C, P] to verdicts, whose results are checked."""

    def __init__(
        self,
        function: PathFunction,
        questions: list[Question],
        num_layers: int | None,
    ):
        """Take a function from paths [B, C, P], padded with STOP, to verdicts or scores.

        These are Verdicts with fields [B, C]; scores of every option [B, C, J], the higher the
        better, where those of options that a question lacks are ignored, and the score of an option
        alone is right where it is 0 or more; or [B, C], a number for each path, right likewise, or
        a bool. One number a path says nothing of wrong options.
        """
        if num_layers is None:
            raise InputError("a function of your own does not tell the layers: give num_layers.")
        check_whole("num_layers", num_layers)
        self.function = function
        self.questions = questions
        self.num_layers = num_layers
        self.gold = np.array([question.answer for question in questions])
        self.options = np.array([max(1, len(question.options)) for question in questions])

    def __call__(self, paths: np.ndarray) -> Verdicts:
        """Evaluate valid paths [B, C, P]; InputError for results of another kind or shape."""
        made = self.function(paths)
        verdicts = made if isinstance(made, Verdicts) else self.score(made, paths)
        if np.shape(verdicts.verdict) != paths.shape[:2]:
            raise InputError(
                f"the function returned Verdicts of shape {np.shape(verdicts.verdict)} for paths "
                f"{paths.shape}: give one for each path, {paths.shape[:2]}."
            )
        if verdicts.scores.shape[-1] > 1 or self.options.max() == 1:
            return verdicts
        return verdicts.of_gold_alone(self.gold, int(self.options.max()))

    def score(self, made: Any, paths: np.ndarray) -> Verdicts:
        """Make verdicts of an array of scores."""
        wave = paths.shape[:2]
        most = int(self.options.max())
        try:
            scores = np.asarray(made)
        except ValueError:  # lists of unequal lengths
            scores = np.empty(0)
        if scores.dtype == bool and scores.shape == wave:
            return Verdicts.of_margins(np.where(scores, 1.0, -1.0))
        if not jnp.issubdtype(scores.dtype, jnp.floating) or scores.shape not in (
            wave,
            (*wave, most),
        ):
            raise InputError(
                f"the function returned {scores.dtype} of shape {scores.shape} for paths "
                f"{paths.shape}: give floats {wave}, right where they are 0 or more, or bools, or "
                f"the scores of every option {(*wave, most)}, or Verdicts."
            )
        if scores.dtype.kind != "f":  # bfloat16, of which numpy knows no more than its size
            scores = scores.astype(np.float32)
        if scores.ndim == 2:
            return Verdicts.of_margins(scores)
        lacking = np.arange(most) >= self.options[:, None, None]
        present = (np.isfinite(scores) | lacking).all(axis=-1) & (paths[:, :, 0] != STOP)
        alone = (self.options == 1)[:, None]  # has no rival, so is judged against 0
        answer = np.where(lacking, -np.inf, scores).argmax(axis=-1)
        return Verdicts.of_scores(
            np.where(lacking, np.nan, scores),
            self.gold[:, None],
            present,
            answer=np.where(alone & (scores[..., 0] < 0), NO_ANSWER, answer),
            outside=np.where(alone, np.nan, -np.inf),
        )

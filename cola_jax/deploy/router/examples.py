"""Examples: which correct paths of a run a router is trained on, and which questions it is not."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from cola_jax.deploy.router.targets import Path
from cola_jax.errors import InputError
from cola_jax.identity import digest
from cola_jax.runs.stored import Labels
from cola_jax.scoring.encode import Encoded

Which = Literal["shortest", "all"]
Target = Callable[[Path], np.ndarray | None]  # of a path, None where it cannot be expressed


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """N labelled paths; those of held-out questions come last, one each."""

    question: np.ndarray  # [N], index among the encoded questions
    paths: list[Path]
    targets: np.ndarray  # [N, L]
    weights: np.ndarray  # [N], mean 1 over the training examples
    training: int  # how many are trained on
    left_out: dict[str, int]  # what was not used, by reason

    @property
    def digest(self) -> str:
        """Identifies the training examples and the held-out questions."""
        return digest(self.question.tolist(), self.paths, self.weights.tolist(), self.training)


def is_held_out(id: str, share: float) -> bool:
    """Says whether a question belongs to the held-out share, by a hash of its id alone."""
    drawn = hashlib.sha256(f"validation {id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < share * 2**64


def match(labels: Sequence[Labels], encoded: Sequence[Encoded], run: str) -> np.ndarray:
    """Returns the index of each labelled question among the encoded ones.

    Raises ValueError for the first that is not there.
    """
    place = {one.question.id: i for i, one in enumerate(encoded)}
    for one in labels:
        if one.question not in place:
            raise InputError(
                f"{run} has the question {one.question}, but the task does not: give the task, the "
                "limit and the other task flags of the run."
            )
    return np.array([place[one.question] for one in labels], np.int32)


def make_examples(
    labels: Sequence[Labels],
    question: np.ndarray,
    target: Target,
    which: Which,
    validation: float,
) -> Examples:
    """Chooses examples from the paths that are right, in all variants where a run has them.

    `shortest` takes one path of a question, `all` takes each with weight 1/n. A held-out question
    has its shortest. Raises ValueError where nothing is left to train on, or to hold out.
    """
    if not 0 < validation < 1:
        raise InputError(f"the held-out share must lie between 0 and 1, it is {validation}.")
    left_out = {"questions without a correct path": 0, "paths not expressible": 0}
    left_out |= {"questions without an expressible path": 0, "questions asked in both parts": 0}
    held_prompts = {one.prompt_hash for one in labels if is_held_out(one.question, validation)}
    rows: list[list] = [[], []]  # trained on, held out
    for i, one in zip(question, labels, strict=True):
        held = is_held_out(one.question, validation)
        if not one.held:
            left_out["questions without a correct path"] += 1
            continue
        pairs = [(path, target(path)) for path in one.held]
        fitting = [(path, found) for path, found in pairs if found is not None]
        left_out["paths not expressible"] += len(pairs) - len(fitting)
        if not fitting:
            left_out["questions without an expressible path"] += 1
        elif not held and one.prompt_hash in held_prompts:
            left_out["questions asked in both parts"] += 1
        else:
            chosen = fitting if which == "all" and not held else fitting[:1]
            rows[held] += [(i, *pair, 1 / len(chosen)) for pair in chosen]
    return examples_of(rows, left_out)


def examples_of(rows: list[list], left_out: dict[str, int]) -> Examples:
    """Makes examples of rows (question, path, target, weight) to train on and to hold out."""
    for part, name in zip(rows, ("trained on", "held out"), strict=True):
        if not part:
            raise InputError(
                f"no question with a correct path is left to be {name} ({left_out}): search more "
                "questions, or choose another --validation."
            )
    question, paths, targets, weights = zip(*rows[0], *rows[1], strict=True)
    weights, training = np.array(weights, np.float32), len(rows[0])
    return Examples(
        question=np.array(question, np.int32),
        paths=list(paths),
        targets=np.stack(targets),
        weights=weights / weights[:training].mean(),
        training=training,
        left_out=left_out,
    )

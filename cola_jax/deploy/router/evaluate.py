"""What a router is worth: metrics per class, identity collapse, and accuracy without labels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax.deploy.router.targets import Path, count_layers
from cola_jax.params import Model
from cola_jax.path import identity
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.statistics import Difference, Share

COLLAPSED = 0.95  # share of questions with one path from which on a router chooses nothing


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMetrics:
    """How often each class was predicted where another, or itself, was right."""

    names: tuple[str, ...]
    confusion: np.ndarray  # [K, K] counts, a row for each label, a column for each prediction

    @classmethod
    def of(
        cls, labels: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]
    ) -> "ClassMetrics":
        """Counts arrays of one shape; negative labels are none."""
        real = labels >= 0
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (labels[real].astype(int), predicted[real].astype(int)), 1)
        return cls(names, confusion)

    @classmethod
    def joined(cls, parts: "Sequence[ClassMetrics]") -> "ClassMetrics":
        """Adds what was counted on parts of the examples."""
        return cls(parts[0].names, np.sum([part.confusion for part in parts], axis=0))

    @property
    def precision(self) -> np.ndarray:
        """Of what was predicted as each class [K], the share that is; 0 for none."""
        return ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """Of what is each class [K], the share predicted as such; 0 for none."""
        return ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean [K] of both, 0 where both are."""
        return ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that are labels or predictions."""
        occurs = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(self.f1[occurs].mean()) if occurs.any() else 0.0

    @property
    def accuracy(self) -> float:
        """The share predicted right."""
        return float(ratio(self.confusion.trace(), self.confusion.sum()))

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON has it."""
        columns = zip(self.names, self.precision, self.recall, self.f1, strict=True)
        return {
            "classes": {n: {"precision": p, "recall": r, "f1": f} for n, p, r, f in columns},
            "macro_f1": self.macro_f1,
            "accuracy": self.accuracy,
            "confusion": self.confusion.tolist(),
        }


def ratio(hits: Any, of: Any) -> Any:
    """Divides, with 0 for nothing."""
    return np.divide(hits, of, out=np.zeros(np.shape(of)), where=np.asarray(of) > 0)


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Whether a router distinguishes questions, and does better than no router on the labels."""

    questions: int
    identity: int  # questions for which it names the identity path
    most: int  # questions for which it names the path that it names most often
    distinct: int  # paths named
    accuracy: float  # share of layers that run as often as in the label
    identity_accuracy: float  # the same for the identity path

    @classmethod
    def of(cls, named: Sequence[Path], labels: Sequence[Path], num_layers: int) -> "Collapse":
        """Compares the paths named for questions with their labels."""
        wanted = np.stack([count_layers(path, num_layers) for path in labels])
        counts = np.stack([count_layers(path, num_layers) for path in named])
        plain = identity(num_layers)
        return cls(
            questions=len(named),
            identity=sum(path == plain for path in named),
            most=max(list(named).count(path) for path in named),
            distinct=len(set(named)),
            accuracy=float((counts == wanted).mean()),
            identity_accuracy=float((wanted == 1).mean()),
        )

    @property
    def warning(self) -> str | None:
        """One line where the router collapsed, None where it did not."""
        if self.identity >= COLLAPSED * self.questions:
            return (
                f"WARNING: identity collapse. The router names the identity path for "
                f"{self.identity} of {self.questions} held-out questions, so it changes nothing."
            )
        if self.questions > 1 and self.most >= COLLAPSED * self.questions:
            return (
                f"WARNING: collapse to one path. The router names the same path for {self.most} of "
                f"{self.questions} held-out questions, so it is a static path."
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON has it."""
        return {
            **dataclasses.asdict(self),
            "identity_share": self.identity / self.questions,
            "accuracy_over_identity": self.accuracy - self.identity_accuracy,
            "collapsed": self.warning is not None,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Routed:
    """Verdicts of the plain model and of the paths named, over the same B questions."""

    plain: np.ndarray  # [B]
    named: np.ndarray  # [B, K], best path first; False where there are fewer paths
    paths: list[list[Path]]
    decided: float  # mean layers run over a prompt to name its first path

    @property
    def top(self) -> np.ndarray:
        """The verdicts [B] of the first paths: what a user without labels gets."""
        return self.named[:, 0]

    @property
    def difference(self) -> Difference:
        """The accuracy of the first paths minus that of the plain model, paired."""
        return Difference.of(self.top, self.plain)

    @property
    def layers(self) -> float:
        """Mean layers of the first paths."""
        return float(np.mean([len(paths[0]) for paths in self.paths]))

    def to_json(self) -> dict[str, Any]:
        """Returns counts, shares and intervals as JSON has them."""
        difference, top, plain = self.difference, Share.of(self.top), Share.of(self.plain)
        return {
            "questions": len(self.plain),
            "plain": {"right": plain.hits, "accuracy": plain.value, "interval": plain.interval},
            "routed": {"right": top.hits, "accuracy": top.value, "interval": top.interval},
            "difference": {"value": difference.value, "interval": difference.interval},
            "W→C": difference.first_only,
            "C→W": difference.second_only,
            "any_of_k_right": {"k": self.named.shape[1], "right": int(self.named.any(1).sum())},
            "mean_layers": self.layers,
            "mean_layers_run_to_decide": self.decided,
        }


def evaluate_paths(
    model: Model,
    encoded: Sequence[Encoded],
    scorer: Scorer,
    paths: list[list[Path]],
    decided: float,
    memory_budget: int | None = None,
) -> Routed:
    """Evaluates the plain model and the paths named for each question, in one pass."""
    assert all(paths), "a router names at least one path"
    plain = identity(model.config.num_layers)
    evaluate = ModelEvaluator(model, encoded, scorer, memory_budget=memory_budget)
    verdict = evaluate([[plain, *own] for own in paths]).verdict
    return Routed(verdict[:, 0], verdict[:, 1:], paths, decided)

"""Work on batches without a scorer's own, and a tiny model to do it with."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cola_jax
from cola_jax.engine.work import Batch, Work
from cola_jax.params import Model
from cola_jax.question import Question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calls(Work):
    """A function from a batch to what a function of a worker, the batch and `keep` returns."""

    call: Callable[..., Any]

    def __call__(self, worker: Any, batch: Batch, keep: Any) -> Any:
        return self.call(worker, batch, keep)


def batches(questions: int, size: int) -> list[Batch]:
    """Make batches of questions of two options."""
    asked = [Question(f"q{i}", "?", ("x", "y"), 0) for i in range(questions)]
    return [
        Batch(np.arange(i, min(i + size, questions)), asked[i : i + size])
        for i in range(0, questions, size)
    ]


@pytest.fixture(scope="session")
def model(tiny_checkpoint: Path) -> Model:
    return cola_jax.load(str(tiny_checkpoint))

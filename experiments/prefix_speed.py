"""What running a common prefix of the prompts once saves, in alternation with whole prompts.

`python -m experiments.prefix_speed --model CHECKPOINT --task.task arithmetic --task.limit 16`
evaluates the same random paths on all questions, `--rounds` times each way after a first that
compiles, and prints evaluations a second, their ratio, and the largest difference of a margin.
"""

import dataclasses
import statistics
import time
from unittest import mock

import numpy as np
import tyro

from cola_jax.edits import random_paths
from cola_jax.execute import common_prefix
from cola_jax.prompts import Prompts
from cola_jax.report.markdown import table
from cola_jax.runs.session import Session
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.scorer import prompt_buckets
from cola_jax.tasks.task import TaskConfig


@dataclasses.dataclass(frozen=True)
class PrefixSpeed:
    """Measure what a shared prefix saves."""

    model: str
    """Checkpoint directory."""
    task: TaskConfig
    paths: int = 16
    """Random paths of 1 to 3 edits."""
    rounds: int = 3
    """Times each way, in alternation."""


def main(settings: PrefixSpeed) -> None:
    session = Session.prepare(settings.model, settings.task.prepare)
    evaluate = ModelEvaluator(session.model, session.encoded, session.scorer)
    paths = [random_paths(session.num_layers, settings.paths, 0)] * len(session.encoded)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    margins = {}
    for _ in range(settings.rounds + 1):
        for shared in (True, False):
            gain = common_prefix.LEAST_GAIN if shared else float("inf")
            with mock.patch.object(common_prefix, "LEAST_GAIN", gain):
                begun = time.perf_counter()
                margins[shared] = evaluate(paths).margin
                seconds[shared].append(time.perf_counter() - begun)
    count = settings.paths * len(session.encoded)
    speed = {way: count / statistics.median(times[1:]) for way, times in seconds.items()}
    prompts = Prompts.stack([one.prompts for one in session.encoded])
    rows = [
        ("tokens of the longest prompt", str(max(t for t, _ in prompt_buckets(session.encoded)))),
        ("tokens in common", str(common_prefix.common_prefix(prompts))),
        ("evaluations a second, whole prompts", f"{speed[False]:.1f}"),
        ("evaluations a second, prefix once", f"{speed[True]:.1f}"),
        ("ratio", f"{speed[True] / speed[False]:.2f}"),
        ("largest difference of a margin", f"{np.abs(margins[True] - margins[False]).max():.1e}"),
    ]
    print("\n".join(table(("", ""), rows)))


if __name__ == "__main__":
    main(tyro.cli(PrefixSpeed, description=__doc__))

"""What running a common prefix of the prompts once saves, in alternation with whole prompts.

`python -m experiments.prefix_speed --model CHECKPOINT --task.task arithmetic --task.limit 16`
evaluates the same random paths on all questions, `--rounds` times each way after one path a
question, which compiles, and prints evaluations a second, their ratio, and how far scores differ.
"""

import dataclasses
import resource
import statistics
import time
from unittest import mock

import numpy as np
import tyro

from cola_jax.execute import common_prefix
from cola_jax.execute.inputs import pad_paths, token_counts
from cola_jax.execute.memory import format_bytes
from cola_jax.path import STOP, random_paths
from cola_jax.prompts import Prompts
from cola_jax.report.markdown import table
from cola_jax.runs.session import Session
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.verdicts import Verdicts
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
    drawn = random_paths(session.num_layers, settings.paths, 0)
    paths = pad_paths([drawn] * len(session.encoded), len(session.encoded), session.num_layers)
    first = paths.copy()
    first[:, 1:] = STOP  # compiles the same programs
    seconds: dict[bool, list[float]] = {True: [], False: []}
    verdicts: dict[bool, Verdicts] = {}
    for some in (first, *[paths] * settings.rounds):
        for shared in (True, False):
            for worker in evaluate.workers.workers:
                worker.share_nothing()  # what was run before
            gain = common_prefix.LEAST_GAIN if shared else float("inf")
            with mock.patch.object(common_prefix, "LEAST_GAIN", gain):
                begun = time.perf_counter()
                verdicts[shared] = evaluate(some)
                seconds[shared].append(time.perf_counter() - begun)
    count = settings.paths * len(session.encoded)
    speed = {way: count / statistics.median(times[1:]) for way, times in seconds.items()}
    prompts = Prompts.stack([one.prompts for one in session.encoded])
    one, other = verdicts[True], verdicts[False]
    difference = np.nanmax(np.abs(one.scores - other.scores))
    relative = np.nanmax(np.abs(one.scores - other.scores) / np.abs(other.scores))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = [
        ("tokens of the longest prompt", str(token_counts(prompts).max())),
        ("tokens in common", str(common_prefix.common_prefix(prompts))),
        ("evaluations a second, whole prompts", f"{speed[False]:.1f}"),
        ("evaluations a second, prefix once", f"{speed[True]:.1f}"),
        ("ratio", f"{speed[True] / speed[False]:.2f}"),
        ("largest difference of a score", f"{difference:.1e}"),
        ("largest difference of a score, over the score", f"{relative:.1e}"),
        ("answers that differ", str(int((one.answer != other.answer).sum()))),
        ("peak resident memory", format_bytes(1024 * peak)),
    ]
    print("\n".join(table(("", ""), rows)))


if __name__ == "__main__":
    main(tyro.cli(PrefixSpeed, description=__doc__))

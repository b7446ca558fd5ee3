"""What a trial reads of its earlier results."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cola_jax.deploy.verify.claims import Claim
from cola_jax.deploy.verify.protocol import Comparators
from cola_jax.deploy.verify.results import FACTS, earlier_seconds, trial_results
from cola_jax.deploy.verify.trial import PathScores, TaskTrial, Trial
from cola_jax.deploy.verify.verdict import Judged, decide
from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath
from cola_jax.runs.results import RESULTS, Results, write_results


def test_earlier_seconds_refuses_results_without_their_groups(tmp_path):
    trial: Any = SimpleNamespace(protocol={"hash": "1", "num_layers": 4}, tasks=[])
    assert earlier_seconds(str(tmp_path), trial) is None
    write_results(Results([], {"settings": {"hash": "2"}}), tmp_path / RESULTS)
    assert earlier_seconds(str(tmp_path), trial) is None
    for run in ({}, {"settings": {"hash": "1"}}):
        write_results(Results([], run), tmp_path / RESULTS)
        with pytest.raises(InputError, match="cannot be read"):
            earlier_seconds(str(tmp_path), trial)


def test_results_have_the_size_of_each_task():
    plain: LayerPath = (0, 1, 2)
    path: LayerPath = (0, 1)
    protocol: dict[str, Any] = {"num_layers": 3} | dict.fromkeys(FACTS, "?")
    protocol |= {"measure": "accuracy"}
    sizes = {"arithmetic": (20, 3), "arc-easy": (30, 1)}
    tasks = []
    for name, size in sizes.items():
        measured = {}
        for each, share in ((plain, 0.9), (path, 0.4)):
            right = np.random.default_rng(0).random(size) < share
            measured[each] = PathScores(right.astype(float), right, np.nan)
        tasks.append(TaskTrial(name, measured, [], np.zeros(size[0])))
    judged = [Judged(task.effect(path, plain), shorter=True) for task in tasks]
    verdicts = decide(judged, 0.03)
    claims = [Claim("c", "0-1", "path", path)]
    trial = Trial(protocol, claims, Comparators({}, {path: []}), tasks, [verdicts])
    results = trial_results(trial, {name: {} for name in sizes}, LayerCosts(3), {}, "")
    assert results.run["sizes"] == sizes
    prompts = [results.run["groups"][f"c on {name}"]["prompts"] for name in sizes]
    assert prompts == [3, 1]
    assert len(results.sentences) == 2

"""Prompts that begin alike: the prefix run once gives what whole prompts give."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from cola_jax.execute import memory, prefix
from cola_jax.execute.batches import common_prefix, shared_by_each
from cola_jax.execute.evaluator import PathEvaluator, Workload
from cola_jax.execute.metrics import Metrics, compilations
from cola_jax.execute.prefix import SharedPrefixEvaluator, path_evaluator
from cola_jax.execute.reference import run_reference
from cola_jax.execute.worker import Workers
from cola_jax.path import STOP, pad_path
from cola_jax.prompts import Prompts
from tests.execute import batches

SHARED, POSITIONS = 37, 12


def same_paths(count: int, each: int = 6, seed: int = 0) -> np.ndarray:
    rows = batches.paths_of(1, each, seed)[0]
    return np.array([[pad_path(path, POSITIONS) for path in rows]] * count)


def own_paths(count: int, seed: int) -> np.ndarray:
    rows = batches.paths_of(count, 3, seed)
    return np.array([[pad_path(path, POSITIONS) for path in some] for some in rows])


def run(model: Any, batch: Prompts, waves: list[np.ndarray], **options: Any) -> tuple[Any, list]:
    """Runs waves with one evaluator, which compiles with the first; returns it and readings."""
    workers = Workers(model, **options)
    workload = Workload(waves[0].shape[1], POSITIONS, same=True, prefix=SHARED)

    def each(worker: Any, _: object) -> tuple[Any, list]:
        evaluate = path_evaluator(worker, batch, workload)
        readings = [evaluate(waves[0])]
        before = compilations()
        readings += [evaluate(paths) for paths in waves[1:]]
        assert compilations().count == before.count
        evaluate.close()
        return evaluate, readings

    ((_, result),) = workers.map(each, [0])
    return result


@pytest.mark.parametrize(
    ("variant", "blocks"),
    [
        ("qwen2-window", 16),
        pytest.param("gemma3", None, marks=pytest.mark.slow),
        ("gemma3", 16),
        ("olmoe", None),
    ],
)
def test_shared_prefix_matches_reference(
    pair: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, variant: str, blocks: int | None
) -> None:
    """With few blocks the paths run in several groups; a second wave finds states of the first."""
    if blocks is not None:
        monkeypatch.setattr(prefix, "blocks_within", lambda *_: blocks)
    model, batch = pair(variant).ours, batches.alike(SHARED)
    waves = [same_paths(4), same_paths(4, seed=1)]
    waves[1][:, 0] = waves[0][:, 0]
    waves[1][2, 3] = STOP  # an entry that is no path
    evaluate, readings = run(model, batch, waves)
    assert isinstance(evaluate, SharedPrefixEvaluator)
    groups = list(evaluate.prefix.groups(np.unique(waves[0][0], axis=0)))
    assert (len(groups) > 1) == (blocks is not None)
    for paths, got in zip(waves, readings, strict=True):
        batches.assert_agree(got, run_reference(model, batch, paths))


def test_shared_prefix_runs_fewer_tokens(pair: Callable[[str], Any]) -> None:
    model, batch, paths = pair("qwen2-window").ours, batches.alike(SHARED), same_paths(4)
    shared, whole = Metrics(), Metrics()
    run(model, batch, [paths], metrics=shared)
    workers = Workers(model, metrics=whole)
    list(workers.map(lambda w, _: PathEvaluator(w, batch, Workload(6, POSITIONS))(paths), [0]))
    assert shared.evaluations == whole.evaluations == 24
    # of the questions' own tokens as many layers, and those of the prefix once
    assert shared.cost.useful == whole.cost.useful
    own = whole.cost.unique + whole.cost.last
    assert own < shared.cost.unique + shared.cost.last <= own * 5 / 4 + 6


@pytest.mark.parametrize("blocks", [None, 40])
def test_batches_that_begin_alike_run_the_prefix_once(
    pair: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, blocks: int | None
) -> None:
    """What was run before decides what is run again, and no bit of the readings."""
    model, metrics = pair("qwen2-window").ours, Metrics()
    whole, waves = batches.alike(SHARED), [same_paths(2), same_paths(2, seed=1), same_paths(2)]
    parts = [jax.tree.map(lambda x, i=i: np.asarray(x)[i : i + 2], whole) for i in (0, 2)]
    workload = Workload(6, POSITIONS, same=True, prefix=SHARED)
    if blocks is not None:
        monkeypatch.setattr(prefix, "blocks_within", lambda *_: blocks)

    def evaluate(worker: Any, part: Prompts, paths: np.ndarray) -> tuple[Any, int]:
        before, run = metrics.cost, path_evaluator(worker, part, workload)
        assert isinstance(run, SharedPrefixEvaluator)
        readings = run(paths)
        run.close()
        return readings, metrics.cost.unique + metrics.cost.last - before.unique - before.last

    def together(worker: Any, _: object) -> list:
        return [evaluate(worker, part, paths) for part in parts for paths in waves]

    ((_, got),) = Workers(model, metrics=metrics).map(together, [0])
    alone = []
    for part in parts:
        for paths in waves:
            workers = Workers(model, metrics=metrics)
            ((_, one),) = workers.map(lambda w, _, x=(part, paths): evaluate(w, *x), [0])
            alone.append(one)
    for (mine, _), (theirs, _) in zip(got, alone, strict=True):
        for name in ("logprob", "token", "rival"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    ran, whole_cost = ([layers for _, layers in some] for some in (got, alone))
    assert ran[0] == whole_cost[0]
    if blocks is None:  # the first two waves fit, and all is there from the third on
        assert all(a < b for a, b in zip(ran[2:], whole_cost[2:], strict=True))


def test_states_are_kept_while_others_come_and_go(pair: Callable[[str], Any]) -> None:
    """Each question has paths of its own; with few blocks, states make room for those of others."""
    model, batch = pair("qwen2-window").ours, batches.alike(SHARED)
    waves = [own_paths(4, seed) for seed in range(5)]
    waves.append(waves[0])
    workload = Workload(3, POSITIONS, prefix=SHARED)
    budget = 40_000_000
    ran = []
    for most in (1024, 32):
        metrics = Metrics()

        def each(worker: Any, _: object, most: int = most) -> list:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(memory, "CPU", memory.CPU._replace(prefix_states=most))
                evaluate = path_evaluator(worker, batch, workload)
            assert isinstance(evaluate, SharedPrefixEvaluator)
            assert evaluate.prefix.blocks == most
            return [evaluate(paths) for paths in waves]

        ((_, got),) = Workers(model, metrics=metrics, memory_budget=budget).map(each, [0])
        for paths, readings in zip(waves, got, strict=True):
            batches.assert_agree(readings, run_reference(model, batch, paths))
        ran.append(metrics.cost.unique)
    assert ran[0] < ran[1]


def test_batches_at_the_same_time_share_a_prefix(pair: Callable[[str], Any]) -> None:
    model = pair("qwen2-window").ours
    parts = [
        jax.tree.map(lambda x, i=i: np.asarray(x)[i:], batches.alike(SHARED)) for i in (0, 1, 2)
    ] * 2
    workload = Workload(3, POSITIONS, prefix=SHARED)

    def waves(part: int) -> list[np.ndarray]:
        count = len(parts[part].ids)
        return [own_paths(count, 10 * part + seed) for seed in range(4)]

    def run(worker: Any, part: int) -> tuple[Any, list]:
        evaluate = path_evaluator(worker, parts[part], workload)
        assert isinstance(evaluate, SharedPrefixEvaluator)
        readings = [evaluate(paths) for paths in waves(part)]
        evaluate.close()
        return evaluate.prefix, readings

    got = dict(Workers(model, threads=2).map(run, range(len(parts))))
    assert len({id(prefix) for prefix, _ in got.values()}) == 1
    for part, (_, readings) in got.items():
        for paths, one in zip(waves(part), readings, strict=True):
            batches.assert_agree(one, run_reference(model, parts[part], paths))


def test_prefix_is_shared_where_it_pays() -> None:
    def shares(batch: Prompts, fresh: float = 0.25) -> list[int]:
        return shared_by_each(batch, len(batch.ids), fresh)

    assert common_prefix(batches.alike(SHARED)) == SHARED
    assert shares(batches.alike(SHARED)) == [SHARED // 8 * 8] * 4
    assert shares(batches.alike(SHARED), fresh=1.0)[1:] == [0] * 3  # as many tokens either way
    assert shares(batches.alike(31)) == [0] * 4
    assert shares(batches.alike(SHARED, 1)) == [0]
    assert common_prefix(Prompts.stack([batches.packed(seed) for seed in range(3)])) == 0
    early = batches.alike(SHARED)
    early = early.replace(read=np.asarray(early.read).copy())
    np.asarray(early.read)[0, 0] = 5  # read within the prefix
    assert common_prefix(early) == 5
    long = batches.alike(77)
    other = np.asarray(long.ids).copy()
    other[2, 74:] += 1  # after 74 tokens, where the first two begin with more of the same
    other[3, 40:] += 1
    assert shares(long.replace(ids=other), fresh=0.1) == [72, 72, 72, 40]


def test_a_small_budget_runs_whole_prompts(pair: Callable[[str], Any]) -> None:
    model, batch, paths = pair("qwen2-window").ours, batches.alike(SHARED), same_paths(4)
    budget = batches.least_budget(lambda **least: run(model, batch, [paths], **least))
    evaluate, (got,) = run(model, batch, [paths], memory_budget=budget)
    assert isinstance(evaluate, PathEvaluator)
    batches.assert_agree(got, run_reference(model, batch, paths))

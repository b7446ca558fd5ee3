"""The benchmark of a search: all programs evaluate the same, or nothing is timed."""

import pytest

from cola_jax.runs import search_benchmark as module
from cola_jax.runs.search_benchmark import SEARCH, WHOLE, benchmark_search
from cola_jax.runs.session import Session
from cola_jax.scoring.evaluator import question_batches
from cola_jax.strategies.rules import DEFAULT, PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from tests import tiny

SETTINGS = Settings(PRESETS[DEFAULT], simulations=4, leaves=2, seed=0)


@pytest.fixture(scope="module")
def session(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    lines = tiny.write_questions(folder / "all.jsonl", 9).read_text().splitlines(keepends=True)
    (folder / "task.jsonl").write_text("".join(lines[:5]))
    (folder / "shots.jsonl").write_text("".join(lines[5:]))
    shots = {"shots": 4, "shots_file": str(folder / "shots.jsonl")}
    return Session.prepare(checkpoint, TaskConfig(str(folder / "task.jsonl"), **shots).prepare)


@pytest.fixture
def shared(session, monkeypatch):
    """Lets a search run the shots once, as where all questions run the same paths."""
    workload = SETTINGS.workload(session.num_layers)._replace(same=True)
    encoded = session.encoded
    batches = question_batches(encoded, workload, encoded)
    assert any(batches.prefixes)
    for name in ("search_benchmark", "session"):
        monkeypatch.setattr(f"cola_jax.runs.{name}.question_batches", lambda *_: batches)
    return batches


def test_benchmark_search_compares_with_whole_prompts(session, shared):
    results = benchmark_search(session, SETTINGS, rounds=2)
    assert list(results["seconds"]) == [SEARCH, WHOLE]
    assert all(len(seconds) == 2 for seconds in results["seconds"].values())
    assert set(results["over_search"]) == set(results["agreement"]) == {WHOLE}
    assert results["shared_tokens"] == max(shared.prefixes)
    whole = results["agreement"][WHOLE]
    assert whole["compared"] >= len(session.encoded)  # at least the identity path of each
    assert whole["difference"] < 1e-5


def test_benchmark_search_times_nothing_that_disagrees(session, shared, monkeypatch):
    monkeypatch.setattr(module, "time_in_turns", lambda *_, **__: pytest.fail("was timed"))
    monkeypatch.setattr(module, "difference", lambda *_: 1.0)
    with pytest.raises(ValueError, match=r"whole prompts: the scores of question q\d on path"):
        benchmark_search(session, SETTINGS)

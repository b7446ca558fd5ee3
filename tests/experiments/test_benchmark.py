"""The benchmark with transformers as a baseline, and its growth tables, on a tiny model."""

import json

import numpy as np
import pytest

from cola_jax.cli.benchmark import Benchmark, ratio_table, table_of
from cola_jax.execute import benchmark, random_model
from cola_jax.question import Question
from cola_jax.scoring.letter import Letter
from cola_jax.scoring.likelihood import Options
from cola_jax.tasks.task import TaskConfig
from experiments.benchmark import FullBenchmark, component_table, growth_table
from experiments.torch_baselines import rows_of
from tests import tiny

TINY = random_model.llama(6, 32, 4, 2, 48, 97)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmark") / "results.json"
    command = Benchmark(model="tiny", out=file, tokens=16, paths=4, reads=4, rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_model.SHAPES, "tiny", TINY)
        patch.setattr(benchmark, "MATMUL_SIZE", 64)
        FullBenchmark(command, torch=True, growth=1e-9).run()
    return json.loads(file.read_text())


@pytest.mark.slow
def test_benchmark_compares_every_baseline(results):
    assert list(results["over_run_paths"]) == [
        "run_path, path by path",
        "vmap of run_path",
        "transformers, one forward pass per path",
        *(f"transformers, generate {n} tokens per path" for n in (2, 10, 50)),
    ]
    for ratio in results["over_run_paths"].values():
        assert 0 < ratio["least"] <= ratio["ratio"] <= ratio["most"]
    assert ratio_table(results).row_count == 6 + 6
    assert component_table(results).row_count == 1 + len(results["layer"]["layer_over"]) + 3


@pytest.mark.slow
def test_grow_measures_every_quantity(results):
    growing = {point["grows"] for point in results["growth"]}
    assert growing == {"paths", "questions", "tokens", "depth"}
    assert growth_table(results["growth"]).row_count == len(results["growth"])


@pytest.mark.parametrize("scorer", ["options", "letter-strict"])
def test_benchmark_of_a_task_agrees_with_transformers(scorer, tiny_checkpoint, tmp_path):
    file, questions = tmp_path / "results.json", tiny.write_questions(tmp_path / "q.jsonl", 3)
    task = TaskConfig(str(questions), scorer=scorer)
    command = Benchmark(str(tiny_checkpoint), file, rounds=1, task=task, simulations=4)
    FullBenchmark(command, torch=True, pairs=5).run()
    results = json.loads(file.read_text())
    logits = [f"transformers, {which}" for which in ("all logits", "logits where read")]
    for name in logits:
        assert results["evaluations"][name] == results["agreement"][name]["compared"] == 5
        assert results["agreement"][name]["difference"] < 1e-5
        assert results["agreement"][name]["answers"] == 0
    assert table_of(results).row_count == 1 + len(results["agreement"])


def test_rows_of_writes_the_prompt_before_each_option():
    question = Question("q", "which?", ("sun", "moon water", "moon ice"), 0)
    words = tiny.tokenizer()
    encoded = Options(words).encode(question)
    rows, targets = rows_of(encoded), np.asarray(encoded.prompts.targets)
    for j, option in enumerate(question.options):
        own = encoded.option == j
        row, last = rows.ids[j], rows.column[own][-1]
        assert (rows.row[own] == j).all()
        assert (row[last + 1 :] == 0).all()
        text = words.decode([*row[: last + 1], targets[own][-1]])
        assert text == f"<s>Question: which?\nAnswer: {option}"
        assert row[rows.column[own][1:]].tolist() == targets[own][:-1].tolist()


def test_rows_of_runs_one_row_where_options_are_one_token():
    encoded = Letter(tiny.tokenizer()).encode(tiny.questions(1)[0])
    rows = rows_of(encoded)
    assert rows.ids.shape == (1, encoded.num_tokens)
    assert set(rows.row) == {0}

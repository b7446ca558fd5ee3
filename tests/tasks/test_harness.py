"""Tasks of lm-evaluation-harness: the same requests, verdicts and metrics as its own."""

import numpy as np
import pytest
from lm_eval import simple_evaluate

import cola_jax
from cola_jax.deploy.lm_eval import ColaLM
from cola_jax.tasks import harness, load_questions
from cola_jax.tasks.registry import find_task
from cola_jax.tasks.task import TaskConfig
from tests import tiny

COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "train",
    "doc_to_text": "Asked: {{question}} Say: ",
    "metadata": {"version": 1},
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "doc_to_choice": "{{choices.text}}",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}
OTHERS = {
    "swapped": CHOICE | {"doc_to_text": "{{0}}", "doc_to_target": "{{question}}"},
    "several": CHOICE | {"doc_to_target": "{{[0, 1]}}"},
    "fixed": CHOICE | {"num_fewshot": 0},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}"},
    "one_word": {"output_type": "loglikelihood", "doc_to_target": "{{question}}"},
    "missing": CHOICE | {"dataset_kwargs": {"data_files": "nowhere.jsonl"}},
}


@pytest.fixture
def tasks(tmp_path, library):
    """Lets lm-evaluation-harness know tasks of one file, and nothing else."""
    file = str(tiny.write_questions(tmp_path / "rows.jsonl", 6))
    data = COMMON | {"dataset_kwargs": {"data_files": {"test": file, "train": file}}}
    return library(
        **{name: data | fields for name, fields in ({"choice": CHOICE} | OTHERS).items()}
    )


@pytest.mark.parametrize("shots", [0, 2])
def test_metrics_are_those_of_the_harness(tiny_checkpoint, tasks, shots):
    ours = ColaLM(pretrained=str(tiny_checkpoint), data=1)
    wanted = simple_evaluate(
        model=ours,
        tasks=["choice"],
        task_manager=tasks,
        num_fewshot=shots,
        bootstrap_iters=0,
    )
    questions = load_questions("choice", num_fewshot=shots)
    requests = [sample["arguments"] for sample in wanted["samples"]["choice"]]
    for question, arguments in zip(questions, requests, strict=True):
        pairs = [tuple(pair) for pair in arguments]
        delimiter = question.get("delimiter")
        assert [question.text + f"{delimiter}{o}" for o in question.options] == [
            context + choice for context, choice in pairs
        ]
    for scorer, metric in (("options", "acc"), ("options-norm", "acc_norm")):
        results = cola_jax.evaluate(ours.model, questions, "0-4", scorer=scorer)
        each = [sample[metric] for sample in wanted["samples"]["choice"]]
        np.testing.assert_array_equal(results.verdicts.verdict[:, 0], np.array(each, bool))


def test_names_are_alike(tasks):
    for name in ("choice", "Choice", "lm_eval:choice", "LM-eval: CHOICE"):
        assert find_task(TaskConfig(name).task).kind == "harness"
    assert TaskConfig("One-Word").task == "One-Word"
    assert [q.id for q in load_questions("choice", limit=2)] == ["choice/0", "choice/1"]
    assert len(load_questions("choice", limit=0.5)) == 3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rolling", {}, "rolling of lm-evaluation-harness is of the kind loglikelihood_rolling"),
        ("One-Word", {}, "one_word .* of the kind loglikelihood: its score is a likelihood"),
        ("swapped", {}, "swapped of lm-evaluation-harness puts its choices before"),
        ("several", {}, "several, row 0 has the answer .*not one of its 3 choices"),
        ("missing", {}, r"missing of lm-evaluation-harness could not be loaded: .*\(--hub\)"),
        ("chioce", {}, r"nor a task of lm-evaluation-harness \(did you mean choice\?\)"),
        ("lm_eval:chioce", {}, r"lm_eval:chioce' is neither .* \(did you mean choice\?\)"),
        ("choice", {"split": "train"}, "choice has no split, but split is 'train'"),
        ("choice", {"num_fewshot": 9}, "row 0: .* makes no prompt with 9 shots"),
        ("choice", {"num_fewshot": -1}, "at least 0, got -1"),
        ("fixed", {"num_fewshot": 2}, "fixed of lm-evaluation-harness fixes 0 shots, so 2 would"),
    ],
)
def test_load_questions_refuses(tasks, name, settings, message):
    with pytest.raises(ValueError, match=message):
        load_questions(name, **settings)


def test_fixed_shots_may_be_given(tasks):
    assert len(load_questions("fixed")) == len(load_questions("fixed", num_fewshot=0)) == 6


def test_hub_replaces_the_data_set(library, hub):
    rows = [tiny.row(question) for question in tiny.questions(3)]
    folder = hub(("default", "test", rows), ("default", "train", rows))
    library(elsewhere=COMMON | CHOICE | {"dataset_path": "nobody/nothing"})
    questions = load_questions("elsewhere", hub=folder)
    assert [q.options for q in questions] == [q.options for q in tiny.questions(3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "letter"}, "'letter' is not for: use options, options-norm"),
        ({"chat": True}, "the prompts of choice are lm-evaluation-harness's own"),
        ({"format": "harness"}, "the prompts of choice are lm-evaluation-harness's own"),
    ],
    ids=str,
)
def test_prompts_are_the_librarys_own(tasks, settings, message):
    config = TaskConfig("choice", **settings)
    with pytest.raises(ValueError, match=message):
        config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1,))


def test_prepare_records_the_shots(tasks):
    config = TaskConfig("choice", shots=1)
    prepared = config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1,))
    assert prepared.record["prompt"]["num_fewshot"] == 1


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(harness, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"for which: pip install 'cola-jax\[lm-eval\]'"):
        find_task("hellaswag")

"""Tasks of lm-evaluation-harness: the same requests, verdicts and metrics as its own."""

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

import cola_jax
from cola_jax.deploy.lm_eval import ColaLM
from cola_jax.tasks import harness
from cola_jax.tasks.load import kind_of, load_questions
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
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
OTHERS = {
    "words": {"output_type": "generate_until", "doc_to_target": "{{answerKey}}"},
    "swapped": CHOICE | {"doc_to_text": "{{0}}", "doc_to_target": "{{question}}"},
    "several": CHOICE | {"doc_to_target": "{{[0, 1]}}"},
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Lets lm-evaluation-harness know tasks of one file, and nothing else."""
    tiny.write_questions(tmp_path / "rows.jsonl", 6)
    (tmp_path / "tasks").mkdir()
    file = str(tmp_path / "rows.jsonl")
    data = COMMON | {"dataset_kwargs": {"data_files": {"test": file, "train": file}}}
    for name, fields in ({"choice": CHOICE} | OTHERS).items():
        text = yaml.safe_dump(data | fields | {"task": name})
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    monkeypatch.setattr(harness, "manager", lambda: manager)
    return manager


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
    asked = [sample["arguments"] for sample in wanted["samples"]["choice"]]
    for question, arguments in zip(questions, asked, strict=True):
        pairs = [tuple(one) for one in arguments]
        delimiter = question.get("delimiter")
        assert [question.text + f"{delimiter}{o}" for o in question.options] == [
            context + choice for context, choice in pairs
        ]
    for scorer, metric in (("options", "acc"), ("options-norm", "acc_norm")):
        found = cola_jax.evaluate(ours.model, questions, "0-4", scorer=scorer)
        each = [sample[metric] for sample in wanted["samples"]["choice"]]
        np.testing.assert_array_equal(found.verdicts.verdict[:, 0], np.array(each, bool))


def test_load_questions_takes_a_part(tasks):
    assert kind_of("choice") == "harness"
    assert [q.id for q in load_questions("choice", limit=2)] == ["choice/0", "choice/1"]
    assert len(load_questions("choice", limit=0.5)) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", r"words of lm-evaluation-harness is of the kind generate_until"),
        ("swapped", r"swapped of lm-evaluation-harness puts its choices before"),
        ("several", r"several, row 0 has the answer .*not one of its 3 choices"),
        ("chioce", r"nor a task of lm-evaluation-harness \(did you mean choice\?\)"),
    ],
)
def test_load_questions_refuses(tasks, name, message):
    with pytest.raises(ValueError, match=message):
        load_questions(name)


@pytest.mark.parametrize(
    "settings", [{"scorer": "letter"}, {"chat": True}, {"format": "harness"}], ids=str
)
def test_prompts_are_the_librarys_own(tasks, settings):
    config = TaskConfig("choice", **settings)
    with pytest.raises(ValueError, match="the prompts of choice are lm-evaluation-harness's own"):
        config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1,))


def test_prepare_records_the_shots(tasks):
    prepared = TaskConfig("choice", shots=1).prepare(
        tiny.tokenizer(), context=200, stop_tokens=lambda: (1,)
    )
    assert prepared.record["prompt"]["num_fewshot"] == 1
    with pytest.raises(ValueError, match="at least 0, got -1"):
        load_questions("choice", num_fewshot=-1)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(harness, "manager", lambda: None)
    with pytest.raises(ValueError, match=r"for which: pip install 'cola-jax\[lm-eval\]'"):
        kind_of("hellaswag")

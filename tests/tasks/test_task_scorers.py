"""The scorers of tasks: their defaults, and that more questions change nothing of the first."""

import json

import numpy as np
import pytest

from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.tasks.rows import ARC, DART, GSM8K, MMLU, PLAIN, changed
from tests.tasks.test_harness_grader import GSM8K as THEIR_GSM8K

LIMIT, MORE = 8, 10


def numbered(row, name, count=12, **fields):
    """Makes rows that differ in a text."""
    return [
        changed(row, **{name: f"{row[name]} {i}?"}, **{k: v.format(i) for k, v in fields.items()})
        for i in range(count)
    ]


def mmlu(split):
    rows = numbered(MMLU, "question", 36)
    subjects = ("law", "number_theory", "anatomy")
    return "all", split, [changed(row, subject=subjects[i % 3]) for i, row in enumerate(rows)]


SPLITS = ("train", "test")
HUBS = {  # name of the task: its data set
    "arc-easy": [
        ("ARC-Easy", split, numbered(ARC, "question", id=split + "{}")) for split in SPLITS
    ],
    "mmlu": [mmlu("dev"), mmlu("test")],
    "gsm8k": [("main", split, numbered(GSM8K, "question")) for split in SPLITS],
    "dart-math": [("default", "train", numbered(DART, "query", query_id="q{}"))],
}
FILES = {
    "prompt": numbered(PLAIN, "prompt"),
    "arc": numbered(ARC, "question", id="q{}"),
}
LIBRARY = {
    "their_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "their_numbers": THEIR_GSM8K | {"doc_to_target": "#### 3"},
}
SETTINGS = [
    ("arc-easy", {"variants": ("instruction", "shots")}),
    ("arc-easy", {"scorer": "letter", "format": "harness", "variants": ("order",)}),
    ("mmlu", {"variants": ("order",)}),
    ("gsm8k", {"format": "harness"}),
    ("dart-math", {"shots": 0, "fail_rate_level": None}),
    ("arithmetic", {"variants": ("shots",)}),
    ("prompt", {}),
    ("arc", {"scorer": "letter", "format": "harness"}),
    ("their_choice", {"variants": ("instruction",)}),
    ("their_numbers", {}),
]


@pytest.fixture
def prepare(hub, write, library, tmp_path):
    """Prepares a task of any kind, with data of its own."""

    def prepare(task, **settings):
        settings = {"shots": 2, **settings}
        name = task
        if task in HUBS:
            settings["hub"] = hub(*HUBS[task])
            if task == "dart-math":
                rows = numbered(DART, "query", query_id="q{}")
                statistics = [{"query_id": row["query_id"], "pass_rate": 0.5} for row in rows]
                hub(("default", "train", statistics), name="hub-query-info")
        elif task in FILES:
            name = write(*FILES[task])
            settings["shots_file"] = write(*FILES[task][:3], name="shots")
        elif task in LIBRARY:
            file = tmp_path / "rows.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in FILES["arc"]))
            splits = {"dataset_path": "json", "test_split": "test", "fewshot_split": "train"}
            data = {"data_files": {"test": str(file), "train": str(file)}}
            library(**{task: LIBRARY[task] | splits | {"dataset_kwargs": data}})
        config = TaskConfig(name, **settings)
        return config.prepare(tiny.tokenizer(), context=9000, stop_tokens=lambda: (1, 7))

    return prepare


@pytest.mark.parametrize(("task", "settings"), SETTINGS, ids=lambda value: str(value))
def test_first_questions_do_not_depend_on_how_many_follow(prepare, task, settings):
    few, many = (prepare(task, limit=limit, **settings) for limit in (LIMIT, MORE))
    assert (len(few.encoded), len(many.encoded)) == (LIMIT, MORE)
    ways = [(few.encoded, many.encoded)]
    ways += [(a.encoded, b.encoded) for a, b in zip(few.variants, many.variants, strict=True)]
    for fewer, more in ways:
        for row, other in zip(fewer, more[:LIMIT], strict=True):
            assert (row.question, row.prompt_hash) == (
                other.question,
                other.prompt_hash,
            )
            np.testing.assert_array_equal(row.prompts.ids, other.prompts.ids)
    assert [v.places for v in few.variants] == [v.places[:LIMIT] for v in many.variants]
    assert few.record.get("prompt") == many.record.get("prompt")


def test_mmlu_is_asked_as_the_harness_asks_it(prepare):
    prepared = prepare("mmlu", limit=3)
    assert prepared.record["scorer"] == "letter"
    assert prepared.record["prompt"]["format"] == "harness"
    text = tiny.tokenizer().decode(prepared.encoded[0].prompts.ids)
    assert "The following are multiple choice questions (with answers) about law.\n\nW" in text
    assert text.count("Answer: C\n\n") == 2
    assert prepare("mmlu", limit=3, scorer="options").record["prompt"]["format"] == "plain"

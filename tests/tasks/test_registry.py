"""Names of tasks, ours and those of lm-evaluation-harness, and the list of tasks."""

import pytest

from cola_jax.tasks import harness, load_questions
from cola_jax.tasks.registry import (
    MMLU_SUBJECTS,
    TASKS,
    canonical,
    catalogue,
    find_task,
    library_name,
)
from cola_jax.tasks.task import TaskConfig


def test_names_are_those_of_the_tasks():
    assert all(name == task.name for name, task in TASKS.items())
    assert [row["task"] for row in catalogue()][:2] == ["arc_easy", "arc_challenge"]
    assert {row["task"].replace("_", "-") for row in catalogue()} > set(TASKS)
    mmlu = next(row for row in catalogue() if row["task"] == "mmlu")
    assert (mmlu["scorers"].split(", ")[0], mmlu["formats"]) == ("letter", "harness, plain")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ARC_Easy", ("arc-easy", None)),
        ("arc-challenge", ("arc-challenge", None)),
        ("mmlu_abstract_algebra", ("mmlu", "abstract_algebra")),
        ("hendrycks_math500", ("math-500", None)),
        ("Arithmetic", ("arithmetic", None)),
        ("my_own.jsonl", ("my_own.jsonl", None)),
    ],
)
def test_canonical(task, expected):
    assert canonical(task) == expected
    config = TaskConfig(task)
    assert (config.task, config.subject) == expected


def test_a_task_has_one_subject():
    assert TaskConfig("mmlu_anatomy", subject="anatomy").subject == "anatomy"
    with pytest.raises(ValueError, match="has one subject, and 'law' is another"):
        TaskConfig("mmlu_anatomy", subject="law")


def test_find_task_names_a_file_beside_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "task_names", lambda: pytest.fail("the library is loaded"))
    (tmp_path / "task.jsonl").touch()
    with pytest.raises(ValueError, match=r"existing file .*\(did you mean .*task\.jsonl\?\)"):
        find_task(str(tmp_path / "tsk.jsonl"))
    with pytest.raises(ValueError, match=r"of lm-evaluation-harness\.$"):
        find_task(str(tmp_path / "tsk.csv"))


def test_find_task_hints_at_a_name_of_ours_before_the_library_loads(monkeypatch, caplog):
    def names():
        assert "arc_eazy: did you mean arc-easy?" in caplog.text
        return []

    monkeypatch.setattr(harness, "task_names", names)
    with pytest.raises(ValueError, match=r"of lm-evaluation-harness \(did you mean arc-easy\?\)"):
        find_task("arc_eazy")


def test_load_questions_takes_a_share(write):
    file = write(*({"prompt": f"{i} + 1 =", "answer": i + 1} for i in range(7)))
    assert len(load_questions(file, limit=0.5)) == 4
    assert len(load_questions(file, limit=0.01)) == 1
    _, train, held = TaskConfig(file, limit=0.5, held_out=2).load()
    assert (len(train), len(held)) == (4, 2)


def test_library_name_folds_names(library):
    library(plain_task={}, Quoted={}, **{"single-task": {}})
    for name in ("plain_task", "Plain-Task", "lm_eval:plain_task"):
        assert library_name(name) == "plain_task"
    assert (library_name("single_task"), library_name("quoted")) == ("single-task", "Quoted")
    with pytest.raises(ValueError, match="task 'nobody' is neither one of arc-easy"):
        library_name("nobody")


def test_names_are_those_of_the_librarys_index():
    names = set(harness.task_names())
    assert {"hellaswag", "piqa", "gsm8k", "triviaqa", "mmlu_pro_biology"} <= names
    assert {f"mmlu_{subject}" for subject in MMLU_SUBJECTS} <= names
    assert canonical("mmlu_pro_biology") == ("mmlu_pro_biology", None)
    with pytest.raises(ValueError, match="mmlu_stem is a group of tasks"):
        library_name("mmlu_stem")

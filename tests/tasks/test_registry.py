"""Names of tasks, ours and those of lm-evaluation-harness."""

import pytest

from cola_jax.tasks import harness
from cola_jax.tasks.registry import MMLU_SUBJECTS, canonical, library_name
from cola_jax.tasks.task import TaskConfig


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

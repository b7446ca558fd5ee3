"""Names of tasks, ours and those of lm-evaluation-harness, and the list of tasks."""

import subprocess
import sys

import pytest

from cola_jax.tasks import load_questions, registry
from cola_jax.tasks.registry import (
    MMLU_SUBJECTS,
    TASKS,
    canonical,
    catalogue,
    kind_of,
    nearest,
    require,
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


def test_nearest_knows_the_files_beside(tmp_path):
    (tmp_path / "task.jsonl").touch()
    assert "task.jsonl?)" in nearest(str(tmp_path / "tsk.jsonl"))
    assert nearest(str(tmp_path / "other.txt")) == ""
    assert nearest(str(tmp_path / "tsk.j**")) == ""


def test_kind_of_names_the_nearest():
    with pytest.raises(ValueError, match=r"of lm-evaluation-harness \(did you mean arc-easy\?\)"):
        kind_of("arc_eazy")


def test_load_questions_takes_a_share(tmp_path):
    rows = [f'{{"prompt": "{i} + 1 =", "answer": "{i + 1}"}}\n' for i in range(7)]
    (tmp_path / "own.jsonl").write_text("".join(rows))
    file = str(tmp_path / "own.jsonl")
    assert len(load_questions(file, limit=0.5)) == 4
    assert len(load_questions(file, limit=0.01)) == 1
    train, held = TaskConfig(file, limit=0.5, held_out=2).load()
    assert (len(train), len(held)) == (4, 2)
    for limit in (1.5, 0.0, -0.5):
        with pytest.raises(ValueError, match="neither a whole number nor a share below 1"):
            load_questions(file, limit=limit)
    with pytest.raises(ValueError, match=r"of which 0\.5 is a share"):
        load_questions("arithmetic", limit=0.5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of task files in the forms that the library's have."""
    files = {
        "plain": "task: plain_task\nmetric_list:\n  - metric: acc\n",
        "quoted": '"dataset_name": "x"\n"task": "Quoted"\n',
        "single": "include: _base\ntask: 'single-task' # a comment\n",
        "all": "group: everything\ntask:\n  - plain_task\n",
        "inline": "group: more\ntask: [plain_task]\n",
        "class": "group: more\ntask: python_task\nclass: !function task.Python\n",
        "base": "output_type: multiple_choice\nnested:\n  task: nobody\n",
    }
    (tmp_path / "deeper").mkdir()
    for name, text in files.items():
        (tmp_path / "deeper" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(registry, "library_folder", lambda: tmp_path)
    yield tmp_path
    registry.library_names.cache_clear()


def test_require_folds_names(folder):
    tasks, _ = registry.library_names(folder)
    assert set(tasks.values()) == {"Quoted", "plain_task", "python_task", "single-task"}
    for name in ("plain_task", "Plain-Task", "lm_eval:plain_task"):
        assert require(name) == "plain_task"
    assert require("single_task") == "single-task"
    with pytest.raises(ValueError, match="task 'nobody' is neither one of arc-easy"):
        require("nobody")
    with pytest.raises(ValueError, match="everything is a group of tasks"):
        require("everything")


def test_names_are_those_of_the_librarys_index():
    names = set(registry.library_names(registry.library_folder())[0].values())
    assert {"hellaswag", "piqa", "gsm8k", "triviaqa", "mmlu_pro_biology"} <= names
    assert {f"mmlu_{subject}" for subject in MMLU_SUBJECTS} <= names
    assert canonical("mmlu_pro_biology") == ("mmlu_pro_biology", None)
    with pytest.raises(ValueError, match="mmlu_stem is a group of tasks"):
        require("mmlu_stem")


def test_unknown_task_imports_no_library():
    code = (
        "import sys\nfrom cola_jax.tasks.registry import kind_of\n"
        "try:\n    kind_of('hellaswog')\nexcept ValueError as error:\n    print(error)\n"
        "print(sorted({'lm_eval', 'datasets', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "(did you mean hellaswag?)" in done.stdout
    assert done.stdout.endswith("[]\n")

"""Names of lm-evaluation-harness's tasks, read from its files without importing it."""

import subprocess
import sys

import pytest

from cola_jax.tasks import harness_names
from cola_jax.tasks.names import MMLU_SUBJECTS, canonical


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
    monkeypatch.setattr(harness_names, "folder", lambda: tmp_path)
    yield tmp_path
    harness_names.read_names.cache_clear()


def test_find_folds_names(folder):
    assert harness_names.names() == ["Quoted", "plain_task", "python_task", "single-task"]
    for name in ("plain_task", "Plain-Task", "lm_eval:plain_task"):
        assert harness_names.find(name) == "plain_task"
    assert harness_names.find("single_task") == "single-task"
    assert harness_names.find("nobody") is None
    with pytest.raises(ValueError, match="everything is a group of tasks"):
        harness_names.find("everything")


def test_names_are_those_of_the_librarys_index():
    names = set(harness_names.names())
    assert {"hellaswag", "piqa", "gsm8k", "triviaqa", "mmlu_pro_biology"} <= names
    assert {f"mmlu_{subject}" for subject in MMLU_SUBJECTS} <= names
    assert canonical("mmlu_pro_biology") == ("mmlu_pro_biology", None)
    with pytest.raises(ValueError, match="mmlu_stem is a group of tasks"):
        harness_names.find("mmlu_stem")


def test_unknown_task_imports_no_library():
    code = (
        "import sys\nfrom cola_jax.tasks.kinds import kind_of\n"
        "try:\n    kind_of('hellaswog')\nexcept ValueError as error:\n    print(error)\n"
        "print(sorted({'lm_eval', 'datasets', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "(did you mean hellaswag?)" in done.stdout
    assert done.stdout.endswith("[]\n")

"""The tutorial runs from its first cell to its last, on a tiny model."""

import json
from pathlib import Path

import pytest

from tests import tiny

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "tutorial.ipynb"


def test_tutorial_runs(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # committed without
    monkeypatch.setenv("COLA_TUTORIAL_MODEL", str(tiny_checkpoint))
    task = tiny.write_questions(tmp_path / "task.jsonl", 18)
    monkeypatch.setenv("COLA_TUTORIAL_TASK", str(task))
    monkeypatch.setenv("COLA_TUTORIAL_SIZE", "9")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {i}", "exec"), names)
    shown = capsys.readouterr().out
    assert "a logit differs by" in shown
    assert names["effect"]["n"] == 9

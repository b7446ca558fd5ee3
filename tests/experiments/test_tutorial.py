"""The tutorial runs from its first cell to its last on a tiny model; its outputs are committed."""

import json
from pathlib import Path

import pytest

from tests import tiny

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "tutorial.ipynb"


@pytest.mark.slow
def test_tutorial_runs(tiny_checkpoint, tmp_path, monkeypatch):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    outputs = [output["output_type"] for cell in cells for output in cell.get("outputs", ())]
    assert len(outputs) >= 10  # committed with them
    assert "error" not in outputs
    task = tiny.write_questions(tmp_path / "task.jsonl", 18)
    for name, value in (("MODEL", tiny_checkpoint), ("TASK", task), ("SIZE", 6)):
        monkeypatch.setenv(f"COLA_TUTORIAL_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {i}", "exec"), names)
    assert names["figures"]["the model", "correct"]["n"] == 12
    # the model ends with the token of its logits
    assert names["lens"][-1] == names["tokenizer"].decode([int(names["logits"][0, -1].argmax())])
    whole = names["results"].query("path == '0-4'")
    assert [outcome.baseline for outcome in names["outcomes"]] == whole.correct.to_list()

"""The tutorial runs from its first cell to its last on a tiny model; its outputs are committed."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import cola_jax
from tests import tiny

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "tutorial.ipynb"


@pytest.mark.slow
def test_tutorial_runs(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert len(outputs) >= 10  # committed with them
    assert not any(output["output_type"] == "error" for output in outputs)
    monkeypatch.setenv("COLA_TUTORIAL_MODEL", str(tiny_checkpoint))
    task = tiny.write_questions(tmp_path / "task.jsonl", 18)
    monkeypatch.setenv("COLA_TUTORIAL_TASK", str(task))
    monkeypatch.setenv("COLA_TUTORIAL_SIZE", "6")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {i}", "exec"), names)
    shown = capsys.readouterr().out
    assert "a logit differs by" in shown
    assert names["effect"]["n"] == 12
    check_generated(names)
    check_lens(names)
    check_ablation(names)
    check_search(names, shown)


def check_generated(names: dict) -> None:
    """Every path decodes first the token that `run_path` says."""
    first = names["generated"].tokens[0, :, 0]
    for token, path in zip(first, names["paths"].values(), strict=True):
        assert token == cola_jax.run_path(names["model"], names["PROMPT"], path)[0, -1].argmax()


def check_lens(names: dict) -> None:
    """The model ends with the token of its logits, after its embedding and every layer."""
    assert len(names["lens"]) == 1 + tiny.LAYERS
    assert names["lens"][-1] == names["tokenizer"].decode([int(names["logits"][0, -1].argmax())])


def check_ablation(names: dict) -> None:
    """There is a row for each layer, and the scores behind them are sums along `run_path`."""
    table, question, tokenizer = names["ablation"], names["questions"][0], names["tokenizer"]
    assert [*table.index] == ["none", *range(tiny.LAYERS)]
    rows = names["results"].query("path == '0-1,3-4'")
    assert table.loc[2, "margin"] == pytest.approx(rows.margin.mean())
    assert table.loc[2, "correct"] == rows.correct.mean()
    prompt = f"Question: {question.text}\nAnswer:"
    before, scores = len(tokenizer(prompt).input_ids), []
    for option in question.options:
        ids = tokenizer([f"{prompt} {option}"], return_tensors="np").input_ids
        logits = cola_jax.run_path(names["model"], ids, "0-1,3-4")[0]
        said = np.asarray(jax.nn.log_softmax(logits))[before - 1 : -1]
        scores.append(said[np.arange(len(said)), ids[0, before:]].sum())
    gold = scores.pop(question.answer)
    assert rows.margin.iloc[0] == pytest.approx(gold - max(scores), abs=1e-4)


def check_search(names: dict, shown: str) -> None:
    """The output counts the questions that the model answers wrongly."""
    outcomes, whole = names["outcomes"], names["results"].query("path == '0-4'")
    assert [outcome.baseline for outcome in outcomes] == whole.correct.to_list()
    assert f"answers {(~whole.correct).sum()} of 6 questions wrongly." in shown
    for question, outcome in zip(names["questions"], outcomes, strict=True):
        # every other option, the model's own answer among them
        assert outcome.baseline or len(outcome.controls) == len(question.options) - 1

"""`cola menu`: from a search to menu.json; runs that cannot serve are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from cola_jax.cli.main import main
from tests import tiny


def write_again(task: Path, file: Path) -> Path:
    """Writes the questions of a task under other ids, their options in another order."""
    rows = [json.loads(line) for line in task.read_text().splitlines()]
    for row in rows:
        row["id"] += "-again"
        row["choices"]["text"].reverse()
        row["choices"]["label"].reverse()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_menu_of_a_search(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tiny.write_questions(tmp_path / "task.jsonl", 20)
    common = ["--model", str(tiny_checkpoint), "--task", str(task), "--limit", "12"]
    parts = ["--held-out", "8"]
    search = ["search", *common, "--simulations", "6", "--leaves", "6", "--control", "none"]
    main([*search, *parts, "--out", str(tmp_path / "run")])
    out = tmp_path / "menu"
    command = ["menu", *common, *parts, "--out", str(out), "--runs"]
    main([*command, str(tmp_path / "run"), "--size", "3", "--candidates", "4"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "is right (needs the answer)" in shown
    menu = json.loads((out / "menu.json").read_text())
    assert menu["paths"][0] == "0-4"
    assert 2 <= len(menu["paths"]) <= 3
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    main(["menu", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == menu
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")} == before
    effects = {one["rule"].split(",")[0]: one for one in menu["effects"]}
    assert any(name.startswith("single") for name in effects)
    assert {"vote", "logprob", "entropy", "certainty", "selector"} < set(effects)
    assert effects["pretrained model"]["held_out"]["difference"] == 0
    with np.load(out / "selector.npz", allow_pickle=False) as selector:
        assert selector["weights"].shape[1] == len(menu["paths"])
    again = write_again(task, tmp_path / "again.jsonl")
    flags = ["--simulations", "6", "--leaves", "6", "--control", "none"]
    given = ["--model", str(tiny_checkpoint), "--task", str(again)]
    main(["search", *given, *flags, "--out", str(tmp_path / "all")])
    bad = [
        ([*command, str(tmp_path / "all")], "has 8 of the held-out questions"),
        ([*command, str(out / "held-out")], "8 of the held-out questions"),
        ([*command, str(tmp_path / "run"), "--size", "1"], "leaves nothing to choose"),
        ([*command, str(tmp_path / "run"), "--max-layers", "4"], "begins with the identity path"),
    ]
    for arguments, message in bad:
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in " ".join(capsys.readouterr().err.split())

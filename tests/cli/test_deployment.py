"""`cola static`, `menu` and `distill`: what they write and refuse."""

import json
from pathlib import Path

import filelock
import numpy as np
import pytest

from cola_jax.cli.main import main
from cola_jax.execute.run_paths import PathEvaluator
from tests import tiny
from tests.cli.conftest import Refused

SMALL = ["--generations", "2", "--offspring", "4", "--first", "3", "--finalists", "3"]


def test_static_writes_a_path_and_its_effect(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
) -> None:
    task, out = tiny.write_questions(tmp_path / "task.jsonl", 14), tmp_path / "out"
    common = ["static", "--model", str(tiny_checkpoint), "--task", str(task), "--limit", "9"]
    command = [*common, "--held-out", "5", "--out", str(out), *SMALL]
    main(command)
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 held-out questions" in shown
    result = json.loads((out / "static.json").read_text())
    assert result["front"][0]["path"] == "0-4"
    assert result["effect"]["n"] == 5
    assert result["layers"] <= 5

    before = sorted(out.rglob("*.parquet"))

    def forbid(*_: object) -> None:
        raise AssertionError("everything has been evaluated before")

    monkeypatch.setattr(PathEvaluator, "__call__", forbid)
    main(command)
    assert sorted(out.rglob("*.parquet")) == before
    assert json.loads((out / "static.json").read_text()) == result
    capsys.readouterr()
    main(["static", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == result
    main(["report", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == result
    main(["report", str(out)])
    assert " ".join(capsys.readouterr().out.split()) == shown
    assert "--page is for runs" in refused("report", out, "--page", tmp_path / "page.html")
    assert sorted(out.rglob("*.parquet")) == before
    changed = refused(*command, "--generations", "3")
    assert " (--generations: 2 there, 3 here)" in changed
    assert "no questions are held out" in refused(*common, "--out", tmp_path / "other")
    assert "cannot be divided" in refused(*command, "--shard", "0/2")


def test_menu_of_a_search(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
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
    assert "some path of" in shown
    menu = json.loads((out / "menu.json").read_text())
    assert menu["paths"][0] == "0-4"
    assert 2 <= len(menu["paths"]) <= 3
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    main(["menu", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == menu
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")} == before
    effects = {effect["rule"].split(",")[0]: effect for effect in menu["effects"]}
    assert any(name.startswith("single") for name in effects)
    assert {"vote", "logprob", "entropy", "certainty", "selector"} < set(effects)
    assert effects["pretrained model"]["held_out"]["difference"] == 0
    with np.load(out / "selector.npz", allow_pickle=False) as selector:
        assert selector["weights"].shape[1] == len(menu["paths"])
    other = ["--out", str(tmp_path / "tried"), "--runs", str(tmp_path / "run")]
    main(["menu", *common, *parts, *other, "--try-scorer", "options-norm", "--json"])
    tried = json.loads(capsys.readouterr().out)
    assert tried["paths"][0] == "0-4"
    assert "no correct path of at most 10 layers" in refused(*command, out / "held-out")
    command.append(str(tmp_path / "run"))
    assert "leaves nothing to choose" in refused(*command, "--size", "1")
    assert "begins with the identity path" in refused(*command, "--max-layers", "4")


def test_distill_refuses_a_folder_that_another_process_writes(
    tmp_path: Path, refused: Refused
) -> None:
    flags = ["--model", "m", "--run", "r", "--task", "arithmetic", "-o", tmp_path / "router"]
    with filelock.FileLock(tmp_path / ".router.lock"):
        error = refused("distill", *flags)
    assert "router is being written by another process" in error

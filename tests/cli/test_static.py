"""`cola static`: from a task to static.json, resumed without evaluating anything twice."""

import json
import re
from pathlib import Path

import pytest

from cola_jax.cli.main import main
from cola_jax.execute.evaluator import PathEvaluator
from tests import tiny

SMALL = ["--generations", "2", "--offspring", "4", "--first", "3", "--finalists", "3"]


def test_static_writes_a_path_and_its_effect(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, out = tiny.write_questions(tmp_path / "task.jsonl", 14), tmp_path / "out"
    common = ["static", "--model", str(tiny_checkpoint), "--task", str(task), "--limit", "9"]
    command = [*common, "--held-out", "5", "--out", str(out), *SMALL]
    main(command)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).split())
    assert "5 held-out questions" in shown
    assert re.search(r"[+−]\d+\.\d to [+−]\d+\.\d", shown)
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
    assert sorted(out.rglob("*.parquet")) == before
    with pytest.raises(SystemExit):
        main([*command, "--generations", "3"])
    assert "--rules.generations: 2 there, 3 here" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*common, "--out", str(tmp_path / "other")])
    assert "no questions are held out" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*command, "--shard", "0/2"])
    assert "cannot be divided" in " ".join(capsys.readouterr().err.split())

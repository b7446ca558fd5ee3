"""Commands on questions with pictures."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from cola_jax.cli.main import main
from cola_jax.runs.run import Run
from tests import pictures


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava-qwen2", "smolvlm"])
def test_search_scan_and_export_with_pictures(seeing, tmp_path, name):
    model, task = str(seeing(name) / "ours"), pictures.write_questions(tmp_path, 20)
    flags = ["--model", model, "--task", str(task), "--data", "1", "--quiet"]
    search = ["search", *flags, "--scorer", "letter", "--simulations", "8"]
    main([*search, "--output", str(tmp_path / "run")])
    run = Run(str(tmp_path / "run"))
    rows = run.evaluations().to_pylist()
    assert len({row["question"] for row in rows}) == 20
    thumbnails = list((tmp_path / "run" / "report_files").glob("picture-*.jpg"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(thumbnails) == 15
    assert set(re.findall(r"picture-0-\w+\.jpg", page)) == {file.name for file in thumbnails}
    main([*search, "--output", str(tmp_path / "run")])  # nothing is run again
    assert len(run.evaluations()) == len(rows)
    main(["scan", *flags, "--output", str(tmp_path / "scan")])
    assert (tmp_path / "scan" / "report.html").exists()
    export = ["export", "--model", model, "--path", "0-2,1-3", "--output"]
    main([*export, str(tmp_path / "exported")])
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6


def test_search_refuses_pictures_before_weights_load(
    seeing, tiny_checkpoint, tmp_path, refused, monkeypatch
):
    monkeypatch.setattr("cola_jax.formats.cache.load_converted", lambda *_: pytest.fail("loaded"))
    task = pictures.write_questions(tmp_path, 2)
    flags = [
        "search",
        "--task",
        str(task),
        "--out",
        str(tmp_path / "run"),
        "--data",
        "1",
        "--model",
    ]
    assert "cannot be asked about pictures" in refused(*flags, str(tiny_checkpoint))
    (tmp_path / "1.png").write_bytes(b"broken")
    assert "question q1: the picture is broken" in refused(*flags, str(seeing("smolvlm") / "ours"))
    (tmp_path / "1.png").unlink()
    said = refused(*flags, str(seeing("smolvlm") / "ours"))
    assert f"task.jsonl:2: the picture {Path(tmp_path) / '1.png'} is missing" in said

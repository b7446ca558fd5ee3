"""`cola scan`: from a task to the map, its CSV and its page."""

from pathlib import Path

import pytest

from cola_jax.cli.main import main
from tests import tiny


def test_scan_maps_every_block(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tiny.write_questions(tmp_path / "task.jsonl", 4)
    out = tmp_path / "run"
    common = ["--model", str(tiny_checkpoint), "--task", str(task), "--out", str(out)]
    main(["scan", *common, "--longest-block", "2"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "18 blocks on 4 questions" in shown
    assert "measured on the other" in shown
    assert len((out / "report.csv").read_text().splitlines()) == 1 + 18
    page = (out / "report.html").read_text()
    assert page.count("<figure id=") == 2
    assert "scan of blocks" in page
    main(["scan", *common])  # all blocks: those of the run and others
    assert " blocks on 4 questions" in " ".join(capsys.readouterr().out.split())
    assert len((out / "report.csv").read_text().splitlines()) > 1 + 18
    with pytest.raises(SystemExit):
        main(["scan", *common, "--longest-block", "2"])
    assert "created with different settings" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["scan", *common, "--longest-block", "6"])
    assert "give 1 to 5" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["scan", *common, "--limit", "1"])
    assert "a map needs 2 or more questions, there is 1" in capsys.readouterr().err
    repeats = [*common[:-1], str(tmp_path / "repeats"), "--longest-block", "1", "--edits", "repeat"]
    main(["scan", *repeats])
    shown = capsys.readouterr().out
    assert "5 blocks on 4 questions" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "best skip" not in shown

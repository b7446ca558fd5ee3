"""`cola status`: its tables, its JSON, and what it refuses."""

import json
import re
from datetime import UTC, datetime

from cola_jax.cli.main import main
from cola_jax.cli.status import format_seconds
from cola_jax.metrics import Metrics
from tests.small_runs import PARTS, START, make_run


def test_status_of_a_run_in_progress_and_of_others(tmp_path, capsys, refused):
    now = datetime.now(UTC).isoformat(timespec="seconds")
    begun = START | {"date": now, "device": "tpu v5e\x1b[31m", "task": "arc_easy"}
    run = make_run(tmp_path, *PARTS, start=begun, questions=1000)
    main(["status", str(run.directory)])
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "someone/model on arc_easy",
        "questions done 5 of 1,000 (0.5 %)",
        "unfinished 995, of them 0 set aside",
        "evaluations 15 of about 3,000",
        " questions/s, ",
        "time left about ",
        " 5 100.0 % ",
        "1 start device",
        f"{now} tpu v5e\ufffd[31m not ended",
    ):
        assert text in shown, shown
    assert re.search(r"last part written \d+ s ago", shown)
    assert "set aside machine" not in shown

    later = begun | {"date": "2100-01-01T00:00:00+00:00"}
    with run.open(run.settings(), later, metrics=Metrics()):
        run.fail(["q6", "q7"], "it killed three workers: [bold]", "pod-7")
    main(["status", str(run.directory)])
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("of them 2 set aside", "time left stopped", "none by the last start"):
        assert text in shown
    assert re.search(r"q6, q7: it killed three workers: \[bold\] pod_7 \d+ s ago", shown)
    main(["status", str(run.directory), "--json"])
    progress = json.loads(capsys.readouterr().out)
    assert (progress["state"], progress["done"], progress["failed"]) == ("stopped", 5, 2)

    for file in (tmp_path / "run" / "starts").iterdir():
        file.unlink()
    main(["status", str(run.directory)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "time left not started" in shown
    assert "it is not a run directory" in refused("status", tmp_path)
    assert "it is not a run directory" in refused("status", tmp_path / "missing")
    for command in ("status", "report"):
        assert "it is not a run directory" in refused(command, run.directory / "run.json")


def test_format_seconds():
    times = (-1, 119, 120, 7200, 200_000)
    assert [*map(format_seconds, times)] == ["0 s", "119 s", "2.0 min", "2.0 h", "2.3 days"]

"""The rows of a trial, and whether its results are theirs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cola_jax.cli.main import main
from cola_jax.deploy.model_card import read_effects
from cola_jax.deploy.verify.protocol import PROTOCOL
from cola_jax.deploy.verify.rows import ROWS, check_rows, digest_of_rows, trial_runs
from cola_jax.errors import InputError
from cola_jax.runs import schema
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL, Estimate
from cola_jax.runs.results import RESULTS, EditedError, Results, write_results
from tests.small_runs import EVALUATE, FIRST, START, letters

SHORT = (0, 1, 2)
HASH = "h"


def asked(prompts: int) -> dict[str, Any]:
    return {"prompts": [{}] * prompts}


def write_trial(folder: Path, *, verdict: bool = True) -> Results:
    """Write a trial of a path on one question in two prompts, and its results."""
    protocol = {"hash": HASH, "tasks": {"arc": asked(2)}}
    folder.mkdir()
    (folder / PROTOCOL).write_text(json.dumps(protocol))
    for run in trial_runs(folder, protocol):
        rows = letters("q1", [(FIRST, 0, True), (SHORT, 0, verdict)])
        settings = EVALUATE | {"questions": 1, "protocol": HASH, "paths": [[*FIRST], [*SHORT]]}
        with run.open(settings, START):
            run.write(schema.Part(*rows))
    estimates = []
    for group, value in ((MODEL, 1.0), ("claim", 0.5)):
        estimates.append(Estimate(CORRECT, group, value, n=1))
    estimates.append(Estimate(CHANGE, "claim", -0.5, "points", n=1, note="worse"))
    settings = {"command": "verify", "hash": HASH, "questions": 1}
    run = {"settings": settings, "start": START, "done": 1, ROWS: digest_of_rows(folder, protocol)}
    run["groups"] = {"claim": {"path": "0-2", "task": "arc", "model": MODEL, "prompts": 2}}
    results = Results(estimates, run)
    write_results(results, folder / RESULTS)
    return results


def test_runs_of_a_trial_are_those_of_its_samples_and_prompts(tmp_path):
    samples = {"self_consistency": {"samples": {"math": 2}}}
    protocol = {"tasks": {"arc": asked(2), "math": asked(1)}} | samples
    places = [str(run.directory.relative_to(tmp_path)) for run in trial_runs(tmp_path, protocol)]
    alone = ["math/sample-1", "math/sample-2", "math"]
    assert places == ["arc/prompt-1", "arc/prompt-2", *alone]


def test_results_are_those_of_the_rows_beside_them(tmp_path):
    results = write_trial(tmp_path / "a")
    file = tmp_path / "a" / RESULTS
    check_rows(file, results)
    other = write_trial(tmp_path / "b", verdict=False)
    assert other.run[ROWS] != results.run[ROWS]
    second = Path("arc", "prompt-2")
    shutil.rmtree(tmp_path / "a" / second)
    shutil.copytree(tmp_path / "b" / second, tmp_path / "a" / second)
    for show in (check_rows, lambda file, _: read_effects(file, SHORT, 4)):
        with pytest.raises(EditedError, match=r"rows or its protocol .*the same `cola verify`"):
            show(file, results)
    shutil.rmtree(tmp_path / "a" / "arc")
    check_rows(file, results)  # copied without its rows
    check_rows(file, Results(results, {}))  # of an earlier version


@pytest.mark.parametrize("task", ["../b/arc", "/etc", "arc/..", ".."])
def test_a_protocol_of_somebody_else_leads_nowhere(tmp_path, task):
    results = write_trial(tmp_path / "a")
    protocol = {"hash": HASH, "tasks": {task: asked(2)}}
    (tmp_path / "a" / PROTOCOL).write_text(json.dumps(protocol))
    with pytest.raises(InputError, match="is not the name of a task's folder"):
        check_rows(tmp_path / "a" / RESULTS, results)


def test_an_effect_is_not_exported_from_results_that_were_edited(tmp_path):
    write_trial(tmp_path / "a")
    file = tmp_path / "a" / RESULTS
    assert read_effects(file, SHORT, 4)[0].change.note == "worse"
    file.write_text(file.read_text().replace('"note": "worse"', '"note": "better"'))
    with pytest.raises(InputError, match="as it was changed after it was written"):
        read_effects(file, SHORT, 4)


def test_report_refuses_an_edited_trial_and_runs_of_one_without_verdict(tmp_path, capsys):
    write_trial(tmp_path / "a")
    run = tmp_path / "a" / "arc" / "prompt-1"
    main(["report", str(run)])  # after the verdict
    main(["report", str(tmp_path / "a")])
    capsys.readouterr()
    content = (tmp_path / "a" / RESULTS).read_text()
    (tmp_path / "a" / RESULTS).write_text(content.replace("0.5", "0.7"))
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "a")])
    assert "run the same `cola verify` again" in capsys.readouterr().err
    (tmp_path / "a" / RESULTS).unlink()
    with pytest.raises(SystemExit):
        main(["report", str(run)])
    out, error = capsys.readouterr()
    assert out == ""
    assert "nothing that it measured is shown before" in error

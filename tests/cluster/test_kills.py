"""A search that signals interrupt has the rows of one that ran without a break."""

import pytest

from tests import tiny
from tests.cluster.kills import Kills, main

pytestmark = pytest.mark.slow


def test_interrupted_search_has_the_rows_of_an_unbroken_one(tiny_checkpoint, tmp_path, capsys):
    task = tiny.write_questions(tmp_path / "task.jsonl", 48)
    command = ("search", "--model", str(tiny_checkpoint), "--task", str(task), "--batch-size", "2")
    out = str(tmp_path / "runs")
    with pytest.raises(SystemExit) as ended:
        main(Kills((*command, "--simulations", "12"), out, kills=1, terms=1, within=0.5))
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "| SIGKILL |" in printed
    assert "status 143: " in printed

"""The figures of the paper as tables, from a small run."""

import importlib

import pytest

from experiments.paper.results import read
from experiments.paper.table1 import HEAD, table_rows
from tests.report.conftest import PARTS, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(make_run(tmp_path_factory.mktemp("run"), *PARTS).directory)


@pytest.mark.parametrize(
    ("number", "cells"),
    [
        (2, ["3.5 (3.5)", "4.0 (3.5)"]),
        (3, ["C→C", "50.0 %", "100.0 %"]),
        (4, ["20.0 %", "40.0 %"]),
        (5, ["all", "1.386"]),
        (6, ["skipped, early / middle / late", "0.00 / 0.00 / 0.00"]),
        (7, ["shortest 5 %", "correct", "control"]),
    ],
)
def test_figures_print_tables_with_controls(run, capsys, number, cells):
    importlib.import_module(f"experiments.paper.figure{number}").main([run])
    head, marks, *rows = capsys.readouterr().out.splitlines()
    assert marks.startswith("| ---")
    assert rows
    assert all(line.count("|") == head.count("|") for line in rows)
    text = "\n".join([head, *rows])
    assert "control" in text
    for cell in cells:
        assert cell in text


def test_table_of_spaces_has_a_cell_for_every_column(run):
    (result,) = read([run])
    once, both = table_rows([("skip", result, None), ("repeat", result, result)])
    assert len(once) == len(both) == len(HEAD)
    assert once[:4] == ["skip", "40.0 %", "80.0 %", "66.7 %"]

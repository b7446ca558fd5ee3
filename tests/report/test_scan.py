"""The map of a scan: cells, what is best, CSV and page."""

import csv
import dataclasses
import html
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cola_jax.deploy.scan import Block, scan_paths
from cola_jax.report.scan import ScanSummary, read_map, summarise_map
from cola_jax.report.scan_page import map_data, write_scan_page
from cola_jax.report.scan_table import COLUMNS, scan_csv, scan_table
from tests.report.conftest import make_run, printed
from tests.report.hostile import TEXTS, settings_of, start_of

LAYERS = 4
PATHS = scan_paths(LAYERS)
IDS = [f"q{i}" for i in range(60)]


@pytest.fixture
def summary() -> ScanSummary:
    random = np.random.default_rng(0)
    verdict = np.repeat(random.random((60, 1)) < 0.5, len(PATHS), axis=1)
    verdict[:, PATHS.index((0, 1, 1, 2, 3))] |= random.random(60) < 0.6
    verdict[:, PATHS.index((3,))] = False
    margin = random.normal(size=(60, len(PATHS))) + verdict
    margin[:, PATHS.index((3,))] = -np.inf
    return summarise_map(PATHS, IDS, verdict, margin, LAYERS)


def test_best_cell_stands_out_where_it_has_an_effect(summary: ScanSummary) -> None:
    assert summary.best.block == Block("repeat", 1, 2)
    assert summary.best.p < 0.01
    assert summary.elsewhere_blocks == (Block("repeat", 1, 2),)
    assert summary.elsewhere.value == summary.best.difference.value
    assert summary.best.difference.interval[0] > 0
    shortest = summary.shortest_without_loss
    assert shortest is not None
    assert shortest.path != (3,)
    assert len(shortest.path) == 1


def test_random_verdicts_do_not_stand_out() -> None:
    random, significant, gains, elsewhere = np.random.default_rng(0), 0, [], []
    for _ in range(10):
        verdict = random.random((60, len(PATHS))) < 0.25
        one = summarise_map(PATHS, IDS, verdict, verdict * 1.0, LAYERS)
        significant += one.best.p < 0.05
        gains.append(one.best.difference.value)
        elsewhere.append(one.elsewhere.value)
    assert significant <= 2
    assert np.mean(gains) > 0.05  # by luck
    assert abs(np.mean(elsewhere)) < 0.05


def test_map_does_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(0)
    nodes = np.tile(np.arange(len(PATHS)), 60)
    verdict, margin = random.random(nodes.size) < 0.4, random.normal(size=nodes.size)
    rows = pa.table(
        {
            "question": np.repeat(IDS, len(PATHS)),
            "node": nodes,
            "verdict": verdict,
            "margin": margin,
        }
    )
    shuffled = rows.take(random.permutation(nodes.size))
    one, other = (
        summarise_map(PATHS, *read_map(each, len(PATHS)), LAYERS) for each in (rows, shuffled)
    )
    assert dataclasses.asdict(one) == dataclasses.asdict(other)


def test_map_data_has_every_cell_and_the_best(summary: ScanSummary) -> None:
    data = map_data(summary)
    assert data["best"]["accuracy"] == {"kind": "repeat", "start": 1, "stop": 2}
    assert data["best"]["margin"] == summary.best_margin.block._asdict()
    for name, table in data["figures"].items():
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        assert len(rows) == len(PATHS) - 1
        best = next(
            row for row in rows if (row["kind"], row["start"], row["stop"]) == ("repeat", 1, 2)
        )
        value = "difference" if name == "accuracy" else "margin"
        assert best[f"{value}_low"] < best[value] < best[f"{value}_high"]
        assert best["layers"] == 5


def test_csv_has_every_cell(summary: ScanSummary) -> None:
    rows = list(csv.DictReader(io.StringIO(scan_csv(summary))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(PATHS) - 1
    best = next(row for row in rows if row["path"] == "0,1,1,2-3")
    assert (best["kind"], best["start"], best["stop"]) == ("repeat", "1", "2")
    assert float(best["correct"]) == summary.best.correct.value


def test_table_names_the_best_blocks(summary: ScanSummary) -> None:
    table = scan_table(summary)
    assert table.row_count == 5
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 80
    low, high = summary.best.difference.interval
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in text  # whole
    assert re.search(r"best repeat +repeat 1 +5 ", text)
    assert re.search(r"best skip +skip \d", text)
    repeats = [cell for cell in summary.cells if cell.block.kind == "repeat"]
    alone = dataclasses.replace(summary, cells=tuple(repeats))
    assert "skip" not in printed(scan_table(alone)).partition("blocks on")[0]


def test_no_text_adds_markup_to_a_page(tmp_path: Path, summary: ScanSummary) -> None:
    def elements(text: str, name: str) -> list[str]:
        settings = settings_of(text) | {"command": "scan", "paths": [[0]]}
        run = make_run(tmp_path / name, start=start_of(text), **settings)
        write_scan_page(run, summary, tmp_path / f"{name}.html")
        page = (tmp_path / f"{name}.html").read_text()
        assert text == "plain" or html.escape(TEXTS["image"]) in page
        return re.findall(r"<[a-z/!][^ >]*", page)

    assert elements(" ".join(TEXTS.values()), "hostile") == elements("plain", "plain")

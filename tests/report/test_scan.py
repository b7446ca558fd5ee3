"""Scans: cells, the best blocks and their correction, rows and CSV."""

import csv
import dataclasses
import io
import re

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from cola_jax.report import scan
from cola_jax.report.terminal import TerminalTable
from cola_jax.scoring.number_format import Table
from tests.small_runs import printed

LAYERS = 4
PATHS = scan.scan_paths(LAYERS)
IDS = [f"q{i}" for i in range(60)]


def random_scan(paths: list[tuple[int, ...]]) -> scan.ScanSummary:
    """Summarise a scan in which a repeat of layer 1 helps, and one path is never finite."""
    random = np.random.default_rng(0)
    verdict = np.repeat(random.random((60, 1)) < 0.5, len(paths), axis=1)
    verdict[:, paths.index((0, 1, 1, 2, 3))] |= random.random(60) < 0.6
    verdict[:, paths.index((3,))] = False
    margin = random.normal(size=(60, len(paths))) + verdict
    margin[:, paths.index((3,))] = -np.inf
    return scan.summarise_map(paths, IDS, verdict, margin, LAYERS)


def test_scan_paths_have_every_block_once() -> None:
    for layers in (1, 2, 5):
        paths = scan.scan_paths(layers)
        assert len(paths) == len(set(paths)) == layers * (layers + 1)
        assert paths[0] == tuple(range(layers))
        assert all(scan.block_of(path, layers).path(layers) == path for path in paths[1:])
    assert scan.Block("skip", 1, 3).path(5) == (0, 3, 4)
    assert scan.Block("repeat", 1, 3).path(5) == (0, 1, 2, 1, 2, 3, 4)
    assert len(scan.scan_paths(30, 2)) == 1 + 2 * (30 + 29)
    assert all(len(path) >= 5 for path in scan.scan_paths(5, kinds=("repeat",)))
    for longest in (0, 31):
        with pytest.raises(ValueError, match=f"up to {longest} layers cannot be scanned"):
            scan.scan_paths(30, longest)


@pytest.fixture
def summary() -> scan.ScanSummary:
    return random_scan(PATHS)


def test_best_cell_stands_out_where_it_has_an_effect(summary: scan.ScanSummary) -> None:
    assert summary.best.block == scan.Block("repeat", 1, 2)
    assert summary.best.p < 0.01
    assert summary.elsewhere_blocks == (scan.Block("repeat", 1, 2),)
    assert summary.elsewhere.value == summary.best.difference.value
    assert summary.best.difference.interval[0] > 0
    shortest = summary.shortest_without_loss
    assert shortest is not None
    assert shortest.path != (3,)
    assert len(shortest.path) == 1


def test_random_verdicts_do_not_stand_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FLIPS", 2000)
    random, significant, gains, elsewhere = np.random.default_rng(0), 0, [], []
    for _ in range(10):
        verdict = random.random((60, len(PATHS))) < 0.25
        one = scan.summarise_map(PATHS, IDS, verdict, verdict * 1.0, LAYERS)
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
    columns = np.repeat(IDS, len(PATHS)), nodes, verdict, margin
    rows = pa.table(dict(zip(scan.COLUMNS, columns, strict=True)))
    shuffled = rows.take(random.permutation(nodes.size))
    maps = [scan.read_map(each, len(PATHS)) for each in (rows, shuffled)]
    one, other = (scan.summarise_map(PATHS, *each, LAYERS) for each in maps)
    assert dataclasses.asdict(one) == dataclasses.asdict(other)


def test_csv_has_every_cell(summary: scan.ScanSummary) -> None:
    records = scan.scan_records(summary)
    rows = list(csv.DictReader(io.StringIO(scan.scan_csv(records))))
    assert [list(row.values()) for row in rows] == [[*map(str, each.values())] for each in records]
    assert len(rows) == len(PATHS) - 1
    best = next(row for row in rows if row["path"] == "0,1,1,2-3")
    assert (best["kind"], best["start"], best["stop"]) == ("repeat", "1", "2")
    assert float(best["correct"]) == summary.best.correct.value


def test_rows_name_the_best_blocks(summary: scan.ScanSummary) -> None:
    text = printed(TerminalTable(Table(scan.scan_rows(summary), columns=("",) * 6)))
    assert max(map(len, text.splitlines())) <= 80
    low, high = summary.best.difference.interval
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in text  # whole
    assert re.search(r"best repeat +repeat 1 +5 ", text)
    assert re.search(r"best skip +skip \d", text)
    repeats = [cell for cell in summary.cells if cell.block.kind == "repeat"]
    alone = scan.scan_rows(dataclasses.replace(summary, cells=tuple(repeats)))
    assert not any("skip" in " ".join([row.label, *row.cells]) for row in alone)


def test_verdict_needs_an_effect_beyond_the_number_of_blocks(summary: scan.ScanSummary) -> None:
    assert scan.scan_verdict(summary).startswith("Shown: repeat 1 makes the model more accurate (+")
    cells = tuple(dataclasses.replace(cell, p=0.06) for cell in summary.cells)
    text = scan.scan_verdict(dataclasses.replace(summary, cells=cells))
    assert text.startswith("Nothing shown: no block makes")
    assert "repeat 1 is best" in text


def test_flip_test_of_one_path_is_the_sign_test() -> None:
    differences = np.array([[1]] * 8 + [[-1]] * 2 + [[0]] * 5)
    p = scan.flip_test(np.hstack([differences, -differences]))
    assert p == pytest.approx(2 * binom.sf(7, 10, 0.5), abs=0.01)  # of either sign
    assert scan.flip_test(np.zeros((10, 3))).tolist() == [1, 1, 1]


def test_flip_test_corrects_for_the_number_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FLIPS", 1000)
    random = np.random.default_rng(0)
    smallest = [scan.flip_test(random.integers(-1, 2, (40, 100))).min() for _ in range(60)]
    assert np.mean(np.array(smallest) <= 0.1) == pytest.approx(0.1, abs=0.09)
    assert np.mean(smallest) == pytest.approx(0.5, abs=0.12)


def test_flip_test_finds_an_effect_among_many() -> None:
    random = np.random.default_rng(1)
    differences = random.integers(-1, 2, (100, 200))
    differences[:, 7] = random.random(100) < 0.3
    p = scan.flip_test(differences)
    assert p[7] < 0.01
    assert np.delete(p, 7).min() > 0.02


def test_a_path_is_measured_on_the_half_where_it_was_not_chosen() -> None:
    ids = [f"q{i}" for i in range(21)]
    first = scan.halves(ids)
    assert first.sum() == 10
    assert scan.halves(ids[::-1])[::-1].tolist() == first.tolist()
    effects = np.stack([first, ~first], axis=1)
    assert scan.chosen_elsewhere(effects, first).tolist() == first.tolist()

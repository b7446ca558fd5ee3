"""Scans: blocks, the best of them and their correction."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from cola_jax.deploy import scan
from cola_jax.runs.estimates import CHANGE, CORRECT, ELSEWHERE
from cola_jax.runs.path_results import LAYERS, MARGIN
from cola_jax.runs.prompt_results import VERDICTS, read_map
from cola_jax.runs.results import Results

DEPTH = 4
PATHS = scan.scan_paths(DEPTH)
IDS = [f"q{i}" for i in range(60)]


def scanned(paths: list[tuple[int, ...]], *answers: np.ndarray) -> Results:
    run = {"settings": {"command": "scan", "questions": 60}, "start": {"num_layers": DEPTH}}
    estimates = scan.scan_estimates(paths, IDS, *answers, DEPTH)
    return Results(estimates, run | {"done": 60})


def random_scan(paths: list[tuple[int, ...]]) -> Results:
    """Scan a model that a repeat of layer 1 helps, and of which one path is never finite."""
    random = np.random.default_rng(0)
    verdict = np.repeat(random.random((60, 1)) < 0.5, len(paths), axis=1)
    verdict[:, paths.index((0, 1, 1, 2, 3))] |= random.random(60) < 0.6
    broken = min(paths, key=len)
    verdict[:, paths.index(broken)] = False
    margin = random.normal(size=(60, len(paths))) + verdict
    margin[:, paths.index(broken)] = -np.inf
    return scanned(paths, verdict, margin)


def test_scan_paths_have_every_block_once() -> None:
    for layers in (1, 2, 5):
        paths = scan.scan_paths(layers)
        assert len(paths) == len(set(paths)) == layers * (layers + 1)
        assert paths[0] == tuple(range(layers))
        for path in paths[1:]:
            block = scan.Block.of(path, layers)
            assert block.path(layers) == path
            assert scan.Block.parse(block.name) == block
    assert scan.Block("skip", 1, 3).path(5) == (0, 3, 4)
    assert scan.Block("repeat", 1, 3).path(5) == (0, 1, 2, 1, 2, 3, 4)
    assert len(scan.scan_paths(30, 2)) == 1 + 2 * (30 + 29)
    assert all(len(path) >= 5 for path in scan.scan_paths(5, kinds=("repeat",)))
    for longest in (0, 31):
        with pytest.raises(ValueError, match=f"up to {longest} layers cannot be scanned"):
            scan.scan_paths(30, longest)


def test_best_block_stands_out_where_it_has_an_effect() -> None:
    results = random_scan(PATHS)
    change = results.find(CHANGE, "repeat 1")
    assert change is not None
    assert change.note == "best repeat"
    assert change.corrected < 0.01
    assert change.low > 0
    assert results.groups[:2] == ["the model", "repeat 1"]
    elsewhere = results.find(ELSEWHERE)
    assert elsewhere is not None
    assert (elsewhere.note, elsewhere.value) == ("repeat 1", change.value)
    kept = next(each for each in results if "longest skip kept" in each.note)
    assert kept.group != "skip 0-2"  # never finite
    assert results.value(LAYERS, kept.group) == 1
    (sentence,) = results.sentences
    assert sentence.startswith("Shown: repeat 1 makes the model more accurate, by +")
    assert sentence.endswith("corrected for 19 blocks.")
    shares = [each.value for each in results if each.name == CORRECT]
    assert len(shares) == len(PATHS)
    assert results.value(MARGIN, "skip 0-2") < 0  # finite


def test_random_verdicts_do_not_stand_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FLIPS", 2000)
    random, shown, gains, elsewhere = np.random.default_rng(0), 0, [], []
    for _ in range(10):
        verdict = random.random((60, len(PATHS))) < 0.25
        results = scanned(PATHS, verdict, verdict * 1.0)
        changes = [each for each in results if each.name == CHANGE]
        best = max(changes, key=lambda each: each.value)
        shown += best.corrected < 0.05
        assert best.corrected < 0.05 or "no block makes the model" in results.sentences[0]
        gains.append(best.value)
        elsewhere.append(results.value(ELSEWHERE))
    assert shown <= 2
    assert np.mean(gains) > 0.05  # by luck
    assert abs(np.mean(elsewhere)) < 0.05


def test_estimates_do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(0)
    nodes = np.tile(np.arange(len(PATHS)), 60)
    verdict, margin = random.random(nodes.size) < 0.4, random.normal(size=nodes.size)
    columns = np.repeat(IDS, len(PATHS)), nodes, verdict, margin
    rows = pa.table(dict(zip(VERDICTS, columns, strict=True)))
    shuffled = rows.take(random.permutation(nodes.size))
    maps = [read_map(each, len(PATHS)) for each in (rows, shuffled)]
    one, other = (scan.scan_estimates(PATHS, *each, DEPTH) for each in maps)
    assert repr(one) == repr(other)


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

"""Scans: blocks, the best of them and their correction."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from cola_jax.deploy import scan
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import parse_path
from cola_jax.runs.estimates import CHANGE, CORRECT, ELSEWHERE, PROMPTS
from cola_jax.runs.path_results import LAYERS, MARGIN
from cola_jax.runs.prompt_results import VERDICTS, read_map
from cola_jax.runs.results import Results
from tests.small_runs import letters, make_run

DEPTH = 4
COSTS = LayerCosts(DEPTH, None, ((0.25, 0.75),) * DEPTH)
PATHS = scan.scan_paths(DEPTH)
IDS = [f"q{i}" for i in range(60)]
ONE = np.zeros(60, int)  # the prompt of all questions
FOUR = np.arange(60) % 4


def scanned(
    paths: list[tuple[int, ...]],
    verdict: np.ndarray,
    margin: np.ndarray,
    prompts: np.ndarray = ONE,
) -> Results:
    run = {"settings": {"command": "scan", "questions": 60}, "start": {"num_layers": DEPTH}}
    estimates = scan.scan_estimates(paths, IDS, prompts, verdict, margin, COSTS)
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


def test_scan_paths_of_parts_skip_each_attention_and_each_mlp() -> None:
    paths = scan.scan_paths(3, longest=1, parts=True)
    assert paths[: len(scan.scan_paths(3, 1))] == scan.scan_paths(3, 1)
    parts = ("0m,1-2", "0,1m,2", "0-1,2m", "0a,1-2", "0,1a,2", "0-1,2a")
    assert paths[-6:] == [parse_path(text, 3) for text in parts]
    names = [scan.Block.of(path, 3).name for path in paths[-6:]]
    assert names == [f"skip {part} {layer}" for part in ("attention", "mlp") for layer in range(3)]
    for name, path in zip(names, paths[-6:], strict=True):
        assert scan.Block.parse(name).path(3) == path


def test_estimates_of_parts_have_their_layers_and_notes() -> None:
    paths = scan.scan_paths(DEPTH, longest=1, kinds=("skip",), parts=True)
    verdict = np.zeros((60, len(paths)), bool)
    verdict[:30, paths.index(parse_path("0-1,2m,3", DEPTH))] = True
    results = scanned(paths, verdict, verdict * 1.0)
    assert results.value(LAYERS, "skip attention 2") == 3.75
    assert results.value(LAYERS, "skip mlp 2") == 3.25
    assert results.value(LAYERS, "skip 2") == 3
    assert "skip attention 2 makes the model more accurate" in results.sentences[0]
    notes = {each.group: each.note for each in results if each.name == CHANGE and each.note}
    assert notes["skip attention 2"] == "highest skip attention here"
    assert "highest skip mlp here" in notes["skip mlp 0"]
    assert "longest skip kept" in notes["skip 0"]


def test_best_block_stands_out_where_it_has_an_effect() -> None:
    results = random_scan(PATHS)
    change = results.find(CHANGE, "repeat 1")
    assert change is not None
    assert change.note == "highest repeat here"
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
    assert sentence.startswith("Shown in this prompt: repeat 1 makes the model more accurate (p <")
    assert "corrected for 19 blocks). repeat 1, chosen on one half of the questions and" in sentence
    shares = [each.value for each in results if each.name == CORRECT]
    assert len(shares) == len(PATHS)
    assert results.value(MARGIN, "skip 0-2") < 0  # finite


def test_few_prompts_are_named_and_many_are_drawn() -> None:
    """Two blocks help: one in each prompt alike, the other in every fifth prompt alone."""
    even, uneven = PATHS.index((0, 1, 1, 2, 3)), PATHS.index((0, 1, 2, 2, 3))
    prompts, count = np.arange(240) % 20, np.arange(240) // 20
    verdict = np.zeros((240, len(PATHS)), bool)
    verdict[:, even] = count < 6
    verdict[:, uneven] = prompts % 5 == 0  # all questions in four of 20 prompts
    ids = [f"q{i}" for i in range(240)]
    p = {}
    for number in (4, 20):
        each = scan.scan_estimates(PATHS, ids, prompts % number, verdict, verdict * 1.0, COSTS)
        results = Results(each, {"settings": {"command": "scan"}})
        changes = {each.group: each for each in results if each.name == CHANGE}
        p[number] = [changes[name].corrected for name in ("repeat 1", "repeat 2")]
        (sentence,) = results.sentences
        over = "in these 4 prompts" if number == 4 else "over 20 prompts"
        assert sentence.startswith(f"Shown {over}: repeat 1 makes the model more accurate (p <")
        assert "repeat 1, chosen on one half of the questions and prompts and measured" in sentence
        for name, value in zip(("repeat 1", "repeat 2"), p[number], strict=True):
            assert (changes[name].low > 0) == (value < 0.05)
    assert max(p[4]) < 0.001
    assert p[20][0] < 0.01
    assert p[20][1] > 0.05


def test_scan_of_an_earlier_version_still_has_its_sentence() -> None:
    results = random_scan(PATHS)
    without = Results([each for each in results if each.name != PROMPTS], results.run)
    assert without.sentences[0].startswith("Shown in the prompts of the scan: repeat 1 makes")


def test_equal_questions_count_as_one(tmp_path: Path) -> None:
    paths = [PATHS[0], (0, 1, 1, 2, 3)]
    questions = [("a", "same"), ("b", "same "), ("c", "other"), ("d", "third")]
    parts = [
        letters(name, [(path, 0, node == 1) for node, path in enumerate(paths)], text=text)
        for name, text in questions
    ]
    run = make_run(tmp_path, *parts, command="scan", paths=paths, scorer="letter")
    results = scan.scan_results(run)
    change = results.find(CHANGE, "repeat 1")
    assert change is not None
    assert (change.n, change.value) == (3, 1)
    assert results.run["done"] == 4


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
    one, other = (
        scan.scan_estimates(PATHS, ids, ONE, verdict, margin, COSTS)
        for ids, verdict, margin in maps
    )
    assert repr(one) == repr(other)


def test_flip_test_of_one_path_is_the_sign_test() -> None:
    differences = np.array([[1]] * 8 + [[-1]] * 2 + [[0]] * 5)
    p = scan.flip_test(np.hstack([differences, -differences])).p
    assert p == pytest.approx(2 * binom.sf(7, 10, 0.5), abs=0.01)  # of either sign
    assert scan.flip_test(np.zeros((10, 3))).p.tolist() == [1, 1, 1]


def test_flip_test_corrects_for_the_number_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FLIPS", 1000)
    random = np.random.default_rng(0)
    smallest = [scan.flip_test(random.integers(-1, 2, (40, 100))).p.min() for _ in range(60)]
    assert np.mean(np.array(smallest) <= 0.1) == pytest.approx(0.1, abs=0.09)
    assert np.mean(smallest) == pytest.approx(0.5, abs=0.12)


def test_flip_test_finds_an_effect_among_many() -> None:
    random = np.random.default_rng(1)
    differences = random.integers(-1, 2, (100, 200))
    differences[:, 7] = random.random(100) < 0.3
    p = scan.flip_test(differences).p
    assert p[7] < 0.01
    assert np.delete(p, 7).min() > 0.02


def test_a_path_is_measured_on_the_half_where_it_was_not_chosen() -> None:
    ids = [f"q{i}" for i in range(21)]
    prompt = np.zeros(21, int)
    first = scan.halves(ids, prompt)
    assert first.sum() == 10
    assert scan.halves(ids[::-1], prompt)[::-1].tolist() == first.tolist()
    several = np.arange(21) % 4
    halves = {
        (int(k), bool(half)) for k, half in zip(several, scan.halves(ids, several), strict=True)
    }
    assert len(halves) == 4  # no prompt is in both
    assert sum(half for _, half in halves) == 2
    effects = np.stack([first, ~first], axis=1)
    assert scan.chosen_elsewhere(effects, first).tolist() == first.tolist()

"""Rules of a menu: signals, the vote, fitted rules, cross-fitting, and menus on disk."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special

from cola_jax.deploy import rules
from cola_jax.errors import InputError
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Completion, Verdicts

SEEDS, PATHS, WIDTH = 30, 5, 64


def test_signals_of_options() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 2, 3))
    scores[1, :, 2] = np.nan  # two options
    finite = np.ones((4, 2), bool)
    finite[2, 1] = False
    columns = rules.signals(Verdicts.of_scores(scores, 0, finite, log_likelihoods=True))
    assert columns.answer[0, 0] == scores[0, 0].argmax()
    for index, options in (((0, 0), 3), ((1, 0), 2)):
        p = scipy.special.softmax(scores[index][:options])
        assert columns.logprob[index] == pytest.approx(np.log(p.max()), rel=1e-5)
    assert (columns.answer[2, 1], columns.logprob[2, 1]) == (None, -np.inf)


def test_scores_that_are_not_log_likelihoods_have_no_rule_of_them() -> None:
    scores = np.random.default_rng(0).random((20, PATHS, 3))
    signals = rules.signals(Verdicts.of_scores(scores, 0))
    results = draw(0, 20)._replace(signals=signals)
    fitted = rules.fit_rules(results)
    assert fitted.sign is None
    assert fitted.choose(results).keys() == {"single", "vote", "selector"}


def test_signals_of_completions() -> None:
    verdicts = Verdicts.empty((1, 4), 2)
    verdicts.finite[:] = True
    whole = Completion("7", "7", "stop", False, Grade.RIGHT, (5, 6), -1.0)
    changes: list[dict] = [{}, {"truncated": True}, {"answer": " 8 ", "tokens": (1,)}]
    for c, changed in enumerate([*changes, {"answer": None, "tokens": ()}]):
        verdicts.completion[0, c] = dataclasses.replace(whole, **changed)
    columns = rules.signals(verdicts)
    assert columns.answer.tolist() == [["7", None, "8", None]]
    assert columns.logprob.tolist() == [[-0.5, -0.5, -1.0, -np.inf]]


def test_vote_takes_the_first_path_of_the_answer_given_most() -> None:
    answers = np.array(
        [[1, 2, 2, 0], [1, 2, None, None], [None, None, None, None], [None, 3, 1, 1]], object
    )
    assert rules.vote(answers).tolist() == [1, 0, 0, 2]


def test_sign_is_that_which_is_right_more_often() -> None:
    values = np.array([[3.0, 1.0], [0.5, 2.0], [1.0, -np.inf]])
    right = np.array([[0, 1], [1, 0], [1, 0]], bool)
    assert rules.fit_sign(values, right) == -1
    assert rules.fit_sign(values, ~right) == 1
    assert rules.most_confident(values, -1).tolist() == [1, 0, 0]  # never one that is not finite


def draw(seed: int, n: int) -> rules.MenuResults:
    """Draw paths that are right on half of the questions, and features of noise."""
    random = np.random.default_rng(seed)
    right, states = random.random((n, PATHS)) < 0.5, random.normal(size=(n, WIDTH))
    signals = rules.Signals(right.astype(object), random.normal(size=(n, PATHS)))
    return rules.MenuResults(right, signals, states)


def test_cross_fitted_selector_gains_nothing_from_noise() -> None:
    gains = {"fitted": [], "crossed": []}
    for seed in range(SEEDS):
        results, folds = draw(seed, 100), np.arange(100) % 5
        fitted = rules.right_by_rule(rules.fit_rules(results), results)
        crossed = rules.cross_fit(results, folds, [range(PATHS)] * 5)
        for name, right in (("fitted", fitted), ("crossed", crossed)):
            gains[name].append(right["selector"].mean() - results.right.mean())
    assert np.mean(gains["fitted"]) > 0.07  # why cross-fitting is needed
    assert abs(np.mean(gains["crossed"])) < 0.02


def test_each_fold_has_its_own_menu() -> None:
    results = draw(0, 20)
    right = rules.cross_fit(results, np.arange(20) % 5, [[0, 1], [0, 2], [0, 3], [0, 4], [0]])
    oracle = [results.right[i, [0, (i + 1) % 5]].any() for i in range(20)]
    assert right[rules.ORACLE].tolist() == oracle
    assert right["single"][4::5].tolist() == results.right[4::5, 0].tolist()


def write(folder: Path, **changed: Any) -> str:
    content = {"paths": ["0-4", "0,2-4"], "rule": "logprob", "sign": -1, "state_layer": 2}
    (folder / rules.MENU).write_text(json.dumps(content | {"model": "digest"} | changed))
    return str(folder)


def test_menu_chooses_by_its_rule(tmp_path: Path) -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0]])
    columns = rules.Signals(np.array([["a", "b"], ["b", "b"]], object), values)
    menu = rules.load_menu(write(tmp_path), "digest", 5)
    assert menu.paths == ((0, 1, 2, 3, 4), (0, 2, 3, 4))
    assert menu.choose(columns).tolist() == [0, 1]
    vote = rules.load_menu(write(tmp_path, rule="vote"), "digest", 5)
    assert vote.choose(columns).tolist() == [0, 0]
    single = rules.load_menu(write(tmp_path, rule="single", single=1), "digest", 5)
    assert single.paths == ((0, 2, 3, 4),)
    assert single.digest != menu.digest


def test_load_menu_says_where_the_model_is_recommended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = rules.load_menu(write(tmp_path, rule="vote"), "digest", 5)  # of earlier versions
    better = rules.load_menu(write(tmp_path, rule="vote", recommended="vote"), "digest", 5)
    assert not caplog.messages
    model = rules.load_menu(write(tmp_path, rule="vote", recommended="the model"), "digest", 5)
    assert "recommends the model as it is: no rule was shown to be better" in caplog.text
    assert before.digest == better.digest == model.digest


def test_load_menu_refuses_other_content(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no menu\.json"):
        rules.load_menu(str(tmp_path), "digest", 5)
    for changed, message in (
        ({"model": "other"}, "this model: its model is other, here it is digest"),
        ({"rule": "entropy"}, "rule: Input should be .*got 'entropy'.*make the menu again"),
        ({"rule": "single", "single": 2}, "menu.json cannot be read .tuple index out of range"),
        ({"paths": ["0-9", "0"]}, "names layer 9"),
        ({"paths": ["0-4"]}, "paths: List should have at least 2 items"),
    ):
        with pytest.raises(InputError, match=message):
            rules.load_menu(write(tmp_path, **changed), "digest", 5)


def test_load_menu_refuses_another_selector(tmp_path: Path) -> None:
    selector = rules.Selector(np.zeros(3), np.ones(3), np.ones((3, 2)), np.zeros(2))
    (tmp_path / rules.SELECTOR).write_bytes(selector.content)
    folder = write(tmp_path, rule="selector", selector=selector.digest)
    stored = rules.load_menu(folder, "digest", 5).selector
    assert stored is not None
    np.testing.assert_array_equal(stored.weights, selector.weights)
    (tmp_path / rules.SELECTOR).write_bytes(selector._replace(bias=np.ones(2)).content)
    with pytest.raises(InputError, match=r"menu\.json does not belong to .*selector\.safetensors"):
        rules.load_menu(folder, "digest", 5)

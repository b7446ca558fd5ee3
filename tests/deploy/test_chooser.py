"""The path that a menu's rule chooses for the harness."""

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from cola_jax.deploy.chooser import choose_readings, choose_row
from cola_jax.deploy.menu_file import MenuFile
from cola_jax.deploy.packing import pack_requests
from cola_jax.execute.allocator import Row
from cola_jax.execute.decoder import NOT_FINITE, STOPPED
from cola_jax.prompts import Readings

PATHS = ((0, 1), (0,), (1,))


def menu(rule: str, sign: int = 1) -> MenuFile:
    return MenuFile(PATHS, rule, sign, None, 1)


def readings(scores: list[list[float]]) -> Readings:
    """Makes readings [3, 2] of continuations of one token each."""
    logprob = np.array(scores, np.float32)
    zeros = np.zeros(logprob.shape, np.int32)
    return Readings(logprob, zeros, logprob, np.isfinite(logprob).all(axis=1))


def test_continuations_of_a_context_are_options() -> None:
    (row,) = pack_requests([([5, 6], [7]), ([5, 6], [8])], 32)
    told = readings([[-1.0, -2.0], [-3.0, -0.1], [-2.0, -1.9]])
    assert choose_readings(menu("vote"), row, told).logprob.tolist() == pytest.approx([-3.0, -0.1])
    sure = choose_readings(menu("entropy", -1), row, told)
    assert sure.logprob.tolist() == pytest.approx([-3.0, -0.1])
    unsure = choose_readings(menu("entropy", 1), row, told)
    assert unsure.logprob.tolist() == pytest.approx([-2.0, -1.9])


def test_a_continuation_alone_runs_the_first_path() -> None:
    (row,) = pack_requests([([5, 6], [7])], 32)
    told = readings([[-4.0], [-1.0], [-np.inf]])
    for rule in ("vote", "logprob", "certainty"):
        assert choose_readings(menu(rule), row, told).logprob.tolist() == [-4.0]


def test_completions_are_chosen_by_vote_or_confidence() -> None:
    rows = [
        Row(0, np.arange(2), tokens=[1], logprob=[p], entropy=[e], certainty=[c], finish=STOPPED)
        for p, e, c in ((-2.0, 0.5, 1.0), (-1.0, 0.9, 3.0), (-3.0, 0.1, 2.0))
    ]
    assert choose_row(menu("vote"), rows, ["7", " 8", "8 "]) == 1
    assert choose_row(menu("logprob"), rows, ["7", "8", "9"]) == 1
    assert choose_row(menu("entropy", -1), rows, ["7", "8", "9"]) == 2
    rows[1].finish = NOT_FINITE
    assert choose_row(menu("certainty"), rows, ["7", "8", "9"]) == 2

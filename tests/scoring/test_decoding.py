"""What binds decoding scorers to a batch, and `Completions`, which grades nothing."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest

import cola_jax
from cola_jax.execute.allocator import DecodeRow
from cola_jax.execute.decoder import STOPPED, TRUNCATED
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.worker import Workers
from cola_jax.path import STOP, unpad_path
from cola_jax.scoring import Completion, Completions, Exact, Generation, Grade
from cola_jax.scoring.decoding import DECOY, GOLD, TIE, completion_verdicts
from cola_jax.scoring.verdicts import NO_ANSWER
from tests import tiny
from tests.tokenizers import BARE, EOS, STOPS, GreedyTokenizer, question


class SameText:
    """A grader that compares texts."""

    def grade(self, pairs):
        return [(Grade.WRONG, Grade.RIGHT)[answer == gold] for answer, gold in pairs]


@pytest.fixture(scope="module")
def evaluated(model, letters, decoded):
    """For a scorer of each kind, a function that confirms, and the verdicts of all paths."""
    workload, worker = Workload(*decoded.paths.shape[1:]), Workers(model).workers[0]
    made = {}
    for scorer in (
        Exact(letters, BARE, stop_tokens=STOPS),
        Generation(letters, BARE, stop_tokens=STOPS, grader=SameText()),
    ):
        batch = [scorer.encode(question) for question in decoded.questions]
        with scorer.evaluator(worker, batch, workload) as evaluate:
            confirm = functools.partial(scorer.confirm, worker, batch, workload)
            made[scorer.name] = confirm, evaluate(decoded.paths)
    return made


def test_completion_is_what_was_decoded(evaluated, decoded, letters):
    out, (_, verdicts) = decoded.out, evaluated["generation"]
    for b, c in np.ndindex(verdicts.completion.shape):
        one, count = verdicts.completion[b, c], out.length[b, c]
        if decoded.paths[b, c, 0] == STOP:
            assert one is None
            continue
        assert one.tokens == tuple(out.tokens[b, c, :count].tolist())
        assert one.finish == out.finish[b, c]
        assert one.truncated == (one.finish == TRUNCATED)
        body = one.tokens[:-1] if one.finish == STOPPED else one.tokens
        assert one.text == letters.decode(body).split("\n")[0]
        assert one.answer == (one.text or None)
        assert one.logprob == pytest.approx(out.logprob[b, c].sum(), rel=1e-4)
        nearest = (out.logprob - out.rival)[b, c, :count].min()
        margin = verdicts.margin[b, c]
        assert abs(margin) == pytest.approx(nearest, rel=1e-2, abs=1e-5)
        assert one.grade is (Grade.RIGHT if margin > 0 else Grade.WRONG)


@pytest.mark.parametrize("name", ["exact", "generation"])
def test_confirm_runs_once_more(evaluated, decoded, name):
    confirm, verdicts = evaluated[name]
    paths, rows = decoded.paths, np.arange(len(decoded.questions))
    best = verdicts.verdict.argmax(axis=1)
    right = verdicts.verdict[rows, best]
    assert right.sum() > 3
    right[np.flatnonzero(right)[0]] = False  # as if it had none
    listed = [[unpad_path(path) for path in row] for row in paths]
    chosen = [listed[b][best[b]] if right[b] else None for b in rows]
    completions = verdicts.completion[rows, best].tolist()
    assert confirm(chosen, completions) == [True if r else None for r in right]
    assert confirm([None] * len(rows), completions) == [None] * len(rows)
    if name == "exact":
        wrong = np.where(verdicts.verdict, paths.shape[1], np.arange(paths.shape[1])).min(axis=1)
        held = confirm([listed[b][wrong[b]] for b in rows], completions)
        assert held == [False] * len(rows)
    else:
        b = int(np.flatnonzero(right)[0])
        tokens = list(completions[b].tokens)
        tokens[0] = 80 + (tokens[0] + 1) % 200  # what bfloat16 might have decoded
        completions[b] = dataclasses.replace(completions[b], tokens=tuple(tokens))
        held = confirm(chosen, completions)
        assert held == [(i != b) if r else None for i, r in enumerate(right)]


def test_completion_verdicts_score_decoy_like_gold():
    grades = [Grade.RIGHT, Grade.WRONG, Grade.WRONG, Grade.UNGRADED, Grade.RIGHT]
    completions = [Completion("x", "x", STOPPED, False, grade, (1,), -1.0) for grade in grades]
    rows = [
        DecodeRow(0, np.arange(2), tokens=[1], logprob=[-1.0], rival=[-1.0 - margin])
        for margin in (0.5, 0.25, 0.125, 0.5, 0)
    ]
    verdicts = completion_verdicts(completions, [False, True, False, False, False], rows)
    assert verdicts.answer.tolist() == [GOLD, DECOY, NO_ANSWER, NO_ANSWER, GOLD]
    assert verdicts.verdict.tolist() == [True, False, False, False, True]
    tie = np.float32(TIE).item()
    assert verdicts.margin.tolist() == [0.5, -0.25, -0.125, -0.5, tie]
    decoys = [-0.5, 0.25, -0.125, -0.5, -tie]
    np.testing.assert_array_equal(
        verdicts.scores, np.stack([verdicts.margin, np.float32(decoys)], axis=1)
    )
    assert verdicts.graded.tolist() == [True, True, True, False, True]
    assert completion_verdicts([], [], []).verdict.shape == (0,)


def test_completions_decode_and_grade_nothing(model, letters, decoded):
    stop = cola_jax.Stop(STOPS, BARE.stop, tokenizer=letters)
    scorer = Completions(letters, stop=stop, max_new_tokens=BARE.max_new_tokens)
    prompts = [question(asked.text) for asked in decoded.questions]
    verdicts = cola_jax.evaluator(model, prompts, scorer)(decoded.paths)
    assert not verdicts.verdict.any()
    assert (verdicts.answer == NO_ANSWER).all()
    out = decoded.out
    for b, c in np.argwhere(decoded.paths[:, :, 0] != STOP):
        one = verdicts.completion[b, c]
        assert one.tokens == tuple(out.tokens[b, c, : out.length[b, c]].tolist())
        assert (one.grade, one.answer) == (None, None)
    assert scorer.record() == {
        "max_new_tokens": BARE.max_new_tokens,
        "stop": list(BARE.stop),
        "stop_tokens": list(STOPS),
    }


class NoTokens(GreedyTokenizer):
    """A tokenizer without tokens of its own."""

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[])


def test_completions_refuse_what_cannot_be_completed():
    words, asked = tiny.tokenizer(), question("Hi?")

    def completions(tokenizer, **options):
        return Completions(tokenizer, stop=cola_jax.Stop((EOS,)), max_new_tokens=2, **options)

    encoded = completions(words, chat=True).encode(asked)
    assert words.decode(encoded.prompts.ids).endswith("assistant:\n")
    length = encoded.num_tokens
    completions(words, chat=True, context=length + 2).encode(asked)
    with pytest.raises(ValueError, match=f"{length} tokens and 2 new ones"):
        completions(words, chat=True, context=length + 1).encode(asked)
    with pytest.raises(ValueError, match="prompt p is empty"):
        completions(NoTokens([])).encode(question("p"))


def test_check_memory_names_enough_to_decode(model, letters, decoded):
    scorer = Generation(letters, BARE, stop_tokens=STOPS, grader=SameText())
    evaluate = cola_jax.evaluator(model, decoded.questions, scorer, memory_budget=1000)
    with pytest.raises(ValueError, match=r"too small to decode 6 tokens .* give at least"):
        evaluate(decoded.paths)

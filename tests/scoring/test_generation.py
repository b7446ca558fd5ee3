"""Decoding scorers: completions, their grades and confirmation; `generation` against `exact`."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.execute.decoder import NOT_FINITE, STOPPED, TRUNCATED
from cola_jax.execute.kv_cache import DecodeRow
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import make_workers
from cola_jax.path import STOP, unpad_path
from cola_jax.question import Question
from cola_jax.scoring import (
    Completion,
    Completions,
    Exact,
    FilteredGeneration,
    Generation,
    Grade,
    Grader,
)
from cola_jax.scoring.answer import GenerationSettings
from cola_jax.scoring.format import ARITHMETIC, DIRECT
from cola_jax.scoring.generation import DECOY, GOLD, TIE, completion_verdicts
from cola_jax.scoring.verdicts import NO_ANSWER
from cola_jax.tasks.arithmetic import arithmetic
from tests import tiny
from tests.tokenizers import BARE, EOS, STOPS, question


def evaluate(model, questions, scorer, paths, **options):
    return cola_jax.evaluate(model, questions, paths, scorer=scorer, **options).verdicts


class SameText:
    """A grader that compares texts."""

    def grade(self, pairs):
        return [(Grade.WRONG, Grade.RIGHT)[answer == gold] for answer, gold in pairs]


def generation(tokenizer):
    scorer = Generation(tokenizer, BARE, stop_tokens=STOPS)
    scorer.grader = SameText()
    return scorer


def decoded_row(words, text, finish=STOPPED):
    ids = words(text, add_special_tokens=False).input_ids
    scores = {"logprob": [-0.1] * len(ids), "rival": [-3.0] * len(ids)}
    return DecodeRow(0, np.zeros(1, np.int32), tokens=ids, finish=finish, **scores)


def test_encode_has_prompt_alone(words):
    shots = arithmetic(3, 2, purpose="shots")
    scorer = Generation(words, ARITHMETIC, shots=shots)
    encoded = scorer.encode(arithmetic(3, 1)[0])
    assert (encoded.prompts.read, encoded.prompts.targets) == (None, None)
    text = words.decode(encoded.prompts.ids)
    assert text == "<s>" + "".join(f"{s.text} = {s.gold}\n" for s in shots) + "40 - 1 ="
    assert scorer.stop.strings == ("\n",)
    record = scorer.record()
    assert record.pop("grader").startswith("math-verify 0.")
    assert record == {"max_new_tokens": ARITHMETIC.max_new_tokens, "rule": "line"}


def test_closed_box_ends_text(words):
    stop = Generation(words, DIRECT).stop
    ids = words(r" \boxed{1}", add_special_tokens=False).input_ids
    reached = [stop.reached(ids[: n + 1]) for n in range(len(ids))]
    assert reached == [False] * (len(ids) - 1) + [True]


def test_encode_refuses_invalid_questions_and_limits(words):
    (addition,) = arithmetic(1, 1)
    with pytest.raises(ValueError, match="q0 is multiple choice"):
        Generation(words, ARITHMETIC).encode(tiny.questions(1)[0])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, it is 0"):
        Generation(words, ARITHMETIC, max_new_tokens=0).encode(addition)
    length = Generation(words, ARITHMETIC).encode(addition).num_tokens
    Generation(words, ARITHMETIC, max_new_tokens=5, context=length + 5).encode(addition)
    with pytest.raises(ValueError, match=f"{length} tokens and 5 new ones"):
        Generation(words, ARITHMETIC, max_new_tokens=5, context=length + 4).encode(addition)


def test_grader_lives_as_long_as_context(words):
    with Generation(words, ARITHMETIC) as scorer:
        grader = scorer.grader
        assert isinstance(grader, Grader)
        assert grader.count > 0
    assert scorer.grader is None
    assert grader.count == 0  # its processes are ended


class Kept:
    """Remembers the verdicts that an evaluator keeps before all are known."""

    def __init__(self):
        self.parts = []

    def __call__(self, entries, verdicts):
        self.parts.append((entries, verdicts))

    def check(self, paths, verdicts):
        """Check that each path was kept once, in several parts, as in the whole."""
        entries = np.concatenate([entries.T for entries, _ in self.parts]).tolist()
        assert sorted(entries) == np.argwhere(paths[:, :, 0] != STOP).tolist()
        assert len(self.parts) > 1
        for entries, part in self.parts:
            np.testing.assert_array_equal(part.margin, verdicts.margin[tuple(entries)])


@pytest.fixture(scope="module")
def evaluated(model, letters, decoded):
    """Of `exact` and `generation`, a function that confirms, and the verdicts of all paths."""
    workload, made = Workload(*decoded.paths.shape[1:]), {}
    for scorer in (Exact(letters, BARE, stop_tokens=STOPS), generation(letters)):
        (worker,) = make_workers(model, metrics=cola_jax.Metrics())
        batch = [scorer.encode(question) for question in decoded.questions]
        with scorer.evaluator(worker, batch, workload) as evaluate:
            confirm = functools.partial(scorer.confirm, worker, batch, workload)
            kept = Kept()
            verdicts = evaluate(decoded.paths, kept) if scorer.decodes else evaluate(decoded.paths)
            made[scorer.name] = confirm, verdicts
            if scorer.decodes:
                kept.check(decoded.paths, verdicts)
        assert worker.metrics.evaluations == (decoded.paths[:, :, 0] != STOP).sum()
    return made


@pytest.fixture(scope="module")
def present(decoded):
    return decoded.paths[:, :, 0] != STOP


def test_verdicts_equal_those_of_exact(evaluated, present):
    (_, exact), (_, graded) = evaluated["exact"], evaluated["generation"]
    for name in ("verdict", "answer", "finite"):
        np.testing.assert_array_equal(getattr(exact, name), getattr(graded, name))
    for each in (exact, graded):
        np.testing.assert_array_equal(each.verdict, each.margin > 0)
        np.testing.assert_array_equal(each.finite, present)
        assert (each.answer[~present] == NO_ANSWER).all()
        assert (each.margin[~present] == -np.inf).all()
        # gold and decoy are scored alike
        np.testing.assert_array_equal(each.answer == GOLD, each.scores[..., GOLD] > 0)
        np.testing.assert_array_equal(each.answer == DECOY, each.scores[..., DECOY] > 0)
        np.testing.assert_array_equal(each.margin[present], each.scores[present, GOLD])
        counts = [(each.answer[present] == x).sum() for x in (GOLD, DECOY, NO_ANSWER)]
        assert min(counts) > 2
    assert all(made is None for made in exact.completion.flat)


def test_row_verdicts_grade_complete_answers_however_written(words):
    rows = [decoded_row(words, f"{text}</s>") for text in ("5.0", "$7$", "8", "", "7")]
    rows += [decoded_row(words, text, TRUNCATED) for text in ("5", "7")]
    rows.append(decoded_row(words, "5", NOT_FINITE))  # it gave the answer and then broke
    with Generation(words, BARE, stop_tokens=(EOS,)) as scorer:
        verdicts = scorer.row_verdicts(rows, [question("2 + 3 =", "5", "7")] * len(rows))
    completions = verdicts.completion
    assert [made.grade for made in completions] == [Grade.RIGHT] + [Grade.WRONG] * 7
    assert verdicts.answer.tolist() == [GOLD, DECOY, *[NO_ANSWER] * 2, DECOY, *[NO_ANSWER] * 3]
    texts = ["5.0", "$7$", "8", None, "7", "5", "7", "5"]
    assert [made.answer for made in completions] == texts
    assert [made.truncated for made in completions] == [False] * 5 + [True] * 2 + [False]
    assert verdicts.finite.tolist() == [True] * 7 + [False]


def test_verdicts_of_path_not_finite_are_wrong(model, letters, decoded, present):
    (stack,) = model.layers
    broken = (stack.replace(up=stack.up.at[4].set(jnp.inf)),)
    bad = (decoded.paths == 4).any(axis=-1)
    assert bad[present].any()
    for scorer in (Exact(letters, BARE, stop_tokens=STOPS), generation(letters)):
        verdicts = evaluate(model.replace(layers=broken), decoded.questions, scorer, decoded.paths)
        np.testing.assert_array_equal(verdicts.finite, present & ~bad)
        assert not verdicts.verdict[bad].any()
        assert (verdicts.margin[bad] == -np.inf).all()
    assert all(made.finish == NOT_FINITE for made in verdicts.completion[bad])


def test_completion_is_what_was_decoded(evaluated, decoded, letters, present):
    out, (_, verdicts) = decoded.out, evaluated["generation"]
    assert [made is None for made in verdicts.completion.flat] == (~present).ravel().tolist()
    for b, c in np.argwhere(present):
        made, count = verdicts.completion[b, c], out.length[b, c]
        assert made.tokens == tuple(out.tokens[b, c, :count].tolist())
        assert made.finish == out.finish[b, c]
        assert made.truncated == (made.finish == TRUNCATED)
        body = made.tokens[:-1] if made.finish == STOPPED else made.tokens
        assert made.text == letters.decode(body).split("\n")[0]
        assert made.answer == (made.text or None)
        assert made.logprob == pytest.approx(out.logprob[b, c].sum(), rel=1e-4)
        nearest = (out.logprob - out.rival)[b, c, :count].min()
        margin = verdicts.margin[b, c]
        assert abs(margin) == pytest.approx(nearest, rel=1e-2, abs=1e-5)
        assert made.grade is (Grade.RIGHT if margin > 0 else Grade.WRONG)


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


def test_completions_grade_nothing(words):
    stop = cola_jax.Stop((EOS,), ("\n",), tokenizer=words)
    scorer = Completions(words, stop=stop, max_new_tokens=2, chat=True)
    ids = scorer.encode(question("Hi?")).prompts.ids
    assert words.decode(ids) == "<s>user: Hi?\nassistant:\n"
    verdicts = scorer.row_verdicts([decoded_row(words, " sun\n")], [question("Hi?")])
    (made,) = verdicts.completion
    assert (made.text, made.grade, made.answer) == (" sun", None, None)
    assert verdicts.answer.tolist() == [NO_ANSWER]
    assert scorer.record() == {"max_new_tokens": 2, "stop": ["\n"], "stop_tokens": [EOS]}


def test_draws_are_those_of_a_question_in_any_batch(model, letters, decoded):
    """Which is why an interrupted run, or one on other machines, draws the same."""
    stop = cola_jax.Stop(tokenizer=letters)
    settings = {"stop": stop, "max_new_tokens": 6, "temperature": 1.0}
    scorer = Completions(letters, **settings)
    drawn = evaluate(model, decoded.questions, scorer, decoded.paths).completion
    back = slice(None, None, -1)
    questions = decoded.questions[back]
    again = evaluate(model, questions, scorer, decoded.paths[back, back], batch_size=3)
    for one, other in zip(drawn.flat, again.completion[back, back].flat, strict=True):
        assert (one and one.tokens) == (other and other.tokens)
    seeded = Completions(letters, seed=1, **settings)
    others = evaluate(model, decoded.questions, seeded, decoded.paths).completion
    pairs = [(a.tokens, b.tokens) for a, b in zip(drawn.flat, others.flat, strict=True) if a]
    assert np.mean([a == b for a, b in pairs]) < 0.5
    record = seeded.record()
    assert (record["temperature"], record["sample_seed"]) == (1.0, 1)
    with pytest.raises(ValueError, match="leave out the temperature"):
        seeded.confirm(*[None] * 5)


def test_completion_verdicts_score_decoy_like_gold():
    grades = [Grade.RIGHT, Grade.WRONG, Grade.UNGRADED, Grade.RIGHT]
    made = [Completion("x", "x", STOPPED, False, grade, (1,), -1.0) for grade in grades]
    rows = [
        DecodeRow(0, np.arange(2), tokens=[1], logprob=[-1.0], rival=[-1.0 - lead])
        for lead in (0.5, 0.25, 0.5, 0)
    ]
    verdicts = completion_verdicts(made, np.array([False, True, False, False]), rows)
    assert verdicts.answer.tolist() == [GOLD, DECOY, NO_ANSWER, GOLD]
    assert verdicts.graded.tolist() == [True, True, False, True]
    assert verdicts.margin.tolist() == [0.5, -0.25, -0.5, np.float32(TIE).item()]


# a task that grades completions itself


class Words:
    """A grader to which the last word is the answer."""

    settings = GenerationSettings(("\n",), 5)

    def grade(self, question, text, gold=None):
        answer = (text.split() or [None])[-1]
        right = answer == (gold or question.gold)
        return answer, Grade.RIGHT if right else Grade.WRONG

    def record(self):
        return {"rule": "last"}


ASKED = Question("q", "which is it?", ("moon", "sun"), 0, open=True)


def test_filtered_generation_grades_the_text_before_a_stop_string(words):
    scorer = FilteredGeneration(words, Words(), stop_tokens=(1,), max_new_tokens=7, context=40)
    assert scorer.encode(ASKED).prompt == "<s>which is it?"
    assert scorer.stop.strings == ("\n", "</s>")
    assert scorer.record() == {"max_new_tokens": 7, "rule": "last"}
    rows = [
        decoded_row(words, " the moon\n sun"),
        decoded_row(words, " the moon</s>"),
        decoded_row(words, " moon", TRUNCATED),
        decoded_row(words, " rock", TRUNCATED),
        decoded_row(words, "\n", TRUNCATED),
        decoded_row(words, " moon", NOT_FINITE),
        decoded_row(words, " sun\n"),
    ]
    verdicts = scorer.row_verdicts(rows, [ASKED] * len(rows))
    assert verdicts.verdict.tolist() == [True, True, True, False, False, False, False]
    assert verdicts.answer.tolist() == [*[GOLD] * 3, *[NO_ANSWER] * 3, DECOY]
    assert [made.truncated for made in verdicts.completion] == [False] * 4 + [True, False, False]
    assert verdicts.completion[0].text == " the moon"
    assert verdicts.of_target(DECOY).verdict.tolist() == [False] * 6 + [True]

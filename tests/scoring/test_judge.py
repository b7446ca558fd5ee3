"""Judges on a tiny model: what they make of what it says, by reading and by decoding."""

import contextlib
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from cola_jax.execute.engine import Engine
from cola_jax.scoring.judge import Decoding, Reader, check_budget, grading, make_judge
from cola_jax.scoring.open import encode_open

import cola_jax
from cola_jax.edits import random_paths
from cola_jax.execute.decoder import BROKEN, CUT, STOPPED
from cola_jax.execute.kv_cache import Row
from cola_jax.execute.reference import submit_reference
from cola_jax.path import STOP, identity
from cola_jax.prompts import Prompts
from cola_jax.runs.schema import evaluation_rows, search_question_row
from cola_jax.scoring.grader import Grade, Grader
from cola_jax.scoring.verdicts import DECOY, GOLD, NO_ANSWER, Said, Verdicts, score_texts
from cola_jax.search import Outcome
from tests import tiny
from tests.tokenizers import BARE, STOPS, question
from tests.tokenizers import LINE_BREAKS as BREAKS
from tests.tokenizers import letter_tokenizer as alphabet

QUESTIONS, PATHS = 6, 8
LIMIT = BARE.max_new_tokens


def make_paths():
    """Paths [B, C, P], of which the last of some questions is none."""
    out = np.full((QUESTIONS, PATHS, 2 * tiny.LAYERS), STOP, np.int32)
    for b in range(QUESTIONS):
        mine = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, PATHS - 1, seed=b)]
        for c, path in enumerate(mine[: PATHS - b % 3]):
            out[b, c, : len(path)] = path
    return out


POSITIONS = int((make_paths() != STOP).sum(axis=-1).max())  # as `generate` will have it


class Letters:
    """A grader that compares to the letter, but fails on the answers given."""

    def __init__(self, fails=()):
        self.fails, self.seen = fails, []

    def grade(self, pairs):
        self.seen += pairs
        return [
            Grade.UNGRADED if said in self.fails else (Grade.WRONG, Grade.RIGHT)[said == gold]
            for said, gold in pairs
        ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return cola_jax.load(tiny.make_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def letters(model):
    return alphabet(model.config.vocab_size)


@pytest.fixture(scope="module")
def paths():
    return make_paths()


@pytest.fixture(scope="module")
def asked(model, letters, paths):
    """Questions of which some path gives the gold answer, another the decoy; what all decode."""
    generator = np.random.default_rng(5)
    texts = [letters.decode(generator.integers(80, len(letters), 5)) for _ in range(QUESTIONS)]

    def encode(questions, scorer):
        return encode_open(questions, letters, scorer, BARE, stop_tokens=STOPS)

    blank = encode([question(text, letters.texts[90]) for text in texts], "generate")
    out = cola_jax.generate(
        model,
        Prompts.stack([e.prompts for e in blank]),
        paths,
        max_new_tokens=LIMIT,
        stop=blank[0].reply.stop,
    )
    questions = []
    for b, text in enumerate(texts):
        said = {
            letters.decode(out.tokens[b, c, : out.length[b, c] - 1])
            for c in np.flatnonzero((out.finish[b] == STOPPED) & (out.length[b] > 1))
        }
        said = [*sorted(said), letters.texts[90 + b], letters.texts[100 + b]]
        questions.append(question(text, *said[:2]))
    return {scorer: encode(questions, scorer) for scorer in ("exact", "generate")} | {"out": out}


def land(flight):
    """Flies alone to the end."""
    value = None
    while True:
        try:
            value = flight.send(value).result()
        except StopIteration as end:
            return end.value


@contextlib.contextmanager
def judge_of(model, questions, grader=None, **settings):
    """Makes a judge of questions on an engine of its own."""
    with Engine(model, **settings) as engine:
        check_budget(engine.config, questions, POSITIONS, engine.memory)
        judge = make_judge(
            engine,
            questions,
            engine.lanes[0],
            each=PATHS,
            abreast=PATHS,
            positions=POSITIONS,
            grader=grader,
        )
        yield judge
        judge.close()


@pytest.fixture(scope="module")
def verdicts(model, asked, paths):
    """What both judges say, and how many evaluations they told of."""
    found, told = {}, {}
    for scorer, kind in (("exact", Reader), ("generate", Decoding)):
        done = []
        with judge_of(model, asked[scorer], Letters()) as judge:
            assert isinstance(judge, kind)
            found[scorer] = land(judge.judge(paths, done.append))
        told[scorer] = sum(done)
    return found | {"told": told}


def present(paths):
    return paths[:, :, 0] != STOP


def test_reading_and_decoding_agree(verdicts, paths):
    exact, decoded = verdicts["exact"], verdicts["generate"]
    for name in ("verdict", "answer", "finite"):
        np.testing.assert_array_equal(getattr(exact, name), getattr(decoded, name))
    for each in (exact, decoded):
        np.testing.assert_array_equal(each.verdict, each.margin > 0)
        np.testing.assert_array_equal(each.finite, present(paths))
        assert (each.answer[~present(paths)] == NO_ANSWER).all()
        assert (each.margin[~present(paths)] == -np.inf).all()
        counts = [(each.answer[present(paths)] == x).sum() for x in (GOLD, DECOY, NO_ANSWER)]
        assert min(counts) > 2
    assert all(said is None for said in exact.said.flat)
    assert verdicts["told"] == dict.fromkeys(("exact", "generate"), present(paths).sum())


def test_said_is_what_was_decoded(verdicts, asked, letters, paths):
    out, said = asked["out"], verdicts["generate"].said
    for b, c in np.ndindex(said.shape):
        if not present(paths)[b, c]:
            assert said[b, c] is None
            continue
        one, count = said[b, c], out.length[b, c]
        assert one.ids == tuple(out.tokens[b, c, :count].tolist())
        assert one.finish == out.finish[b, c]
        assert one.cut == (one.finish == CUT)
        body = one.ids[:-1] if one.finish == STOPPED else one.ids
        assert one.text == letters.decode(body)
        assert one.answer == (one.text or None)
        assert one.logprob == pytest.approx(out.logprob[b, c].sum(), rel=1e-4)
        nearest = (out.logprob - out.rival)[b, c, :count].min()
        margin = verdicts["generate"].margin[b, c]
        assert abs(margin) == pytest.approx(nearest, rel=1e-2, abs=1e-5)
        assert one.grade is (Grade.RIGHT if margin > 0 else Grade.WRONG)


class Generous:
    """A grader to which all is right."""

    def grade(self, pairs):
        return [Grade.RIGHT] * len(pairs)


def with_limit(questions, limit):
    reply = dataclasses.replace(questions[0].reply, max_new_tokens=limit)
    return [dataclasses.replace(q, reply=reply) for q in questions]


def test_an_answer_that_the_limit_cut_is_wrong(model, asked, letters, paths):
    first = asked["out"].tokens[:, 0, 0]
    golds = [
        dataclasses.replace(e, question=question(e.question.text, "x", letters.decode([first[b]])))
        for b, e in enumerate(with_limit(asked["generate"], 1))
    ]
    with judge_of(model, golds, Generous()) as judge:
        found = land(judge.judge(paths, lambda n: None))
    said = found.said[present(paths)]
    cut = np.array([one.cut for one in said])
    assert 0 < cut.sum() < len(cut)  # the others say nothing before their end
    assert all(one.finish == (CUT if one.cut else STOPPED) for one in said)
    assert not found.verdict.any()
    assert (found.answer == NO_ANSWER).all()  # a decoy is cut as gold would be
    assert all(one.grade is Grade.WRONG for one in said)


def test_ungraded_is_no_verdict(model, asked, verdicts, paths):
    questions = asked["generate"]
    fails = questions[0].question.gold
    with judge_of(model, questions, Letters({fails})) as judge:
        found = land(judge.judge(paths, lambda n: None))
    ungraded = 0
    for b, encoded in enumerate(questions):
        mine = Verdicts(*(column[b][present(paths)[b]] for column in found))
        before = Verdicts(*(column[b][present(paths)[b]] for column in verdicts["generate"]))
        listed = [tuple(p[p != STOP].tolist()) for p in paths[b] if p[0] != STOP]
        rows = evaluation_rows(encoded, listed, mine)
        for row, said, verdict in zip(rows, mine.said, before.verdict.tolist(), strict=True):
            failed = said.answer == fails and not said.cut
            assert row["verdict"] is (None if failed else verdict)
            assert row["grade"] == ("ungraded" if failed else ("wrong", "right")[verdict])
            ungraded += failed
        zeros = np.zeros(len(listed), int)
        outcome = Outcome(encoded, listed, mine, zeros, zeros, np.zeros((len(listed), 4), int))
        assert search_question_row(outcome)["baseline"] is rows[0]["verdict"]
    assert ungraded > 0


def test_a_decoy_is_graded_like_gold():
    grade = {
        "gold": Grade.RIGHT,
        "decoy": Grade.WRONG,
        "neither": Grade.WRONG,
        "failed": Grade.UNGRADED,
    }
    texts = [
        Said("x", "x", STOPPED, False, grade[name], (1,), -1.0, decoy=name == "decoy")
        for name in grade
    ]
    found = score_texts(texts, np.float32([0.5, 0.25, 0, 0.5]))
    assert found.answer.tolist() == [GOLD, DECOY, NO_ANSWER, NO_ANSWER]
    assert found.verdict.tolist() == [True, False, False, False]
    assert (found.margin < 0).tolist() == [False, True, True, True]
    assert score_texts([], np.zeros(0, np.float32)).verdict.shape == (0,)


def test_numbers_written_otherwise_are_gold_and_decoy(model):
    words = tiny.tokenizer()
    asked = encode_open([question("2 + 3 =", "5", "7")], words, "generate", BARE, stop_tokens=(1,))
    rows = []
    for text in ("5.0", "$7$", "8", "", "7", "5"):
        tokens = [*words(text, add_special_tokens=False).input_ids, 1]
        count = len(tokens)
        rows.append(Row(0, np.arange(2), tokens=tokens, logprob=[-1.0] * count, finish=STOPPED))
    rows[-1].finish = BROKEN  # it said the answer and then broke
    with grading(asked) as grader, judge_of(model, asked, grader) as judge:
        assert isinstance(grader, Grader)
        said = judge.grade(rows)
    assert [one.grade for one in said] == [Grade.RIGHT] + [Grade.WRONG] * 5
    assert [one.decoy for one in said] == [False, True, False, False, True, False]
    assert [one.answer for one in said] == ["5.0", "$7$", "8", None, "7", "5"]
    assert not score_texts(said, np.ones(6, np.float32)).finite[-1]


def test_a_path_that_is_not_finite_is_wrong(model, asked, paths):
    broken = model.layers.replace(up=model.layers.up.at[4].set(jnp.inf))
    for scorer in ("exact", "generate"):
        with judge_of(model.replace(layers=broken), asked[scorer], Generous()) as judge:
            found = land(judge.judge(paths, lambda n: None))
        bad = (paths == 4).any(axis=-1)
        assert bad[present(paths)].any()
        np.testing.assert_array_equal(found.finite, present(paths) & ~bad)
        assert not found.verdict[bad].any()
        assert (found.margin[bad] == -np.inf).all()
        if scorer == "generate":
            assert all(one.finish == BROKEN for one in found.said[bad])
            assert all(one.grade is Grade.WRONG for one in found.said[bad])


@pytest.mark.parametrize("scorer", ["exact", "generate"])
def test_confirm_runs_once_more_in_float32(model, asked, verdicts, paths, scorer, monkeypatch):
    asked_in = []

    def spy(lane, prompts, paths, dtype, *more):
        asked_in.append(dtype)
        return submit_reference(lane, prompts, paths, dtype, *more)

    monkeypatch.setattr("cola_jax.scoring.judge.submit_reference", spy)
    monkeypatch.setattr("cola_jax.execute.batch.submit_reference", spy)
    found = verdicts[scorer]
    rows = np.arange(QUESTIONS)
    best = found.verdict.argmax(axis=1)
    right = found.verdict[rows, best]
    assert right.sum() > 3
    right[np.flatnonzero(right)[0]] = False  # as if it had none
    chosen = np.where(right[:, None], paths[rows, best], STOP)
    mine = Verdicts(*(column[rows, best].copy() for column in found))
    with judge_of(model, asked[scorer], Letters()) as judge:
        assert land(judge.confirm(chosen, mine)) == [True if r else None for r in right]
        nothing = np.full_like(chosen, STOP)
        assert land(judge.confirm(nothing, mine)) == [None] * QUESTIONS
        if scorer == "exact":
            wrong = np.where(found.verdict, PATHS, np.arange(PATHS)).min(axis=1)
            held = land(judge.confirm(paths[rows, wrong], mine))
            assert held == [False] * QUESTIONS
        else:
            b = int(np.flatnonzero(right)[0])
            ids = list(mine.said[b].ids)
            ids[0] = 80 + (ids[0] + 1) % 200  # what bfloat16 might have said
            mine.said[b] = dataclasses.replace(mine.said[b], ids=tuple(ids))
            held = land(judge.confirm(chosen, mine))
            assert held == [(i != b) if r else None for i, r in enumerate(right)]
    assert set(asked_in) == {np.dtype(np.float32)}


def test_a_grader_is_held_only_for_decoding(asked):
    with grading(asked["exact"]) as grader:
        assert grader is None


def test_the_budget_is_checked_for_what_is_done(model, asked):
    for scorer, message in (("exact", "too small"), ("generate", "too small to decode 6 tokens")):
        with (
            pytest.raises(ValueError, match=message),
            judge_of(model, asked[scorer], Letters(), memory_budget=1000),
        ):
            pass


def test_no_answer_of_these_is_a_break(asked):
    """What the other tests take for granted of their material."""
    for encoded in asked["exact"]:
        for option in encoded.question.options:
            assert not set(option) & {"\n"}
    assert set(np.unique(asked["out"].tokens)) & set(BREAKS)

"""`Scorer`: prompts token by token, one of a user's own, and its evaluator of a batch."""

import json
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from tokenizers import AddedToken

import cola_jax
import cola_jax.scoring.scorer as scorers
from cola_jax.chat import render_chat, user_message
from cola_jax.errors import InputError
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import make_workers
from cola_jax.path import STOP, random_paths, unpad_path
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring import (
    SCORERS,
    Exact,
    Letter,
    Options,
    OptionsNorm,
    Scorer,
    ScorerName,
    StrictLetter,
    Verdicts,
    encode_answers,
    scorer_class,
    scorer_names,
)
from cola_jax.scoring.format import FREE_FORMATS
from cola_jax.scoring.scorer import score_readings
from tests import tiny
from tests.execute.one_by_one import run_reference
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
PROMPT = "Question: What melts?\nAnswer:"
ANSWERS = [" ice", " iron ore", " wind"]


def test_encode_answers_splits_as_lm_evaluation_harness():
    """The prompt is tokenized alone; an option is what the whole text adds after that length."""
    merging = CodePoints((": i", "\4"))  # one token across the end of the prompt
    encoded = encode_answers(QUESTION, merging, PROMPT, ANSWERS)
    prompt = merging(PROMPT, add_special_tokens=True).input_ids
    assert encoded.prompts.ids[: len(prompt)].tolist() == prompt
    assert encoded.prompt == f"\1{PROMPT}"  # as fed, with its special token
    parts = ["".join(chr(t) for t in encoded.prompts.targets[encoded.option == j]) for j in (0, 2)]
    assert parts == ["ce", " wind"]
    other = encode_answers(QUESTION, merging, "What melts?", ANSWERS)
    assert encoded.prompt_hash != other.prompt_hash


def test_encode_answers_refuses_lost_options_and_eos():
    with pytest.raises(ValueError, match="question q1: the option ' wind' adds no token"):
        encode_answers(QUESTION, CodePoints((" wind", "")), PROMPT, ANSWERS)
    appending = CodePoints(adds_eos=True)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode_answers(QUESTION, appending, PROMPT, ANSWERS)
    encode_answers(QUESTION, appending, PROMPT, ANSWERS, special=False)  # the template's own end


def test_check_length_counts_longest_continuation():
    longest = 1 + len(f"{PROMPT} iron or")
    encoded = Options(CodePoints(), context=longest).encode(QUESTION)
    assert encoded.prompts.positions.max() + 1 == longest < encoded.num_tokens
    with pytest.raises(ValueError, match=f"question q1 has {longest} tokens"):
        Options(CodePoints(), context=longest - 1).encode(QUESTION)


def test_chat_refuses_missing_and_failing_templates():
    with pytest.raises(ValueError, match="no chat template"):
        Options(tiny.tokenizer(chat=False), chat=True)
    words = tiny.tokenizer()
    words.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match=r"chat template cannot be read \(no\)"):
        Options(words, chat=True).encode(QUESTION)


TEMPLATES = Path(__file__).with_name("templates.jsonl").read_text().splitlines()


@pytest.mark.parametrize("row", [json.loads(line) for line in TEMPLATES])
def test_chat_has_fixed_date_no_thinking_and_bos_only_where_template_does(row):
    """Each row does what is special about the template of its family."""
    rendered, words = row["rendered"], tiny.tokenizer()  # which puts <s> in front of plain text
    words.chat_template = row["template"]
    words.add_tokens([AddedToken(x, special=True) for x in ("[end]", "[user]")])
    assert render_chat(words, user_message("Hi?")) == rendered
    encoded = Options(words, chat=True).encode(Question("q", "Hi?", ("sun", "moon"), 0))
    prompt = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert prompt.count(words.bos_token_id) == rendered.count("<s>")
    assert words.decode(prompt) == encoded.prompt == rendered


class LogitDifference(Scorer):
    """How much likelier one name is than the other after a prompt of the user's own wording."""

    name = "logit-difference"

    def encode(self, question):
        names = [f" {name}" for name in question.options]
        return encode_answers(question, self.tokenizer, f"{question.text} met, and", names)

    def verdicts(self, readings, encoded):
        return Verdicts.of_scores(readings.logprob, encoded.question.answer, readings.finite)


def test_own_scorer_is_searched_and_evaluated(model, words):
    names = ("iron", "gas")  # a token each, with the space before it
    questions = [Question(f"{b}", f"iron and gas {b}", names, b % 2) for b in range(4)]
    scorer = LogitDifference(words)
    outcomes = cola_jax.search(model, questions, scorer=scorer, simulations=8, leaves=4)
    assert [outcome.evaluations for outcome in outcomes] == [9] * 4
    paths = outcomes[0].paths[:3]
    verdicts = cola_jax.evaluate(model, questions, paths, scorer=scorer).verdicts
    found = outcomes[0].verdicts.margin[:3]
    np.testing.assert_allclose(verdicts.margin[0], found, rtol=1e-3, atol=1e-5)
    first, second = verdicts.scores[1, 2]  # names of one token each, compared by their logits
    prompt = words(f"{questions[1].text} met, and").input_ids
    logits = np.asarray(cola_jax.run_path(model, np.array([prompt]), paths[2]))[0, -1]
    (iron,), (gas,) = (words(f" {name}", add_special_tokens=False).input_ids for name in names)
    assert first - second == pytest.approx(logits[iron] - logits[gas], rel=1e-3)


class Brier(Options):
    """Scores of its own, made of log-likelihoods, which are none."""

    def scores(self, readings, encoded):
        shares = np.exp(super().scores(readings, encoded))
        return 2 * shares - (shares**2).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (Options, True),
        (StrictLetter, True),
        *((x, False) for x in (OptionsNorm, LogitDifference, Brier)),
    ],
)
def test_verdicts_say_whether_scores_are_log_likelihoods(scorer, expected, model, words):
    (question,) = tiny.questions(1)
    verdicts = cola_jax.evaluate(model, [question], [(0,)], scorer=scorer(words)).verdicts
    assert verdicts.log_likelihoods.tolist() == [[expected]]


def test_likelihoods_of_options_are_refused_of_other_scores(words):
    Letter(None).check_log_likelihoods("a menu")
    for scorer in (OptionsNorm(None), Exact(words, FREE_FORMATS["question"])):
        with pytest.raises(InputError, match=f"a menu needs .* '{scorer.name}' are not: use"):
            scorer.check_log_likelihoods("a menu")


@pytest.mark.parametrize(("platform", "precision"), [("cpu", None), ("gpu", "highest")])
def test_confirm_multiplies_in_full_precision(monkeypatch, words, platform, precision):
    """A CPU does anyway, and a setting would compile its programs again."""
    encoded = Options(words).encode(tiny.questions(1)[0])
    seen = []

    class Evaluator:
        def __init__(self, *arguments):
            pass

        def __call__(self, paths):
            seen.append(jax.config.jax_default_matmul_precision)
            reads = np.zeros((1, 1, len(encoded.option)), np.float32)
            return Readings(reads, reads.astype(np.int32), reads, np.ones((1, 1), bool))

        def close(self):
            pass

    monkeypatch.setattr(scorers, "PathEvaluator", Evaluator)
    worker: Any = SimpleNamespace(
        device=SimpleNamespace(platform=platform),
        config=SimpleNamespace(num_layers=5),
        in_float32=lambda: None,
    )
    with jax.default_matmul_precision(None):
        Options(words).confirm(worker, [encoded], Workload(1, 5), [(0,)], [None])
    assert seen == [precision]


QUESTIONS, PATHS = 6, 10


@pytest.fixture(scope="module")
def batch(words):
    """Questions with different numbers of options and of tokens read."""
    return [Options(words).encode(question) for question in tiny.questions(QUESTIONS)]


@pytest.fixture(scope="module")
def paths():
    """Paths [B, C, P], of which the last of some questions is none, and one in between."""
    rows = [random_paths(tiny.LAYERS, PATHS - b % 3, seed=b) for b in range(QUESTIONS)]
    paths = pad_paths(rows, QUESTIONS, tiny.LAYERS)
    paths[1, 3] = STOP
    return paths


WORKLOAD = Workload(PATHS, 2 * tiny.LAYERS)


def worker_of(model, **settings):
    return make_workers(model, **settings)[0]


def by_reference(worker, scorer, batch, paths):
    """The verdicts of paths by the reference executor."""
    prompts = Prompts.stack([encoded.prompts for encoded in batch])
    readings = run_reference(worker.model, prompts, paths, dtype=worker.dtype)
    return score_readings(scorer, batch, readings, paths)


def test_evaluator_equals_reference(model, words, batch, paths):
    """The verdict of a path is its own, not that of another path or question."""
    worker, scorer, present = worker_of(model), Options(words), paths[:, :, 0] != STOP
    with scorer.evaluator(worker, batch, WORKLOAD) as evaluate:
        ours = evaluate(paths)
    assert worker.metrics.evaluations == present.sum()
    theirs = by_reference(worker, scorer, batch, paths)
    np.testing.assert_allclose(ours.margin, theirs.margin, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ours.finite, present)
    assert not ours.verdict[~present].any()
    assert np.isneginf(ours.margin[~present]).all()
    sure = np.abs(ours.margin) > 1e-3
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(ours.verdict[sure], theirs.verdict[sure])
    assert len(np.unique(ours.margin)) > 40


def test_confirm_runs_in_float32(model, words, batch):
    """Where bfloat16 has another verdict than float32, that of float32 is returned."""
    many = pad_paths([random_paths(tiny.LAYERS, 120, seed=9)] * QUESTIONS, QUESTIONS, tiny.LAYERS)
    scorer, coarse, fine = Options(words), worker_of(model, dtype="bfloat16"), worker_of(model)
    before, exact = (by_reference(worker, scorer, batch, many) for worker in (coarse, fine))
    differs = before.verdict != exact.verdict
    assert differs.any()
    chosen = np.where(differs.any(axis=1), differs.argmax(axis=1), 0)
    rows = np.arange(QUESTIONS)
    selected = [unpad_path(path) for path in many[rows, chosen]]
    completions = [None] * QUESTIONS
    held = scorer.confirm(coarse, batch, WORKLOAD, selected, completions)
    assert held == exact.verdict[rows, chosen].tolist()
    selected[0] = None
    assert scorer.confirm(coarse, batch, WORKLOAD, selected, completions) == [None, *held[1:]]
    assert coarse.metrics.evaluations == 0


def test_check_memory_names_enough(model, words, batch):
    memory = worker_of(model, memory_budget=1000).memory
    with pytest.raises(ValueError, match="is too small") as error:
        Options(words).check_memory(model.config, memory, batch, positions=10)
    assert "run paths" in str(error.value)


def test_scorers_are_known_by_name():
    assert set(SCORERS) == set(typing.get_args(ScorerName))
    assert all(scorer_class(name).name == name for name in SCORERS)
    assert scorer_names(open=True) == ["exact", "generation"]
    assert [name for name in SCORERS if scorer_class(name).decodes] == ["generation"]
    with pytest.raises(ValueError, match="'Options' is not one of options, options-norm"):
        scorer_class("Options")

"""`Scorer`: prompts token by token, one of a user's own, and its evaluator of a batch."""

import typing

import numpy as np
import pytest
from tokenizers import AddedToken

import cola_jax
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import run_reference
from cola_jax.execute.worker import Workers
from cola_jax.path import STOP, identity, random_paths, unpad_path
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring import (
    SCORERS,
    Options,
    Scorer,
    ScorerName,
    Verdicts,
    encode_answers,
    scorer_class,
    scorer_names,
)
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.scorer import encode_prompt, pack, render_chat, score_readings
from tests import tiny
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
PROMPT = "Question: What melts?\nAnswer:"
ANSWERS = [" ice", " iron ore", " wind"]


def test_pack_equals_arrays_by_hand():
    row, option = pack([10, 11, 12], [[20, 21], [30], [40, 41, 42]])
    assert row.ids.tolist() == [10, 11, 12, 20, 40, 41]
    assert row.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert row.branch.tolist() == [0, 0, 0, 1, 3, 3]
    assert row.read.tolist() == [2, 3, 2, 2, 4, 5]
    assert row.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert option.tolist() == [0, 0, 1, 2, 2, 2]


def test_encode_answers_splits_as_lm_evaluation_harness():
    """The prompt is tokenized alone; an option is what the whole text adds after that length."""
    merging = CodePoints((": i", "\4"))  # one token across the end of the prompt
    encoded = encode_answers(QUESTION, merging, PROMPT, ANSWERS)
    prompt = merging(PROMPT, add_special_tokens=True).input_ids
    assert encoded.prompts.ids[: len(prompt)].tolist() == prompt
    parts = ["".join(chr(t) for t in encoded.prompts.targets[encoded.option == j]) for j in (0, 2)]
    assert parts == ["ce", " wind"]


def test_encode_answers_with_real_tokenizer():
    words = tiny.tokenizer()
    encoded = encode_answers(QUESTION, words, PROMPT, ANSWERS)
    for j, answer in enumerate(ANSWERS):
        targets = encoded.prompts.targets[encoded.option == j].tolist()
        assert words.decode(targets) == answer
        assert words(PROMPT).input_ids + targets == words(PROMPT + answer).input_ids
    other = encode_answers(QUESTION, words, "What melts?", ANSWERS)
    assert encoded.prompt_hash != other.prompt_hash
    assert encoded.prompt_hash == encode_prompt(QUESTION, words, PROMPT).prompt_hash


def test_encode_answers_refuses_lost_options_and_eos():
    with pytest.raises(ValueError, match="question q1: the option ' wind' adds no token"):
        encode_answers(QUESTION, CodePoints((" wind", "")), PROMPT, ANSWERS)
    appending = CodePoints(adds_eos=True)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode_prompt(QUESTION, appending, PROMPT)
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


@pytest.mark.parametrize(  # each does what is special about the template of its family
    ("template", "rendered"),
    [
        (
            "{{ bos_token }}{% if not date_string is defined %}"
            "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
            "[system]As of {{ date_string }}[end]"
            "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}",
            "<s>[system]As of 26 Jul 2024[end][user]Hi?[end][assistant]",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and "
            "enable_thinking is false %}<think></think>{% endif %}{% endif %}",
            "[user]Hi?[end][assistant]<think></think>",
        ),
    ],
    ids=["llama-3.2", "qwen3"],
)
def test_chat_has_fixed_date_no_thinking_and_bos_only_where_template_does(template, rendered):
    words = tiny.tokenizer()  # which puts <s> in front of plain text
    words.chat_template = template
    words.add_tokens([AddedToken(x, special=True) for x in ("[end]", "[user]")])
    assert render_chat(words, "Hi?") == rendered
    encoded = Options(words, chat=True).encode(Question("q", "Hi?", ("sun", "moon"), 0))
    prompt = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert prompt.count(words.bos_token_id) == rendered.count("<s>")
    assert words.decode(prompt) == rendered


NAMES = ("iron", "gas")  # a token each, with the space before it


class LogitDifference(Scorer):
    """How much likelier one name is than the other after a prompt of the user's own wording."""

    name = "logit-difference"

    def encode(self, question):
        prompt = f"{question.text} met, and the rain is to"
        names = [f" {name}" for name in question.options]
        return encode_answers(question, self.tokenizer, prompt, names)

    def verdicts(self, readings, encoded):
        return Verdicts.of_scores(readings.logprob, encoded.question.answer, readings.finite)


def stories(count):
    return [
        Question(f"story {i}", f"{NAMES[i % 2]} and {NAMES[1 - i % 2]} {i}", NAMES, i % 2)
        for i in range(count)
    ]


def test_own_scorer_is_searched_and_evaluated(model, words):
    questions = stories(4)
    evaluate = cola_jax.evaluator(model, questions, LogitDifference(words))
    outcomes = cola_jax.search(evaluate, questions, simulations=8, leaves=4)
    assert [outcome.evaluations for outcome in outcomes] == [9] * 4
    paths = outcomes[0].paths[:3]
    evaluation = cola_jax.evaluate(evaluate, questions, paths)
    np.testing.assert_allclose(
        evaluation.verdicts.margin[0], outcomes[0].verdicts.margin[:3], rtol=1e-3, atol=1e-5
    )
    first, second = (words(f" {name}", add_special_tokens=False).input_ids for name in NAMES)
    for b, question in enumerate(questions):
        ids = np.zeros((1, 32), np.int32)  # one length, one compilation
        prompt = words(f"{question.text} met, and the rain is to").input_ids
        ids[0, : len(prompt)] = prompt
        logits = np.asarray(cola_jax.run_path(model, ids, paths[1])[0, len(prompt) - 1])
        (difference,) = logits[first] - logits[second]
        sign = 1 if question.answer == 0 else -1
        assert evaluation.verdicts.margin[b, 1] == pytest.approx(sign * difference, rel=1e-3)


QUESTIONS, PATHS = 6, 10


@pytest.fixture(scope="module")
def batch(words):
    """Questions with different numbers of options and of tokens read."""
    batch = [Options(words).encode(question) for question in tiny.questions(QUESTIONS)]
    assert len({len(encoded.option) for encoded in batch}) > 1
    return batch


@pytest.fixture(scope="module")
def paths():
    """Paths [B, C, P], of which the last of some questions is none, and one in between."""
    rows = [
        [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, PATHS - 1 - b % 3, seed=b)]
        for b in range(QUESTIONS)
    ]
    paths = pad_paths(rows, QUESTIONS, tiny.LAYERS)
    paths[1, 3] = STOP
    return paths


WORKLOAD = Workload(PATHS, 2 * tiny.LAYERS)


def worker_of(model, **settings):
    return Workers(model, **settings).workers[0]


def by_reference(worker, scorer, batch, paths):
    """The verdicts of paths by the reference executor."""
    prompts = Prompts.stack([encoded.prompts for encoded in batch])
    readings = run_reference(worker.model, prompts, paths, dtype=worker.dtype)
    return score_readings(scorer, batch, readings, paths)


def test_evaluator_equals_reference(model, words, batch, paths):
    """The verdict of a path is its own, not that of another path or question."""
    worker, scorer = worker_of(model), Options(words)
    with scorer.evaluator(worker, batch, WORKLOAD) as evaluate:
        ours = evaluate(paths)
    assert worker.metrics.evaluations == (paths[:, :, 0] != STOP).sum()
    theirs = by_reference(worker, scorer, batch, paths)
    np.testing.assert_allclose(ours.margin, theirs.margin, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)
    present = paths[:, :, 0] != STOP
    np.testing.assert_array_equal(ours.finite, present)
    assert not ours.verdict[~present].any()
    assert np.isneginf(ours.margin[~present]).all()
    for b, encoded in enumerate(batch):
        count = len(encoded.question.options)
        assert np.isfinite(ours.scores[b, present[b], :count]).all()
        assert np.isnan(ours.scores[b, :, count:]).all()
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
    scorer = Options(words)
    evaluate = ModelEvaluator(model, batch, scorer, memory_budget=1000)
    with pytest.raises(ValueError, match=r"budget of \S+ is too small .* give at least") as error:
        evaluate([[identity(tiny.LAYERS)]] * QUESTIONS)
    memory = Workers(model, memory_budget=1000).memory
    with pytest.raises(ValueError, match="is too small") as same:
        scorer.check_memory(model.config, memory, batch, positions=10)
    assert "run paths" in str(error.value)
    assert "run paths" in str(same.value)


def test_scorers_are_known_by_name():
    assert set(SCORERS) == set(typing.get_args(ScorerName))
    assert all(scorer_class(name).name == name for name in SCORERS)
    assert scorer_names(open=True) == ["exact", "generation"]
    assert [name for name in SCORERS if scorer_class(name).decodes] == ["generation"]
    with pytest.raises(ValueError, match="'Options' is not one of options, options-norm"):
        scorer_class("Options")

"""Tasks of lm-evaluation-harness: the same requests, verdicts and metrics as its own."""

import pickle

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

import cola_jax
from cola_jax.deploy.lm_eval import ColaLM
from cola_jax.scoring import Grade
from cola_jax.tasks import load_questions
from cola_jax.tasks.harness import grade_of, load_task, text_of
from cola_jax.tasks.registry import find_task
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.tasks.rows import ALIASES, CHOICE, DECODED, EXACT

CHOOSING = {
    "choice": CHOICE,
    "shown": CHOICE | {"num_fewshot": 2},
    "swapped": CHOICE | {"doc_to_text": "{{0}}", "doc_to_target": "{{question}}"},
    "several": CHOICE | {"doc_to_target": "{{[0, 1]}}"},
    "fixed": CHOICE | {"num_fewshot": 0},
    "one_word": CHOICE | {"output_type": "loglikelihood", "doc_to_target": "{{question}}"},
}
DECODING = {
    "numbers": DECODED,
    "aliases": ALIASES,
    "scored": DECODED | {"metric_list": [EXACT | {"metric": "bleu"}]},
    "sampled": DECODED | {"repeats": 4},
    "warm": DECODED | {"generation_kwargs": {"until": ["\n"], "do_sample": True}},
    "coded": DECODED | {"unsafe_code": True},
    "seen": DECODED | {"doc_to_image": ["question"]},
}
ROWS = [
    {"question": f"{i} and 1?", "answer": f"It is {i} + 1.\n#### {i + 1},000", "aliases": aliases}
    for i, aliases in enumerate([["One", "1"], ["Two.", "2"], ["The three", "3"], ["four", "IV"]])
]
TEXTS = (" #### 2,000", " the answer: 2000.", " two", "iv.", " #### 3", "", " 1 #### 4000 Four")


def of_files(**files):
    return {"dataset_kwargs": {"data_files": files}}


@pytest.fixture
def tasks(tmp_path, library, write):
    """Lets lm-evaluation-harness know tasks of two files, and nothing else."""
    choices = str(tiny.write_questions(tmp_path / "rows.jsonl", 6))
    data = of_files(test=choices, train=choices)
    every = {name: fields | data for name, fields in CHOOSING.items()}
    every["missing"] = CHOICE | of_files(test="nowhere.jsonl")
    data = of_files(test=write(*ROWS))
    return library(**every | {name: fields | data for name, fields in DECODING.items()})


def test_metrics_are_those_of_the_harness(tiny_checkpoint, tasks):
    ours = ColaLM(pretrained=str(tiny_checkpoint), data=1)
    names = ["choice", "shown"]
    wanted = simple_evaluate(model=ours, tasks=names, task_manager=tasks, bootstrap_iters=0)
    assert find_task("choice").kind == "harness"
    shown = load_questions("choice", num_fewshot=2)
    assert load_questions("choice", num_fewshot=2, limit=3) == shown[:3]
    assert [q.text for q in load_questions("shown")] == [q.text for q in shown]
    for name, questions in (("choice", load_questions("choice")), ("shown", shown)):
        samples = wanted["samples"][name]
        for question, sample in zip(questions, samples, strict=True):
            delimiter = question.get("delimiter")
            assert [question.text + f"{delimiter}{option}" for option in question.options] == [
                context + choice for context, choice in sample["arguments"]
            ]
        for scorer, metric in (("options", "acc"), ("options-norm", "acc_norm")):
            results = cola_jax.evaluate(ours.model, questions, "0-4", scorer=scorer)
            each = np.array([sample[metric] for sample in samples], bool)
            np.testing.assert_array_equal(results.verdicts.verdict[:, 0], each)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("One-Word", {}, "one_word .* of the kind loglikelihood: its score is a likelihood"),
        ("swapped", {}, "swapped of lm-evaluation-harness puts its choices before"),
        ("several", {}, "question several/0 has the answer .*not one of its 3 choices"),
        ("missing", {}, r"missing of lm-evaluation-harness could not be loaded: .*\(--hub\)"),
        ("choice", {"num_fewshot": 9}, "row 0: .* makes no prompt with 9 shots"),
        ("fixed", {"num_fewshot": 2}, "fixed of lm-evaluation-harness fixes 0 shots, so 2 would"),
        ("scored", {}, "scored of lm-evaluation-harness is scored by bleu, which does not say"),
        ("sampled", {}, "sampled of lm-evaluation-harness samples 4 completions"),
        ("warm", {}, "warm of lm-evaluation-harness: generation asks for do_sample=True"),
        ("coded", {}, "coded of lm-evaluation-harness runs code, so it cannot be searched"),
        ("seen", {}, "seen of lm-evaluation-harness needs images or sound"),
    ],
)
def test_load_questions_refuses(tasks, name, settings, message):
    with pytest.raises(ValueError, match=message):
        load_questions(name, **settings)


def test_a_task_that_fails_to_grade_is_refused_with_the_reason(tasks, monkeypatch):
    def process_results(*_):
        raise ValueError("signal only works in main thread")

    monkeypatch.setattr(ConfigurableTask, "process_results", process_results)
    message = (
        r"numbers of lm-evaluation-harness fails to grade \(signal only works in main thread\)"
    )
    with pytest.raises(ValueError, match=message):
        load_questions("numbers")


def test_hub_replaces_the_data_set(library, hub):
    rows = [tiny.row(question) for question in tiny.questions(3)]
    folder = hub(("default", "test", rows), ("default", "train", rows))
    library(elsewhere=CHOICE | {"dataset_path": "nobody/nothing"})
    questions = load_questions("elsewhere", hub=folder)
    assert [q.options for q in questions] == [q.options for q in tiny.questions(3)]


class Canned(LM):
    """A model of the harness that gives one text whatever it is asked."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def generate_until(self, requests):
        return [self.text] * len(requests)

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.mark.parametrize("name", [pytest.param("numbers", marks=pytest.mark.slow), "aliases"])
def test_grades_are_those_of_the_harness(tasks, name):
    right = 0
    for text in TEXTS:
        results = simple_evaluate(
            model=Canned(text), tasks=[name], task_manager=tasks, bootstrap_iters=0
        )
        for sample in results["samples"][name]:
            grader = load_task(name, None, sample["filter"])
            question = list(grader.questions(None))[sample["doc_id"]]
            assert question.text == sample["arguments"][0][0]
            _, grade = grader.grade(question, text)
            assert grade is (Grade.RIGHT if sample["exact_match"] else Grade.WRONG)
            right += grade is Grade.RIGHT
    assert right >= 2


def test_questions_have_the_filtered_gold(tasks):
    assert find_task("numbers").kind == "harness-open"
    questions = load_questions("numbers")
    assert [q.gold for q in questions] == ["1,000", "2,000", "3,000", "4,000"]
    assert [q.id for q in load_questions("numbers", limit=2)] == ["numbers/0", "numbers/1"]
    assert [q.gold for q in load_questions("aliases")] == ["One", "Two.", "The three", "four"]
    assert all(question.open for question in questions)


def test_grade_compares_another_gold_as_the_metric_does(tasks):
    grader = load_task("numbers")
    (question, *_) = grader.questions(None)
    assert grader.grade(question, " #### 5,000", "5000") == ("5,000", Grade.RIGHT)
    assert grader.grade(question, " #### 1,000", "5000") == ("1,000", Grade.WRONG)
    assert grader.grade(question, " 5000", "5000") == (None, Grade.WRONG)  # nothing is filtered
    assert grader.grade(question, " 5000") == (None, Grade.WRONG)
    aliases = load_task("aliases")
    assert aliases.grade(next(aliases.questions(None)), " two. ", "Two")[1] is Grade.RIGHT


def test_graders_are_loaded_where_they_are_sent(tasks):
    config = TaskConfig("numbers", rule="flexible-extract")
    prepared = config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1, 7))
    sent = pickle.loads(pickle.dumps(prepared.encoder)).scorer
    assert sent.grader is load_task("numbers", None, "flexible-extract")
    assert sent.record() == prepared.scorer.record()


def test_prepare_takes_filter_and_limit(tasks):
    def prepare(name="numbers", **settings):
        config = TaskConfig(name, **settings)
        return config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1, 7))

    prepared = prepare()
    assert prepared.record["scorer"] == prepared.scorer.name == "generation"
    assert prepared.record["max_new_tokens"] == prepared.scorer.max_new_tokens == 9
    assert prepared.record["prompt"]["stop"] == ["Question:", "</s>"]
    assert prepared.record["prompt"]["stop_tokens"] == [1, 7]
    other = prepare(rule="flexible-extract", max_new_tokens=3)
    assert (other.record["rule"], other.record["max_new_tokens"]) == ("flexible-extract", 3)
    for settings, message in (
        ({"rule": "number"}, "flexible-extract, not 'number'"),
        ({"scorer": "exact"}, "'exact' is not for: use generation"),
        ({"max_new_tokens": 190}, "the model's context is 200"),
        ({"name": "choice", "scorer": "letter"}, "'letter' is not for: use options, options-norm"),
        ({"name": "choice", "chat": True}, "prompts of choice are lm-evaluation-harness's own"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(**settings)


def test_values_of_metrics_and_filters_are_read():
    assert [grade_of(value) for value in (1.0, True)] == [Grade.RIGHT] * 2
    assert grade_of(0) is Grade.WRONG
    assert [grade_of(value) for value in (0.5, (1, 2))] == [Grade.UNGRADED] * 2
    filtered = (" a ", ["b", "c"], [], None, "[invalid]", 3)
    assert [text_of(x) for x in filtered] == ["a", "b", None, None, None, "3"]

"""Answers graded by lm-evaluation-harness's own code: the same verdicts as in its evaluation."""

import json

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM

from cola_jax.scoring.grader import Grade
from cola_jax.tasks import load_questions
from cola_jax.tasks.harness import grade_of, load_task, text_of
from cola_jax.tasks.registry import find_task
from cola_jax.tasks.task import TaskConfig
from tests import tiny

EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
GSM8K = {
    "output_type": "generate_until",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 9},
    "metric_list": [
        EXACT | {"ignore_case": True, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}
    ],
    "filter_list": [
        {
            "name": name,
            "filter": [
                {"function": "regex", "regex_pattern": pattern, "group_select": group},
                {"function": "take_first"},
            ],
        }
        for name, pattern, group in (
            ("strict-match", "#### (\\-?[0-9\\.\\,]+)", 0),
            ("flexible-extract", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
        )
    ],
}
ALIASES = GSM8K | {
    "doc_to_target": "{{aliases}}",
    "filter_list": [
        {"name": "bare", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    ],
    "metric_list": [EXACT | {"ignore_case": True, "ignore_punctuation": True}],
}
OTHERS = {
    "scored": GSM8K | {"metric_list": [EXACT | {"metric": "bleu"}]},
    "sampled": GSM8K | {"repeats": 4},
    "warm": GSM8K | {"generation_kwargs": {"until": ["\n"], "do_sample": True}},
    "coded": GSM8K | {"unsafe_code": True},
    "seen": GSM8K | {"doc_to_image": ["question"]},
}
ROWS = [
    {"question": f"{i} and 1?", "answer": f"It is {i} + 1.\n#### {i + 1},000", "aliases": aliases}
    for i, aliases in enumerate([["One", "1"], ["Two.", "2"], ["The three", "3"], ["four", "IV"]])
]
TEXTS = (" #### 2,000", " the answer: 2000.", " two", "iv.", " #### 3", "", " 1 #### 4000 Four")


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


@pytest.fixture
def tasks(tmp_path, library):
    """Tasks of one file, with and without several right answers."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"dataset_kwargs": {"data_files": {"test": str(file)}}}
    every = {"numbers": GSM8K, "aliases": ALIASES} | OTHERS
    return library(**{name: fields | data for name, fields in every.items()})


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


def test_gives_compares_as_the_metric_does(tasks):
    grader = load_task("numbers")
    (question, *_) = grader.questions(None)
    assert grader.gives(question, " #### 5,000", "5000")
    assert not grader.gives(question, " #### 1,000", "5000")
    assert not grader.gives(question, " 5000", "5000")  # the filter finds nothing
    assert grader.grade(question, " 5000") == (None, Grade.WRONG)
    aliases = load_task("aliases")
    assert aliases.gives(next(aliases.questions(None)), " two. ", "Two")


def test_settings_are_the_tasks_own(tasks):
    grader = load_task("numbers")
    assert grader.settings == (("Question:",), 9)
    record = grader.record()
    assert (record["rule"], record["metric"]) == ("strict-match", "exact_match")
    assert record["grader"].startswith("lm-eval 0.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scored", "scored of lm-evaluation-harness is scored by bleu, which does not say"),
        ("sampled", "sampled of lm-evaluation-harness samples 4 completions"),
        ("warm", "warm of lm-evaluation-harness: generation asks for do_sample=True"),
        ("coded", "coded of lm-evaluation-harness runs code, so it cannot be searched"),
        ("seen", "seen of lm-evaluation-harness needs images or sound"),
    ],
)
def test_tasks_that_cannot_be_searched_are_refused(tasks, name, message):
    with pytest.raises(ValueError, match=message):
        load_questions(name)


def test_prepare_takes_filter_and_limit(tasks):
    def prepare(**settings):
        config = TaskConfig("numbers", **settings)
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
    ):
        with pytest.raises(ValueError, match=message):
            prepare(**settings)


def test_values_of_metrics_and_filters_are_read():
    assert [grade_of(value) for value in (1.0, True)] == [Grade.RIGHT] * 2
    assert grade_of(0) is Grade.WRONG
    assert [grade_of(value) for value in (0.5, (1, 2))] == [Grade.UNGRADED] * 2
    filtered = (" a ", ["b", "c"], [], None, "[invalid]", 3)
    assert [text_of(x) for x in filtered] == ["a", "b", None, None, None, "3"]

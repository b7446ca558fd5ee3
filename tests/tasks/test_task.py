"""`TaskConfig`: the scorer, the prompts and the record of a task, and invalid settings."""

import json

import numpy as np
import pytest

from cola_jax.question import Question, open_question
from cola_jax.tasks.registry import TASKS
from cola_jax.tasks.task import TaskConfig, catalogue, check_disjoint, hold_out
from tests import tiny
from tests.tasks.rows import ARC, GSM8K, MMLU, PLAIN, changed


def numbered(row, name, count=12, **fields):
    """Makes rows that differ in a text."""
    return [
        changed(row, **{name: f"{row[name]} {i}?"}, **{k: v.format(i) for k, v in fields.items()})
        for i in range(count)
    ]


SUBJECTS = ("law", "number_theory", "anatomy") * 12
MMLU_ROWS = [
    changed(row, subject=subject)
    for row, subject in zip(numbered(MMLU, "question", 36), SUBJECTS, strict=True)
]
SPLITS = ("train", "test")
HUBS = {  # name of the task: its data set
    "arc-easy": [("ARC-Easy", x, numbered(ARC, "question", id=x + "{}")) for x in SPLITS],
    "mmlu": [("all", "dev", MMLU_ROWS), ("all", "test", MMLU_ROWS)],
    "gsm8k": [("main", split, numbered(GSM8K, "question")) for split in SPLITS],
}
FILES = {"prompt": numbered(PLAIN, "prompt"), "arc": [tiny.row(q) for q in tiny.questions(12)]}


@pytest.fixture
def prepare(hub, write):
    """Prepares a task of any kind, of data that are made for it."""
    words = tiny.tokenizer()

    def prepare(task, context=9000, stop_tokens=lambda: (1, 7), again=False, **settings):
        if task in HUBS:
            settings["hub"] = hub(*HUBS[task])
        config = TaskConfig(write(*FILES[task]) if task in FILES else task, **settings)
        return config.prepare(words, context=context, stop_tokens=stop_tokens, again=again)

    return prepare


@pytest.mark.parametrize(
    ("task", "settings", "scorer", "form"),
    [
        ("arc", {}, "options", None),
        ("arc", {"scorer": "letter", "format": "harness"}, "letter", "harness"),
        ("arithmetic", {}, "exact", "plain"),
        ("prompt", {}, "generation", "plain"),
        ("gsm8k", {}, "exact", "direct"),
        ("gsm8k", {"format": "harness", "shots": 0}, "generation", "harness"),
    ],
)
def test_prepare_chooses_scorer_of_task(prepare, task, settings, scorer, form):
    prepared = prepare(task, **settings)
    record = prepared.record
    assert record["scorer"] == prepared.scorer.name == scorer
    style = record["prompt"]["format"] if form else None
    assert (style["name"] if isinstance(style, dict) else style) == form
    limit = prepared.scorer.max_new_tokens if scorer == "generation" else None
    assert record.get("max_new_tokens") == limit


def test_prepare_records_prompts(prepare):
    prepared = prepare("arithmetic", limit=5, scorer="generation", max_new_tokens=3, level=2)
    record = prepared.settings()
    prompt = record["prompt"]
    assert record == json.loads(json.dumps(record))
    assert record["max_new_tokens"] == 3
    assert prompt["stop_tokens"] == [1, 7] == list(prepared.scorer.stop.tokens)
    assert len(prompt["shots"]) == prompt["format"]["shots"] == 2
    assert not set(prompt["shots"]) & {question.id for question in prepared.questions}
    changes = [{"shots": 1}, {"task_seed": 1}, {"shots_seed": 1}, {"level": 1}, {"limit": 4}]
    changes += [{"chat": True}, {"format": "direct", "shots": 2}, {"stop_tokens": lambda: (1,)}]
    drawn = prepare("arithmetic", limit=5, scorer="generation", temperature=2.0, sample_seed=3)
    assert (drawn.record["temperature"], drawn.record["sample_seed"]) == (2.0, 3)
    records = {json.dumps(record)}
    for change in changes:
        settings = {"limit": 5, "scorer": "generation", "level": 2, "max_new_tokens": 3} | change
        changed = prepare("arithmetic", **settings)
        template = {"date_string": "26 Jul 2024", "enable_thinking": False}
        assert changed.record["chat"] == (template if "chat" in change else None)
        records.add(json.dumps(changed.settings()))
    assert len(records) == 1 + len(changes)
    again = prepare("arithmetic", limit=5, scorer="generation", max_new_tokens=3, level=2)
    assert again.settings() == record


def test_prepare_takes_shots_and_rule(prepare):
    prepared = prepare("gsm8k", format="harness")
    assert len(prepared.record["prompt"]["shots"]) == 5
    fewer = prepare("gsm8k", format="harness", shots=2, rule="number")
    assert fewer.sample[0].num_tokens < prepared.sample[0].num_tokens
    assert fewer.scorer.rule == fewer.record["prompt"]["format"]["extract"] == "number"
    boxed = prepare("arithmetic", limit=2, scorer="generation", rule="boxed")
    assert boxed.scorer.stop.rule is not None  # a closed box ends the text


def test_prepare_needs_no_stop_token_for_choice(prepare):
    def missing():
        raise ValueError("no token ends a generation")

    prepare("arc", stop_tokens=missing)
    with pytest.raises(ValueError, match="no token ends"):
        prepare("arithmetic", stop_tokens=missing)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("arc", {"scorer": "exact"}, "the scorer 'exact' is not for: use options, options-norm, l"),
        ("arc", {"format": "harness"}, "'options' has the formats plain, .*, not 'harness'"),
        ("arc", {"max_new_tokens": 5}, "max_new_tokens is a setting of the scorer `generation`"),
        ("arithmetic", {"temperature": 0.5}, "temperature is a setting of the scorer `generation`"),
        ("arithmetic", {"scorer": "generation", "temperature": -1.0}, "the temperature is -1"),
        ("arithmetic", {"scorer": "generation", "top_p": 0.5}, "nothing is drawn at temperature 0"),
        ("arc", {"shots_file": "shots.jsonl"}, "shots.jsonl would not be shown"),
        ("arithmetic", {"scorer": "generation", "rule": "last"}, "one of boxed, hashes, number"),
        ("arithmetic", {"scorer": "letter"}, "scorer 'letter' is not for: use exact, generation"),
        ("arithmetic", {"shots": 60}, "the model's context is 256"),
        ("gsm8k", {"format": "harness", "scorer": "exact", "shots": 0}, "scorer `generation`"),
    ],
)
def test_prepare_refuses(prepare, task, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        prepare(task, context=256, **settings)
    assert "\n" not in str(error.value)


def test_prepare_shows_shots_of_choices(prepare, write):
    other = tiny.row(tiny.questions(13)[12]) | {"question": "which of the others?"}
    file = {"shots": 1, "shots_file": write(other, name="shots")}
    with pytest.raises(ValueError, match="letters shows no shots"):
        prepare("arc", scorer="letter", **file)
    for settings in ({"scorer": "options"}, {"scorer": "letter", "format": "harness"}):
        prompt = prepare("arc", **settings, **file).record["prompt"]
        assert prompt["format"] == settings.get("format", "plain")
        assert prompt["shots"] == ["q12"]


def test_catalogue_lists_every_task():
    assert all(name == task.name for name, task in TASKS.items())
    assert [row["task"] for row in catalogue()][:2] == ["arc_easy", "arc_challenge"]
    assert {row["task"].replace("_", "-") for row in catalogue()} > set(TASKS)
    mmlu = next(row for row in catalogue() if row["task"] == "mmlu")
    assert (mmlu["scorers"].split(", ")[0], mmlu["formats"]) == ("letter", "harness, plain")


SETTINGS = [
    ("arc-easy", {}),
    ("arc-easy", {"scorer": "letter", "format": "harness"}),
    ("mmlu", {}),
    ("gsm8k", {"format": "harness"}),
    ("arithmetic", {}),
    ("prompt", {}),
    ("arc", {"scorer": "letter", "format": "harness"}),
]


@pytest.mark.parametrize(("task", "settings"), SETTINGS, ids=lambda value: str(value))
def test_first_questions_do_not_depend_on_how_many_follow(prepare, write, task, settings):
    if task in FILES:
        settings = settings | {"shots_file": write(*FILES[task][:3], name="shots")}
    few, many = (prepare(task, again=True, limit=n, shots=2, **settings) for n in (8, 10))
    assert (len(few.questions), len(many.questions)) == (8, 10)
    assert few.questions == many.questions[:8]
    ways = [
        (few.sample, many.sample),
        *zip(few.again.values(), many.again.values(), strict=True),
    ]
    for fewer, more in ways:
        for row, other in zip(fewer, more[:8], strict=True):
            assert (row.question, row.prompt_hash) == (other.question, other.prompt_hash)
            np.testing.assert_array_equal(row.prompts.ids, other.prompts.ids)
    assert few.record.get("prompt") == many.record.get("prompt")


def test_mmlu_is_asked_as_the_harness_asks_it(prepare):
    prepared = prepare("mmlu", limit=3, shots=2)
    assert prepared.record["scorer"] == "letter"
    assert prepared.record["prompt"]["format"] == "harness"
    text = tiny.tokenizer().decode(prepared.sample[0].prompts.ids)
    assert "The following are multiple choice questions (with answers) about law.\n\nW" in text
    assert text.count("Answer: C\n\n") == 2
    plain = prepare("mmlu", limit=3, shots=2, scorer="options")
    assert plain.record["prompt"]["format"] == "plain"


QUESTIONS = [open_question(f"q{i}", f"{i} + 1", str(i + 1)) for i in range(40)]


def test_hold_out_keeps_order_and_depends_on_text_and_seed():
    train, held = hold_out(QUESTIONS, 10)
    assert len(held) == 10
    assert sorted([*train, *held], key=QUESTIONS.index) == QUESTIONS
    assert train == sorted(train, key=QUESTIONS.index)
    fewer, _ = hold_out(QUESTIONS[::-1], 10)
    assert set(fewer) == set(train)
    assert hold_out(QUESTIONS, 10, seed=1)[1] != held
    assert hold_out(QUESTIONS, 0) == (QUESTIONS, [])
    for count in (-1, 40):
        with pytest.raises(ValueError, match=f"{count} questions cannot be held out of 40"):
            hold_out(QUESTIONS, count)


def test_check_disjoint_names_what_is_in_both():
    with pytest.raises(ValueError, match=r"7 of 7 .* \(q0, q1, q2, q3 and 3 more\)"):
        check_disjoint(QUESTIONS, QUESTIONS[:7])
    question = Question("a", "Which?", ("x", "y"), 0)
    with pytest.raises(ValueError, match=r"1 of 1 held-out questions .* \(b\)"):
        check_disjoint([question], [Question("b", "Which? ", ("y", "x"), 1)])  # in another order
    check_disjoint([question], [Question("b", "Which?", ("y", "z"), 1)])


def test_task_holds_out_questions_beyond_its_limit(prepare):
    _, train, held = TaskConfig("arithmetic", limit=30, held_out=20).load()
    assert (len(train), len(held)) == (30, 20)
    assert not {q.text for q in train} & {q.text for q in held}
    every = {q.id for q in TaskConfig("arithmetic", limit=50).load()[1]}
    assert every == {q.id for q in [*train, *held]}
    assert len(TaskConfig("arithmetic", held_out=7).load()[1]) == 100
    with pytest.raises(ValueError, match="no questions are held out"):
        prepare("arithmetic", part="held-out")


def test_grader_of_a_file_depends_on_its_answers(prepare, write, monkeypatch):
    words = [{"prompt": f"the {i}", "answer": text} for i, text in enumerate(("sun", "B", "no"))]
    numbers = [{"prompt": "1 + 1 =", "answer": 2}]
    assert prepare(write(*words, name="words")).record["grader"] == "exact match"
    assert "math-verify" in prepare(write(*words, *numbers, name="both")).record["grader"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert prepare(write(*words, name="words")).record["grader"] == "exact match"
    with pytest.raises(ValueError, match="the answer '2' is a number or a formula"):
        prepare(write(*words, *numbers, name="both"))


def test_fields_hold_for_other_files_as_far_as_they_have_the_columns(prepare, write):
    rows = [{"q": f"{i} + 1 =", "a": f"the {i + 1}"} for i in range(6)]
    usual = [{"question": row["q"], "answer": row["a"]} for row in rows]
    mixed = [{"q": row["q"], "answer": row["a"]} for row in rows]
    file, fields = write(*rows[:3], name="mine"), "question=q,answer=a"
    for number, other in enumerate((rows, usual, mixed)):
        held, shots = (write(*part, name=f"{number}") for part in (other[3:], other[3:]))
        config = TaskConfig(file, fields=fields, held_out_from=held)
        assert [question.gold for question in config.load()[2]] == ["the 4", "the 5", "the 6"]
        prepared = prepare(file, fields=fields, held_out_from=held, shots_file=shots, shots=1)
        assert len(prepared.record["prompt"]["shots"]) == 1
        assert prepared.record["grader"] == "exact match"
    with pytest.raises(ValueError, match="names the column 'b'"):
        TaskConfig(file, fields="question=q,answer=b", held_out_from=file).load()


def test_held_out_from_a_file(write):
    rows = [{"prompt": f"{i} + 1 =", "answer": i + 1} for i in range(20)]
    train_file, other = write(*rows[:8], name="train"), write(*rows[8:], name="test")
    _, train, held = TaskConfig(train_file, held_out_from=other).load()
    assert (len(train), len(held)) == (8, 12)
    assert len(TaskConfig(train_file, held_out_from=other, held_out=3).load()[2]) == 3
    assert len(TaskConfig(train_file, limit=0.5, held_out=2).load()[1]) == 4
    with pytest.raises(ValueError, match="3 of 4 held-out questions are training questions"):
        TaskConfig(train_file, held_out_from=write(*rows[5:9], name="both")).load()
    with pytest.raises(ValueError, match="the same kind"):
        TaskConfig("arithmetic", held_out_from=other).load()

"""Every kind of row, from JSONL files and from the layout of the Hub; levels; what is refused."""

import json

import pytest

from cola_jax.tasks import kind_of, load_questions, open_question
from cola_jax.tasks.mathematics import SUBJECTS

GSM8K = {
    "question": "Ann has 3 apples and buys 4. How many?",
    "answer": "She has 3 + 4 = <<3+4=7>>7 apples.\nSold for $<<7*200=1400>>1400.\n#### $1,400",
}
MATH = {
    "problem": "What is $1+\\frac12$?",
    "level": "Level 3",
    "type": "Prealgebra",
    "solution": "It is $\\boxed{1}$ and a half: $\\boxed{\\frac{3}{2}}$.",
}
MATH500 = {
    "problem": "How many?",
    "solution": "Count: $\\boxed{11}$.",
    "answer": "11",
    "subject": "Algebra",
    "level": 3,
    "unique_id": "test/algebra/170.json",
}
DART = {
    "query_id": "MATH/train/algebra/1.json",
    "query": "What is $2^5$?",
    "gt_ans": "32",
    "query_metadata": "{'level': 2, 'domain': 'Algebra'}",
    "pass_rate": 0.8,
}
MMLU = {
    "question": "Which is prime?",
    "subject": "number_theory",
    "choices": ["4", "6", "7", "8"],
    "answer": 2,
}
PLAIN = {"prompt": "The capital of France is", "answer": "Paris"}


def changed(row, **fields):
    return {name: value for name, value in (row | fields).items() if value is not None}


@pytest.fixture
def write(tmp_path):
    """Writes rows to a JSONL file and returns its path."""

    def write(*rows):
        file = tmp_path / "task.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write


def only(file, **arguments):
    (question,) = load_questions(file, **arguments)
    return question


def test_gsm8k(write):
    file = write(GSM8K)
    question = only(file)
    assert kind_of(file) == "gsm8k"
    assert question.gold == "1400"
    assert question.solution == "She has 3 + 4 = 7 apples.\nSold for $1400."
    assert question.open
    assert question.text == GSM8K["question"]


def test_math(write):
    question = only(write(MATH))
    assert question.gold == r"\frac{3}{2}"
    assert question.options == (r"\frac{3}{2}",)  # no decoy for what is no integer
    assert question.facts == (("math_level", "3"), ("subject", "Prealgebra"))
    assert only(write(changed(MATH, level="Level ?"))).fact("math_level") is None
    question = only(write(MATH500))
    assert (question.id, question.gold) == ("test/algebra/170.json", "11")
    assert question.facts == (("math_level", "3"), ("subject", "Algebra"))


def test_dart(write):
    question = only(write(DART))
    assert (question.id, question.gold) == (DART["query_id"], "32")
    assert dict(question.facts) == {
        "math_level": "2",
        "fail_rate_level": "1",
        "subject": "Algebra",
    }
    assert only(write(changed(DART, query_metadata={"level": "Level 5"}))).fact("math_level") == "5"
    assert only(write(changed(DART, query_metadata=None))).fact("math_level") is None
    assert only(write(changed(DART, gt_ans=None, answer=32))).gold == "32"


def test_fail_rate_levels_have_one_size(write):
    rates = [1.0, 0.98, 0.97, 0.97, 0.9, 0.5, 0.2, 0.1, 0.0, 0.0]
    rows = [
        changed(DART, query_id=f"q{i}", query=f"What is {i}?", pass_rate=rate)
        for i, rate in enumerate(rates)
    ]
    unrated = changed(DART, query_id="unrated", pass_rate=None)
    questions = load_questions(write(*rows[::-1], unrated))
    levels = {q.id: q.fact("fail_rate_level") for q in questions}
    assert levels == {f"q{i}": str(1 + i // 2) for i in range(10)} | {"unrated": None}
    assert not any(q.fact("fail_rate") for q in questions)
    # of equal rates the id decides
    assert [levels["q2"], levels["q3"]] == ["2", "2"]
    assert {q.id for q in load_questions(write(*rows), fail_rate_level=5)} == {"q8", "q9"}


def test_responses_are_one_question_each_before_anything_is_drawn(write):
    rows = [
        changed(
            DART,
            query_id=f"q{i // 3}",
            query=f"What is {i // 3}?",
            query_metadata=str({"level": i // 3}),
        )
        for i in range(3, 18)
    ]
    assert [q.id for q in load_questions(write(*rows))] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q.id for q in load_questions(write(*rows), limit=2)] == ["q1", "q2"]
    assert [q.id for q in load_questions(write(*rows), level=4)] == ["q4"]


def test_mmlu(write):
    question = only(write(MMLU))
    assert (question.options, question.answer) == (("4", "6", "7", "8"), 2)
    assert not question.open
    assert question.fact("subject") == "number_theory"
    assert only(write(changed(MMLU, answer="C"))).answer == 2


def test_any_prompt_and_answer(write):
    file = write(PLAIN, {"prompt": "2 + 2 =", "answer": 4, "id": 7})
    paris, four = load_questions(file)
    assert kind_of(file) == "prompt"
    assert (paris.text, paris.gold, paris.options) == (PLAIN["prompt"], "Paris", ("Paris",))
    assert (four.id, four.gold) == ("7", "4")
    file = write({"question": "Capital of France?", "answer": "Paris"})
    assert kind_of(file) == "question"
    assert only(file).gold == "Paris"


def test_ids_are_those_of_the_text_wherever_it_stands(write):
    other = changed(GSM8K, question="Another?")
    first, second = load_questions(write(GSM8K, other))
    assert [second, first] == load_questions(write(other, GSM8K))
    assert first.id != second.id


def test_the_decoy_of_an_integer():
    decoys = {open_question(f"q{i}", "?", "5").options[1] for i in range(200)}
    assert decoys == {"1", "2", "3", "4", "6", "7", "8", "9"}
    for gold in ("0", "1", "-1", "-7", "123456"):
        for i in range(50):
            options = open_question(f"q{i}", "?", gold).options
            assert options == open_question(f"q{i}", "other", gold).options
            value = int(options[1])
            assert value != int(gold)
            assert int(gold) < 0 or value >= 0
    for gold in ("1.5", "1,000", "x", "-0", "007", r"\frac{1}{2}", "9" * 30):
        assert open_question("q", "?", gold).options == (gold,)
    with pytest.raises(ValueError, match="q has no answer"):
        open_question("q", "?", "  ")


BROKEN = {
    "no answer": (changed(PLAIN, answer=None), "'answer' is missing"),
    "null answer": (PLAIN | {"answer": None}, "'answer' is missing"),
    "empty answer": (changed(PLAIN, answer=" "), "'answer' must be a text"),
    "list answer": (changed(PLAIN, answer=["Paris"]), "'answer' must be a text"),
    "answer NaN": (changed(PLAIN, answer=float("nan")), "must be a finite number, it is nan"),
    "truth answer": (changed(PLAIN, answer=True), "'answer' must be a text"),
    "empty prompt": (changed(PLAIN, prompt=""), "'prompt' must be a text"),
    "id a list": (changed(PLAIN, id=[1]), "'id' must be a text or a number"),
    "gsm8k without a number": (changed(GSM8K, answer="x ####"), "has no answer"),
    "math without a box": (changed(MATH, solution="none"), "no complete"),
    "math without a solution": (changed(MATH, solution=None), "'answer' is missing"),
    "math of level 6": (changed(MATH, level="Level 6"), "one of 1 to 5, or Level ?"),
    "dart without an answer": (changed(DART, gt_ans=None), "'gt_ans' is missing"),
    "dart with an empty answer": (changed(DART, gt_ans=""), "has no answer"),
    "metadata that is code": (changed(DART, query_metadata="open('x')"), "dict or the text of one"),
    "metadata too deep": (changed(DART, query_metadata="[" * 9000), "dict or the text of one"),
    "metadata a number": (changed(DART, query_metadata="5"), "'query_metadata' must be a dict"),
    "rate of 2": (changed(DART, pass_rate=2), "between 0 and 1, it is 2"),
    "rate a text": (changed(DART, pass_rate="half"), "must be a number"),
    "mmlu answer 4": (changed(MMLU, answer=4), "index 0..3 or a letter A-D, it is 4"),
    "mmlu answer E": (changed(MMLU, answer="E"), "index 0..3"),
    "mmlu no answer": (changed(MMLU, answer=None), "'answer' is missing"),
    "mmlu number choices": (changed(MMLU, choices=[1, 2]), "'choices' must be a list of texts"),
    "no fields": ({"a": 1, "b": 2}, "no kind of row has the fields ['a', 'b']"),
}


@pytest.mark.parametrize(("row", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named_by_file_and_line(write, row, message):
    with pytest.raises(ValueError, match=r"task\.jsonl:1: ") as error:
        load_questions(write(row))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_later_row_is_of_the_first_ones_kind(write):
    with pytest.raises(ValueError, match=r"task\.jsonl:2: .*no ####"):
        load_questions(write(GSM8K, changed(GSM8K, answer="seven")))
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the row asks what that of line 1 asks"):
        load_questions(write(PLAIN, PLAIN))
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the id '7' is that of line 1 too"):
        load_questions(write(PLAIN | {"id": 7}, PLAIN | {"id": 7, "answer": "Lyon"}))


def test_levels_are_chosen_and_named(write):
    rows = [changed(MATH500, unique_id=str(i), level=i) for i in (1, 2, 4, 2)]
    for i, row in enumerate(rows):
        row["unique_id"] = str(i)
    file = write(*rows)
    assert [q.id for q in load_questions(file, level=2)] == ["1", "3"]
    assert [q.id for q in load_questions(file, level=2, limit=1)] == ["1"]
    with pytest.raises(ValueError, match=r"no question of math_level 3; .*math_level: 1, 2, 4"):
        load_questions(file, level=3)
    with pytest.raises(ValueError, match="level must be one of 1, 2, 3, 4, 5, it is 6"):
        load_questions(file, level=6)
    with pytest.raises(ValueError, match="has no fail_rate_level: dart-math"):
        load_questions(file, fail_rate_level=1)
    with pytest.raises(ValueError, match="has no level: math, math-500, dart-math and arithmetic"):
        load_questions(write(GSM8K), level=1)
    with pytest.raises(ValueError, match="gsm8k has no level"):
        load_questions("gsm8k", level=1)
    rows = [changed(DART, query_id=str(i), pass_rate=i / 5) for i in range(5)]
    file = write(*rows)
    assert [q.id for q in load_questions(file, fail_rate_level=2)] == ["3"]
    assert [q.id for q in load_questions(file, level=2, fail_rate_level=3)] == ["2"]
    with pytest.raises(ValueError, match=r"math_level 1, fail_rate_level 1; .*: 1, 2, 3, 4, 5"):
        load_questions(file, level=1, fail_rate_level=1)
    with pytest.raises(ValueError, match="fail_rate_level 1; what it has is fail_rate_level: none"):
        load_questions(write(changed(DART, pass_rate=None)), fail_rate_level=1)


# The layouts of the Hub

LAYOUTS = {  # task: config, split, rows
    "gsm8k": [("main", "test", [GSM8K, changed(GSM8K, question="Again?")])],
    "math": [
        (subject, "test", [changed(MATH, problem=f"{subject} {i}?") for i in range(2)])
        for subject in SUBJECTS
    ],
    "math-500": [("default", "test", [MATH500])],
    "mmlu": [
        ("all", "test", [MMLU, MMLU, MMLU, changed(MMLU, subject="law")]),
        ("all", "dev", [MMLU]),
    ],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Makes a directory laid out as a data set of the Hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(layout, name="hub"):
        header, root = ["---", "configs:"], tmp_path / name
        for config in dict.fromkeys(config for config, _, _ in layout):
            header += [f"- config_name: {config}", "  data_files:"]
            for other, split, rows in layout:
                if other == config:
                    (root / config).mkdir(parents=True, exist_ok=True)
                    file = root / config / f"{split}-00000-of-00001.parquet"
                    pq.write_table(pa.Table.from_pylist(rows), file)
                    header += [f"  - split: {split}", f"    path: {config}/{split}-*"]
        (root / "README.md").write_text("\n".join([*header, "---", ""]))
        return str(root)

    return make


@pytest.mark.parametrize("task", LAYOUTS)
def test_tasks_load_from_the_layout_of_the_hub(hub, task):
    questions = load_questions(task, hub=hub(LAYOUTS[task]))
    ids = {
        "gsm8k": ["main/test/1", "main/test/2"],
        "math": [f"{subject}/test/{i}" for i in (1, 2) for subject in SUBJECTS],
        "math-500": ["test/algebra/170.json"],
        "mmlu": ["all/test/1", "all/test/4", "all/test/2", "all/test/3"],  # subjects in turn
    }
    assert [question.id for question in questions] == ids[task]
    golds = {
        "gsm8k": "1400",
        "math": r"\frac{3}{2}",
        "math-500": "11",
        "mmlu": "7",
    }
    assert {question.gold for question in questions} == {golds[task]}
    assert all(question.open == (task != "mmlu") for question in questions)


def test_a_broken_row_of_the_hub_is_named(hub):
    rows = [GSM8K, changed(GSM8K, answer="seven")]
    with pytest.raises(ValueError, match=r"hub main test:2: .*no ####"):
        load_questions("gsm8k", hub=hub([("main", "test", rows)]))
    with pytest.raises(ValueError, match=r"split train.*could not be loaded.*JSONL"):
        load_questions("gsm8k", hub=hub([("main", "test", rows)]), split="train")


def test_dart_takes_texts_from_the_pool_and_rates_from_the_table_beside_it(hub):
    """In the fields that the two have on the Hub."""
    pool, table = [], []
    for i in range(6):
        id = f"MATH/train/algebra/{i}.json"
        metadata = {"level": 1 + i % 2}
        asked = {"query_id": id, "query": f"What is {i}?", "gt_ans": str(i), "domain": "Algebra"}
        pool += [asked | {"query_metadata": metadata, "resp": f"{i}, {j}"} for j in range(i + 1)]
        statistics = {"tot_n_samples": 10, "tot_n_corrects": 9 - i, "pass_rate": (9 - i) / 10}
        table.append({"query_id": id, "level": 1 + i % 2, "domain": "Algebra"} | statistics)
    place = hub([("default", "train", pool[::-1])])
    with pytest.raises(ValueError, match=r"hub-query-info.*could not be loaded"):
        load_questions("dart-math", hub=place)
    hub([("default", "train", table[:5])], "hub-query-info")  # one of the pool is not in it
    questions = load_questions("dart-math", hub=place)
    assert [q.gold for q in questions] == ["5", "4", "3", "2", "1", "0"]
    assert [q.fact("fail_rate_level") for q in questions] == [None, "5", "4", "3", "2", "1"]
    assert [q.fact("math_level") for q in questions] == ["2", "1"] * 3
    (question,) = load_questions("dart-math", hub=place, level=1, fail_rate_level=3)
    assert (question.id, question.text) == ("MATH/train/algebra/2.json", "What is 2?")


def test_a_subject_is_chosen(write, hub):
    file = write(MMLU, changed(MMLU, subject="law", question="Which is legal?"))
    assert only(file, subject="law").text == "Which is legal?"
    with pytest.raises(ValueError, match=r"no question of subject art; .*law, number_theory"):
        load_questions(file, subject="art")
    with pytest.raises(ValueError, match="arithmetic has no subject 'art'"):
        load_questions("arithmetic", subject="art")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "trian"}, "has no split, it is 'trian'"),
        ({"hub": "somewhere"}, "has no hub, it is 'somewhere'"),
        ({"seed": 5}, "the seed 5 is of the arithmetic task alone"),
    ],
)
def test_what_a_file_has_no_use_for_is_refused(write, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_questions(write(PLAIN), **arguments)


def test_half_a_character_is_refused(tmp_path):
    file = tmp_path / "task.jsonl"
    rows = ('{"prompt": "caf\\u00e9", "answer": "x"}', '{"prompt": "a\\ud800", "answer": "x"}')
    file.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"task\.jsonl:2: '\\ud800' is half a character"):
        load_questions(str(file))

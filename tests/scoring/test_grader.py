"""Grader: verdicts on 200 pairs, and expressions that hang or exhaust memory."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cola_jax.scoring import grader as grader_module
from cola_jax.scoring.grader import (
    Grade,
    Grader,
    GradeWorker,
    TextGrader,
    choose_grader,
    is_text,
    match_text,
)


def rows_of(name):
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return list(map(json.loads, lines))


GOOD = [("0.5", r"\frac{1}{2}"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x^2+2x+1", "(x+1)^2")]
BAD = [("41", "42"), ("x", "y")]
PARENTHESES = "(" * 10_000 + "1" + ")" * 10_000
HANGING = ["9^{9^{9^{9}}}", PARENTHESES]


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, seconds=60) as grader:
        yield grader


@pytest.fixture
def set_worker(monkeypatch, tmp_path):
    """Replaces the workers' script."""

    def set_script(code):
        script = tmp_path / "worker.py"
        script.write_text(code)
        monkeypatch.setattr(grader_module, "WORKER", (str(script),))

    return set_script


LENIENT = """\
import sys
print('ready', flush=True)
for line in sys.stdin:
    print('true', flush=True)
"""


def test_grade_matches_200_verdicts(grader):
    """By theme, half of them the same to a mathematician; `graded` where math-verify differs."""
    pairs = rows_of("pairs.jsonl")
    assert len({(row["answer"], row["gold"]) for row in pairs}) == 200
    assert sum(row["same"] for row in pairs) == 100
    grades = grader.grade([(row["answer"], row["gold"]) for row in pairs])
    expected = [row.get("graded", row["same"]) for row in pairs]
    assert grades == [Grade.RIGHT if same else Grade.WRONG for same in expected]


def test_hanging_pairs_are_ungraded_and_affect_no_other(monkeypatch):
    """The time limit applies to them alone: on a busy machine it is too short for others."""
    pairs = []
    for i, expression in enumerate(HANGING):
        pairs += [(expression, "5"), GOOD[i], BAD[i]]
    hanging = {json.dumps(pair) + "\n" for pair in pairs[::3]}
    exchange = GradeWorker.exchange

    def exchange_limited(self, line, seconds):
        return exchange(self, line, seconds if line in hanging else 60)

    monkeypatch.setattr(GradeWorker, "exchange", exchange_limited)
    with Grader(workers=2, seconds=0.3) as grader:
        grades = grader.grade(pairs)
    assert grades == [Grade.UNGRADED, Grade.RIGHT, Grade.WRONG] * len(HANGING)


def test_grade_out_of_memory_is_ungraded():
    pair = ("2^{200000000}+1", "1+2^{200000000}")  # which math-verify calls different
    with Grader(workers=1, seconds=60, memory=120 << 20) as grader:
        grades = grader.grade([pair, *GOOD, *BAD])
    assert grades == [Grade.UNGRADED] + [Grade.RIGHT] * 3 + [Grade.WRONG] * 2


def test_grade_ignores_number_after_text(grader):
    texts = ["10 + 9.", "19 - 9.", "9 +", "12)\n9", "10 + 9 = 19, not 9"]
    assert grader.grade([(text, "9") for text in texts]) == [Grade.WRONG] * len(texts)
    assert grader.grade([("9.", "9"), ("x = 9.", "9")]) == [Grade.RIGHT] * 2


def test_grade_caches_verdicts_and_needs_no_worker_for_equal_texts(grader, monkeypatch):
    grader.grade(GOOD)
    monkeypatch.setattr(GradeWorker, "grade", None)
    assert grader.grade([*GOOD, *GOOD, ("Eve ", " Eve")]) == [Grade.RIGHT] * 7
    assert grader.grade([("", "5"), (" ", "5")]) == [Grade.WRONG] * 2


def test_grade_retries_once_in_new_worker(monkeypatch, set_worker):
    set_worker(LENIENT)
    tries = []

    def fail(self, pair):
        tries.append((self.process.pid, pair))
        return Grade.UNGRADED if pair[0] == "no" or len(tries) == 1 else Grade.RIGHT

    monkeypatch.setattr(GradeWorker, "grade", fail)
    with Grader(workers=1) as grader:
        assert grader.grade([("once", "x")]) == [Grade.RIGHT]
        assert grader.grade([("no", "x")] * 2) == [Grade.UNGRADED] * 2
        assert grader.grade([("no", "x")]) == [Grade.UNGRADED]
    assert [pair[0] for _, pair in tries] == ["once", "once", "no", "no"]
    assert len({pid for pid, _ in tries}) == 3  # a new worker after each failure


def test_grader_recycles_workers_and_kills_them_on_exit(set_worker):
    set_worker(LENIENT)
    workers = []
    with Grader(workers=1, recycle=2) as grader:
        for i in range(5):
            assert grader.grade([(f"{i}", "x")]) == [Grade.RIGHT]
            workers.append(grader.idle.get())
            grader.idle.put(workers[-1])
        assert workers[-1].process.poll() is None
    workers = workers[::2]  # each second one is ended at once, and the next started when needed
    assert [worker.served for worker in workers] == [2, 2, 1]
    assert all(worker.process.poll() is not None for worker in workers)


def test_worker_ends_with_its_parent():
    code = (
        "from cola_jax.scoring.grader import GradeWorker;"
        "print(GradeWorker(5.0, 1 << 30).process.pid, flush=True)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(parent.stdout)
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not stat.exists() or "Z" in stat.read_text().rpartition(")")[2]:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"worker {pid} outlived its parent")


def test_worker_does_not_load_jax():
    worker = GradeWorker(60.0, 1 << 30)
    assert worker.grade(GOOD[0]) is Grade.RIGHT
    with open(f"/proc/{worker.process.pid}/maps") as maps:
        assert "jaxlib" not in maps.read()
    worker.kill()


def test_grader_refuses_missing_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "antlr4" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs antlr4: pip install 'cola-jax\[math\]'"):
        Grader()


def test_grader_refuses_worker_that_does_not_start(set_worker):
    set_worker("raise SystemExit(1)")
    with pytest.raises(ValueError, match="does not start"):
        Grader()


def test_match_text_compares_words():
    for row in rows_of("words.jsonl"):
        assert match_text(row["answer"], row["gold"]) is row["same"], row


def placed(*golds):
    return [(f"question q{i}", gold) for i, gold in enumerate(golds)]


WORDS = [
    "Paris",
    "the blue whale",
    "no",
    "World War 2",
    "“Yes.”",
    "東京",
    "H2O",
    "B",
    "Paris (France)",
    *("AC/DC", "C++", "and/or", "¿Qué?", "*NSYNC", "(none)", "O+"),
]
FORMULAS = ["42", "-1.5", "1,000", "7 cm", "2x", "x + y", r"\frac{1}{2}", "$x$", "x^2", "a/b"]
FORMULAS += ["1984", "sin(x)", "x/y", "2+3", "pi/2", "x / two", "ab+c", "a*b", "(x+1)", "(a, b)"]


def test_choose_grader_needs_math_verify_for_numbers_and_formulas_alone(monkeypatch):
    assert choose_grader(placed(*WORDS, "2024-05-01", "9:30 am")) is TextGrader
    assert not any(map(is_text, FORMULAS))
    assert choose_grader(placed(*WORDS, *FORMULAS)) is Grader
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_grader(placed(*WORDS)) is TextGrader
    message = "question q1: the answer '42' is a number .* math_verify and antlr4: pip install"
    with pytest.raises(ValueError, match=message):
        choose_grader(placed("Paris", "42", "x^2"))


def test_text_grader_compares_words():
    same = [("paris", "Paris"), (" The  blue\nwhale. ", "the blue whale"), ('"No!"', "no")]
    same += [("qué", "¿Qué?"), ("ac/dc.", "AC/DC"), ("none", "(none)"), ("c++", "C++")]
    other = [
        ("C", "C++"),
        ("Paris, France", "Paris"),
        ("on", "no"),
        ("", "no"),
        (".", "no"),
        ("Pari", "Paris"),
    ]
    with TextGrader() as grader:
        grades = grader.grade([*same, *other])
    assert grades == [Grade.RIGHT] * len(same) + [Grade.WRONG] * len(other)


def test_text_grader_agrees_with_grader_on_words(grader):
    rows = [row for row in rows_of("words.jsonl") if is_text(row["gold"])]
    pairs = [(row["answer"], row["gold"]) for row in rows if row["same"] is not None]
    assert len(pairs) > 10
    assert TextGrader().grade(pairs) == grader.grade(pairs)

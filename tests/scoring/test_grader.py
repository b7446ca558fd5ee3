"""Grader: verdicts on 200 pairs, and expressions that hang or exhaust memory."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cola_jax.scoring import grader as grader_module
from cola_jax.scoring.grader import Grade, Grader, GradeWorker, match_text


def rows_of(name):
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [(row["answer"], row["gold"], row["same"]) for row in map(json.loads, lines)]


PAIRS = rows_of("pairs.jsonl")  # by theme, half of them the same in a mathematician's judgement

# Where math-verify and the mathematician differ. A version of math-verify that changes any verdict
# fails the test, and changes these lists.
TOO_STRICT = [
    (r"6.02 \times 10^{23}", r"602 \times 10^{21}"),  # floats that round differently
    ("1e3", "1000"),  # read as the product of 1, e and 3
    ("i^2", "-1"),  # i is read as a letter
    ("(1+i)(1-i)", "2"),
]
TOO_LENIENT = [  # units are removed
    (r"3 \text{ cm}", r"3 \text{ m}"),
    (r"3 \text{ hours}", r"3 \text{ minutes}"),
    (r"5 \text{ kg}", r"5 \text{ g}"),
    ("50 cents", r"\$50"),
]
GOOD = [("0.5", r"\frac{1}{2}"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x^2+2x+1", "(x+1)^2")]
BAD = [("41", "42"), ("x", "y")]
HANGING = {
    "tower": "9^{9^{9^{9}}}",
    "factorial": "((10!)!)!",
    "parentheses": "(" * 10_000 + "1" + ")" * 10_000,
    "expansion": "(x+1)^{100000}",
}


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, seconds=60) as grader:
        yield grader


@pytest.fixture
def lenient_worker(monkeypatch, tmp_path):
    """Replaces the workers' script by one that starts at once and calls every answer right."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    print('true', flush=True)\n"
    )
    monkeypatch.setattr(grader_module, "WORKER", (str(script),))


def test_grade_matches_200_verdicts(grader):
    assert len(set(PAIRS)) == 200
    assert sum(same for _, _, same in PAIRS) == 100
    grades = grader.grade([(answer, gold) for answer, gold, _ in PAIRS])
    assert Grade.UNGRADED not in grades
    differ = [
        (answer, gold, same)
        for (answer, gold, same), grade in zip(PAIRS, grades, strict=True)
        if (grade is Grade.RIGHT) != same
    ]
    assert [pair[:2] for pair in differ if pair[2]] == TOO_STRICT
    assert [pair[:2] for pair in differ if not pair[2]] == TOO_LENIENT


def test_hanging_pairs_are_ungraded_and_affect_no_other(monkeypatch):
    """The time limit applies to them alone: on a busy machine it is too short for others."""
    pairs = []
    for i, expression in enumerate(HANGING.values()):
        pairs += [(expression, str(5 + i)), GOOD[i % 3], BAD[i % 2]]
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
    assert grader.grade([*GOOD, *GOOD, ("Eve ", " Eve"), ("", "5"), (" ", "5")]) == [
        *[Grade.RIGHT] * 7,
        *[Grade.WRONG] * 2,
    ]


@pytest.mark.usefixtures("lenient_worker")
def test_grade_retries_once_in_new_worker(monkeypatch):
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


@pytest.mark.usefixtures("lenient_worker")
def test_grader_recycles_workers_and_kills_them_on_exit():
    seen = []
    with Grader(workers=1, recycle=2) as grader:
        for i in range(5):
            worker = grader.idle.get()
            if worker and worker not in seen:
                seen.append(worker)
            grader.idle.put(worker)
            assert grader.grade([(f"{i}", "x")]) == [Grade.RIGHT]
        last = grader.idle.get()
        assert last.process.poll() is None
        grader.idle.put(last)
    assert [worker.served for worker in (*seen, last)] == [2, 2, 1]
    assert all(worker.process.poll() is not None for worker in (*seen, last))


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


def test_grader_refuses_worker_that_does_not_start(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(grader_module, "WORKER", (str(tmp_path / "worker.py"),))
    with pytest.raises(ValueError, match="does not start"):
        Grader()


@pytest.mark.parametrize(("answer", "gold", "same"), rows_of("words.jsonl"))
def test_match_text_compares_words(answer, gold, same):
    assert match_text(answer, gold) is same

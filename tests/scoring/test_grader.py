"""Grading: 200 pairs with a mathematician's verdict, and expressions made to hang or burst."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from cola_jax.scoring import grader as grade
from cola_jax.scoring.grader import Grade, Grader, Worker
from tests.grade_pairs import PAIRS

# Where math-verify and the mathematician differ. The rest of the 200 agree; a new version of
# math-verify that changes any verdict fails the test and changes this list.
TOO_STRICT = [
    (r"6.02 \times 10^{23}", r"602 \times 10^{21}"),  # floats of different rounding
    ("1e3", "1000"),  # the product of 1, e and 3
    ("i^2", "-1"),  # the letter i
    ("(1+i)(1-i)", "2"),
]
TOO_LENIENT = [  # units are taken off, whatever they are
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
MORE = {
    "power": "10^{10^{10}}",
    "megabyte of text": "a" * 1_000_000,
    "braces": "{" * 10_000 + "1" + "}" * 10_000,
    "roots": r"\sqrt{" * 3000 + "2" + "}" * 3000,
    "fractions": r"\frac{1}{1+" * 300 + "1" + "}" * 300,
    "large factorial": "(99999999)!",
    "three terms": "(x+y+z)^{500}",
    "series": r"\sum_{n=1}^{10^9} \frac{1}{n^2}",
    "large series": r"\sum_{n=1}^{1000000000} n^{n}",
    "product": r"\prod_{n=1}^{100000000} n",
    "integral": r"\int_0^1 \sin(\cos(\tan(e^{x^x}))) dx",
    "megabyte of digits": "9" * 1_000_000,
    "megabyte of words": "the answer is " * 70_000,
    "megabyte of terms": "1+" * 500_000 + "1",
    "megabyte of braces": "{" * 1_000_000,
    "megabyte of commas": "1," * 500_000,
    "backslashes": "\\" * 100_000,
    "binomial": r"\binom{1000000000}{500000000}",
    "modulo": r"7^{7^{7^{7}}} \mod 10",
    "large float": "1e999999999",
    "large root": r"\sqrt{10^{100000000}+1}",
    "line breaks": "1\n2\n\u2028 3",
    "half a character": "\ud800",
    "nul": "\0",
}


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, seconds=20) as made:
        yield made


def test_200_pairs(grader):
    assert len(set(PAIRS)) == 200
    assert sum(same for _, _, same in PAIRS) == 100
    grades = grader.grade([(answer, gold) for answer, gold, _ in PAIRS])
    assert Grade.UNGRADED not in grades
    differ = [
        (answer, gold, same)
        for (answer, gold, same), found in zip(PAIRS, grades, strict=True)
        if (found is Grade.RIGHT) != same
    ]
    assert [pair[:2] for pair in differ if pair[2]] == TOO_STRICT
    assert [pair[:2] for pair in differ if not pair[2]] == TOO_LENIENT


def check_hostile(hostile, **settings):
    """Grades hostile expressions among good pairs, whose verdicts must all be right."""
    pairs = []
    for i, expression in enumerate(hostile.values()):
        pairs += [(expression, str(5 + i)), GOOD[i % 3], BAD[i % 2], ("1" * (i + 1), "2")]
    with Grader(**settings) as grader:
        grades = grader.grade(pairs)
    assert grades[1::4] == [Grade.RIGHT] * len(hostile)
    assert grades[2::4] == grades[3::4] == [Grade.WRONG] * len(hostile)
    assert Grade.RIGHT not in grades[::4]
    return grades[::4]


def test_a_number_at_the_end_of_what_is_no_formula_is_no_answer(grader):
    texts = ["10 + 9.", "19 - 9.", "9 +", "12)\n9", "10 + 9 = 19, not 9"]
    assert grader.grade([(text, "9") for text in texts]) == [Grade.WRONG] * len(texts)
    assert grader.grade([("9.", "9"), ("x = 9.", "9")]) == [Grade.RIGHT] * 2


def test_what_hangs_is_ungraded_and_nothing_else_is_lost():
    start = time.monotonic()
    assert set(check_hostile(HANGING, workers=2, seconds=2)) == {Grade.UNGRADED}
    assert time.monotonic() - start < 60  # two tries of two seconds each, in two workers


@pytest.mark.slow
def test_more_that_hangs():
    start = time.monotonic()
    check_hostile(MORE, workers=2)
    assert time.monotonic() - start < 60 + 10 * len(MORE) / 2


def test_what_eats_memory_is_ungraded_though_math_verify_says_wrong():
    pair = ("2^{200000000}+1", "1+2^{200000000}")
    with Grader(workers=1, seconds=30, memory=120 << 20) as grader:
        grades = grader.grade([pair, *GOOD, *BAD])
    assert grades == [Grade.UNGRADED] + [Grade.RIGHT] * 3 + [Grade.WRONG] * 2


def test_verdicts_are_cached_and_texts_that_are_the_same_need_no_worker(grader, monkeypatch):
    grader.grade(GOOD)
    monkeypatch.setattr(Grader, "verify", None)
    assert grader.grade([*GOOD, *GOOD, ("Eve ", " Eve"), ("", "5"), (" ", "5")]) == [
        *[Grade.RIGHT] * 7,
        *[Grade.WRONG] * 2,
    ]


def test_a_failure_is_tried_again_and_then_kept(monkeypatch):
    tries = []

    def fail(self, pair):
        tries.append((self.process.pid, pair))
        return Grade.UNGRADED if pair[0] == "no" or len(tries) == 1 else Grade.RIGHT

    monkeypatch.setattr(Worker, "grade", fail)
    with Grader(workers=1) as grader:
        assert grader.grade([("once", "x")]) == [Grade.RIGHT]
        assert grader.grade([("no", "x")] * 2) == [Grade.UNGRADED] * 2
        assert grader.grade([("no", "x")]) == [Grade.UNGRADED]
    assert [pair[0] for _, pair in tries] == ["once", "once", "no", "no"]
    assert len({pid for pid, _ in tries}) == 3  # a fresh one after each failure


def test_a_worker_killed_from_outside_loses_nothing():
    with Grader(workers=1) as grader:
        worker = grader.idle.get()
        os.kill(worker.process.pid, signal.SIGKILL)
        grader.idle.put(worker)
        assert grader.grade(GOOD + BAD) == [Grade.RIGHT] * 3 + [Grade.WRONG] * 2


def test_workers_are_replaced_in_time_and_end_with_the_grader():
    with Grader(workers=1, recycle=2) as grader:
        seen = set()
        for pair in (*GOOD, *BAD):
            worker = grader.idle.get()
            if worker:
                seen.add(worker)
            grader.idle.put(worker)
            grader.grade([pair])
    assert all(worker.process.poll() is not None for worker in seen)
    assert [worker.served for worker in seen] == [2] * len(seen)
    grader.close()  # twice does no harm


def test_a_worker_loads_no_jax_and_ends_when_its_parent_does():
    code = (
        "import subprocess, sys, time; from cola_jax.scoring.grader import Worker;"
        "print(Worker(5.0, 1 << 30).process.pid, flush=True)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(printed.stdout)
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}") or "Z" in state(pid):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"worker {pid} outlived its parent")
    worker = Worker(5.0, 1 << 30)
    assert worker.grade(GOOD[0]) is Grade.RIGHT
    with open(f"/proc/{worker.process.pid}/maps") as maps:
        assert "jaxlib" not in maps.read()
    with open(f"/proc/{worker.process.pid}/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 150_000  # kB; 60 MB when this was written
    worker.kill()


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2]


def test_the_version_is_that_of_the_package(grader):
    assert grader.version == "0.9.0"  # as pyproject.toml pins it


def test_a_missing_package_is_told_before_anything_is_done(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        grade.importlib.util, "find_spec", lambda name: None if name == "antlr4" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs antlr4: pip install 'cola-jax\[math\]'"):
        Grader()


def test_a_worker_that_does_not_start_is_told(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(grade, "WORKER", tmp_path / "worker.py")
    with pytest.raises(ValueError, match="does not start"):
        Grader()

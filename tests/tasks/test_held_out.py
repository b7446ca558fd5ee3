"""Held-out questions: never in both parts, chosen by a hash, of the same kind."""

import json
from pathlib import Path

import pytest

from cola_jax.question import open_question
from cola_jax.tasks.held_out import check_apart, split
from cola_jax.tasks.task import TaskConfig

QUESTIONS = [open_question(f"q{i}", f"{i} + 1", str(i + 1)) for i in range(40)]


def test_split_keeps_order_and_depends_on_text_and_seed() -> None:
    train, held = split(QUESTIONS, 10)
    assert len(held) == 10
    assert sorted([*train, *held], key=QUESTIONS.index) == QUESTIONS
    assert train == sorted(train, key=QUESTIONS.index)
    fewer, _ = split(QUESTIONS[::-1], 10)
    assert set(fewer) == set(train)
    assert split(QUESTIONS, 10, seed=1)[1] != held
    assert split(QUESTIONS, 0) == (QUESTIONS, [])


def test_split_leaves_questions_for_training() -> None:
    for count in (-1, 40):
        with pytest.raises(ValueError, match=f"{count} questions cannot be held out of 40"):
            split(QUESTIONS, count)


def test_check_apart_names_what_is_in_both() -> None:
    other = open_question("other", "3 + 1", "4")
    with pytest.raises(ValueError, match=r"1 of 2 held-out questions .* \(other\)"):
        check_apart(QUESTIONS, [other, open_question("new", "50 + 1", "51")])
    with pytest.raises(ValueError, match=r"7 of 7 .* \(q0, q1, q2, q3, q4, \.\.\.\)"):
        check_apart(QUESTIONS, QUESTIONS[:7])


def test_task_holds_out_questions_beyond_its_limit() -> None:
    config = TaskConfig("arithmetic", limit=30, held_out=20)
    train, held = config.load()
    assert (len(train), len(held)) == (30, 20)
    assert not {q.text for q in train} & {q.text for q in held}
    assert {q.id for q in TaskConfig("arithmetic", limit=50).load()[0]} == {
        q.id for q in [*train, *held]
    }
    assert len(TaskConfig("arithmetic", held_out=7).load()[0]) == 100


def rows(path: Path, numbers: range, kind: str = "prompt") -> str:
    lines = [json.dumps({kind: f"{i} + 1 =", "answer": str(i + 1)}) for i in numbers]
    path.write_text("\n".join(lines))
    return str(path)


def test_held_out_from_a_file(tmp_path: Path) -> None:
    ours = rows(tmp_path / "train.jsonl", range(8))
    apart = rows(tmp_path / "test.jsonl", range(8, 20))
    train, held = TaskConfig(ours, held_out_from=apart).load()
    assert (len(train), len(held)) == (8, 12)
    assert len(TaskConfig(ours, held_out_from=apart, held_out=3).load()[1]) == 3
    both = rows(tmp_path / "both.jsonl", range(5, 9))
    with pytest.raises(ValueError, match="3 of 4 held-out questions are training questions"):
        TaskConfig(ours, held_out_from=both).load()
    with pytest.raises(ValueError, match="the same kind"):
        TaskConfig("arithmetic", held_out_from=apart).load()


@pytest.mark.parametrize("settings", [{"part": "held-out"}, {"held_out_seed": 1}])
def test_settings_without_held_out_questions_are_refused(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is .*, but no questions are held out"):
        TaskConfig("arithmetic", **settings).load()
    with pytest.raises(ValueError, match="-1 questions cannot be held out"):
        TaskConfig("arithmetic", held_out=-1).load()

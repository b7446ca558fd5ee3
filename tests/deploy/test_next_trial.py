"""`next_trial`: the command that tries the best block of a scan, as its report prints it."""

import dataclasses

import pytest

from cola_jax.deploy.next_trial import next_trial
from cola_jax.tasks.task import TaskConfig
from tests.small_runs import START, WHOLE, letters, make_run

SKIP = (0, 1, 3)


def scan(folder, **task):
    config = dataclasses.asdict(TaskConfig("rows.jsonl", shots=2)) | task
    rows = [letters(f"q{i}", [(WHOLE, 0, True), (SKIP, 0, True)]) for i in range(2)]
    start = START | {"task_config": config}
    settings = {"command": "scan", "questions": 2, "paths": [list(WHOLE), list(SKIP)]}
    return make_run(folder, *rows, start=start, **settings)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"held_out": 9, "limit": 30}, "--held-out 9 --part held-out --limit 30 --prompts 16"),
        ({"held_out_from": "b c.jsonl"}, "--held-out-from 'b c.jsonl' --part held-out --prompts"),
        ({"limit": 2, "shots": 3, "chat": True}, "--num-fewshot 3 --chat --limit"),
    ],
)
def test_next_trial_asks_questions_that_the_scan_did_not_ask(tmp_path, task, words):
    run = scan(tmp_path, **task)
    text, command = next_trial(run, SKIP)
    assert text == "Try the best block on other questions, in other prompts:"
    assert command.startswith("cola verify 0-1,3 --model there --task rows.jsonl ")
    assert words in command
    assert command.endswith(f"--chosen-on {run.directory} --output {run.directory}-trial")


def test_next_trial_says_where_no_question_is_left(tmp_path):
    text, command = next_trial(scan(tmp_path), SKIP)
    assert "asked all questions of the task: hold some out with --held-out" in text
    assert command == ""


def test_next_trial_says_where_no_prompt_can_be_drawn(tmp_path):
    text, command = next_trial(scan(tmp_path, limit=2, shots=None), SKIP)
    assert "for more, scan with examples (--num-fewshot 2" in text
    assert command == ""

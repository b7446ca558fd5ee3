"""Paths that were evaluated in several prompts."""

import json
from pathlib import Path

from cola_jax.report.document import Document
from cola_jax.runs.prompt_results import prompt_results
from cola_jax.runs.run import Run
from tests.small_runs import THIRD, WHOLE, letters, make_run


def in_prompts(directory: Path, verdicts: list[list[bool]]) -> list[Run]:
    """Make a run for each prompt, in which the identity path is right and another one as given."""
    runs = []
    settings = {"command": "evaluate", "paths": [list(WHOLE), list(THIRD)]}
    for prompt, rights in enumerate(verdicts):
        parts = [
            letters(f"q{i}", [(WHOLE, 0, True), (THIRD, 0, right)])
            for i, right in enumerate(rights)
        ]
        runs.append(make_run(directory / str(prompt), *parts, questions=len(rights), **settings))
    return runs


def test_report_in_several_prompts_explains_their_test(tmp_path):
    results = prompt_results(in_prompts(tmp_path, [[True, False], [False, False], [True, False]]))
    assert [results.value(f"prompt {k}", "0,3") for k in (1, 2, 3)] == [-0.5, -1.0, -0.5]
    report = Document.of(results)
    assert report.lead == "12 evaluations on 2 of 2 questions, in 3 prompts; 4 layers."
    assert "questions and, where there are three or more, prompts random" in report.note
    assert "exact" not in report.note


def test_prompts_without_a_question_done_are_reported(tmp_path):
    results = prompt_results(in_prompts(tmp_path, [[], []]))
    assert results.sentences[0].startswith("Nothing compared")
    json.dumps(results.to_json(), allow_nan=False)

"""Tables of questions: each form is read right or refused with help, and never misread."""

import pytest

pytest.importorskip("PIL")

from tests.tasks.question_files import CASES, HELP, outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_files_of_questions_are_read_or_refused_with_help(case, tmp_path):
    result, said = outcome(case, tmp_path)
    assert result == (HELP if isinstance(case.expected, str) else "right"), said
    assert said.isprintable()

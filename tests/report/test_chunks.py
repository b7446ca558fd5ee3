import json
from pathlib import Path

import pytest
from etils import epath

from cola_jax.report import chunks, summarise
from cola_jax.report.chunks import gather_questions, script_json, write_chunks
from tests.report.conftest import NASTY, PARTS, make_run


def test_script_json_cannot_end_its_element_or_line():
    text = script_json({NASTY: "\u2028\u2029&'\""})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {NASTY: "\u2028\u2029&'\""}


def test_gather_questions_says_where_details_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "CHUNK", 700)
    runs = [make_run(tmp_path / name, *PARTS[:count]) for name, count in (("a", 2), ("b", 1))]
    questions = gather_questions(runs, [summarise(run) for run in runs])
    assert [one["run"] for one in questions.listed] == [0] * 5 + [1] * 2
    assert len(questions.chunks) > 2
    for one in questions.listed:
        chunk, place = one["at"]
        assert json.loads(questions.chunks[chunk][place])["id"] == one["id"]
    assert questions.characters == len("".join(map("".join, questions.chunks)))


def test_write_chunks_replaces_older_files(tmp_path: Path):
    folder = epath.Path(tmp_path / "files")
    write_chunks(folder, "token", [[script_json(NASTY)], [script_json(1), script_json(2)]])
    assert len(list(folder.glob("*"))) == 2
    assert (folder / "questions-001.js").read_text() == 'colaQuestions("token",1,[1,2]);\n'
    assert "<" not in (folder / "questions-000.js").read_text()
    write_chunks(folder, "token", [])
    assert not folder.exists()

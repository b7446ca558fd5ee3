import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from etils import epath

from cola_jax.report import questions, summarise
from cola_jax.report.questions import (
    MAX_TEXT,
    MIN_TEXT,
    TEXT_BUDGET,
    gather_questions,
    is_moved,
    limit,
    path_texts,
    question_entries,
    script_json,
    write_chunks,
)
from cola_jax.runs.run import Run
from tests.report.conftest import (
    E2,
    G1,
    NASTY,
    PARTS,
    Q2,
    WHOLE,
    decoded,
    evaluation,
    make_run,
    open_question,
    question,
)


def entries(run: Run) -> tuple[list[Any], list[Any]]:
    listed, details = zip(*question_entries(run, summarise(run), 1_000_000), strict=True)
    return list(listed), list(details)


def test_question_entries_of_options(run: Run):
    listed, details = entries(run)
    assert [q["id"] for q in listed] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q["kind"] for q in listed] == ["C→C", "W→C", "W→W", "C→C", "W→C"]
    assert [q["best"] for q in listed] == [3, 5, None, 4, 3]
    assert [q["first"] for q in listed] == [0, 1, None, 0, 1]
    assert [q["controls"] for q in details] == [[], [[2, False]], [[2, True]], [], []]
    # text, verdict, margin, answer, node, parent, edit, target of a control search
    assert details[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, None],
        ["0-1,3", 1, 1.0, 0, 1, 0, "edit 1", None],
        ["0,3", 0, -1.0, 2, 2, 1, "edit 2", None],
    ]
    assert details[1]["paths"][2][:4] == ["0,2", 0, None, -1]  # JSON has no infinity


def test_question_entries_have_all_paths_and_those_of_controls(tmp_path: Path):
    rows = [evaluation("q1", i, (0,) * (i + 1), 0, True) for i in range(51)]
    control = [row | {"control": True, "target": 2} for row in rows[:40]]
    q1 = question("q1", baseline=True, baseline_answer=0, best=(0,), control=2)
    shown = entries(make_run(tmp_path, (E2, [Q2]), (rows + control, [q1])))[1][1]
    assert [path[4] for path in shown["paths"]] == [*range(51), *range(40)]
    assert {path[7] for path in shown["paths"][51:]} == {2}


def test_question_entries_of_completions(open_run: Run):
    listed, details = entries(open_run)
    assert [q["kind"] for q in listed] == ["C→C", "W→C", "?→C", "W→W"]
    assert [path[8] for path in details[0]["paths"]] == [0, 0, 1, 2]
    assert details[0]["paths"][3][:3] == ["0", None, -0.1]
    # a completion that two paths share is stored once
    assert details[0]["completions"] == [
        ["7", " so 7\n", "stop", 0, 4],
        ["9", " so 9\n", "stop", 0, 4],
        ["seven!", " so seven!\n", "stop", 0, 4],
    ]
    assert details[1]["completions"][0] == [None, " no no", "length", 1, 12]


def test_question_entries_from_several_parts(tmp_path: Path):
    parts = [
        (
            [decoded(f"q{i}", n, (n % 4,) * (9 - n), f"{i} {n}", n == 3) for n in range(8)],
            [open_question(f"q{i}", 1)],
        )
        for i in range(3)
    ]
    for shown in entries(make_run(tmp_path, *parts, scorer="generation"))[1]:
        answers = [shown["completions"][path[8]][0] for path in shown["paths"]]
        assert answers == [f"{shown['id'][1:]} {path[4]}" for path in shown["paths"]]


def test_texts_are_shortened_to_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bounds = (TEXT_BUDGET, 10, MIN_TEXT, MAX_TEXT)
    assert limit(*bounds) == MAX_TEXT
    assert limit(TEXT_BUDGET, 1 << 30, MIN_TEXT, MAX_TEXT) == MIN_TEXT
    monkeypatch.setattr(questions, "TEXT_BUDGET", 600)
    long = [decoded("g1", n, (n,), "7" * 5000, False, text=f"{n}" * 5000) for n in range(2)]
    run = make_run(tmp_path, (long, [G1 | {"text": "x" * 500}]), scorer="generation")
    [one], [shown] = entries(run)
    assert len(one["text"]) == 300
    assert shown["text"] == "x" * 500
    for answer, text, *_ in shown["completions"]:
        assert "4,700 characters left out" in text
        assert "4,800 characters left out" in answer


def test_texts_of_a_megabyte_are_shortened(tmp_path: Path):
    long = "x" * 10**6
    rows = [row | {"question": long, "edit": long} for row in E2]
    [one], [shown] = entries(
        make_run(tmp_path, (rows, [Q2 | {"question": long, "text": long, "options": [long, "b"]}]))
    )
    assert one["id"] == long  # which a link has to name
    assert len(one["text"]) == 300
    edits = [path[6] for path in shown["paths"][1:]]
    for text, most in ((shown["id"], 300), (shown["text"], 21_000), (shown["options"][0], 21_000)):
        assert "characters left out" in text
        assert len(text) < most
    assert all(len(edit) < 300 for edit in edits)


def test_path_texts_write_ids_and_ranges():
    rows = [WHOLE, (0, 1, 1, 2), (2, 0), (), (3,), (4, 5)]
    column = pa.chunked_array([pa.array(rows, pa.list_(pa.int16())).slice(0)])
    assert path_texts(column) == ["0-3", "0-1,1-2", "2,0", "", "3", "4-5"]
    assert path_texts(column.slice(4)) == ["3", "4-5"]


def test_is_moved_ignores_repeats():
    assert not is_moved([0, 1, 2, 1, 2, 3])
    assert is_moved([0, 2, 1, 3])


def test_script_json_cannot_end_its_element_or_line():
    text = script_json({NASTY: "\u2028\u2029&'\""})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {NASTY: "\u2028\u2029&'\""}


def test_gather_questions_says_where_details_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(questions, "CHUNK", 700)
    runs = [make_run(tmp_path / name, *PARTS[:count]) for name, count in (("a", 2), ("b", 1))]
    gathered = gather_questions(runs, [summarise(run) for run in runs])
    assert [entry["run"] for entry in gathered.listed] == [0] * 5 + [1] * 2
    assert len(gathered.chunks) > 2
    for entry in gathered.listed:
        chunk, place = entry["at"]
        assert json.loads(gathered.chunks[chunk][place])["id"] == entry["id"]
    assert gathered.characters == len("".join(map("".join, gathered.chunks)))


def test_write_chunks_replaces_older_files(tmp_path: Path):
    folder = epath.Path(tmp_path / "files")
    names = write_chunks(folder, "token", [[script_json(NASTY)], [script_json(1), script_json(2)]])
    assert names == ["files/questions-000.js", "files/questions-001.js"]
    assert (folder / "questions-001.js").read_text() == 'colaQuestions("token",1,[1,2]);\n'
    assert "<" not in (folder / "questions-000.js").read_text()
    assert write_chunks(folder, "token", []) == []
    assert not folder.exists()

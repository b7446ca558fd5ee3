"""Tables: how files are refused that are not what their suffix says, and what is not read."""

import csv
import json
import os
import subprocess
import sys

import datasets
import pandas
import pytest

from cola_jax.errors import InputError
from cola_jax.tasks import load_questions, tables
from cola_jax.tasks.tables import read_rows

ROW = {"question": "Where is the Prado?", "options": ["Madrid", "Rome"], "answer": "Madrid"}


@pytest.fixture
def saved(tmp_path):
    datasets.Dataset.from_list([ROW]).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_read_rows_names_the_package_that_excel_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda _: None)
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match=r"rows\.xlsx needs a package: pip install openpyxl"):
        read_rows(str(tmp_path / "rows.xlsx"))


def test_read_rows_refuses_several_sheets_and_reads_one_beside_empty_ones(tmp_path):
    file = str(tmp_path / "rows.xlsx")
    for more, empty in (({}, True), (ROW, False)):
        with pandas.ExcelWriter(file) as writer:
            pandas.DataFrame([{"question": "2 + 5 =", "answer": 7}]).to_excel(
                writer, sheet_name="mine", index=False
            )
            pandas.DataFrame([more]).to_excel(writer, sheet_name="more", index=False)
        if empty:
            ((where, _, row),) = read_rows(file)
            assert (where, row) == (f"{file}:2", {"question": "2 + 5 =", "answer": "7"})
            continue
        with pytest.raises(InputError, match="several sheets, 'mine', 'more'"):
            read_rows(file)


@pytest.mark.parametrize("name", ["../other.arrow", "/etc/passwd", "data-00000-of-00001.arrow"])
def test_read_rows_of_a_saved_folder_stay_in_it(saved, name):
    """`datasets` itself reads whatever file the folder names."""
    (file,) = saved.glob("*.arrow")
    if name == file.name:
        file.rename(saved.parent / "other.arrow")
        os.symlink(saved.parent / "other.arrow", file)
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
    with pytest.raises(InputError, match=r"saved.*names the file .*, which is not in the folder"):
        read_rows(str(saved))


def test_read_rows_checks_the_lengths_in_a_saved_folder(saved):
    (file,) = saved.glob("*.arrow")
    content = file.read_bytes()
    place = content.index(b"Where is")
    file.write_bytes(content[: place - 64] + b"\xff" * 64 + content[place:])
    with pytest.raises(InputError, match=r"saved: its file .* cannot be read"):
        read_rows(str(saved))


def test_load_questions_reads_a_file_again_that_has_changed(saved, tmp_path):
    file = tmp_path / "rows.jsonl"
    for text in ("Who?", "Where is it?"):
        file.write_text(json.dumps(ROW | {"question": text}))
        assert [question.text for question in load_questions(file)] == [text]
        datasets.Dataset.from_list([ROW | {"question": text}]).save_to_disk(saved)
        assert [question.text for question in load_questions(saved)] == [text]


def test_load_questions_reads_an_object_in_storage_once_until_it_has_changed(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    reads = []
    read = memory.cat_file
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **options: memory)
    monkeypatch.setattr(memory, "cat_file", lambda path, **_: reads.append(path) or read(path))
    url = "gs://bucket/questions/rows.jsonl"
    for number, text in enumerate(("Who?", "Where is it?"), 1):
        memory.pipe("bucket/questions/rows.jsonl", json.dumps(ROW | {"question": text}).encode())
        for _ in range(3):
            assert [question.text for question in load_questions(url)] == [text]
        assert len(reads) == number


def test_csv_rows_leaves_the_limit_of_cells_as_it_is(tmp_path):
    limit = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text("question,answer\n" + "x" * (limit + 1) + ",yes\n")
    ((_, _, row),) = read_rows(str(tmp_path / "rows.csv"))
    assert len(row["question"]) == limit + 1
    assert csv.field_size_limit() == limit


def test_load_questions_of_json_lines_imports_no_library_of_tables(tmp_path):
    """It would take a second of each command."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    code = (
        "import sys; from cola_jax.tasks import load_questions; "
        f"load_questions({str(tmp_path / 'rows.jsonl')!r}); "
        "print({'pandas', 'datasets', 'pyarrow', 'PIL', 'jax'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

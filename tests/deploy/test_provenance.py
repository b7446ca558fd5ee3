"""`Provenance`: read from outputs, compared with what judges a path, and stated."""

import json
import shutil

import pytest

from cola_jax.deploy.provenance import UNKNOWN_PROVENANCE, Provenance, read_chosen_on
from cola_jax.errors import InputError
from cola_jax.runs.chosen_on import NOTHING, ChosenOn
from cola_jax.runs.estimates import CHOSEN_BY
from cola_jax.runs.results import write_results
from tests.runs.test_earlier import EARLIER
from tests.small_runs import evaluated_run  # noqa: F401

CHOSEN = ChosenOn(frozenset({"a", "b"}), frozenset({"w"}))


@pytest.fixture
def static(tmp_path):
    """A file of `cola static`."""
    file = tmp_path / "static" / "static.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"path": "0-2", "chosen_on": CHOSEN.to_json()}))
    return file


def test_a_file_and_its_directory_tell_where_a_path_was_chosen(static):
    assert read_chosen_on(str(static)) == read_chosen_on(str(static.parent)) == CHOSEN
    provenance = Provenance.of_file(str(static))
    assert provenance is not None
    text = "2 questions of static/static.json, none of which it was measured on"
    assert provenance.note(NOTHING) == text


@pytest.mark.parametrize("content", ["[27, 26]", '{"samples": [NaN, null]}', "{", '{"path": 3}'])
def test_files_of_other_projects_tell_nothing(content, tmp_path):
    (tmp_path / "layers.json").write_text(content)
    assert Provenance.of_file(str(tmp_path / "layers.json")) is None
    assert Provenance.of_file("0-28") is None


def test_a_folder_or_a_repository_tells_it_by_its_path_file(tmp_path, hub):
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"path": "0-2", "chosen_on": CHOSEN.to_json()}))
    hub.repositories["models/me/found"] = {"path.json": file.read_bytes()}
    hub.repositories["models/me/model"] = {"config.json": b"{}"}
    for text in (str(tmp_path), "me/found"):
        provenance = Provenance.of_file(text)
        assert provenance is not None
        assert (provenance.sources, provenance.chosen_on) == ((text,), CHOSEN)
    assert read_chosen_on(str(tmp_path)) == CHOSEN
    assert Provenance.of_file("me/model") is Provenance.of_file("me/none") is None
    file.write_text(json.dumps({"path": "0-2", "chosen_on": "nothing"}))
    with pytest.raises(InputError, match="chosen_on: Input should be a valid dictionary"):
        Provenance.of_file(str(tmp_path))


def test_a_run_tells_it_by_its_rows_and_its_results_alone(evaluated_run, tmp_path):  # noqa: F811
    by_rows = read_chosen_on(str(evaluated_run.directory))
    write_results(evaluated_run.summary(), tmp_path / "results.json")
    assert read_chosen_on(str(tmp_path)) == read_chosen_on(str(tmp_path / "results.json"))
    assert read_chosen_on(str(tmp_path)) == by_rows
    assert len(by_rows.questions) == 2


def test_a_static_path_of_an_earlier_version_is_that_of_its_run(tmp_path):
    folder = shutil.copytree(EARLIER / "evaluate", tmp_path / "static")
    (folder / "static.json").write_text('{"path": "0-2"}')
    provenance = Provenance.of_file(str(folder / "static.json"))
    assert provenance is not None
    assert provenance.chosen_on == read_chosen_on(str(EARLIER / "evaluate"))


def test_folders_of_prompts_count_and_those_that_measure_do_not(evaluated_run, tmp_path):  # noqa: F811
    for name in ("prompt-1", "held-out"):
        shutil.copytree(EARLIER / "evaluate", tmp_path / "task" / name)
    shutil.copytree(evaluated_run.directory, tmp_path / "task" / "prompt-2")
    every = read_chosen_on(str(EARLIER / "evaluate")) | evaluated_run.chosen_on()
    assert read_chosen_on(str(tmp_path)) == every
    with pytest.raises(InputError, match="does not record on which questions"):
        read_chosen_on(str(tmp_path / "task" / "none"))
    shutil.copytree(EARLIER / "evaluate", tmp_path / "deep" / "a" / "b" / "c")
    with pytest.raises(InputError, match="does not record on which questions"):
        read_chosen_on(str(tmp_path / "deep"))  # deeper than the folders of a command


def test_unknown_is_said_alone(static):
    assert Provenance.read(["unknown"]) is UNKNOWN_PROVENANCE
    with pytest.raises(InputError, match="or it is unknown: give one of the two"):
        Provenance.read(["unknown", str(static)])


@pytest.mark.parametrize(
    ("measured", "common"),
    [
        (ChosenOn(frozenset("c"), frozenset("v")), None),
        (ChosenOn(frozenset("abc"), frozenset("v")), "2 questions, 0 prompts"),
        (ChosenOn(frozenset("c"), frozenset("vw")), "0 questions, 1 prompt"),
        (ChosenOn(frozenset("bc"), frozenset("w")), "1 question, 1 prompt"),
    ],
)
def test_overlap_of_questions_or_of_prompts_is_refused_or_stated(measured, common):
    provenance = Provenance(("runs/scan",), CHOSEN)
    stated = provenance.estimate(measured, "0-2")
    assert (stated.name, stated.group) == (CHOSEN_BY, "0-2")
    if common is None:
        provenance.check("0-2", measured, "the task")
        text = "2 questions of scan, none of which it was measured on"
        assert (stated.value, stated.note) == (0, text)
        return
    with pytest.raises(InputError, match=rf"0-2 was chosen \(runs/scan\) on {common} of the task"):
        provenance.check("0-2", measured, "the task")
    assert stated.value == int(common[0])
    text = f"2 questions of scan; overlap allowed: {common} in common"
    assert stated.note == text


def test_an_unknown_provenance_overlaps_with_nothing_and_says_so():
    UNKNOWN_PROVENANCE.check("0-2", CHOSEN, "the task")
    assert UNKNOWN_PROVENANCE.estimate(CHOSEN, "0-2").result == "unknown"
    assert UNKNOWN_PROVENANCE.record() == {"from": "unknown"}


def test_a_protocol_has_the_digest_of_what_chose_and_not_the_list():
    record = Provenance(("runs/scan",), CHOSEN).record()
    assert record == {
        "from": ["runs/scan"],
        "questions": 2,
        "wordings": 1,
        "complete": True,
        "digest": CHOSEN.digest,
    }

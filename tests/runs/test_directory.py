"""The run directory: what it refuses, what damage it notices, and what an interruption leaves."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from cola_jax.execute.metrics import Metrics
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.shard import Shard

SETTINGS = {"model": "abc", "seed": 0, "preset": {"max_skip": 4, "max_repeat": 4}, "paths": [[0]]}
HERE = {"device": "cpu"}


def rows(*ids):
    """The rows of a part: two evaluations for each question."""
    evaluations = [
        {
            **{"question": i, "path": [0, n], "length": 2, "verdict": True, "margin": 0.5},
            **{"answer": 0, "finite": True, "node": n},
        }
        for i in ids
        for n in range(2)
    ]
    question = {"text": "?", "options": [], "prompt_hash": "x", "evaluations": 2}
    return evaluations, [{"question": i} | question for i in ids]


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.open(SETTINGS, HERE) == set()
    return run


def column(table, name="question"):
    return table.column(name).to_pylist()


def test_write_part_keeps_the_order(run):
    run.write_part(*rows("a", "b"))
    run.write_part(*rows("c"))
    again = RunDirectory(run.directory)
    assert again.open(SETTINGS, {"device": "gpu"}) == {"a", "b", "c"}
    assert again.manifest()["starts"] == [HERE, {"device": "gpu"}]
    assert column(again.questions()) == ["a", "b", "c"]
    assert column(again.evaluations(["question"])) == ["a", "a", "b", "b", "c", "c"]
    assert column(again.evaluations(), "path")[1] == [0, 1]
    assert not list(Path(run.directory).rglob("*.partial"))  # nothing half-written is left


def test_parts_are_listed_once_however_many_are_written(run, monkeypatch):
    run.write_part(*rows("a"))
    run.open(SETTINGS, HERE)
    listed = []
    monkeypatch.setattr(run, "parts", lambda kind: listed.append(kind) or parts(kind))
    parts = RunDirectory(run.directory).parts
    for i in "bcd":
        run.write_part(*rows(i))
    assert listed == ["questions"]
    assert column(run.questions()) == ["a", "b", "c", "d"]


def test_a_directory_may_have_the_name_of_a_pattern(tmp_path):
    run = RunDirectory(tmp_path / "run [1] *?")
    run.open(SETTINGS, HERE)
    run.write_part(*rows("a"))
    run.write_part(*rows("b"))
    assert run.open(SETTINGS, HERE) == {"a", "b"}
    with run.locked(), pytest.raises(ValueError, match="another process is filling"):
        RunDirectory(run.directory).locked().__enter__()
    run.set_aside()
    assert run.questions().num_rows == 0
    assert len(list((run.directory / "unfinished").iterdir())) == 2
    run.discard()
    assert not list((run.directory / "unfinished").iterdir())


def test_open_names_other_settings(run):
    other = SETTINGS | {"seed": 3, "preset": {"max_skip": 4, "max_repeat": 0}, "extra": 1}
    with pytest.raises(ValueError, match="created with different settings") as error:
        run.open(other, HERE)
    for difference in (
        "seed: 0 there, 3 here",
        "preset.max_repeat: 4 there, 0 here",
        "extra: None",
    ):
        assert difference in str(error.value)
    for same in ("max_skip", "model", "paths"):
        assert same not in str(error.value)
    assert run.manifest()["starts"] == [HERE]
    run.open(SETTINGS | {"paths": [(0,)]}, HERE)  # a tuple is a list in JSON


def test_manifest_has_a_path_on_one_line_and_is_read_where_it_has_more(tmp_path):
    settings = SETTINGS | {"paths": [(0, 1, 2), (0, 2)]}
    run = RunDirectory(tmp_path / "run")
    run.open(settings, HERE)
    file = run.directory / "run.json"
    assert "      [0, 1, 2],\n      [0, 2]\n" in file.read_text()
    file.write_text(json.dumps(run.manifest(), indent=2))  # as earlier versions wrote it
    assert run.open(settings, HERE) == set()


def test_open_refuses_a_directory_of_other_files(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"not empty and has no run\.json"):
        RunDirectory(tmp_path).open(SETTINGS, HERE)
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]
    with pytest.raises(ValueError, match="not a run directory"):
        RunDirectory(tmp_path).manifest()


def test_check_model_refuses_runs_of_another_checkpoint(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(ValueError, match="not a run directory"):
        run.check_model("abc")
    run.open(SETTINGS | {"model": "abc"}, HERE)
    run.check_model("abc")
    with pytest.raises(ValueError, match=r"run of another checkpoint \(abc, here it is xyz\)"):
        run.check_model("xyz")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}', "null", '"text"'])
def test_damaged_manifest_is_named(run, content):
    (run.directory / "run.json").write_text(content)
    for act in (run.manifest, lambda: run.open(SETTINGS, HERE)):
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            act()


@pytest.mark.parametrize("kind", ["evaluations", "questions"])
@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: b"x" * 90])
def test_damaged_part_is_named_and_written_again_once_removed(run, kind, damage):
    for i in "abc":
        run.write_part(*rows(i))
    file = run.directory / kind / "part-00001.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"part-00001\.parquet is damaged.*remove it"):
        getattr(run, kind)()
    file.unlink()
    assert run.open(SETTINGS, HERE) == {"a", "c"}
    assert column(run.evaluations()) == ["a", "a", "c", "c"]
    run.write_part(*rows("b"))
    assert sorted(column(run.questions())) == ["a", "b", "c"]
    assert column(run.evaluations()) == ["a", "a", "b", "b", "c", "c"]


def test_part_of_another_schema_is_damaged(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    run.write_part(*rows("a"))
    table = pa.table({"question": pa.array([[1]])})
    pq.write_table(table, str(run.directory / "questions" / "part-00000.parquet"))
    with pytest.raises(ValueError, match=r"part-00000\.parquet is damaged"):
        run.questions()


def test_half_written_part_is_written_again(run):
    run.write_part(*rows("a"))
    run.write_part(*rows("b"))
    (run.directory / "questions" / "part-00001.parquet").unlink()  # killed between the two
    (run.directory / "evaluations" / ".part-00002.parquet.partial").write_bytes(b"half")
    assert run.open(SETTINGS, HERE) == {"a"}
    assert column(run.evaluations()) == ["a", "a"]
    run.write_part(*rows("c"))
    assert column(run.questions()) == ["a", "c"]
    assert column(run.evaluations()) == ["a", "a", "c", "c"]
    assert len(list((run.directory / "evaluations").glob("part-*"))) == 2


def test_open_makes_folders_that_are_missing(run):
    for kind in ("questions", "evaluations"):
        (run.directory / kind).rmdir()
    assert run.open(SETTINGS, HERE) == set()
    run.write_part(*rows("a"))
    assert run.open(SETTINGS, HERE) == {"a"}


def test_open_refuses_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="file"):
            RunDirectory(place).open(SETTINGS, HERE)
    with pytest.raises(OSError, match="too long"):
        RunDirectory(tmp_path / ("x" * 300)).open(SETTINGS, HERE)


def test_manifest_holds_what_was_given(run):
    manifest = json.loads((run.directory / "run.json").read_text())
    assert manifest == {"settings": SETTINGS, "starts": [HERE]}


def test_locked_refuses_a_second_process(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with first.locked():
        first.open({}, {})
        with pytest.raises(ValueError, match="another process"), second.locked():
            pass
    with second.locked():
        pass


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [("0/2", "1/2", False), ("0/2", "2/4", True), ("1/4", "2/4", False), ("0/1", "3/4", True)],
)
def test_locked_refuses_shards_that_share_questions(tmp_path, one, other, meet):
    first, second = (RunDirectory(tmp_path / "run", Shard.parse(s)) for s in (one, other))
    sets = [set(range(run.shard.index, 24, run.shard.count)) for run in (first, second)]
    assert bool(sets[0] & sets[1]) == meet
    with first.locked():
        if meet:
            with pytest.raises(ValueError, match=f"filling .* with shard {one}"), second.locked():
                pass
        else:
            with second.locked():
                first.open({}, {"shard": one})
                second.open({}, {"shard": other})
    with second.locked():
        pass


def test_shards_write_parts_of_their_own(tmp_path):
    runs = [RunDirectory(tmp_path / "run", Shard(i, 2)) for i in range(2)]
    for run, ids in zip(runs, ("ac", "bd"), strict=True):
        run.open(SETTINGS, {"shard": str(run.shard)})
        run.write_part(*rows(*ids))
        run.close({"evaluations": len(ids)})
    assert sorted(column(RunDirectory(tmp_path / "run").questions())) == ["a", "b", "c", "d"]
    starts = runs[0].manifest()["starts"]
    assert [start["metrics"] for start in starts] == [{"evaluations": 2}] * 2
    assert runs[0].open(SETTINGS, {}) == {"a", "b", "c", "d"}


def test_open_accepts_what_an_early_interruption_leaves(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.partial").write_text("{")
    assert RunDirectory(tmp_path / "run").open({}, {}) == set()


def test_recorded_reads_a_setting(tmp_path, run):
    assert run.recorded("seed") == 0
    assert run.recorded("other") is None
    assert RunDirectory(tmp_path / "new").recorded("seed") is None
    assert not (tmp_path / "new").exists()


def test_count_earlier_adds_what_is_done(run):
    found = [(False, [0, 1]), (False, None), (True, [0]), (True, [0, 1]), (None, [0])]
    evaluations, questions = rows(*"abcde")
    for question, (baseline, best) in zip(questions, found, strict=True):
        question |= {"baseline": baseline, "best": best}
    run.write_part(evaluations, questions)
    metrics = Metrics(corrected=1)
    run.count_earlier(metrics, num_layers=2)
    assert (metrics.earlier, metrics.evaluations) == (10, 0)
    assert (metrics.corrected, metrics.shortened) == (2, 1)


def test_starts_are_those_of_the_shard(run):
    assert run.starts() == []  # the start above names no shard
    for shard in ("0/1", "0/2"):
        run.open(SETTINGS, {"shard": shard})
    assert run.starts() == [{"shard": "0/1"}]


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (errno.ENOSPC, "No space left on device", r"No space left.*Make room, and start"),
        (errno.EROFS, "Read-only file system", r"Read-only.*Make it writable, and start"),
    ],
)
def test_place_that_takes_no_more_keeps_what_is_written(run, monkeypatch, number, text, message):
    run.write_part(*rows("a"))

    def fail(file, content):
        raise OSError(number, text)

    with monkeypatch.context() as patch:
        patch.setattr("cola_jax.runs.directory.write_whole", fail)
        with pytest.raises(OSError, match=f"/run cannot be .*{message}"):
            run.write_part(*rows("b"))
    run.write_part(*rows("b"))
    assert column(run.questions()) == ["a", "b"]


def test_directory_that_is_removed_says_so(run):
    run.write_part(*rows("a"))
    shutil.rmtree(run.directory)
    with pytest.raises(OSError, match="was moved or removed while it was being written"):
        run.write_part(*rows("b"))

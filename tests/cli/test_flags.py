"""Flags that subcommands share: what they collect, and what they refuse."""

import json

import pytest

from cola_jax.cli.commands import parse
from cola_jax.cli.flags import PathFlags, RunFlags, TaskFlags
from cola_jax.engine.devices import Devices
from cola_jax.engine.engine import QuestionShare
from cola_jax.engine.hosts import Hosts
from cola_jax.engine.local import LocalEngine
from cola_jax.errors import InputError
from cola_jax.formats.identity import Identity
from cola_jax.formats.peers import VALID, mergekit_config
from cola_jax.tasks.task import TaskConfig
from experiments.shapes import llama
from tests import tiny


def test_collect_takes_each_path_once_and_in_order(tmp_path):
    file, config = tmp_path / "paths.txt", llama(5, 8, 1, 1, 8, 8)
    file.write_text("# two paths\n0-4\n\n0,2,4  # a short one\n")
    paths = PathFlags(("0,(1-2)x2,3-4", "0-4"), file).collect(config)
    assert paths == [(0, 1, 2, 1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 2, 4)]
    assert PathFlags().collect(config) == [(0, 1, 2, 3, 4)]
    drawn, again, other = (PathFlags(("0-4",), random=4, seed=i).collect(config) for i in (1, 1, 2))
    assert (len(drawn), drawn[0]) == (5, (0, 1, 2, 3, 4))
    assert drawn == again != other
    assert max(map(len, PathFlags(random=20, max_length=6).collect(config))) <= 6
    for flags, message in (
        (PathFlags(("0-4",), max_length=4), "more than 4 steps"),
        (PathFlags(random=2, max_length=3), "max_length must be at least that"),
    ):
        with pytest.raises(ValueError, match=message):
            flags.collect(config)


def test_collect_takes_files_of_a_path_and_their_folders(tmp_path):
    file, config = tmp_path / "path.json", llama(5, 8, 1, 1, 8, 8)
    file.write_text(json.dumps({"path": "0,2,4", "model": "cd" * 32, "model_name": "other"}))
    for flags in (PathFlags((str(file),)), PathFlags((str(tmp_path), "0,2,4"))):
        assert flags.collect(config) == [(0, 2, 4)]
    with pytest.raises(InputError, match=r"has paths of another model \(other, digest cdcdcd"):
        PathFlags((str(tmp_path),)).collect(config, Identity("ab" * 32, "ours", None, None))
    with pytest.raises(InputError, match="has more than 2 steps"):
        PathFlags((str(tmp_path),), max_length=2).collect(config)


def test_collect_refuses_a_file_that_names_another_model(tmp_path):
    config, file = llama(5, 8, 1, 1, 8, 8), tmp_path / "merge.yaml"
    model = Identity("ab" * 32, "someone/tiny", "someone/tiny", "0" * 40)
    recipe = mergekit_config((0, 1, 1), "someone/tiny@main")
    file.write_text(recipe)
    assert PathFlags(paths_file=file).collect(config, model) == [(0, 1, 1)]
    file.write_text(recipe.replace("tiny@main", "large"))
    with pytest.raises(InputError, match=r"merge\.yaml has paths of another model \(someone/large"):
        PathFlags(paths_file=file).collect(config, model)
    file.write_text(json.dumps({"samples": [{VALID: [[0, 1]]}], "model": "cd" * 32}))
    with pytest.raises(InputError, match=r"another model \(cdcdcdcdcdcd\)"):
        PathFlags(paths_file=file).collect(config, model)


def test_connect_gives_the_engine_of_all_sessions_of_a_command():
    devices = Devices(data=2)
    engine = RunFlags("bfloat16", 4, devices).connect()
    assert isinstance(engine, LocalEngine)
    assert (engine.batch_size, engine.devices) == (4, devices)
    assert RunFlags("float32", 4, devices).connect() is engine
    engine = RunFlags().connect()
    assert isinstance(engine, LocalEngine)
    assert (engine.share, engine.batch_size, engine.devices) == (QuestionShare(), None, Devices())
    assert RunFlags(batch_size="auto").connect() is engine


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (RunFlags(batch_size=0), "at least 1 question, not 0"),
        (RunFlags(worker_resources="TPU=4"), "for workers of Ray: give --engine ray"),
        (RunFlags(engine="dask"), "'dask' is not one of local, ray, and ray://HOST:PORT"),
        (RunFlags(engine="ray", hosts=Hosts(True)), "give --distributed or --engine ray"),
        (RunFlags(engine="ray"), r"pip install 'cola-jax\[ray\]'"),
    ],
)
def test_connect_refuses_engines(monkeypatch, flags, message):
    monkeypatch.setattr("cola_jax.engine.ray.HAS_RAY", False)
    with pytest.raises(ValueError, match=message):
        flags.connect()


def test_prepare_records_the_task_as_it_was_asked(tiny_checkpoint, tmp_path):
    task = TaskConfig(str(tiny.write_questions(tmp_path / "task.jsonl", 4)), limit=3)
    session = TaskFlags(str(tiny_checkpoint), task, "unused").prepare()
    assert len(session.asked) == session.environment["task_config"]["limit"] == 3
    assert session.environment["task"] == task.task
    assert session.environment["model"] == str(tiny_checkpoint)


def test_each_task_has_a_directory():
    def each(tasks):
        return parse(["search", "--model", "m", "--task", tasks, "-o", "o"]).flags.each()

    assert [flags.out for flags in each("arc_easy,mmlu_anatomy")] == [
        "o/arc-easy",
        "o/mmlu-anatomy",
    ]
    with pytest.raises(ValueError, match="two tasks are named arc-easy"):
        each("arc_easy,arc-easy")
    subjects = ["--task", "mmlu_anatomy,mmlu_astronomy"]
    trial = parse(["verify", "0-1", "--model", "m", *subjects, "-o", "o"])
    assert [*trial.each()] == ["mmlu-anatomy", "mmlu-astronomy"]


def test_prompts_are_measured_by_one_process():
    hosts = ["--distributed", "--coordinator", "a:1", "--num-hosts", "2", "--host", "0"]
    hosts += ["--chosen-on", "unknown"]
    trial = parse(["verify", "0-1", "--model", "m", "--task", "arithmetic", "-o", "o", *hosts])
    with pytest.raises(ValueError, match="leave out --distributed"):
        trial.run()


def test_an_unknown_task_is_found_before_the_model_is_looked_for():
    for command in (["evaluate"], ["search"], ["scan"], ["static"], ["menu", "--runs", "run"]):
        given = [*command, "--model", "no/such-model", "--task", "arc_easi", "-o", "out"]
        with pytest.raises(ValueError, match=r"arc_easi.*did you mean arc-easy"):
            parse(given).run()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "give shares such as 0.5,0.25, or none"),
        (["1/3"], "'1/3' is not a share of an update: give numbers such as 0.5,0.25"),
        (["0.5,"], "'' is not a share of an update: give numbers such as 0.5,0.25"),
        (["half"], "'half' is not a share of an update: give numbers such as 0.5,0.25"),
    ],
)
def test_shares_that_are_no_numbers_are_refused_with_an_example(texts, message, capsys):
    for command in ("search", "static"):
        with pytest.raises(SystemExit):
            parse([command, "--model", "m", "--task", "demo", "-o", "o", "--shares", *texts])
        error = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert message in error

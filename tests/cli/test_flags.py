"""Flags that subcommands share: what they collect, and what they refuse."""

import re

import pytest

from cola_jax.cli.commands import parse
from cola_jax.cli.flags import PathFlags, RunFlags, TaskFlags
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import WHOLE, Hosts, Shard
from cola_jax.tasks.task import TaskConfig
from tests import tiny


def test_collect_takes_each_path_once_and_in_order(tmp_path):
    file = tmp_path / "paths.txt"
    file.write_text("# two paths\n0-4\n\n0,2,4  # a short one\n")
    paths = PathFlags(("0,(1-2)x2,3-4", "0-4"), file).collect(5)
    assert paths == [(0, 1, 2, 1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 2, 4)]
    assert PathFlags().collect(5) == [(0, 1, 2, 3, 4)]
    drawn = PathFlags(("0-4",), random=4, seed=1).collect(5)
    assert (len(drawn), drawn[0]) == (5, (0, 1, 2, 3, 4))
    assert drawn == PathFlags(("0-4",), random=4, seed=1).collect(5)
    assert drawn != PathFlags(("0-4",), random=4, seed=2).collect(5)
    assert max(map(len, PathFlags(random=20, max_length=6).collect(5))) <= 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"paths": ("0-4",), "max_length": 4}, "more than 4 layers"),
        ({"max_length": 3, "random": 2}, "max_length must be at least that"),
    ],
)
def test_collect_refuses(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PathFlags(**fields).collect(5)


def test_resolve_gives_the_configuration_of_a_session():
    devices = Devices(data=2)
    config = RunFlags("bfloat16", 4, devices, "1/3").resolve()
    assert (config.dtype, config.batch_size, config.devices) == ("bfloat16", 4, devices)
    assert config.shard == Shard(1, 3)
    assert RunFlags().resolve().shard == WHOLE
    assert RunFlags().resolve().batch_size is None
    with pytest.raises(ValueError, match="give --shard or --distributed"):
        RunFlags(shard="0/2", hosts=Hosts(distributed=True)).resolve()


def test_prepare_records_the_task_as_it_was_asked(tiny_checkpoint, tmp_path):
    task = TaskConfig(str(tiny.write_questions(tmp_path / "task.jsonl", 4)), limit=3)
    session = TaskFlags(str(tiny_checkpoint), task, "unused").prepare()
    assert len(session.encoded) == 3
    assert session.environment["task"] == task.task
    assert session.environment["task_config"]["limit"] == 3
    assert session.environment["model"] == str(tiny_checkpoint)


def test_each_task_has_a_directory(tmp_path):
    parsed = parse(["search", "--model", "m", "--task", "arc_easy,mmlu_anatomy", "-o", "o"])
    assert [each.out for each in parsed.flags.each()] == ["o/arc-easy", "o/mmlu-anatomy"]
    parsed = parse(["search", "--model", "m", "--task", "arc_easy,arc-easy", "-o", "o"])
    with pytest.raises(ValueError, match="is given twice"):
        parsed.flags.each()


def test_an_unknown_task_is_found_before_the_model_is_looked_for():
    for command in (["evaluate"], ["search"], ["scan"], ["static"], ["menu", "--runs", "run"]):
        given = [*command, "--model", "no/such-model", "--task", "arc_easi", "-o", "out"]
        with pytest.raises(ValueError, match=r"arc_easi.*did you mean arc-easy"):
            parse(given).run()

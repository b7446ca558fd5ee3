"""Command lines as users of other tools write them, and files of flags."""

import pytest
import yaml

from cola_jax.cli import COMMANDS, parse
from cola_jax.commands.command_line import flags_of, prepare, values_of
from cola_jax.commands.search import Evaluate, Search

GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]


def test_prepare_leaves_our_own_names():
    assert prepare(["search", *GIVEN], COMMANDS) == ["search", *GIVEN]
    assert prepare([], COMMANDS) == ["--help"]
    assert prepare(["--help"], COMMANDS) == ["--help"]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["evaluate", "--tasks", "a"], ["evaluate", "--task", "a"]),
        (["evaluate", "--output_path=o"], ["evaluate", "--output=o"]),
        (["evaluate", "--apply_chat_template"], ["evaluate", "--chat"]),
        (["evaluate", "--tensor-parallel-size", "2"], ["evaluate", "--tensor", "2"]),
        (["evaluate", "--path", "0-3"], ["evaluate", "--paths", "0-3"]),
        (["export", "--path", "0-3"], ["export", "--path", "0-3"]),
        (["export", "--paths", "0-3"], ["export", "--path", "0-3"]),
        (["generate", "--max_tokens", "3"], ["generate", "--max-new-tokens", "3"]),
        (["report", "--tasks"], ["report", "--tasks"]),  # which it does not have
    ],
)
def test_prepare_renames_flags(given, ours):
    assert prepare(given, COMMANDS) == ours


def test_prepare_names_the_nearest_command():
    with pytest.raises(ValueError, match=r"no command 'serch': did you mean search\? The comm"):
        prepare(["serch"], COMMANDS)


def test_a_file_of_flags_comes_before_the_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    values = {
        "model": "m",
        "tasks": "arc_easy",
        "output_path": "o",
        "limit": 0.5,
        "chat": True,
        "seed": None,
        "variants": ["plain", "shots"],
        "reuse": [],
        "rules": {"max-skip": 2},
        "early-stop": False,
    }
    file.write_text(yaml.safe_dump(values))
    for given in (["--config", str(file)], [f"--config={file}"]):
        command = parse(["search", *given, "--limit", "3"])
        assert isinstance(command, Search)
        assert (command.flags.model, command.flags.out) == ("m", "o")
        assert (command.flags.task.task, command.flags.task.limit) == ("arc-easy", 3)
        assert command.flags.task.chat
        assert command.flags.task.variants == ("plain", "shots")
        assert command.rules.max_skip == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limt: 3", r"run\.yaml: the command has no flag limt \(did you mean limit\?\)"),
        ("limit: {a: 1}", r"has no flag limit\.a"),
        ("limit: [[1]]", r"limit has the unfit value \[\[1\]\]"),
        ("- a", r"must map names of flags to values"),
        ("a: [", r"run\.yaml is not YAML"),
        (None, r"run\.yaml cannot be read \(No such file"),
    ],
)
def test_a_file_of_flags_that_does_not_fit_is_refused(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(["search", "--config", str(file)], COMMANDS)
    with pytest.raises(ValueError, match="--config needs a file"):
        prepare(["search", "--config"], COMMANDS)


def test_values_start_the_command_again(tmp_path):
    given = [*GIVEN, "--limit", "0.5", "--dtype", "bf16", "--rules.max-skip", "2", "--chat"]
    command = parse(["search", *given, "--variants", "plain", "shots"])
    values = dict(values_of(command))
    assert values["dtype"] == "bfloat16"
    own = {flag.removeprefix("--") for flag in flags_of(Search)}
    assert {name for name in values if name not in own} == {
        name for name in values if name.startswith("rules.")
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert parse(["search", "--config", str(tmp_path / "run.yaml")]) == command


def test_flags_of_every_command_are_those_of_its_help(capsys):
    for name in ("search", "evaluate", "export", "generate", "distill", "menu", "benchmark"):
        with pytest.raises(SystemExit):
            parse([name, "--help"])
        shown = capsys.readouterr().out
        for flag in flags_of(COMMANDS[name]):
            assert flag.partition(".")[0] in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dtype", "auto"], None),
        (["--dtype", "fp32"], "float32"),
        (["--dtype", "BF16"], "bfloat16"),
    ],
)
def test_dtype_has_several_names(flags, expected):
    command = parse(["evaluate", *GIVEN, *flags])
    assert isinstance(command, Evaluate)
    assert command.flags.run.dtype == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype", "int8"], "'int8' is no dtype: give auto"),
        (["--batch-size", "many"], "'many' is no batch size"),
        (["--limit", "some"], "limit"),
    ],
)
def test_unfit_values_are_named(capsys, flags, message):
    with pytest.raises(SystemExit):
        parse(["evaluate", *GIVEN, *flags])
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).replace("│", "").split())

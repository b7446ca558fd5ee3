"""Flags on the command line and in files: names, precedence, and the values that start again."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola_jax.cli.commands import COMMANDS, parse
from cola_jax.cli.flags import General
from cola_jax.cli.parser import RARE, rename, values_of
from cola_jax.cli.runs import Search
from cola_jax.errors import UsageError
from cola_jax.strategies.rules import PRESETS, TreeRules
from tests.cli.conftest import GIVEN, every_flag

PAGE = Path(sys.modules["cola_jax.cli"].__file__ or "").with_name("README.md")


def search(*arguments) -> Any:
    return parse(["search", *GIVEN, *map(str, arguments)])


def test_values_of_flags_may_begin_with_a_hyphen(tmp_path):
    command = search("--rules.block-power", "-0.5", "--held-out-seed=-3")
    assert command.rules.block_power == -0.5
    command = parse(["generate", "--model", "m", "--prompt=-x", "--stop", "a", "- b", "--chat"])
    assert (command.prompt, command.stop) == (("-x",), ("a", "- b"))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values_of(command)))
    again = parse(["generate", "--config", str(file), "--no-chat"])
    assert again == dataclasses.replace(command, chat=False, general=General(file))


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("--tasks", "--task"),
        ("--output_path=o", "--output=o"),
        ("--apply_chat_template", "--chat"),
        ("--max_tokens", "--max-new-tokens"),
        ("a_b=c", "a_b=c"),
    ],
)
def test_rename_takes_the_names_of_other_tools(given, ours):
    assert rename(given) == ours


def test_path_and_paths_are_the_same_flag():
    evaluate: Any = parse(["evaluate", *GIVEN, "--path", "0-4"])
    assert evaluate.path_flags.paths == ("0-4",)


def test_a_file_of_flags_comes_before_the_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    values = {
        **{"model": "m", "tasks": "arc_easy", "output_path": "o", "limit": 0.5, "chat": True},
        **{"seed": None, "variants": ["plain", "shots"], "reuse": [], "early-stop": False},
        "rules": {"max-skip": 2},
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
        ("- a", r"it must map names of flags to values"),
        ("a: [", r"run\.yaml cannot be read"),
        (None, r"there is no such file"),
    ],
)
def test_a_file_that_is_not_one_of_flags_is_refused(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError if text is None else ValueError, match=message):
        search("--config", file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limt: 3", "Unrecognized options: --limt=3"),
        ("limit: {a: 1}", "--limit.a"),
        ("seed: [1, 2]", "Unrecognized options: 2"),
        ("chat: maybe", "Unrecognized options: maybe"),
        ("preset: bset", "invalid choice 'bset'"),
    ],
)
def test_a_bad_flag_of_a_file_is_named_with_the_file(tmp_path, text, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        search("--config", tmp_path / "run.yaml")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "run.yaml" in error


def test_rules_are_those_of_the_preset(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "cola", TreeRules(max_skip=1, widening=3.0))
    for preset in (["--preset", "cola"], ["--preset=best", "--preset=cola"]):
        rules = search(*preset, "--rules.max-move", "1").rules
        assert (rules.max_skip, rules.widening, rules.max_move) == (1, 3.0, 1)
    file = tmp_path / "run.yaml"
    file.write_text("preset: beam\nrules: {width: 2}")
    assert search("--config", file).rules == dataclasses.replace(PRESETS["beam"], width=2)
    file.write_text("rules: {ordered: false}")
    assert search("--config", file).rules.ordered is False


def test_another_preset_replaces_the_rules_of_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values_of(search("--preset", "best", "--rules.max-skip", "2"))))
    assert search("--config", file, "--preset", "best").rules.max_skip == 2
    for preset in ("cola", "beam"):  # of the same kind of rules, and of another
        command = search("--config", file, "--preset", preset, "--rules.max-move", "1")
        assert command.preset == preset
        assert command.rules == dataclasses.replace(PRESETS[preset], max_move=1)
    file.write_text("rules: {max-skip: 2}")  # which belong to no preset
    rules = search("--config", file, "--preset", "cola").rules
    assert rules == dataclasses.replace(PRESETS["cola"], max_skip=2)


def test_values_start_the_command_again(tmp_path):
    given = ["--limit", "0.5", "--dtype", "bf16", "--rules.max-skip", "2", "--chat"]
    values = values_of(search(*given, "--variants", "plain", "shots"))
    assert values["dtype"] == "bfloat16"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert values_of(parse(["search", "--config", str(tmp_path / "run.yaml")])) == values


def test_dtype_has_several_names():
    for name, expected in (("auto", None), ("fp32", "float32"), ("BF16", "bfloat16")):
        assert search("--dtype", name).flags.run.dtype == expected


def test_rare_flags_are_listed_on_the_page_and_set_in_both_ways(tmp_path):
    listed = set(re.findall(r"^\| `([\w.-]+)`", PAGE.read_text(), re.MULTILINE))
    names = {flag for name in COMMANDS if name != "lm-eval" for flag, _ in every_flag(name)}
    assert names >= RARE
    rules = {f"rules.{name}" for preset in PRESETS.values() for name in vars(preset)}
    assert {name.replace("_", "-") for name in RARE | rules} <= listed
    (tmp_path / "run.yaml").write_text("held-out-seed: 3\nrules: {max-skip: 2}\nwait: 5\n")
    command = search("--config", tmp_path / "run.yaml")
    assert (command.flags.task.held_out_seed, command.flags.run.hosts.wait) == (3, 5)
    given = search("--held-out-seed", "3", "--rules.max_skip", "2", "--wait=5")
    assert values_of(command) == values_of(given)


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_a_bug_in_a_flag_is_a_traceback(kind, monkeypatch):
    def fail(self):
        raise kind("a bug")

    monkeypatch.setattr("cola_jax.cli.flags.Hosts.__post_init__", fail)
    with pytest.raises(kind, match="a bug"):
        search()

"""Command lines as people write them, files of flags, help and completion."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola_jax.cli.commands import COMMANDS, SHELLS, parse
from cola_jax.cli.flags import General
from cola_jax.cli.main import main
from cola_jax.cli.parser import RARE, flags_of, rename, values_of
from cola_jax.cli.runs import Search
from cola_jax.errors import UsageError
from cola_jax.strategies.rules import PRESETS

GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]
PAGE = Path(sys.modules["cola_jax.cli"].__file__ or "").with_name("README.md")
OWN = [name for name in COMMANDS if name != "lm-eval"]  # whose help is the harness's


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "-m", "m", "--prompt", "a\udc80"], "'a\\udc80' is not UTF-8 text"),
        (["serch"], "there is no command serch (did you mean search?): `cola --help` lists"),
        (["--versoin"], "(did you mean --version?)"),
        (["--print-completion", "zhs"], "one of bash, zsh, fish (did you mean zsh?)."),
        (["search", *GIVEN, "--simulatoins", "3"], "(did you mean --simulations?)"),
        (["search", *GIVEN, "-x"], "`cola search` has no flag -x."),
        (["search", *GIVEN, "--rules.max-skp", "3"], "(did you mean --rules.max-skip?)"),
        (["search", *GIVEN, "--dtype", "bf17"], "'bf17' is not a dtype (did you mean bf16?)"),
        (["search", *GIVEN, "--batch-size", "many"], "--batch-size: 'many' is not a whole number"),
        (["search", *GIVEN, "--limit", "some"], "a limit of"),
        (["search", *GIVEN, "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["search", *GIVEN, "--device", "tpus"], "is not one of cpu, gpu, cuda, tpu (did you mean"),
        (["search", *GIVEN, "--control", "two"], "'two' is not one of all, one, none."),
        (["search", *GIVEN, "--seed"], "--seed: expected 1 argument."),
        (["search", *GIVEN, "--json=yes"], "--json/--no-json: ignored explicit argument 'yes'."),
        (["search", *GIVEN, "extra"], "`cola search` takes no argument extra."),
        (["search", "--model", "m"], "`cola search` needs --task and --output."),
        (["evaluate", *GIVEN, "--paths"], "--paths: expected at least one argument."),
        (
            ["evaluate", *GIVEN, "-o", __file__],
            "test_commands.py is a file: give a directory.",
        ),
        (["report"], "`cola report` needs RUN-DIRECTORIES."),
        (["search", *GIVEN, "--verbose", "--quiet"], "--verbose and --quiet say the opposite"),
        (
            ["search", *GIVEN, "--config", "nothing.yaml"],
            "--config nothing.yaml: there is no such file",
        ),
        (
            ["scan", *GIVEN, "--task", "arc_easy,gsm8k"],
            "takes one task, not 2 (arc_easy and gsm8k)",
        ),
    ],
)
def test_a_line_says_what_is_wrong(arguments, message, refused):
    assert message in refused(*arguments, status=2)


def test_values_of_flags_may_begin_with_a_hyphen(tmp_path):
    command: Any = parse(["search", *GIVEN, "--rules.block-power", "-0.5", "--held-out-seed=-3"])
    assert command.rules.block_power == -0.5
    command = parse(["generate", "--model", "m", "--prompt=-x", "--stop", "a", "- b", "--chat"])
    assert (command.prompt, command.stop) == (("-x",), ("a", "- b"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values_of(command)))
    assert parse(["generate", "--config", str(tmp_path / "run.yaml"), "--no-chat"]) == (
        dataclasses.replace(command, chat=False, general=General(tmp_path / "run.yaml"))
    )


@pytest.mark.parametrize(
    ("command", "given", "ours"),
    [
        ("evaluate", "--tasks", "--task"),
        ("evaluate", "--output_path=o", "--output=o"),
        ("evaluate", "--apply_chat_template", "--chat"),
        ("evaluate", "--path", "--paths"),
        ("export", "--path", "--path"),
        ("export", "--paths", "--path"),
        ("generate", "--max_tokens", "--max-new-tokens"),
        ("report", "--tasks", "--tasks"),  # which it does not have
    ],
)
def test_rename_takes_the_names_of_other_tools(command, given, ours):
    spellings = [each for flag in flags_of(COMMANDS[command]) for each in flag.spellings]
    assert rename(given, spellings) == ours


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
        ("limt: 3", r"run\.yaml: `cola search` has no flag --limt \(did you mean --limit\?\)"),
        ("rules: {max-skp: 3}", r"no flag --rules\.max-skp \(did you mean --rules"),
        ("limit: {a: 1}", r"has no flag --limit\.a"),
        ("limit: {}", r"a limit of"),
        ("seed: [1, 2]", r"takes no argument 2"),
        ("seed: many", r"run\.yaml: --seed: 'many' is not a whole number"),
        ("chat: maybe", r"run\.yaml: .*--chat.* argument 'maybe'"),
        ("preset: bset", r"preset: 'bset' is not one of .*\(did you mean best\?\)"),
        ("- a", r"it must map names of flags to values"),
        ("a: [", r"run\.yaml cannot be read"),
        (None, r"there is no such file"),
    ],
)
def test_a_file_of_flags_that_does_not_fit_is_refused(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse(["search", *GIVEN, "--config", str(file)])


def test_rules_of_a_file_are_those_of_its_preset(tmp_path):
    file = tmp_path / "run.yaml"
    for text, field, value in (
        ("preset: beam\nrules: {width: 2}", "width", 2),
        ("rules: {ordered: false}", "ordered", False),
    ):
        file.write_text(text)
        command = parse(["search", *GIVEN, "--config", str(file)])
        assert isinstance(command, Search)
        assert getattr(command.rules, field) == value


def test_values_start_the_command_again(tmp_path):
    given = [*GIVEN, "--limit", "0.5", "--dtype", "bf16", "--rules.max-skip", "2", "--chat"]
    command = parse(["search", *given, "--variants", "plain", "shots"])
    values = values_of(command)
    assert values["dtype"] == "bfloat16"
    assert {*values} <= {flag.name for flag in flags_of(command)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert values_of(parse(["search", "--config", str(tmp_path / "run.yaml")])) == values


def test_dtype_has_several_names():
    for name, expected in (("auto", None), ("fp32", "float32"), ("BF16", "bfloat16")):
        command: Any = parse(["evaluate", *GIVEN, "--dtype", name])
        assert command.flags.run.dtype == expected


def helped(capsys, monkeypatch, columns, *arguments):
    """Return what the help of a command prints."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_of_a_command_has_several_spellings(capsys, monkeypatch):
    said = {
        helped(capsys, monkeypatch, 100, *arguments)
        for arguments in (["help", "cache"], ["cache", "-h"], ["cache", "--nonsense", "--help"])
    }
    assert len(said) == 1
    assert said.pop().startswith("usage: cola cache [-h]")


def test_help_lists_every_command(capsys, monkeypatch):
    shown = helped(capsys, monkeypatch, 100, "--help")
    assert all(f" {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", OWN)
def test_help_lists_every_flag_but_rare_ones(name, capsys, monkeypatch):
    shown = helped(capsys, monkeypatch, 100, name, "--help")
    assert max(map(len, shown.splitlines())) <= 100
    assert len(shown.splitlines()) <= 95  # without UTF-8, each group takes a line more
    for leak in ("None", "MISSING", "(default: )"):
        assert leak not in shown
    for flag in flags_of(COMMANDS[name]):
        if flag.spellings:
            rare = flag.name in RARE or flag.name.startswith("rules.")
            assert (f"--{flag.name} " in shown) != rare, flag.name


def test_rare_flags_are_listed_on_the_page():
    listed = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line[:3] == "| `"}
    names = {flag.name for command in COMMANDS.values() for flag in flags_of(command)}
    assert names >= RARE
    rules = {f"rules.{name}" for preset in PRESETS.values() for name in vars(preset)}
    assert {name.replace("_", "-") for name in RARE | rules} <= listed


def test_rare_flags_are_set_by_a_file_and_on_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text("held-out-seed: 3\nrules: {max-skip: 2}\nwait: 5\n")
    command: Any = parse(["search", *GIVEN, "--config", str(tmp_path / "run.yaml")])
    assert (command.flags.task.held_out_seed, command.flags.run.hosts.wait) == (3, 5)
    given = ["--held-out-seed", "3", "--rules.max_skip", "2", "--wait=5"]
    expected: Any = parse(["search", *GIVEN, *given])
    assert values_of(command) == values_of(expected)


@pytest.mark.parametrize("shell", SHELLS)
def test_print_completion(shell, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert not end.value.code
    script = capsys.readouterr().out
    for part in (*COMMANDS, "memory-budget", "letter-strict"):
        assert part in script
    if shutil.which(shell):  # it parses
        subprocess.run([shell, "-n"], input=script, text=True, check=True)

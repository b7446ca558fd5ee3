"""Command lines as users of other tools write them, and files of flags."""

import pytest
import yaml

from cola_jax.cli.command_line import rename, take_shared, values_of
from cola_jax.cli.flag_table import flags_of
from cola_jax.cli.main import COMMANDS, parse
from cola_jax.cli.search import Evaluate, Search
from cola_jax.errors import UsageError

GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]


@pytest.mark.parametrize(
    ("command", "given", "ours"),
    [
        ("evaluate", "--model", "--model"),
        ("evaluate", "--tasks", "--task"),
        ("evaluate", "--output_path=o", "--output=o"),
        ("evaluate", "--apply_chat_template", "--chat"),
        ("evaluate", "--tensor-parallel-size", "--tensor"),
        ("evaluate", "--path", "--paths"),
        ("export", "--path", "--path"),
        ("export", "--paths", "--path"),
        ("generate", "--max_tokens", "--max-new-tokens"),
        ("report", "--tasks", "--tasks"),  # which it does not have
        ("report", "tasks", "tasks"),
    ],
)
def test_rename(command, given, ours):
    assert rename(given, {flag.name for flag in flags_of(COMMANDS[command])}) == ours


def test_take_shared():
    given = ["--limit", "3", "-v", "--config=a.yaml", "--chat"]
    rest, shared = take_shared(given)
    assert rest == ["--limit", "3", "--chat"]
    assert shared == ("a.yaml", True, False, False)
    assert take_shared(["--quiet", "-h"])[1] == (None, False, True, True)
    for wrong in (["--config"], ["--config", "--limit", "3"], ["--config="]):
        with pytest.raises(UsageError, match="--config needs a file"):
            take_shared(wrong)
    with pytest.raises(UsageError, match="give one"):
        take_shared(["-v", "-q"])


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
        ("limt: 3", r"run\.yaml: `cola search` has no flag limt \(did you mean limit\?\)"),
        ("rules: {max-skp: 3}", r"no flag rules\.max-skp \(did you mean rules\.max-skip\?\)"),
        ("limit: {a: 1}", r"has no flag limit\.a"),
        ("limit: {}", r"limit: \{\} is not a value of it"),
        ("extra: {a: {}}", r"has no flag extra\.a"),
        ("preset: []", r"preset: \[\] is not a value of it"),
        ("limit: [[1]]", r"limit: \[\[1\]\] is not a value of it"),
        ("seed: [1, 2]", r"seed: \[1, 2\] is not a value of it"),
        ("seed: true", r"seed: True is not a value of it"),
        ("seed: many", r"run\.yaml: seed: 'many' is not a whole number"),
        ("chat: maybe", r"run\.yaml: chat: 'maybe' is neither true nor false"),
        ("preset: bset", r"preset: 'bset' is not one of .*\(did you mean best\?\)"),
        ("- a", r"must map names of flags to values"),
        ("a: [", r"run\.yaml cannot be read"),
        (None, r"run\.yaml: No such file"),
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
    values = dict(values_of(command))
    assert values["dtype"] == "bfloat16"
    assert {f"--{name}" for name in values} <= {flag.name for flag in flags_of(command)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert parse(["search", "--config", str(tmp_path / "run.yaml")]) == command


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

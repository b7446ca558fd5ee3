"""Command lines and files of flags: names, precedence, refusals, and the flags that are listed."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola_jax.cli.commands import COMMANDS, our_flag, parse
from cola_jax.cli.deployment import LmEval
from cola_jax.cli.flags import SEARCHED, General, flag_values, values_of
from cola_jax.errors import InputError, UsageError
from cola_jax.strategies.rules import PRESETS, TreeRules
from tests.cli.conftest import GIVEN

PAGE = Path(sys.modules["cola_jax.cli"].__file__ or "").with_name("README.md")
POSITIONAL = {"claims", "source", "destination", "run-directories", "run-directory", "arguments"}
NEEDED = {  # by the commands, beside those of `GIVEN`
    **{"convert": ["a", "b"], "report": ["r"], "cache": [], "tasks": [], "demo": []},
    **{"status": ["r"]},
    **{"menu": [*GIVEN, "--runs", "r"], "distill": [*GIVEN, "--run", "r"]},
    "generate": ["--model", "m"],
    "export": ["--model", "m", "--path", "0-4", "--output", "o"],
}


def search(*arguments) -> Any:
    return parse(["search", *GIVEN, *map(str, arguments)])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.yaml"


@pytest.fixture
def printed(capsys, monkeypatch):
    """Run a command line that ends in the parser; return its output, with wide lines."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as end:
            parse([*map(str, arguments)])
        assert (end.value.code or 0) == status
        out, error = capsys.readouterr()
        assert bool(out) == (status == 0)
        return " ".join((out or error).split())

    return run


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["search", "--model", "m"], ("--task", "--output")),
        (["search", *GIVEN, "--config"], ("Missing value for argument '--config'",)),
        (
            ["search", *GIVEN, "--simulatoins", "3"],
            ("Unrecognized options: --simulatoins", "--simulations INT", "cola search --help"),
        ),
        (["search", *GIVEN, "--rules.max-skp", "3"], ("Unrecognized options: --rules.max-skp",)),
        (["search", *GIVEN, "--preset", "bset"], ("invalid choice 'bset'", "'best'")),
        (["search", *GIVEN, "--dtype", "bf17"], ("invalid choice 'bf17'", "'bf16'")),
        (["search", *GIVEN, "--batch-size", "many"], ("--batch-size", "many")),
        (["search", *GIVEN, "--limit", "some"], ("a limit of",)),
    ],
)
def test_mistyped_words_are_named_with_their_rule(arguments, messages, printed):
    error = printed(*arguments, status=2)
    assert all(message in error for message in messages), error


@pytest.mark.parametrize("name", list(COMMANDS))
def test_words_that_are_not_utf_8_are_refused_before_any_work(name):
    words = [name, *NEEDED.get(name, GIVEN)]
    with pytest.raises(UsageError, match=r"'--output=a\\udcff' is not UTF-8: use a name without"):
        parse([*words, "--output=a\udcff"])


def test_a_mistyped_command_is_named():
    with pytest.raises(UsageError, match=r"unknown command 'serch' \(did you mean search\?\)"):
        parse(["serch"])


def test_flags_of_earlier_versions_name_those_of_this(file):
    for words in (["--variants", "chat"], ["--variants=chat"], ["--robust"]):
        with pytest.raises(UsageError, match="is no longer a flag: give --prompts N"):
            search(*words)
    with pytest.raises(UsageError, match=r"--rules.exits is no longer a flag: give --preset early"):
        search("--rules.exits", "8")
    with pytest.raises(UsageError, match=r"--share is no longer a flag: give --format peft\."):
        parse(["export", "--share"])
    file.write_text("variants: [chat]")
    with pytest.raises(UsageError, match="--variants is no longer a flag"):
        search("--config", file)


def test_a_bad_flag_of_a_file_is_named_with_the_file(file, printed):
    for text, message in (
        ("limt: 3", "Unrecognized options: --limt=3"),
        ("limit: {a: 1}", "--limit.a"),
        ("seed: [1, 2]", "Unrecognized options: 2"),
        ("preset: bset", "invalid choice 'bset'"),
    ):
        file.write_text(text)
        error = printed("search", *GIVEN, "--config", file, status=2)
        assert message in error
        assert "run.yaml" in error


def test_a_file_that_does_not_hold_flags_is_refused(file):
    with pytest.raises(FileNotFoundError):
        search("--config", file)
    for text, message in (("- a", "must map names of flags to values"), ("a: [", "cannot be read")):
        file.write_text(text)
        with pytest.raises(InputError, match=rf"run\.yaml.*{message}"):
            search("--config", file)


def test_names_and_values_of_other_tools_are_taken():
    names = {"--tasks": "--task", "--output_path=o": "--output=o", "a_b=c": "a_b=c"}
    names |= {"--max_tokens": "--max-new-tokens", "--apply_chat_template": "--chat"}
    assert {name: our_flag(name) for name in names} == names
    for name, dtype in (("auto", None), ("fp32", "float32"), ("bf16", "bfloat16")):
        assert search("--dtype", name).flags.run.dtype == dtype
    flags = search("--batch_size", "auto", "--limit", "10%", "--tensor_parallel_size=2").flags
    assert (flags.run.batch_size, flags.task.limit, flags.run.devices.tensor) == ("auto", 0.1, 2)
    evaluate: Any = parse(["evaluate", *GIVEN, "--path", "0-4"])
    assert evaluate.path_flags.paths == ("0-4",)
    arguments = ["--model", "cola", "--tasks", "a,b", "--preset", "nothing of ours", "--help"]
    assert parse(["lm-eval", *arguments]) == LmEval(tuple(arguments))


def test_values_start_the_command_again(file):
    """Also those that begin with a hyphen."""
    command = search("--rules.block-power", "-0.5", "--held-out-seed=-3", "--dtype", "bf16")
    values = values_of(command)
    assert (values["rules.block-power"], values["dtype"]) == (-0.5, "bfloat16")
    file.write_text(yaml.safe_dump(values))
    assert values_of(parse(["search", "--config", str(file)])) == values
    command = parse(["generate", "--model", "m", "--prompt=-x", "--stop", "a", "- b", "--chat"])
    assert (command.prompt, command.stop) == (("-x",), ("a", "- b"))
    file.write_text(yaml.safe_dump(values_of(command)))
    again = parse(["generate", "--config", str(file), "--no-chat"])
    assert again == dataclasses.replace(command, chat=False, general=General(file))


def test_a_file_of_flags_comes_before_the_command_line(file):
    values = {
        **{"model": "m", "tasks": "arc_easy", "output_path": "o", "limit": 0.5, "chat": True},
        **{"seed": None, "variants": [], "reuse": ["a", "b"], "robust": False},
        "rules": {"max-skip": 2, "exits": 0},
    }
    file.write_text(yaml.safe_dump(values))
    for given in (["--config", str(file)], [f"--config={file}"]):
        command: Any = parse(["search", *given, "--limit", "3"])
        flags, task = command.flags, command.flags.task
        assert (flags.model, flags.out, task.task, task.limit) == ("m", "o", "arc-easy", 3)
        assert task.chat
        assert command.reuse == ("a", "b")
        assert command.rules.max_skip == 2


def test_rules_are_those_of_the_preset(file, monkeypatch):
    monkeypatch.setitem(PRESETS, "cola", TreeRules(max_skip=1, widening=3.0))
    for preset in (["--preset", "cola"], ["--preset=best", "--preset=cola"]):
        rules = search(*preset, "--rules.max-move", "1").rules
        assert (rules.max_skip, rules.widening, rules.max_move) == (1, 3.0, 1)
    file.write_text("preset: stochastic-beam\nrules: {width: 2}")
    assert search("--config", file).rules == dataclasses.replace(
        PRESETS["stochastic-beam"], width=2
    )
    file.write_text("preset: beam")
    for words in (["--preset", "beam"], ["--config", file]):
        with pytest.raises(InputError, match="beam is now called stochastic-beam"):
            search(*words)
    file.write_text("rules: {ordered: false}")
    assert search("--config", file).rules.ordered is False


def test_parts_and_shares_are_those_of_the_preset_unless_flags_say_otherwise(file):
    for words, parts, shares in (
        ([], False, ()),
        (["--parts", "--shares", "0.5"], True, (0.5,)),
        (["--preset", "parts"], True, ()),
        (["--preset", "parts", "--no-parts"], False, ()),
        (["--preset", "damped"], False, (0.5, 0.25)),
        (["--preset", "damped", "--shares", "0.75"], False, (0.75,)),
        (["--preset", "damped", "--shares", "none"], False, ()),
    ):
        command = search(*words)
        assert (command.parts, command.shares) == (parts, shares)
        file.write_text(yaml.safe_dump(values_of(command)))
        assert values_of(search("--config", file)) == values_of(command)
        command = search("--config", file, "--preset", "drllm")  # whose own they are
        assert (command.parts, command.shares) == (False, ())
    with pytest.raises(UsageError, match=r"--rules.shares is no longer a flag: give --shares"):
        search("--rules.shares", "0.5")


def test_simulations_are_those_of_the_preset(file):
    assert search().budget == 100
    assert search("--preset", "cola-paper").budget == 200
    assert search("--preset", "cola-appendix", "--simulations", "7").budget == 7
    file.write_text(yaml.safe_dump(values_of(search("--preset", "drllm"))))
    assert search("--config", file).budget == 50


def test_another_preset_replaces_the_rules_of_a_file(file):
    file.write_text(yaml.safe_dump(values_of(search("--preset", "best", "--rules.max-skip", "2"))))
    assert search("--config", file, "--preset", "best").rules.max_skip == 2
    for preset in ("cola", "stochastic-beam"):  # of the same kind of rules, and of another
        command = search("--config", file, "--preset", preset, "--rules.max-move", "1")
        assert command.preset == preset
        assert command.rules == dataclasses.replace(PRESETS[preset], max_move=1)
    file.write_text("rules: {max-skip: 2}")  # which belong to no preset
    rules = search("--config", file, "--preset", "cola").rules
    assert rules == dataclasses.replace(PRESETS["cola"], max_skip=2)


def test_each_flag_is_in_the_help_or_on_the_page(printed):
    listed = set(re.findall(r"^\| `([a-z][\w.-]+)` \| ", PAGE.read_text(), re.MULTILINE))
    names = {name for each in PRESETS.values() for name in vars(each)} - {*SEARCHED}
    rules = {f"rules.{name}".replace("_", "-") for name in names}
    seen = set(rules)
    for name in COMMANDS.keys() - {"lm-eval"}:
        shown = printed(name, "--help")
        for flag, _ in flag_values(parse([name, *NEEDED.get(name, GIVEN)])):
            if flag not in POSITIONAL:
                assert (f"--{flag}" in re.findall(r"--[\w.-]+", shown)) != (flag in listed), flag
                seen.add(flag)
    assert rules <= listed <= seen | COMMANDS.keys()


def test_general_output(printed):
    assert all(f" {name} " in printed("--help") for name in COMMANDS)
    assert printed("--version").startswith("cola-jax ")
    assert "--memory-budget" in printed("--tyro-print-completion", "bash")

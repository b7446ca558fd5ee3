"""The help of every command: groups by what a user decides, prose that fits, and no class names."""

import dataclasses
import inspect
import itertools
import re

import pytest

from cola_jax.cli.flag_table import Flag, field_help, flags_of, members
from cola_jax.cli.help import COMMAND_GROUPS, GROUPS, entry, group_of, text_of
from cola_jax.cli.main import COMMANDS, parse, with_defaults
from cola_jax.strategies.rules import PRESETS

OWN = [name for name in COMMANDS if name != "lm-eval"]  # whose help is the harness's


def helped(capsys, monkeypatch, columns, *arguments):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        parse([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def classes(command):
    """Yields the names of the classes that hold a command's flags."""
    yield command.__name__
    for field in dataclasses.fields(command):
        kind = inspect.get_annotations(command, eval_str=True)[field.name]
        for one in members(getattr(kind, "__origin__", kind)):
            if dataclasses.is_dataclass(one):
                yield from classes(one)


@pytest.mark.parametrize("columns", [60, 100, 120])
@pytest.mark.parametrize("name", OWN)
def test_help_reads_like_prose(name, columns, capsys, monkeypatch):
    shown = helped(capsys, monkeypatch, columns, name)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= min(columns, 100)
    assert not any(line != line.rstrip() for line in lines)
    assert lines[0].startswith(f"usage: cola {name} ")
    for leak in ("None", "MISSING", "OmitArgPrefixes", "(default: )"):
        assert leak not in shown
    for kind in classes(COMMANDS[name]):
        assert kind not in shown or kind.istitle()  # which is a word of English as well
    titles = [line for before, line in itertools.pairwise(lines) if not before][1:]
    if titles[-1].endswith("form."):
        titles.pop()  # the note below the groups
    assert not any("." in title or "_" in title for title in titles)
    assert titles[-1] == "General"
    for flag in flags_of(COMMANDS[name]):
        assert flag.name in shown


def test_every_flag_has_help():
    """A sentence that begins with a capital and ends with a stop, for each preset as well."""
    commands = [with_defaults(command, "best") for command in COMMANDS.values()]
    commands += [with_defaults(COMMANDS["search"], preset) for preset in PRESETS]
    for flag in (flag for command in commands for flag in flags_of(command)):
        assert flag.describe(), flag.name
        text = re.sub(r" \((default: .+|required)\)$", "", text_of(flag))
        assert re.fullmatch(r"[A-Z0-9].*[.)]", text), (flag.name, text)
        assert "  " not in text
        assert flag.switch or flag.metavar.replace("_", "") not in ("", "STR", "INT")


def test_flags_are_grouped_by_what_a_user_decides():
    found = {flag.name: group_of(flag) for flag in flags_of(with_defaults(COMMANDS["search"], ""))}
    assert found["--model"] == found["--dtype"] == "Model"
    assert found["--limit"] == "Task"
    assert found["--scorer"] == "Prompts and scoring"
    assert found["--held-out"] == "Held-out questions"
    assert found["--simulations"] == ""  # the command's own
    assert found["--json"] == found["--output"] == "Output"
    assert found["--memory-budget"] == "Speed and devices"
    assert found["--host"] == "Several processes or hosts"
    assert found["--rules.max-skip"].startswith("Rules of the search")
    every = {flag.name for command in COMMANDS.values() for flag in flags_of(command)}
    named = {word for keys in GROUPS.values() for key in keys for word in key.split()}
    assert {word for word in named if word.startswith("--")} <= every
    listed = [name for names in COMMAND_GROUPS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)


def test_help_has_the_defaults_of_the_preset(capsys, monkeypatch):
    shown = helped(capsys, monkeypatch, 100, "search", "--preset", "beam")
    assert "--rules.width N" in shown
    assert "--rules.exploration" not in shown


def test_text_of_names_choices_and_defaults():
    long = tuple(f"choice-{i}" for i in range(9))
    flag = Flag("--x", "x", choices=long, metavar="NAME", default=long[0], describe=lambda: "what")
    assert text_of(flag) == f"What. One of {', '.join(long)}. (default: choice-0)"
    shown = Flag("--x", "x", choices=("a", "b"), metavar="a|b", describe=lambda: "What.")
    assert text_of(shown) == "What."
    switch = Flag("--x", "x", switch=True, default=True, describe=lambda: "What.")
    assert text_of(switch) == "What. (default: on)"


def test_entry_puts_text_beside_or_below():
    assert entry("--x N", "What.", 12) == "  --x N     What."
    assert entry("--longer NAME", "What.", 12) == "  --longer NAME\n            What."


def test_field_help_reads_texts_and_comments():
    rules = type(PRESETS["cola"])
    assert field_help(rules, "max_times") == "extra runs of a repeated block"  # of the base class
    assert field_help(COMMANDS["demo"], "simulations").startswith("Evaluations per question")
    with pytest.raises(TypeError, match="has no field nothing"):
        field_help(rules, "nothing")

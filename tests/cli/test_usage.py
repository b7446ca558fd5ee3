"""Command lines that cannot be run: one line names what is wrong and the nearest that is right."""

from typing import Any

import pytest

from cola_jax.cli.main import main, parse
from cola_jax.errors import UsageError

GIVEN = ["--model", "m", "--task", "arc_easy", "--output", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "there is no command 'serch' (did you mean search?): `cola --help` lists"),
        (["eval"], "there is no command 'eval' (did you mean evaluate?)"),
        (["zzz"], "there is no command 'zzz': `cola --help` lists them."),
        (["--model", "m"], "--model needs a command before it: `cola --help` lists them."),
        (["--versoin"], "--versoin needs a command before it (did you mean --version?)"),
        (["--version", "search"], "--version takes nothing after it, not 'search'."),
        (["--print-completion"], "--print-completion needs one of bash, zsh, fish."),
        (["--print-completion", "zhs"], "one of bash, zsh, fish (did you mean zsh?)."),
        (["search", *GIVEN, "--simulatoins", "3"], "(did you mean --simulations?)"),
        (["search", *GIVEN, "--sim", "3"], "no flag --sim (did you mean --simulations?)."),
        (["search", *GIVEN, "-x"], "`cola search` has no flag -x."),
        (["search", *GIVEN, "--rules.max-skp", "3"], "(did you mean --rules.max-skip?)"),
        (["search", *GIVEN, "--preset", "beam", "--rules.epsilon", "1"], "no flag --rules.epsilon"),
        (["search", *GIVEN, "--dtype", "bf17"], "'bf17' is not a dtype (did you mean bf16?)"),
        (["search", *GIVEN, "--batch-size", "many"], "--batch-size: 'many' is not a batch size"),
        (["search", *GIVEN, "--limit", "some"], "--limit: a limit of 'some' is neither"),
        (["search", *GIVEN, "--seed", "1.5"], "--seed: '1.5' is not a whole number."),
        (["search", *GIVEN, "--seed=x"], "--seed: 'x' is not a whole number."),
        (["search", *GIVEN, "--device", "tpus"], "is not one of cpu, gpu, cuda, tpu (did you mean"),
        (["search", *GIVEN, "--control", "two"], "'two' is not one of all, one, none."),
        (["search", *GIVEN, "--seed"], "--seed needs a value, N."),
        (["search", *GIVEN, "--seed", "--json"], "needs a value, N, but --json follows it."),
        (["search", *GIVEN, "--json=yes"], "--json takes no value: give --json or --no-json."),
        (["search", *GIVEN, "--chat", "true"], "no argument 'true': --chat takes no value."),
        (["search", *GIVEN, "extra"], "`cola search` takes no argument 'extra'."),
        (["search", "--model", "m"], "`cola search` needs --task and --output."),
        (["search"], "`cola search` needs --model, --task and --output."),
        (["evaluate", *GIVEN, "--paths"], "--paths needs a value, PATH."),
        (["evaluate", *GIVEN, "-o", f"{__file__}/x"], "test_usage.py is a file: give a directory."),
        (["generate", "-m", "m", "--output", __file__], "is a file: give a directory."),
        (["report"], "`cola report` needs RUN_DIRECTORIES."),
        (["search", *GIVEN, "--data", "-1"], "data must be at least 1, it is -1."),
        (["search", *GIVEN, "--task", "mmlu_anatomy", "--subject", "law"], "has one subject"),
        (["search", *GIVEN, "--verbose", "--quiet"], "--verbose and --quiet say the opposite"),
        (["search", *GIVEN, "--config", "nothing.yaml"], "nothing.yaml cannot be read: No such"),
        (["search", *GIVEN, "--config", "/dev/zero"], "--config: /dev/zero is a pipe or device"),
        (["search", *GIVEN, "--config", "a\0b"], "--config: a value cannot have a null character."),
        (["search", *GIVEN, "--task", "a,/dev/zero"], "--task: /dev/zero is a pipe or device"),
        (["convert", "/dev/zero", "o"], "SOURCE: /dev/zero is a pipe or device"),
        (["convert", "a", "gs://b\0c"], "DESTINATION: a value cannot have a null character."),
        (["report", "x" * 300], "RUN_DIRECTORIES: 'xxx"),
        (
            ["scan", *GIVEN, "--task", "arc_easy,gsm8k"],
            "takes one task, not 2 (arc_easy and gsm8k)",
        ),
        (["static", *GIVEN, "--task", "a,b"], "`cola static` takes one task, not 2 (a and b)"),
        (["menu", *GIVEN, "--runs", "r", "--task", "a,b"], "`cola menu` takes one task, not 2"),
        (["distill", *GIVEN, "--run", "r", "--task", "a,b"], "`cola distill` takes one task"),
    ],
)
def test_a_line_says_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_values_of_flags_may_begin_with_a_hyphen():
    command: Any = parse(["search", *GIVEN, "--rules.block-power", "-0.5", "--held-out-seed=-3"])
    assert command.rules.block_power == -0.5
    command = parse(["generate", "--model", "m", "--prompt=-x", "--stop", "a", "- b", "--chat"])
    assert (command.prompt, command.stop) == (("-x",), ("a", "- b"))


def test_help_of_a_command_has_two_spellings(capsys):
    said = []
    for arguments in (["help", "cache"], ["cache", "-h"], ["cache", "--nonsense", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert said[0].startswith("usage: cola cache [FLAGS]\n")


def test_errors_of_usage_are_value_errors():
    with pytest.raises(ValueError, match="no command"):
        parse(["nothing"])
    assert issubclass(UsageError, ValueError)

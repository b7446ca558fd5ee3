"""Command lines: those that are refused, help pages, and completion scripts."""

import shutil
import subprocess

import pytest

from cola_jax.cli.commands import COMMANDS, SHELLS
from cola_jax.cli.main import main
from tests.cli.conftest import GIVEN, every_flag


@pytest.fixture
def printed(capsys, monkeypatch):
    """Run a command line that ends in the parser; return its output, with wide lines."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert (end.value.code or 0) == status
        out, error = capsys.readouterr()
        assert bool(out) == (status == 0)
        return out or error

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "-m", "m", "--prompt", "a\udc80"], "'a\\udc80' is not UTF-8 text"),
        (["serch"], "there is no command serch (did you mean search?): `cola --help` lists"),
        (["--versoin"], "(did you mean --version?)"),
        (["--print-completion", "zhs"], "needs one of bash, zsh, fish."),
        (["search", *GIVEN, "--config", "none.yaml"], "--config none.yaml: there is no such file"),
        (["search", *GIVEN, "--config"], "--config: expected one argument"),
        (["evaluate", *GIVEN, "-o", __file__], "test_commands.py is a file: give a directory."),
        (["scan", *GIVEN, "--task", "arc_easy,gsm8k"], "one task, not 2 (arc_easy and gsm8k)"),
        (["report"], "`cola report` needs RUN-DIRECTORIES"),
    ],
)
def test_bad_command_line_is_one_line(arguments, message, refused):
    assert message in refused(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--simulatoins", "3"], ("Unrecognized options: --simulatoins", "--simulations INT")),
        (["--rules.max-skp", "3"], ("Unrecognized options: --rules.max-skp", "--rules.max-skip")),
        (["extra"], ("Unrecognized options: extra",)),
        (["--seed"], ("Missing value for argument '--seed'",)),
        (["--seed", "1.5"], ("--seed", "'1.5'")),
        (["--preset", "bset"], ("invalid choice 'bset'", "--preset", "'best'")),
        (["--device", "tpus"], ("invalid choice 'tpus'", "one of ('cpu', 'gpu', 'cuda', 'tpu').")),
        (["--scorer", "None"], ("invalid choice 'None'", "one of ('options', 'options-norm', 'le")),
        (["--dtype", "bf17"], ("--dtype: 'bf17' is not a dtype (did you mean bf16?)",)),
        (["--batch-size", "many"], ("a batch size is auto or a whole number, not 'many'",)),
        (["--limit", "some"], ("a limit of",)),
        (["-v", "-q"], ("--verbose and --quiet contradict each other: give one.",)),
    ],
)
def test_bad_flag_is_named_with_its_rule(arguments, messages, printed):
    error = " ".join(printed("search", *GIVEN, *arguments, status=2).split())
    assert all(message in error for message in messages), error
    assert "cola search --help" in error
    assert "Traceback" not in error


def test_missing_flags_are_named_together(printed):
    error = printed("search", "--model", "m", status=2)
    assert "--task" in error
    assert "--output" in error


@pytest.mark.parametrize("arguments", [["help", "cache"], ["cache", "-h"], ["cache", "--help"]])
def test_help_of_a_command_has_several_spellings(arguments, printed):
    assert printed(*arguments).startswith("usage: cola cache [-h]")


def test_help_lists_every_command(printed):
    shown = printed("--help")
    assert all(f" {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "lm-eval"])
def test_help_lists_every_flag_but_rare_ones(name, printed):
    shown = printed(name, "--help")
    for leak in ("None", "MISSING", "(default: )"):
        assert leak not in shown
    for flag, rare in every_flag(name):
        assert (f"--{flag} " in shown) != rare, flag


@pytest.mark.parametrize("shell", SHELLS)
def test_print_completion(shell, printed):
    script = printed("--print-completion", shell)
    for part in (*COMMANDS, "memory-budget", "letter-strict"):
        assert part in script
    if shutil.which(shell):  # it parses
        subprocess.run([shell, "-n"], input=script, text=True, check=True)

"""Odd values for every flag of every command: parsed, or refused with one line."""

import pytest
import tyro
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cola_jax.cli.commands import COMMANDS, parse
from cola_jax.cli.parser import flags_of
from cola_jax.errors import InputError

ODD = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1e400", "-1e400", "9" * 25, "9" * 5000, "0x10"),
    *("1_0", "\uff11\uff12", "\u0663", "1/0", "0/0", "\u0660/\u0662", "-1/2", "0%", "1e9%", "%"),
    *("\u0661\u0662GB", "2**63"),
    *("\0", "a\0b", "\ud800", "\u2028", "../..", "~", "gs://bucket/x", "s3://x", "file:///etc"),
    *(
        "x" * 100_000,
        "(" * 1000,
        "0-" + "9" * 30,
        "(0)x" + "9" * 30,
        "[]",
        "{}",
        "!!python/name:os",
    ),
)
FLAGS = [
    (name, f"--{flag.name}")
    for name, command in COMMANDS.items()
    if name != "lm-eval"  # the harness parses what follows it
    for flag in flags_of(command)
    if flag.spellings and flag.name != "config"  # what it names is read
]


@settings(max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@example(("search", "--rules.exploration"), "nan")
@example(("search", "--memory-budget"), "\u0661\u0662GB")
@example(("evaluate", "--output"), "a\0b")
@given(st.sampled_from(FLAGS), st.sampled_from(ODD) | st.text(max_size=40))
def test_odd_values_are_parsed_or_refused(flag: tuple[str, str], value: str) -> None:
    name, spelling = flag
    needed = [
        word
        for other in flags_of(COMMANDS[name])
        if other.value is tyro.MISSING and f"--{other.name}" != spelling
        for word in ([f"--{other.name}", "1"] if other.spellings else ["1"])
    ]
    said = refusal([name, *needed, f"{spelling}={value}"])
    assert "\n" not in said.strip()
    assert len(said) < 1500


def refusal(arguments: list[str]) -> str:
    """What is said of arguments that cannot be run; "" of those that can."""
    try:
        parse(arguments)
    except InputError as error:
        return str(error)
    except SystemExit:
        pytest.fail("the parser ended the process instead of saying what is wrong")
    return ""

"""Odd values for every flag of every command: parsed, or refused by name."""

import contextlib
import io

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cola_jax.cli.commands import COMMANDS, parse
from cola_jax.errors import InputError
from tests.cli.conftest import GIVEN, NEEDED, every_flag

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
    (name, flag)
    for name in COMMANDS
    if name != "lm-eval"  # the harness parses what follows it
    for flag, _ in every_flag(name)
    if flag != "config"  # whose file is read
]


@settings(max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@example(("search", "rules.exploration"), "nan")
@example(("search", "memory-budget"), "\u0661\u0662GB")
@example(("evaluate", "output"), "a\0b")
@given(st.sampled_from(FLAGS), st.sampled_from(ODD) | st.text(max_size=40))
def test_odd_values_are_parsed_or_refused(flag: tuple[str, str], value: str) -> None:
    name, spelling = flag
    errors = io.StringIO()
    refused = InputError, SystemExit  # of ours, or after an error that tyro prints
    with contextlib.redirect_stderr(errors), contextlib.suppress(*refused):
        parse([name, *NEEDED.get(name, GIVEN), f"--{spelling}={value}"])
    said = errors.getvalue()
    assert not said or f"cola {name} --help" in said  # as tyro ends an error

"""`cola verify --ledger`."""

import json

import pytest

from cola_jax.cli.main import main
from cola_jax.runs.tries import Try, record


def test_ledger_lists_tries_without_other_flags(capsys):
    shared = {"model": "d" * 64, "task": "arc_easy", "questions": ("a", "b"), "prompts": 8}
    record(
        [
            Try.now("protocol", claim="0-28", protocol="1", source="owner/SmolLM2", **shared),
            Try.now("protocol", claim="0-27", protocol="1", source="owner/SmolLM2", **shared),
        ]
    )
    verdict = {"protocol": "1", "source": "owner/SmolLM2", "outcome": "nothing shown"}
    record([Try.now("verdict", claim="0-28", **verdict, **shared)])
    main(["verify", "--ledger", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [(each["claim"], each["outcome"]) for each in listed] == [
        ("0-28", "nothing shown"),
        ("0-27", ""),
    ]
    assert listed[0]["questions"] == 2
    main(["verify", "--ledger"])
    text = " ".join(capsys.readouterr().out.split())
    date = listed[0]["date"][:10]
    assert f"0-28 {date} SmolLM2 arc_easy 2 x 8 nothing shown" in text
    assert f"0-27 {date} SmolLM2 arc_easy 2 x 8 no verdict yet" in text


def test_an_empty_ledger_says_where_it_is(capsys, ledger):
    main(["verify", "--ledger"])
    out, error = capsys.readouterr()
    assert out == ""
    assert f"0 in {ledger}" in error


def test_ledger_takes_no_flags_of_a_trial(capsys):
    with pytest.raises(SystemExit) as end:
        main(["verify", "--ledger", "--margin", "3"])
    assert end.value.code == 2
    assert "--margin" in capsys.readouterr().err

"""The ledger of tries: appended, read, and never in the way."""

import subprocess
import sys
from typing import Any

import pytest

from cola_jax.runs import tries
from cola_jax.runs.tries import Try, earlier, earlier_on, read_tries, record, seen

FIELDS = {"model": "m", "claim": "0-3", "task": "arc", "protocol": "p", "questions": ("a", "b")}


def make(event: Any = "verdict", **changes: Any) -> Try:
    return Try.now(event, **FIELDS | changes)


def test_record_appends_each_try_once():
    began, ended = make("protocol"), make(outcome="nothing shown")
    record([began])
    record([began, make("protocol"), ended])  # later, by the same protocol
    record([ended])
    assert read_tries() == [began, ended]
    assert (ended.version, ended.jax) != ("", "")
    assert ended.date.endswith("+00:00")


def test_read_tries_skips_a_line_that_was_cut(ledger):
    record([make(protocol="1")])
    with ledger.open("ab") as file:
        file.write(make(protocol="2").line()[:40])
    record([make(protocol="3")])
    assert [each.protocol for each in read_tries()] == ["1", "3"]
    ledger.write_bytes(ledger.read_bytes().replace(b'"event":"verdict"', b'"event":"other"', 1))
    assert [each.protocol for each in read_tries()] == ["3"]


def test_read_tries_takes_fields_of_later_versions(ledger):
    ledger.parent.mkdir(exist_ok=True)
    ledger.write_bytes(make().line().replace(b"{", b'{"later":1,', 1))
    assert [each.identity for each in read_tries()] == [make().identity]


@pytest.mark.parametrize("place", ["a folder", "below a file"])
def test_a_ledger_that_cannot_be_written_is_a_warning(place, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    file = tmp_path if place == "a folder" else tmp_path / "file" / "tries.jsonl"
    monkeypatch.setenv("COLA_LEDGER", str(file))
    record([make()])
    assert "this try is not in the ledger" in caplog.text
    assert "COLA_LEDGER" in caplog.text
    assert read_tries() == []


def test_earlier_has_the_outcomes_that_a_protocol_found(ledger):
    record([make("protocol", protocol="1"), make("protocol", protocol="other", claim="0-2")])
    record([make("protocol", protocol="2")])
    record([make(protocol="1", outcome="better"), make("protocol", protocol="3")])
    found = [(each.protocol, each.outcome) for each in earlier("m", "0-3", "2")]
    assert found == [("1", "")]  # whose outcome came later
    found = [(each.protocol, each.outcome) for each in earlier("m", "0-3", "3")]
    assert found == [("1", "better"), ("2", "")]
    assert [each.protocol for each in earlier("m", "0-3")] == ["1", "2", "3"]
    assert earlier("another", "0-3") == []


def test_earlier_on_finds_tries_of_the_same_questions():
    record([make(), make("measured", claim="static", protocol="2", questions=("b", "c"))])
    assert [each.claim for each in earlier_on("m", ["c", "d"])] == ["static"]
    assert len(earlier_on("m", ["b"])) == 2
    assert earlier_on("m", ["d"]) == []
    assert earlier_on("m", ["b"], protocol="p") == []


def test_seen_counts_questions_with_an_outcome():
    every = [make("protocol", questions=("a",)), make("measured", questions=("b", "c"))]
    assert seen(every, ["a", "b", "d"]) == {"b"}


def test_tests_and_their_processes_have_a_ledger_of_their_own(ledger):
    code = "import os; print(os.environ['COLA_LEDGER'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ledger) == str(tries.ledger())


def test_the_ledger_lies_in_the_folder_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("COLA_LEDGER")
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    assert tries.ledger() == tmp_path / "tries.jsonl"

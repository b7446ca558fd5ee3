"""The protocol of a trial: what a trial that has begun is compared with."""

import json

import pytest

from cola_jax.deploy.verify.protocol import PROTOCOL, lock_protocol, read_protocol, with_date
from cola_jax.errors import InputError
from cola_jax.question import digest

PROMPT = {"scorer": "options", "prompt": {"format": "plain", "shots": ["s"]}}
NOW = PROMPT | {"questions_digest": "q", "shots_digest": "s"}
BEFORE = PROMPT | {"task": "t", "prompt": PROMPT["prompt"] | {"hash": "h"}}


def protocol(prompt, **changes):
    task = {"questions": 4, "ids": "i", "prompts": [prompt]} | changes
    content = {"model": "m", "tasks": {"arc": task}}
    return content | {"hash": digest(content)}


@pytest.mark.parametrize("prompt", [NOW, BEFORE])
def test_lock_protocol_returns_that_of_a_trial_that_has_begun(tmp_path, prompt):
    """One of an earlier version too, whose digests were others."""
    before = protocol(prompt)
    assert read_protocol(str(tmp_path)) is None
    written = lock_protocol(str(tmp_path), before, None)
    assert before.items() <= written.items()
    assert json.loads((tmp_path / PROTOCOL).read_text()) == written
    assert read_protocol(str(tmp_path)) == written  # though nothing else has been written
    assert lock_protocol(str(tmp_path), protocol(NOW), before) == before
    for changed, message in (
        (protocol(NOW, ids="other"), r"tasks\.arc\.ids: .?i.? there, .?other.? here"),
        (protocol(NOW | {"scorer": "letter"}), "--scorer: options there, letter here"),
    ):
        with pytest.raises(InputError, match=message):
            lock_protocol(str(tmp_path), changed, before)


@pytest.mark.parametrize("name", ["questions_digest", "shots_digest"])
def test_lock_protocol_compares_the_digests_of_this_version(tmp_path, name):
    with pytest.raises(InputError, match=r"differs from it in tasks\.arc\.prompts"):
        lock_protocol(str(tmp_path), protocol(NOW | {name: "other"}), protocol(NOW))


def test_a_protocol_has_its_date_version_and_tries_beside_its_hash(tmp_path):
    """So it has the same hash in another directory, and on another day."""
    plain = protocol(NOW)
    tried = {"0-3": [{"date": "2026-11-29", "outcome": "worse"}]}
    written = lock_protocol(str(tmp_path), with_date(plain, tried), None)
    assert written["hash"] == plain["hash"]
    assert written["date"] < "9"
    assert written["version"]
    assert lock_protocol(str(tmp_path), with_date(plain, {}), written) == written
    content = (tmp_path / PROTOCOL).read_text()
    for old, new in (("worse", "better"), ("2026-11-29", "2026-11-28"), ('"arc"', '"boolq"')):
        (tmp_path / PROTOCOL).write_text(content.replace(old, new))
        with pytest.raises(InputError, match="edited after it was written"):
            read_protocol(str(tmp_path))

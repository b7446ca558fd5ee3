"""What a session asks by default and as it is told, what it records, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from cola_jax import checkpoint
from cola_jax.runs.devices import Devices
from cola_jax.runs.session import Session
from cola_jax.search import PRESETS
from cola_jax.tasks.task import Asking
from tests import tiny

GSM8K = {"question": "1 and 2?", "answer": "1 + 2 is 3.\n#### 3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny checkpoint, and a file of each kind of questions."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_checkpoint(folder)
    tiny.write_questions(folder / "arc.jsonl", 3)
    rows = {
        "gsm8k": [GSM8K],
        "shots": [GSM8K | {"question": f"{i} and 2?"} for i in range(2, 9)],
        "prompt": [{"prompt": "2 + 2 =", "answer": "4"}, {"prompt": "the sun", "answer": "moon"}],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


@pytest.fixture(scope="module")
def ask(folder):
    words = checkpoint.load_tokenizer(folder / "ours")

    def ask(task, context=256, stop_tokens=lambda: (1, 7), **settings):
        file = folder / f"{task}.jsonl"
        asking = Asking(str(file) if file.exists() else task, **settings)
        return asking.ask(words, context=context, stop_tokens=stop_tokens)

    return ask


@pytest.mark.parametrize(
    ("task", "settings", "scorer", "form"),
    [
        ("arc", {}, "options", None),
        ("arithmetic", {}, "exact", "plain"),
        ("arithmetic", {"format": "direct"}, "exact", "direct"),
        ("arithmetic", {"scorer": "generate"}, "generate", "plain"),
        ("prompt", {}, "exact", "plain"),
        ("gsm8k", {}, "exact", "direct"),
        ("gsm8k", {"format": "harness", "shots": 0}, "generate", "harness"),
    ],
)
def test_the_scorer_of_a_task(ask, task, settings, scorer, form):
    encoded, record = ask(task, context=2000, **settings)
    assert record["scorer"] == scorer
    assert {e.scorer for e in encoded} == {scorer}
    assert (record["prompt"]["format"]["name"] if form else None) == form
    limit = encoded[0].reply.max_new_tokens if scorer == "generate" else None
    assert record.get("max_new_tokens") == limit


def test_the_record_of_prompts(ask):
    encoded, record = ask("arithmetic", limit=5, scorer="generate", max_new_tokens=3, level=2)
    prompt = record["prompt"]
    assert record == json.loads(json.dumps(record))
    assert record["max_new_tokens"] == 3
    assert prompt["stop_ids"] == [1, 7] == list(encoded[0].reply.stop.tokens)
    assert len(prompt["shots"]) == prompt["format"]["shots"] == 2
    assert not set(prompt["shots"]) & {e.question.id for e in encoded}
    others = {
        "shots": {"shots": 1},
        "seed": {"task_seed": 1},
        "level": {"level": 1},
        "limit": {"limit": 4},
        "chat": {"chat": True},
        "stop": {"stop_tokens": lambda: (1,)},
    }
    hashes = {prompt["hash"]}
    for other in others.values():
        settings = {"limit": 5, "scorer": "generate", "level": 2} | other
        hashes.add(ask("arithmetic", **settings)[1]["prompt"]["hash"])
    assert len(hashes) == 1 + len(others)


def test_shots_of_a_file_are_shown(ask, folder):
    more = {"format": "harness", "shots_file": str(folder / "shots.jsonl"), "context": 2000}
    (encoded,), record = ask("gsm8k", **more)
    assert len(record["prompt"]["shots"]) == 5
    assert encoded.reply.max_new_tokens == 256
    (fewer,), _ = ask("gsm8k", shots=2, **more)
    assert fewer.num_tokens < encoded.num_tokens


def test_an_answer_is_found_by_the_rule_that_is_asked_for(ask):
    encoded, record = ask("gsm8k", format="harness", shots=0, rule="number", context=2000)
    assert {e.reply.rule for e in encoded} == {"number"}
    assert record["prompt"]["format"]["extract"] == "number"
    encoded, _ = ask("arithmetic", limit=2, scorer="generate", rule="boxed", context=2000)
    assert encoded[0].reply.stop.rule is not None  # a closed box ends the text


def test_multiple_choice_needs_no_stop_token(ask):
    def missing():
        raise ValueError("no token ends a generation")

    ask("arc", stop_tokens=missing)
    with pytest.raises(ValueError, match="no token ends"):
        ask("arithmetic", stop_tokens=missing)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("arc", {"scorer": "exact"}, "'exact' is for open questions"),
        ("arc", {"scorer": "generate"}, "'generate' is for open questions"),
        ("arc", {"max_new_tokens": 5}, "max_new_tokens is of the scorer `generate`"),
        ("arc", {"rule": "line"}, "rule is of the scorer `generate`"),
        ("arc", {"level": 1}, "level"),
        ("arc", {"split": "trian"}, "has no split, but split is 'trian'"),
        ("arc", {"hub": "somewhere"}, "has no hub, but hub is 'somewhere'"),
        ("arc", {"task_seed": 5}, "the seed 5 applies to the arithmetic task only"),
        ("arc", {"shots_file": "shots.jsonl"}, "shots.jsonl would not be shown"),
        ("gsm8k", {"shots_file": "shots.jsonl"}, "shots.jsonl would not be shown"),
        ("arithmetic", {"rule": "number"}, "rule is of the scorer `generate`"),
        ("arithmetic", {"scorer": "generate", "rule": "last"}, "one of boxed, hashes, number"),
        ("arithmetic", {"scorer": "letter"}, "'letter' is for multiple choice"),
        ("arithmetic", {"scorer": "options"}, "'options' is for multiple choice"),
        ("arithmetic", {"max_new_tokens": 5}, "max_new_tokens is of the scorer `generate`"),
        ("arithmetic", {"scorer": "generate", "max_new_tokens": 0}, "at least 1, it is 0"),
        ("arithmetic", {"scorer": "generate", "max_new_tokens": 250}, "the model's context is 256"),
        ("arithmetic", {"level": 6}, "level must be one of 1, 2, 3, 4, 5, got 6"),
        ("arithmetic", {"level": 0}, "got 0"),
        ("arithmetic", {"fail_rate_level": 1}, "fail"),
        ("arithmetic", {"format": "harness"}, "formats plain, direct, not 'harness'"),
        ("arithmetic", {"shots": -1}, "at least 0, got -1"),
        ("arithmetic", {"limit": 0}, "0"),
        ("prompt", {"shots": 2}, "give a JSONL file of shots"),
        ("prompt", {"level": 1}, "level"),
        (
            "gsm8k",
            {"format": "harness", "scorer": "exact", "shots": 0},
            "use the scorer `generation`",
        ),
        ("gsm8k", {"format": "harness"}, "give a JSONL file of shots"),
        ("arithmetic", {"shots": 60}, "the model's context is 256"),
    ],
)
def test_what_is_refused(ask, task, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        ask(task, **settings)
    assert "\n" not in str(error.value)


def test_a_session_records_how_it_asks(folder):
    model = str(folder / "ours")
    made = {
        scorer: Session.prepare(model, Asking("arithmetic", limit=4, scorer=scorer))
        for scorer in ("exact", "generate")
    }
    for scorer, session in made.items():
        assert session.settings["scorer"] == scorer
        assert session.settings["prompt"]["stop_ids"] == list(checkpoint.stop_tokens(model))
        assert session.environment["asking"]["task"] == "arithmetic"
        json.dumps([session.settings, session.environment])
    assert made["generate"].settings["grader"].startswith("math-verify 0")
    assert "grader" not in made["exact"].settings
    assert made["exact"].settings["task"] != made["generate"].settings["task"]


@pytest.mark.parametrize("scorer", ["exact", "generate"])
def test_a_budget_too_small_is_told_before_the_weights_load(folder, scorer, monkeypatch, tmp_path):
    def fail(*arguments, **keywords):
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr("cola_jax.runs.session.checkpoint.load", fail)
    session = Session.prepare(
        str(folder / "ours"),
        Asking("arithmetic", limit=3, scorer=scorer),
        devices=Devices(data=1, memory_budget="2KB"),
    )
    path = tuple(range(tiny.LAYERS))
    with pytest.raises(ValueError, match="too small"):
        session.evaluate(str(tmp_path / "run"), [path])
    with pytest.raises(ValueError, match="too small"):
        session.search(str(tmp_path / "run"), PRESETS["cola"], simulations=4, leaves=2)
    assert not (tmp_path / "run").exists()


def test_questions_of_one_session_share_a_reply(ask):
    encoded, _ = ask("arithmetic", scorer="generate", limit=7)
    assert len({id(e.reply) for e in encoded}) == 1
    assert all(np.asarray(e.prompts.branch).max() == 0 for e in encoded)


def test_a_token_that_the_model_does_not_have_is_told(folder, tmp_path):
    model = shutil.copytree(folder / "ours", tmp_path / "ours")
    metadata = json.loads((model / "cola.json").read_text())
    (model / "cola.json").write_text(json.dumps(metadata | {"stop_tokens": [1, 9999]}))
    with pytest.raises(ValueError, match="targets run from 1 to 9999"):
        Session.prepare(str(model), Asking("arithmetic", limit=2))

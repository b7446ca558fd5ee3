"""`TaskConfig`: the scorer and the prompts of a task, what is recorded, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from cola_jax import checkpoint
from cola_jax.runs.devices import Devices
from cola_jax.runs.session import RunConfig, Session
from cola_jax.strategies.rules import Settings, TreeRules
from cola_jax.tasks.task import TaskConfig, task_digest
from tests import tiny

GSM8K = {"question": "1 and 2?", "answer": "1 + 2 is 3.\n#### 3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each kind of questions."""
    folder = tmp_path_factory.mktemp("tasks")
    tiny.write_questions(folder / "arc.jsonl", 3)
    rows = {
        "gsm8k": [GSM8K],
        "shots": [GSM8K | {"question": f"{i} and 2?"} for i in range(2, 9)],
        "prompt": [{"prompt": "2 + 2 =", "answer": "4"}, {"prompt": "the sun", "answer": "moon"}],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


@pytest.fixture(scope="module")
def prepare(folder, tiny_checkpoint):
    words = checkpoint.load_tokenizer(tiny_checkpoint)

    def prepare(task, context=256, stop_tokens=lambda: (1, 7), **settings):
        file = folder / f"{task}.jsonl"
        config = TaskConfig(str(file) if file.exists() else task, **settings)
        return config.prepare(words, context=context, stop_tokens=stop_tokens)

    return prepare


@pytest.mark.parametrize(
    ("task", "settings", "scorer", "form"),
    [
        ("arc", {}, "options", None),
        ("arc", {"scorer": "letter", "format": "harness"}, "letter", "harness"),
        ("arithmetic", {}, "exact", "plain"),
        ("arithmetic", {"format": "direct"}, "exact", "direct"),
        ("arithmetic", {"scorer": "generation"}, "generation", "plain"),
        ("prompt", {}, "generation", "plain"),
        ("gsm8k", {}, "exact", "direct"),
        ("gsm8k", {"format": "harness", "shots": 0}, "generation", "harness"),
    ],
)
def test_prepare_chooses_scorer_of_task(prepare, task, settings, scorer, form):
    prepared = prepare(task, context=2000, **settings)
    record = prepared.record
    assert record["scorer"] == prepared.scorer.name == scorer
    style = record["prompt"]["format"] if form else None
    assert (style["name"] if isinstance(style, dict) else style) == form
    limit = prepared.scorer.max_new_tokens if scorer == "generation" else None
    assert record.get("max_new_tokens") == limit


def test_prepare_records_prompts(prepare):
    prepared = prepare("arithmetic", limit=5, scorer="generation", max_new_tokens=3, level=2)
    record = prepared.settings()
    prompt = record["prompt"]
    assert record == json.loads(json.dumps(record))
    assert record["max_new_tokens"] == 3
    assert prompt["stop_tokens"] == [1, 7] == list(prepared.scorer.stop.tokens)
    assert len(prompt["shots"]) == prompt["format"]["shots"] == 2
    assert not set(prompt["shots"]) & {e.question.id for e in prepared.encoded}
    others = {
        "shots": {"shots": 1},
        "seed": {"task_seed": 1},
        "shots seed": {"shots_seed": 1},
        "level": {"level": 1},
        "limit": {"limit": 4},
        "chat": {"chat": True},
        "format": {"format": "direct", "shots": 2},
        "stop": {"stop_tokens": lambda: (1,)},
    }
    hashes, digests = {prompt["hash"]}, {task_digest(prepared.encoded, prepared.scorer)}
    for name, other in others.items():
        settings = {"limit": 5, "scorer": "generation", "level": 2, "max_new_tokens": 3} | other
        changed = prepare("arithmetic", context=2000, **settings)
        template = {"date_string": "26 Jul 2024", "enable_thinking": False}
        assert changed.record["chat"] == (template if name == "chat" else None)
        hashes.add(changed.settings()["prompt"]["hash"])
        if name != "stop":  # which the settings of a run have beside the digest
            digests.add(task_digest(changed.encoded, changed.scorer))
    assert len(hashes) == 1 + len(others)
    assert len(digests) == len(others)
    again = prepare("arithmetic", limit=5, scorer="generation", max_new_tokens=3, level=2)
    assert again.settings() == record


def test_each_seed_draws_its_own_questions(prepare):
    limits = {"limit": 5, "level": 2, "context": 2000}
    plain, seeded, shown = (
        prepare("arithmetic", **limits, **seed)
        for seed in ({}, {"task_seed": 1}, {"shots_seed": 1})
    )
    questions = [[row.question.id for row in each.encoded] for each in (plain, seeded, shown)]
    shots = [each.record["prompt"]["shots"] for each in (plain, seeded, shown)]
    assert questions[0] == questions[2] != questions[1]
    assert shots[0] == shots[1] != shots[2]


def test_prepare_takes_shots_of_file_and_rule(prepare, folder):
    more = {"format": "harness", "shots_file": str(folder / "shots.jsonl"), "context": 2000}
    prepared = prepare("gsm8k", **more)
    assert len(prepared.record["prompt"]["shots"]) == 5
    fewer = prepare("gsm8k", shots=2, rule="number", **more)
    assert fewer.encoded[0].num_tokens < prepared.encoded[0].num_tokens
    assert fewer.scorer.rule == fewer.record["prompt"]["format"]["extract"] == "number"
    boxed = prepare("arithmetic", limit=2, scorer="generation", rule="boxed", context=2000)
    assert boxed.scorer.stop.rule is not None  # a closed box ends the text


def test_prepare_needs_no_stop_token_for_choice(prepare):
    def missing():
        raise ValueError("no token ends a generation")

    prepare("arc", stop_tokens=missing)
    with pytest.raises(ValueError, match="no token ends"):
        prepare("arithmetic", stop_tokens=missing)


def test_prepare_encodes_prompts_alone_to_decode(prepare):
    prepared = prepare("arithmetic", scorer="generation", limit=7)
    assert len(prepared.encoded) == 7
    assert all(np.asarray(e.prompts.branch).max() == 0 for e in prepared.encoded)
    assert all(e.prompts.targets is None for e in prepared.encoded)


OPEN = "asks open questions, which the scorer 'letter' is not for: use exact, generation"
CHOICE = (
    "is multiple choice, which the scorer 'exact' is not for: use options, options-norm, letter"
)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("arc", {"scorer": "mine"}, "scorer 'mine' is not one of options, options-norm, letter"),
        ("arc", {"scorer": "exact"}, CHOICE),
        ("arc", {"format": "harness"}, "'options' has the formats plain, not 'harness'"),
        ("arc", {"max_new_tokens": 5}, "max_new_tokens is a setting of the scorer `generation`"),
        ("arc", {"rule": "line"}, "rule is a setting of the scorer `generation`"),
        ("arc", {"split": "trian"}, "has no split, but split is 'trian'"),
        ("arc", {"shots_file": "shots.jsonl"}, "shots.jsonl would not be shown"),
        ("arithmetic", {"scorer": "generation", "rule": "last"}, "one of boxed, hashes, number"),
        ("arithmetic", {"scorer": "letter"}, OPEN),
        ("arithmetic", {"shots": 60}, "the model's context is 256"),
        ("prompt", {"shots": 2}, "give a file of shots"),
        ("gsm8k", {"format": "harness", "scorer": "exact", "shots": 0}, "scorer `generation`"),
    ],
)
def test_prepare_refuses(prepare, task, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        prepare(task, **settings)
    assert "\n" not in str(error.value)


def test_prepare_shows_shots_of_choices(prepare, folder):
    file = {"shots": 1, "shots_file": str(folder / "arc_shots.jsonl")}
    other = dict(tiny.row(tiny.questions(9)[8]), question="which of the others?")
    (folder / "arc_shots.jsonl").write_text(json.dumps(other) + "\n")
    with pytest.raises(ValueError, match="letters shows no shots"):
        prepare("arc", scorer="letter", **file)
    plain = prepare("arc", scorer="options", **file)
    assert plain.record["prompt"]["format"] == "plain"
    assert plain.record["prompt"]["shots"] == ["q8"]
    shown = prepare("arc", scorer="letter", format="harness", **file)
    assert shown.record["prompt"]["shots"] == ["q8"]


# with a model


def test_session_records_its_task(tiny_checkpoint):
    model = str(tiny_checkpoint)
    made = {
        scorer: Session.prepare(
            model, TaskConfig("arithmetic", limit=4, scorer=scorer).prepare, metadata={"task": "a"}
        )
        for scorer in ("exact", "generation")
    }
    for scorer, session in made.items():
        assert session.settings["scorer"] == scorer
        stop = list(checkpoint.stop_tokens(model))
        assert session.settings["prompt"]["stop_tokens"] == stop
        assert session.environment["task"] == "a"
        expected = {"open": True, "decodes": scorer == "generation"}
        assert session.environment["scorer"] == expected
        json.dumps([session.settings, session.environment])
    assert made["generation"].settings["grader"].startswith("math-verify 0")
    assert "grader" not in made["exact"].settings
    assert made["exact"].settings["task"] != made["generation"].settings["task"]


def test_session_refuses_small_budget_before_weights_load(tiny_checkpoint, monkeypatch, tmp_path):
    def fail(*arguments, **keywords):
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr("cola_jax.runs.session.cache.load_converted", fail)
    config, path = TaskConfig("arithmetic", limit=3), tuple(range(tiny.LAYERS))
    devices = RunConfig(devices=Devices(data=1, memory_budget="2KB"))
    session = Session.prepare(str(tiny_checkpoint), config.prepare, devices)
    with pytest.raises(ValueError, match="too small"):
        session.evaluate(str(tmp_path / "run"), [path])
    with pytest.raises(ValueError, match="too small"):
        session.search(str(tmp_path / "run"), Settings(TreeRules(), 4, 2, 0, False))
    assert not (tmp_path / "run").exists()


def test_session_refuses_tokens_that_model_lacks(tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "ours")
    metadata = json.loads((model / "cola.json").read_text())
    (model / "cola.json").write_text(json.dumps(metadata | {"stop_tokens": [1, 9999]}))
    with pytest.raises(ValueError, match="targets run from 1 to 9999"):
        Session.prepare(str(model), TaskConfig("arithmetic", limit=2).prepare)

"""Records of Every Eval Ever, which pass its validator where it is installed (Python 3.12)."""

import contextlib
import hashlib
import json
import uuid

import pytest

from cola_jax.errors import InputError
from cola_jax.extras.every_eval_ever import write_records
from tests.small_runs import EVALUATE, PARTS, START, WHOLE, answers, letters, make_run

ORIGIN = {"kind": "hub", "name": "someone/model", "revision": "0123abc"}
FACTS = {"versions": {"cola-jax": "1.2"}, "date": "2026-11-29T05:33:45+00:00"}


def check(files):
    """Check files by their own validator, where it is installed."""
    with contextlib.suppress(ImportError):
        from every_eval_ever.validator.validate import main

        assert main(list(map(str, files))) == 0


def records(run, folder):
    """Write the records of a run; return each by its path, with its answers."""
    assert write_records(run, folder)
    check(folder.glob("data/*/*/*/*.json*"))
    out = {}
    for file in folder.glob("data/*/*/*/*.json"):
        record = json.loads(file.read_text())
        assert uuid.UUID(file.stem).version == 4
        reference = record["detailed_evaluation_results"]
        content = (folder / reference["file_path"]).read_bytes()
        assert reference["file_path"] == f"{file.relative_to(folder).with_suffix('')}_samples.jsonl"
        assert reference["checksum"] == hashlib.sha256(content).hexdigest()
        samples = [json.loads(line) for line in content.splitlines()]
        assert len(samples) == reference["total_rows"]
        model = record["model_info"]
        for each in samples:
            assert each["evaluation_id"] == record["evaluation_id"]
            assert each["model_id"] == model["id"]
        assert file.parent.relative_to(folder / "data").as_posix().endswith(model["id"])
        out[model["additional_details"]["path"]] = record, samples
    return out


def test_records_of_an_evaluation(tmp_path):
    right = [(WHOLE, 1, False), ((0, 3), 0, True)]
    start = START | FACTS | {"origin": ORIGIN, "task": "arc-easy", "task_config": {"split": "dev"}}
    parts = letters("q1", right), letters("q2", [(WHOLE, 0, True), ((0, 3), -1, False)])
    paths = EVALUATE | {"paths": [list(WHOLE), [0, 3]], "scorer": "letter"}
    made = records(run := make_run(tmp_path, *parts, start=start, **paths), tmp_path / "out")
    record, samples = made["0,3"]
    assert record["evaluation_id"].startswith("arc_easy/someone/model/0,3/2026")
    assert record["model_info"]["name"] == "someone/model@0123abc"
    assert record["eval_library"]["version"] == "1.2"
    (result,) = record["evaluation_results"]
    assert result["source_data"]["hf_repo"] == "allenai/ai2_arc"
    assert result["source_data"]["hf_split"] == "dev"
    assert result["score_details"]["score"] == 0.5
    bounds = result["score_details"]["uncertainty"]["confidence_interval"]
    assert 0.09 < bounds["lower"] < 0.1
    against = json.loads(result["score_details"]["details"]["against_identity_path"])
    assert against["value"] == 0
    first, second = samples
    assert first["input"] == {
        **{"raw": "What is q1?", "reference": ["a"], "choices": ["a", "b", "c"]}
    }
    assert first["output"]["raw"] == ["a"]
    assert first["evaluation"] == {"score": 1.0, "is_correct": True}
    assert (second["output"]["raw"], second["answer_attribution"]) == ([], [])
    assert made["0-3"][1][0]["output"]["raw"] == ["b"]
    before = sorted((tmp_path / "out").rglob("*"))
    write_records(run, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_records_of_decoded_answers(tmp_path):
    start = START | FACTS | {"origin": {"kind": "gguf", "name": "/home/me/tiny 1.gguf"}}
    start |= {"task": "/home/me/sums.jsonl"}
    parts = answers("q1", [(WHOLE, "7", True)]), answers("q2", [(WHOLE, "x", None)])
    settings = EVALUATE | {"paths": [list(WHOLE)], "scorer": "generation", "rule": "boxed"}
    made = records(make_run(tmp_path, *parts, start=start, **settings), tmp_path / "out")
    record, (sample,) = made["0-3"]  # the other is ungraded
    assert record["model_info"]["id"] == "local/tiny_1.gguf"
    assert "/home" not in json.dumps(record)
    (result,) = record["evaluation_results"]
    assert result["source_data"]["source_type"] == "other"
    assert result["score_details"]["uncertainty"]["num_samples"] == 1
    assert result["generation_config"]["generation_args"]["temperature"] == 0
    assert sample["output"]["raw"] == [" so 7\n"]
    assert sample["input"]["choices"] is None
    (extracted,) = sample["answer_attribution"]
    assert (extracted["extracted_value"], extracted["extraction_method"]) == ("7", "boxed")


def test_record_of_a_search_is_that_of_the_pretrained_model(tmp_path):
    start = START | FACTS
    made = records(make_run(tmp_path, *PARTS, start=start, scorer="letter"), tmp_path / "out")
    ((record, samples),) = made.values()
    assert record["evaluation_results"][0]["score_details"]["score"] == 2 / 5
    best = {each["sample_id"]: each["metadata"].get("shortest_correct_path") for each in samples}
    assert best == {"q1": "0-1,3", "q2": "0,1,1,2-3", "q3": None, "q4": "0-3", "q5": "1-3"}


def test_other_runs_have_no_record(tmp_path):
    run = make_run(tmp_path, *PARTS, start=START | FACTS, command="scan")
    with pytest.raises(InputError, match="was made by 'scan', not by an evaluation or search"):
        write_records(run, tmp_path / "out")

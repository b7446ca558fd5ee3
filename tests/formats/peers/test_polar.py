"""PoLar's samples: written, read back, and read from all layouts that its loader takes."""

import json

import pytest

from cola_jax.formats.peers import document
from cola_jax.formats.peers.polar import polar_samples, read_polar
from cola_jax.formats.peers.searched import Searched

SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (2, 1)), False),
    Searched("2 + 2?", "4", ((0, 1, 2),), (), True),
    Searched("3 + 3?", "6", (), ((0,),), None),
]
SAMPLE = {"question": "q", "gt_ans": "7", "initial_score": 1.0, "final_valid_transitions": [[0, 1]]}


def write(folder, content):
    (folder / "samples.json").write_text(json.dumps(content))
    return folder / "samples.json"


def test_samples_are_read_back(tmp_path):
    file = write(tmp_path, polar_samples(SEARCHED, 3))
    assert read_polar(file) == read_polar(file, 3) == SEARCHED


def test_all_layouts_are_read(tmp_path):
    alias = {
        "sample_info": {"question": "q", "ground_truth": 7},
        "evaluation_result": {"initial_score": 1},
        "final_valid_transitions": [{"path": [0, 1]}, [0, 1]],
        "final_invalid_transitions": [[0, 1], [1]],
    }
    (one,) = read_polar(write(tmp_path, [SAMPLE]))
    assert one == Searched("q", "7", ((0, 1),), (), True)
    assert read_polar(write(tmp_path, {"samples": [SAMPLE]})) == [one]
    assert read_polar(write(tmp_path, {"a": SAMPLE, "b": alias})) == [
        one,
        Searched("q", "7", ((0, 1),), ((1,),), True),
    ]
    unknown = {k: v for k, v in SAMPLE.items() if k != "initial_score"}
    assert read_polar(write(tmp_path, [unknown]))[0].baseline_right is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, r"samples\[0\] is .*: it has no 'question'"),
        ({"question": 3}, r"samples\[0\].question is 3: text"),
        ({"gt_ans": None}, "it has no 'gt_ans'"),
        ({"initial_score": 2}, r"samples\[0\].initial_score is 2: a score"),
        ({"final_valid_transitions": None}, "it has no 'final_valid_transitions'"),
        ({"final_valid_transitions": [[0, 1], [0, True]]}, r"transitions\[1\]\[1\] is True"),
        ({"final_valid_transitions": [[]]}, r"transitions\[0\] is \[\]: a path has 1 to"),
        ({"final_valid_transitions": ["0,1"]}, r"transitions\[0\] is '0,1': a list"),
        ({"final_invalid_transitions": {"a": 1}}, "final_invalid_transitions is .*: a list"),
        ({"final_valid_transitions": [{"path": None}]}, "it has no 'path'"),
        ({"sample_info": 3, "question": None}, "sample_info is 3: a mapping"),
    ],
)
def test_read_polar_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_polar(write(tmp_path, {"samples": [SAMPLE | change]}))
    assert "samples.json: " in str(refused.value)


def test_layers_that_do_not_fit_are_refused(tmp_path):
    content = polar_samples(SEARCHED, 3)
    file = write(tmp_path, content)
    with pytest.raises(ValueError, match="num_layers is 3: but the model has 4 layers"):
        read_polar(file, 4)
    del content["num_layers"]
    assert read_polar(write(tmp_path, content), 4) == SEARCHED  # no layer is missing
    with pytest.raises(ValueError, match=r"question 1 has a path of layer 2, .* layers 0..1"):
        read_polar(file := write(tmp_path, content), 2)
    with pytest.raises(ValueError, match="a model of at least 3 layers"):
        read_polar(write(tmp_path, content | {"num_layers": 2}))


def test_too_many_paths_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_PATHS", 5)
    with pytest.raises(ValueError, match=r"more than 5 paths \(at least 6\)"):
        read_polar(write(tmp_path, polar_samples(SEARCHED, 3)))

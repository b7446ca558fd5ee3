"""Files of other projects: recognised by content, read, refused with the place, written."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.formats.peers import (
    Searched,
    best_path,
    drllm_results,
    merge_path,
    mergekit_config,
    polar_samples,
    read_paths,
    read_searched,
    with_blocks,
)

SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (2,)), False),
    Searched("2 + 2?", "4", ((0, 1, 2),), ((1,),), True),
    Searched("3 + 3?", "6", (), ((0,),), None),
]
POLAR = polar_samples(SEARCHED, 3)
SAMPLE = {"question": "q", "gt_ans": "7", "initial_score": 1.0, "final_valid_transitions": [[0, 1]]}
DRLLM = drllm_results(SEARCHED, 3, "someone/model", "sums", 100)
CORRECT = [(0, 2), (0, 1, 1, 2), (0, 1, 2)]
PLAIN = tuple(range(8))
DOUBLED = (0, 1, 2, 2, 3, 4, 5, 6, 7)
MANIFEST = {"source_num_layers": 8, "layer_indices": [0, 1, 1]}
MERGE = """
slices:
  - sources:
    - model: someone/model
      layer_range: [0, 24]
  - sources:
    - {model: someone/model, layer_range: [20, 30]}
merge_method: passthrough
dtype: float16
"""
QUEUE = [
    {"idx": 0, "layers": [1, 2], "spec": "layers:1,2", "legacy_key": [2, 3]},
    {"idx": 1, "key": [2, 3]},
    {"idx": 2, "key": "(2, 3)"},
    {"idx": 3, "blocks": "2,3"},
    {"idx": 4, "layer_indices": [3]},
    {"idx": 5, "layers": None, "spec": "layers:5"},
]


def write(folder, content):
    (folder / "paths").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "paths"


@pytest.mark.parametrize(
    ("content", "layers", "paths"),
    [
        ("0-2\n0,2 # short\n\n0-2\n", 3, [(0, 1, 2), (0, 2)]),
        ("(0-1)x2,2\n0-0,2\n", 3, [(0, 1, 0, 1, 2), (0, 2)]),
        ("(1,2)\n0,2\n", 3, [(0, 1, 1, 2), (0, 1, 0, 1, 2)]),
        ([[1, 2], [0, 0]], 3, [(0, 1, 1, 2), (0, 1, 2)]),
        (POLAR, 3, [*CORRECT, (2,), (1,), (0,)]),
        (DRLLM, 3, CORRECT),
        (mergekit_config((0, 1, 1, 2), "m"), 3, [(0, 1, 1, 2)]),
        (yaml.safe_load(MERGE), 30, [(*range(24), *range(20, 30))]),
        ("# of RYS\n(2, 3)\n\n1,3  # bare\nBlocks: 2,3;0,0\nlayers:0,1, 2,2\n", 8, None),
        ("(0, 0)", 8, [PLAIN]),
        (QUEUE, 8, [(1, 2), DOUBLED, (3,), (5,)]),
        (["(2,3)", [0, 1, 2], "layers:7"], 8, [DOUBLED, (0, 1, 2), (7,)]),
        (MANIFEST, 8, [(0, 1, 1)]),
        ({"rys_relayer": MANIFEST, "num_layers": 9}, 8, [(0, 1, 1)]),
    ],
)
def test_read_paths_recognises_the_format(tmp_path, content, layers, paths):
    if paths is None:
        paths = [DOUBLED, (0, 1, 2, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 2)]
    assert read_paths(write(tmp_path, content), layers) == paths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-2\n0-3", ":2: .*layers 0..2"),
        ("0,1\n0,2\n", r"only pairs such as '0,1', .* write \(0,1\) for the block, or 0-0,1"),
        ("0-2,0-2,0-2", ":1: .*more than 6 layers"),
        ({"samples": []}, "has no path"),
        ("# nothing\n", "has no path"),
        ({"a": 1}, "format is unknown"),
        ([1, 2], "format is unknown"),
        ([{"idx": 3}], "format is unknown"),
        (["(1,4)"], r"entry 0: .*i < j <= 3, .*got \(1, 4\)"),
        ("(1,2)\n(2, 2)", r":2: .*got \(2, 2\)"),
        ("(1,2)\n0-5,7", ":2: '0-5,7' is not a configuration of RYS"),
        ("(1,2)\n(1,2", "not a configuration"),
        ("blocks:1,2;-1,2", "not a configuration"),
        ("layers:1,,2", ":1 cannot be read"),
        ("layers:1,8", r"layer ids \[8\]"),
        ("blocks:" + "0,3;" * 1251, "more than 6 layers"),
        ([[1, 2], [2, True]], "entry 1 cannot be read .1: Input should be a valid integer"),
        ([[1, 2], []], "entry 1 cannot be read .*at least 1 item"),
        ([{"layers": "0,1"}], "entry 0 cannot be read .*valid tuple"),
        (MANIFEST, "of a model of 8 layers, but the model has 3"),
        ({"rys_relayer": [0]}, "cannot be read"),
        ([[0, 1, 2] * 3], "9 layers, but at most 6"),
        (mergekit_config((0, 5), "m"), "end <= 3, the number of layers"),
        (POLAR | {"num_layers": 4}, "of a model of 4 layers, but the model has 3"),
        (DRLLM | {"num_layers": 4}, "of a model of 4 layers, but the model has 3"),
        pytest.param("0,x" * 9000, r":1: path '0,x.*\.\.\..* has 'x0'", id="text"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
        pytest.param("[" + "1" * 5000 + "]", "cannot be read", id="huge"),
        ('{"a": 1,\n]', "cannot be read"),
    ],
)
def test_read_paths_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_paths(write(tmp_path, content), 3)
    assert str(refused.value).startswith(str(tmp_path / "paths"))
    assert len(str(refused.value)) < 1000


def test_read_paths_allows_longer_ones(tmp_path):
    assert len(read_paths(write(tmp_path, [[0, 1, 2] * 3]), 3, max_length=9)[0]) == 9


@given(st.integers(1, 40).flatmap(lambda j: st.tuples(st.integers(0, j - 1), st.just(j))))
def test_a_block_runs_twice(block):
    i, j = block
    assert with_blocks([block], 40, 80) == (*range(j), *range(i, 40))


def test_blocks_are_inserted_after_the_last_run_of_their_end():
    assert with_blocks([(2, 4), (3, 4)], 8, 16) == (0, 1, 2, 3, 2, 3, 3, 4, 5, 6, 7)
    assert with_blocks([(5, 7), (1, 3)], 8, 16) == (0, 1, 2, 1, 2, 3, 4, 5, 6, 5, 6, 7)


def test_polar_samples_are_read_back(tmp_path):
    file = write(tmp_path, POLAR)
    assert read_searched(file) == read_searched(file, 3) == SEARCHED


def test_all_layouts_of_polar_are_read(tmp_path):
    alias = {
        "sample_info": {"question": "q", "ground_truth": 7},
        "evaluation_result": {"initial_score": 1},
        "final_valid_transitions": [{"path": [0, 1]}, [0, 1]],
        "final_invalid_transitions": [[0, 1], [1]],
    }
    plain = Searched("q", "7", ((0, 1),), (), True)
    assert read_searched(write(tmp_path, [SAMPLE])) == [plain]
    assert read_searched(write(tmp_path, {"samples": [SAMPLE]})) == [plain]
    assert read_searched(write(tmp_path, {"a": SAMPLE, "b": alias | {"question": None}})) == [
        plain,
        Searched("q", "7", ((0, 1),), ((1,),), True),
    ]
    unknown = SAMPLE | {"initial_score": None}
    assert read_searched(write(tmp_path, [unknown]))[0].baseline_right is None


def test_layers_that_do_not_fit_are_refused(tmp_path):
    content = {"samples": POLAR["samples"]}
    assert read_searched(write(tmp_path, content), 4) == SEARCHED  # no layer is missing
    with pytest.raises(ValueError, match=r"question 1: path has layer ids \[2\], .* 0..1"):
        read_searched(write(tmp_path, content), 2)
    with pytest.raises(ValueError, match="question 1: path has layer ids"):
        read_searched(write(tmp_path, content | {"num_layers": 2}))
    with pytest.raises(ValueError, match="of a model of 3 layers, but the model has 30"):
        read_searched(write(tmp_path, DRLLM), 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, r"samples.0.question: Field required"),
        ({"question": 3}, r"samples.0.question: .*string, got 3"),
        ({"gt_ans": None}, "Field required"),
        ({"gt_ans": True}, "got True"),
        ({"initial_score": 2}, "less than or equal to 1, got 2"),
        ({"initial_score": float("nan")}, "initial_score"),
        ({"final_valid_transitions": None}, "final_valid_transitions: Field required"),
        ({"final_valid_transitions": [[0, 1], [0, True]]}, "transitions.1.1: .*got True"),
        ({"final_valid_transitions": [[]]}, "transitions.0: .*at least 1 item"),
        ({"final_valid_transitions": ["0,1"]}, "transitions.0: .*tuple, got '0,1'"),
        ({"final_invalid_transitions": {"a": 1}}, "final_invalid_transitions: .*list"),
        ({"sample_info": 3, "question": None}, "Field required"),
    ],
)
def test_read_searched_refuses_samples(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_searched(write(tmp_path, {"samples": [SAMPLE | change]}))
    assert str(refused.value).startswith(str(tmp_path / "paths"))


def test_best_path_is_the_shortest_that_labels_express():
    paths = ((2,), (1, 0), (0, 1, 2), (0, 1, 1), (0, 0, 1))
    assert best_path(Searched("", "", paths, (), None)) == (2,)
    assert best_path(Searched("", "", paths[1:], (), None)) == (0, 1, 1)  # of fewer layers
    for path in ((1, 0), (0, 1, 0, 1), (0, 0, 0)):
        assert best_path(Searched("", "", (path,), (), None)) is None


def test_drllm_results_are_those_of_the_questions_written(tmp_path):
    assert (DRLLM["num_samples"], DRLLM["visited_samples"]) == (2, 3)
    assert DRLLM["original_correct"] == [0, 1]
    assert DRLLM["improved_cases"] == [True, False]
    assert DRLLM["best_path"] == [[0, 2], [0, 1, 2]]
    assert (DRLLM["original_accuracy"], DRLLM["mcts_accuracy"]) == (50, 100)
    assert (DRLLM["average_path_length"], DRLLM["average_unique_layers"]) == (2.5, 2.5)
    empty = drllm_results(SEARCHED[2:], 3, "someone/model", "sums", 100)
    assert (empty["questions"], empty["original_accuracy"]) == ([], 0)
    assert read_searched(write(tmp_path, DRLLM), 3) == [
        Searched(one.question, one.gold, one.correct_paths, (), one.baseline_right)
        for one in SEARCHED[:2]
    ]


def test_drllm_questions_that_stayed_wrong_are_read(tmp_path):
    content = {
        "questions": ["q", "r"],
        "best_response": [{"text": []}, {"text": ["Rome", "roma"]}],
        "best_path": [[0, 1, 2], [0, 2]],
        "good_paths": [[], []],
        "original_correct": [0, 0],
        "mcts_correct": [0, 1],
    }
    assert read_searched(write(tmp_path, content)) == [
        Searched("q", "unanswerable", (), ((0, 1, 2),), False),
        Searched("r", "Rome", ((0, 2),), (), False),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("questions", None, "neither"),
        ("best_path", [[0]], "best_path has 1 entries for 2 questions"),
        ("good_paths", [[[0, 1]], 3], "good_paths.1: .*got 3"),
        ("good_paths", [[[0, 1]], [[0], [0, "1"]]], "good_paths.1.1.1: .*got '1'"),
        ("original_correct", [0, 2], "original_correct.1: .*got 2"),
        ("mcts_correct", [0, 1], "question '1 . 1.' has good_paths, but mcts_correct is 0"),
        ("best_response", [None, "x"], "best_response.0"),
        ("questions", [1, "x"], "questions.0: .*got 1"),
        ("num_layers", 2, "path has layer ids"),
    ],
)
def test_read_searched_refuses_results(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_searched(write(tmp_path, DRLLM | {name: value}))
    assert str(refused.value).startswith(str(tmp_path / "paths"))


def test_mergekit_config_stacks_ascending_ranges():
    config = yaml.safe_load(mergekit_config((0, 1, 2, 2, 3, 7, 6, -1, -1), "a/model", "bfloat16"))
    assert config == {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a/model", "layer_range": bounds}]}
            for bounds in ([0, 3], [2, 4], [7, 8], [6, 7])
        ],
        "dtype": "bfloat16",
    }


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_a_merge_is_read_back(path):
    assert merge_path(yaml.safe_load(mergekit_config(path, "model")), 41) == tuple(path)


@pytest.mark.parametrize("name", ["on", "1e5", "3", "a: b", "# a", "~/my models/ä", "x@main"])
def test_mergekit_config_keeps_the_name_of_the_model(name):
    config = yaml.safe_load(mergekit_config((0, 1), name))
    assert config["slices"][0]["sources"][0]["model"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), "model"), "at least one layer"),
        (((0, -2), "model"), r"layer ids \[-2\]"),
        (((0,), " "), "not empty"),
        (((0,), "a+b"), r"\+ \(a LoRA\)"),
        (((0,), "a@b@c"), "one @revision"),
        (((0,), "model", "int64"), "dtype 'int64' is not one of float32"),
    ],
)
def test_mergekit_config_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        mergekit_config(*arguments)


def test_merges_with_a_base_or_a_module_are_read(tmp_path):
    base = MERGE + "base_model: someone/model\ntokenizer_source: base\n"
    module = {
        "merge_method": "passthrough",
        "modules": {"default": {"slices": yaml.safe_load(MERGE)["slices"]}},
    }  # as mergekit_config.yml
    for text in (MERGE, base, yaml.safe_dump(module)):
        assert read_paths(write(tmp_path, text), 30) == [(*range(24), *range(20, 30))]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("passthrough", "slerp", "merge_method: .*'passthrough', got 'slerp'"),
        ("merge_method: passthrough", "", "merge_method: Field required"),
        ("[20, 30]", "[20]", "slices.1.sources.0.layer_range"),
        ("[20, 30]", "[30, 30]", "start < end"),
        ("[20, 30]", "[-1, 30]", "layer_range.0: .*got -1"),
        ("[20, 30]", "[true, 30]", "got True"),
        ("[20, 30]", "[0, 999999999]", "end <= 30"),
        ("[20, 30]", "20-30", "layer_range: .*got '20-30'"),
        ("[20, 30]}", "[20, 30], parameters: {scale: 0.5}}", "sources.0.parameters: Extra inputs"),
        ("dtype: float16", "parameters: {scale: 2}", "parameters: Extra inputs"),
        ("dtype: float16", "base_model: other/model", "several models"),
        ("{model: someone/model", "{model: other/model", "several models"),
        ("- {model", "- {model: b, layer_range: [0, 1]}\n    - {model", "at most 1 item"),
        ("slices:", "models:", "models: Extra inputs"),
        ("slices:", "slices: []\nmodules: {text: 1}\nbase_model:", "slices: .*at least 1 item"),
        ("slices:", "modules: {text: 1, vision: 2}\nbase_model:", "modules"),
        ("slices:", "modules: {text: {models: 1}}\nbase_model:", "modules.text"),
        ("slices:", "slices", "cannot be read"),
        pytest.param("[20, 30]", "[" * 5000, "recursion", id="deep"),
        ("[20, 30]", "!!python/object/apply:os.system [exit]", "a constructor for the tag"),
        ("[20, 30]", "*unknown", "found undefined alias"),
    ],
)
def test_read_paths_refuses_other_merges(tmp_path, old, new, message):
    assert old in MERGE
    with pytest.raises(ValueError, match=message) as refused:
        read_paths(write(tmp_path, MERGE.replace(old, new)), 30)
    assert str(tmp_path / "paths") in str(refused.value)
    assert len(str(refused.value)) < 800


def test_read_paths_refuses_other_files(tmp_path):
    (tmp_path / "paths").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="codec can't decode"):
        read_paths(tmp_path / "paths", 3)
    with pytest.raises(FileNotFoundError):
        read_paths(tmp_path / "nothing.yml", 3)
    with pytest.raises(ValueError, match="is a directory, pipe or device, not a file"):
        read_paths(tmp_path, 3)

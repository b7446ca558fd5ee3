"""mergekit's passthrough merges: what is written, what is read back, what is refused."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.formats.peers.document import parse_yaml
from cola_jax.formats.peers.mergekit import merge_path, mergekit_config, read_mergekit

SLICES = """
slices:
  - sources:
    - model: someone/model
      layer_range: [0, 24]
  - sources:
    - {model: someone/model, layer_range: [20, 30]}
merge_method: passthrough
dtype: float16
"""


def read(folder, text):
    (folder / "merge.yml").write_text(text)
    return read_mergekit(folder / "merge.yml")


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
def test_a_path_is_read_back(path):
    config = mergekit_config(path, "model")
    assert merge_path(parse_yaml("merge.yml", config)) == tuple(path)


@pytest.mark.parametrize("name", ["on", "1e5", "3", "a: b", "# a", "~/my models/ä", "x@main"])
def test_mergekit_config_keeps_the_name_of_the_model(name):
    config = yaml.safe_load(mergekit_config((0, 1), name))
    assert config["slices"][0]["sources"][0]["model"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), "model"), "at least one layer"),
        (((0, -2), "model"), "the path has -2"),
        (((0,), " "), "this one is empty"),
        (((0,), "a+b"), r"a model \+ a LoRA"),
        (((0,), "a@b@c"), "one @revision"),
        (((0,), "model", "int64"), "dtype 'int64' is not one of float32"),
    ],
)
def test_mergekit_config_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        mergekit_config(*arguments)


def test_read_mergekit_gives_the_order_of_layers(tmp_path):
    assert read(tmp_path, SLICES) == (*range(24), *range(20, 30))
    base = SLICES + "base_model: someone/model\ntokenizer_source: base\n"
    assert read(tmp_path, base) == read(tmp_path, SLICES)
    written = {"merge_method": "passthrough", "modules": {"default": yaml.safe_load(SLICES)}}
    for name in ("merge_method", "dtype"):
        del written["modules"]["default"][name]
    assert read(tmp_path, yaml.safe_dump(written)) == read(
        tmp_path, SLICES
    )  # as mergekit_config.yml


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("passthrough", "slerp", "merge_method is 'slerp': only passthrough"),
        ("merge_method: passthrough", "", "it has no 'merge_method'"),
        ("[20, 30]", "[20]", r"slices\[1\].sources\[0\].layer_range is .*: a range is"),
        ("[20, 30]", "[30, 30]", "start < end"),
        ("[20, 30]", "[-1, 30]", r"layer_range\[0\] is -1: an integer from 0 up"),
        ("[20, 30]", "[true, 30]", "True: an integer"),
        ("[20, 30]", "[0, 999999999]", "at most 10000 layers"),
        ("[20, 30]", "[0, 9990]", r"slices\[1\] is .*at most 10000 layers"),
        ("[20, 30]", "20-30", "a list belongs here"),
        ("[20, 30]}", "[20, 30], parameters: {scale: 0.5}}", "parameters is .*no path expresses"),
        ("dtype: float16", "parameters: {scale: 2}", "parameters is .*no path expresses"),
        ("dtype: float16", "base_model: other/model", "the layers of one model"),
        ("{model: someone/model", "{model: other/model", "'other/model': a path has the layers"),
        ("- {model", "- {model: b, layer_range: [0, 1]}\n    - {model", "exactly one source"),
        ("slices:", "models:", "models is .*no path expresses"),
        ("slices:", "slices: []\nmodules: {text: 1}\nbase_model:", "slices without modules"),
        ("slices:", "modules: {text: 1, vision: 2}\nbase_model:", "the layers of one module"),
        ("slices:", "modules: {text: 1}\nbase_model:", "text is 1: a mapping"),
        ("slices:", "modules: {text: {models: 1}}\nbase_model:", "models is .*no path expresses"),
        ("slices:", "slices", "cannot be read"),
        pytest.param("[20, 30]", "[" * 5000, "recursion", id="deep"),
        (
            "[20, 30]",
            "!!python/object/apply:os.system [exit]",
            "a constructor for the tag",
        ),
        ("[20, 30]", "*unknown", "found undefined alias"),
    ],
)
def test_read_mergekit_refuses(tmp_path, old, new, message):
    assert old in SLICES
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, SLICES.replace(old, new))
    assert "merge.yml" in str(refused.value)
    assert len(str(refused.value)) < 600


def test_read_mergekit_refuses_what_is_no_merge(tmp_path):
    for text, message in [
        ("", "the file is None: a mapping"),
        ("[1, 2]", "a mapping belongs here"),
        ("merge_method: passthrough\nslices: []", "'slices' is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(tmp_path, text)
    (tmp_path / "merge.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="codec can't decode"):
        read_mergekit(tmp_path / "merge.yml")
    with pytest.raises(FileNotFoundError):
        read_mergekit(tmp_path / "nothing.yml")
    with pytest.raises(ValueError, match="is a directory, pipe or device, not a file"):
        read_mergekit(tmp_path)

"""Routers: paths as segments, the likeliest of them, states of prompts, the network, files."""

import json
import shutil
from collections import defaultdict

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.errors import InputError
from cola_jax.extras.router import (
    NO_SEGMENT,
    Record,
    Router,
    SegmentNetwork,
    likeliest_paths,
    load_router,
    segment_logits,
    segments_at,
    target_of_path,
)
from cola_jax.path import parse_path
from cola_jax.prompts import Prompts
from cola_jax.scoring.scorer import pack


def every_way(first, layers):
    """List all ways to divide the layers from `first` on into segments."""
    if first == layers:
        return [[]]
    firsts = segments_at(first, layers)
    return [[s, *rest] for s in firsts for rest in every_way(first + s.size, layers)]


def ways_by_path(layers):
    ways = defaultdict(list)
    for way in every_way(0, layers):
        ways[tuple(layer for segment in way for layer in segment.layers)].append(way)
    return ways


def test_target_of_path_has_the_fewest_segments_that_say_the_path():
    for path, ways in ways_by_path(6).items():
        best = min(ways, key=lambda way: (len(way), [-segment.size for segment in way]))
        expected = np.full(6, NO_SEGMENT)
        expected[[segment.first for segment in best]] = [segment.op for segment in best]
        target = target_of_path(path, 6)
        assert target is not None
        assert target.tolist() == expected.tolist()
    steps = "0-7,8a", "0-1,2m,3-8", "0-7,8*0.5"
    for text in (
        *steps,
        "0,2,1,3-8",
        "0,1,1,1,2-8",
        "(0-4)x2,5-8",
        "1,0,1-8",
        "8,0-7",
    ):  # not expressible
        assert target_of_path(parse_path(text, 9), 9) is None


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("seed", range(3))
def test_likeliest_paths_are_those_of_enumeration(seed):
    layers, rng = 6, np.random.default_rng(seed)
    boundary, ops = rng.normal(size=layers), 2 * rng.normal(size=(layers, 3))
    logprob = ops - np.log(np.exp(ops).sum(-1, keepdims=True))

    def score(way):
        starts = {segment.first for segment in way}
        signs = [1 if i in starts else -1 for i in range(layers)]
        inside = sum(np.log(sigmoid(signs[i] * boundary[i])) for i in range(1, layers))
        return inside + sum(logprob[segment.first, segment.op] for segment in way)

    scores = {path: max(map(score, ways)) for path, ways in ways_by_path(layers).items() if path}
    expected = sorted(scores, key=lambda path: -scores[path])
    assert likeliest_paths(boundary, ops, 20) == expected[:20]
    ops = np.tile([50.0, 0.0, -50.0], (3, 1))  # never all layers are skipped
    paths = likeliest_paths(np.zeros(3), ops, 100)
    assert set(paths) == set(ways_by_path(3)) - {()}
    assert len(paths) == len(set(paths))
    assert len(likeliest_paths(np.zeros(3), ops, 1)[0]) < 3


ROWS = [[5, 9, 2, 7, 11], list(range(3, 43)), [8, 1, 6, 6, 2, 9, 30]]
PACKED = Prompts.stack([pack(row, [[4, 4, 7], [9, 2]])[0] for row in ROWS])  # with options


@pytest.fixture(scope="module")
def model(pair):
    return pair("llama-gqa").ours


def test_segment_logits_see_no_padding_and_drop_out_with_a_key():
    rng, lengths = np.random.default_rng(0), np.array([6, 4])
    states = rng.normal(size=(2, 6, 8)).astype(np.float32)
    params = network_params(5, 8)
    padded = np.arange(6)[None, :, None] >= lengths[:, None, None]
    logits = segment_logits(params, states, lengths)
    changed = segment_logits(params, np.where(padded, np.float32(7), states), lengths)
    for before, after in zip(logits, changed, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
    dropped = segment_logits(params, states, lengths, jax.random.key(1))
    assert not np.allclose(dropped[0], logits[0])


def network_params(num_layers, width, seed=3):
    states, is_prompt = np.zeros((1, 1, width), np.float32), np.ones((1, 1), bool)
    init = jax.jit(SegmentNetwork(num_layers).init)
    return init(jax.random.key(seed), states, is_prompt)["params"]


def test_paths_of_a_row_do_not_depend_on_the_batch(model):
    router = Router(model, network_params(model.config.num_layers, model.config.width), 2)
    together = router.paths(PACKED, beams=2)
    assert all(len(set(paths)) == 2 for paths in together)
    assert [router.paths(np.array([row]), beams=2)[0] for row in ROWS] == together
    assert router.paths(PACKED) == [paths[:1] for paths in together]


@pytest.fixture(scope="module")
def saved(tiny_checkpoint, tmp_path_factory):
    """A model, the record of a router for it, its parameters and its directory."""
    model, folder = cola_jax.load(tiny_checkpoint), tmp_path_factory.mktemp("saved") / "router"
    sizes = {"num_layers": model.config.num_layers, "width": model.config.width}
    identity = json.loads((tiny_checkpoint / "cola.json").read_text())["digest"]
    settings = {"labels": "all", "validation": 0.3}
    record = Record(
        model="someone/model", identity=identity, early_layers=2, settings=settings, **sizes
    )
    params = network_params(**sizes)
    record.save(folder, params)
    return model, record, params, folder


def test_load_router_reads_what_was_saved_in_any_dtype(saved, tiny_checkpoint):
    model, _, params, folder = saved
    half = cola_jax.load(tiny_checkpoint, dtype="bfloat16")
    for loaded in (load_router(folder, model), load_router(folder, half)):
        assert loaded.early_layers == 2
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert sorted(file.name for file in folder.iterdir()) == ["router.json", "router.safetensors"]


def test_load_router_says_where_the_model_is_recommended(saved, tmp_path, caplog):
    model, record, params, _ = saved
    for recommended in ("the router", "the model"):
        assert not caplog.messages
        record.model_copy(update={"recommended": recommended}).save(tmp_path, params)
        record.check_free(tmp_path)
        load_router(tmp_path, model)
    assert "recommends the model as it is: it was not shown to be better" in caplog.text


def test_load_router_refuses_what_does_not_belong(saved, tmp_path):
    model, record, _, folder = saved
    with pytest.raises(InputError, match=r"has no router\.json: train a router"):
        load_router(tmp_path, model)
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / "router.json").read_text())
    for changed, message in (
        ({"identity": "another"}, "not belong to this model: its identity is another.*Load"),
        ({"num_layers": 6}, "its num_layers is 6, here it is 5"),
        ({"weights": "another"}, r"does not belong to .*router\.safetensors: its weights is"),
        ({"layout": 2}, r"router\.json cannot be read \(layout: .*Train a router with"),
    ):
        (copy / "router.json").write_text(json.dumps(content | changed))
        with pytest.raises(InputError, match=message):
            load_router(copy, model)
    record.check_free(tmp_path)
    record.check_free(folder)
    other = record.model_copy(update={"settings": {"labels": "all", "validation": 0.4}})
    with pytest.raises(InputError, match=r"settings\.validation: 0\.3 there, 0\.4 here"):
        other.check_free(folder)

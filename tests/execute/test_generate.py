"""Decoding along paths: cached against uncached, alone against in company, and its ends."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import cola_jax
from cola_jax.edits import random_paths
from cola_jax.execute.decoder import BROKEN, CUT, STOPPED
from cola_jax.execute.memory import parse_bytes
from cola_jax.params import FULL
from cola_jax.path import pad_path
from cola_jax.prompts import PADDING, Prompts
from tests import oracle, tiny

LONGEST = 72
VARIANTS = [
    *("llama-mqa", "llama-biases", "mistral-window", "qwen2-window", "qwen3-window"),
    *("gemma3", "olmo2", "olmoe", "qwen2-moe", "qwen3-moe"),
]
NEW = 9  # with the prompts below, longer than every window
LENGTHS = (12, 3, 7)
PATHS = [
    *oracle.PATHS.values(),
    (0, 1, 2, 1, 2, 3, 1, 2, 1, 2, 3, 4, 5),  # a block twice, and over again
    (1, 2, 3, 4, 5),
    (0, 1, 2, 3, 4),
    (4,),
    (2, 2),
]


def batch(lengths=LENGTHS):
    rows = []
    for seed, length in enumerate(lengths):
        ids = oracle.random_ids(1, length, seed)[0]
        rows.append(Prompts(ids=ids, positions=np.arange(length), branch=np.zeros(length)))
    return Prompts.stack(rows)


def uncached(model, prompt, path, tokens):
    """Returns log-probabilities [n, V] at each decoded token, and the largest logit."""
    whole = np.concatenate([prompt, tokens]).astype(np.int32)
    # one shape for all: what follows a token, or a path, changes nothing
    padded = np.pad(whole, (0, LONGEST - len(whole)))[None]
    logits = np.asarray(cola_jax.run_path(model, padded, pad_path(path, 2 * oracle.LAYERS + 1)))
    logits = logits[0, len(prompt) - 1 : len(whole) - 1]
    return np.array(jax.nn.log_softmax(logits)), np.abs(logits).max()


def assert_greedy(model, prompts, paths, out, tolerance=1e-5):
    """Holds every decoded token against what `run_path` says behind the same text."""
    for b, candidates in enumerate(paths):
        ids = np.asarray(prompts.ids)[b]
        prompt = ids[np.asarray(prompts.branch)[b] != PADDING]
        for c, path in enumerate(candidates):
            tokens = out.tokens[b, c, : out.length[b, c]]
            logprobs, scale = uncached(model, prompt, path, tokens)
            np.testing.assert_array_equal(tokens, logprobs.argmax(axis=-1))
            places = np.arange(len(tokens))
            error = np.abs(logprobs[places, tokens] - out.logprob[b, c, : len(tokens)])
            assert error.max() <= tolerance * scale
            logprobs[places, tokens] = -np.inf
            error = np.abs(logprobs.max(axis=-1) - out.rival[b, c, : len(tokens)])
            assert error.max() <= tolerance * scale


@pytest.mark.parametrize("shape", [(1, 1), (2, 1)])
def test_prompts_of_several_buckets_do_not_mix(pair, shape):
    found = pair("llama-gqa")
    model = cola_jax.load(found.checkpoint, mesh=mesh(*shape))
    prompts = batch((40, 12, 3, 60, 7, 33))
    paths = [random_paths(oracle.LAYERS, 1 + seed % 3, seed) for seed in range(6)]
    done = []
    out = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW, on_progress=done.append)
    assert sum(done) == sum(map(len, paths))
    assert_greedy(found.ours, prompts, paths, out)


def mesh(data, tensor):
    devices = np.array(jax.devices()[: data * tensor]).reshape(data, tensor)
    return Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


# the rest differ in nothing that decoding touches; experiments/cached.py runs all of them
@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_equals_uncached_on_every_kind_of_path(pair, variant):
    model, prompts = pair(variant).ours, batch()
    paths = [PATHS] * len(LENGTHS)
    out = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW)
    assert (out.length == NEW).all()
    assert (out.finish == CUT).all()
    assert_greedy(model, prompts, paths, out)


@pytest.mark.parametrize("variant", ["llama-gqa", "mistral-window", "qwen3-window"])
def test_tokens_are_those_of_transformers_with_a_cache_for_each_position(pair, variant):
    found = pair(variant)
    ids = oracle.random_ids(1, 7)
    out = cola_jax.generate(found.ours, ids, [PATHS[:4]], max_new_tokens=NEW)
    for c, path in enumerate(PATHS[:4]):
        theirs = oracle.decode(found.theirs, ids, path, NEW)
        np.testing.assert_array_equal(out.tokens[0, c], theirs[0])


def test_company_does_not_change_a_bit(pair):
    model, prompts = pair("llama-gqa").ours, batch()
    paths = [random_paths(oracle.LAYERS, 6, seed) for seed in range(len(LENGTHS))]
    together = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW)
    for b in range(len(LENGTHS)):
        mine = jax.tree.map(lambda x, b=b: x[b : b + 1], prompts)
        for c, path in enumerate(paths[b][:3]):
            alone = cola_jax.generate(model, mine, [[path]], max_new_tokens=NEW)
            for ours, theirs in zip(together, alone, strict=True):
                np.testing.assert_array_equal(ours[b, c], theirs[0, 0])


@pytest.mark.parametrize(("data", "tensor"), [(1, 2), (2, 1), (1, 4)])
def test_devices_agree(pair, data, tensor):
    found, prompts = pair("mistral-window"), batch()
    model = cola_jax.load(found.checkpoint, mesh=mesh(data, tensor))
    paths = [random_paths(oracle.LAYERS, 4, seed) for seed in range(len(LENGTHS))]
    out = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW)
    assert_greedy(found.ours, prompts, paths, out)


def least_budget(model, prompts, paths):
    with pytest.raises(ValueError, match="give at least") as error:
        cola_jax.generate(model, prompts, paths, max_new_tokens=NEW, memory_budget=1)
    return parse_bytes(re.search(r"at least (\S+)\.", str(error.value))[1])


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_few_seats_are_taken_in_turns(pair, factor):
    model, prompts = pair("qwen2-window").ours, batch()
    paths = [random_paths(oracle.LAYERS, 7, seed) for seed in range(len(LENGTHS))]
    budget = factor * least_budget(model, prompts, paths)
    done = []
    out = cola_jax.generate(
        model,
        prompts,
        paths,
        max_new_tokens=NEW,
        memory_budget=budget,
        rows=2,
        on_progress=done.append,
    )
    assert sum(done) == 7 * len(LENGTHS)
    assert_greedy(model, prompts, paths, out)


def test_a_row_ends_at_a_stop_token(pair):
    model, prompts = pair("llama-gqa").ours, batch()
    free = cola_jax.generate(model, prompts, [PATHS] * 3, max_new_tokens=NEW)
    stop = cola_jax.Stop(tokens=tuple(np.unique(free.tokens[:, :, 3]).tolist()))
    out = cola_jax.generate(model, prompts, [PATHS] * 3, max_new_tokens=NEW, stop=stop)
    for b, c in np.ndindex(out.length.shape):
        hits = np.flatnonzero(np.isin(free.tokens[b, c], stop.tokens))
        length = hits[0] + 1
        assert out.length[b, c] == length
        np.testing.assert_array_equal(out.tokens[b, c, :length], free.tokens[b, c, :length])
        assert (out.tokens[b, c, length:] == -1).all()
        assert (out.logprob[b, c, length:] == 0).all()
        assert out.finish[b, c] == STOPPED


def test_stop_strings_and_rules_are_about_text():
    words = tiny.tokenizer()
    ids = words("sun moon water ice", add_special_tokens=False).input_ids

    def first_stop(stop):
        reached = [stop.reached(ids[: i + 1]) for i in range(len(ids))]
        return words.decode(ids[: reached.index(True) + 1])

    stop = cola_jax.Stop(strings=("n w", "er"), tokenizer=words)
    assert first_stop(stop).startswith("sun moon w")
    assert stop.text(ids) == "sun moo"
    rule = cola_jax.Stop(rule=lambda text: "water" in text, tokenizer=words)
    assert first_stop(rule).startswith("sun moon water")
    assert rule.text(ids) == "sun moon water ice"
    ended = cola_jax.Stop(tokens=(ids[-1],), tokenizer=words)
    assert ended.text(ids) == words.decode(ids[:-1])


def test_a_stop_string_is_found_however_long_the_text(monkeypatch):
    words = tiny.tokenizer()
    stop = cola_jax.Stop(strings=("ice",), tokenizer=words)
    ids = words("sun moon water " * 40 + "ice", add_special_tokens=False).input_ids
    assert [stop.reached(ids[: i + 1]) for i in range(len(ids))].index(True) == len(ids) - 1


def test_a_path_that_breaks_ends_alone(pair):
    model, prompts = pair("llama-gqa").ours, batch()
    broken = model.layers.replace(up=model.layers.up.at[4].set(jnp.inf))
    model = model.replace(layers=broken)
    paths = [[(0, 1), (0, 4, 1), (2, 3), (4,), (0, 1, 2)]] * 3
    budget = least_budget(model, prompts, paths)  # one seat, which all use in turn
    out = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW, memory_budget=budget)
    assert (out.finish[:, [1, 3]] == BROKEN).all()
    assert (out.length[:, [1, 3]] == 0).all()
    whole = [[path for path in row if 4 not in path] for row in paths]
    rest = cola_jax.Generated(*(x[:, [0, 2, 4]] for x in out))
    assert_greedy(model, prompts, whole, rest)


def test_bfloat16_stays_close(pair):
    model, prompts = pair("llama-gqa").ours, batch()
    out = cola_jax.generate(model, prompts, [PATHS] * 3, max_new_tokens=3, dtype="bfloat16")
    exact = cola_jax.generate(model, prompts, [PATHS] * 3, max_new_tokens=3)
    same = out.tokens[:, :, 0] == exact.tokens[:, :, 0]
    assert same.mean() > 0.7
    assert np.abs(out.logprob - exact.logprob)[:, :, 0][same].max() < 0.3


def test_entries_that_are_no_path_are_empty(pair):
    model = pair("llama-gqa").ours
    out = cola_jax.generate(model, batch(), [[(0, 1)], [], [(2,), (3,)]], max_new_tokens=2)
    assert out.length.tolist() == [[2, 0], [0, 0], [2, 2]]
    assert out.finish[0, 1] == ""
    nothing = cola_jax.generate(model, batch(), [[], [], []], max_new_tokens=2)
    assert nothing.tokens.shape == (3, 0, 2)


def test_windows_bind_while_decoding(pair):
    """The parity above would not notice a window that never hides anything."""
    model, prompts = pair("mistral-window").ours, batch()
    window = jnp.full_like(model.layers.window, FULL)
    config = model.config
    wide = model.replace(layers=model.layers.replace(window=window))
    assert config.windows[0] < LENGTHS[0]
    narrow, free = (
        cola_jax.generate(m, prompts, [[PATHS[0]]] * 3, max_new_tokens=NEW) for m in (model, wide)
    )
    assert (narrow.logprob != free.logprob).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 120}, "12 tokens and 120 new ones exceed the model's context of 128"),
        ({"stop": cola_jax.Stop(tokens=(97,))}, r"stop tokens are \[97\], but the model's vocab"),
        ({"paths": [[(9,)], [], []]}, "0..5"),
        ({"rows": 0}, "a tile needs at least 1 row"),
        ({"memory_budget": 10}, "a memory budget of 10B is too small to decode 9 tokens behind 32"),
    ],
)
def test_bad_arguments(pair, change, message):
    arguments = {"paths": [[(0,)]] * 3, "max_new_tokens": NEW} | change
    paths = arguments.pop("paths")
    with pytest.raises(ValueError, match=message):
        cola_jax.generate(pair("llama-gqa").ours, batch(), paths, **arguments)


def test_bad_prompts(pair):
    model = pair("llama-gqa").ours
    packed = batch().replace(branch=np.pad(np.zeros((3, 11)), ((0, 0), (0, 1)), constant_values=1))
    with pytest.raises(ValueError, match="continuations packed behind"):
        cola_jax.generate(model, packed, [[(0,)]] * 3, max_new_tokens=2)
    moved = batch().replace(positions=np.asarray(batch().positions) + 1)
    with pytest.raises(ValueError, match=r"positions of prompt 0 are not 0, 1, 2"):
        cola_jax.generate(model, moved, [[(0,)]] * 3, max_new_tokens=2)
    empty = batch((4, 0))
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        cola_jax.generate(model, empty, [[(0,)]] * 2, max_new_tokens=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": (-1,)}, "ids from 0 up"),
        ({"strings": ("",)}, "an empty stop string"),
        ({"strings": ("\n",)}, "give the tokenizer"),
        ({"rule": len}, "give the tokenizer"),
    ],
)
def test_bad_stops(arguments, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.Stop(**arguments)

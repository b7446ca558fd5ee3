"""Decoding along paths: cached against uncached, on every kind of path, device and budget."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from transformers.generation.logits_process import TopPLogitsWarper

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.execute import driver, plan
from cola_jax.execute.decoder import NOT_FINITE, STOPPED, TRUNCATED
from cola_jax.execute.generate import stop_of
from cola_jax.path import STOP, pad_path, random_paths
from cola_jax.prompts import PADDING
from tests import oracle, tiny
from tests.execute import batches
from tests.execute.one_by_one import run_reference

LONGEST = 72  # tokens of a prompt and what follows it, padded
NEW = 9  # tokens decoded; with the prompts below, more than every window
LENGTHS = (12, 3, 7)
PATHS = [
    *oracle.PATHS.values(),
    (0, 1, 2, 1, 2, 3, 1, 2, 1, 2, 3, 4, 5),  # a block twice, and over again
    (1, 2, 3, 4, 5),
    (0, 1, 2, 3, 4),
    (4,),
    (2, 2),
]
EACH, WIDTH = len(PATHS), 16  # C and P of nearly all batches, so that they compile once


def pad(rows):
    return batches.pad(rows, WIDTH, EACH)


def draw(each, seed=0):
    return pad([random_paths(oracle.LAYERS, each, seed + b) for b in range(len(LENGTHS))])


def with_config(model, **changes):
    return model.replace(config=dataclasses.replace(model.config, **changes))


def uncached(model, prompt, path, tokens):
    """Returns log-probabilities [n, V] at each decoded token, and the largest logit."""
    whole = np.concatenate([prompt, tokens]).astype(np.int32)
    # one shape for all: what follows a token, or a path, changes nothing
    padded = np.pad(whole, (0, LONGEST - len(whole)))[None]
    logits = np.asarray(cola_jax.run_path(model, padded, pad_path(path[path != STOP], WIDTH)))
    logits = logits[0, len(prompt) - 1 : len(whole) - 1]
    return np.array(jax.nn.log_softmax(logits)), np.abs(logits).max()


def assert_greedy(model, prompts, paths, out):
    """Compares every decoded token with what `run_path` says after the same text."""
    for b, c in np.argwhere(paths[:, :, 0] != STOP):
        ids = np.asarray(prompts.ids)[b]
        prompt = ids[np.asarray(prompts.branch)[b] != PADDING]
        tokens = out.tokens[b, c, : out.length[b, c]]
        logprobs, scale = uncached(model, prompt, paths[b, c], tokens)
        np.testing.assert_array_equal(tokens, logprobs.argmax(axis=-1))
        places = np.arange(len(tokens))
        error = np.abs(logprobs[places, tokens] - out.logprob[b, c, : len(tokens)])
        assert error.max() <= batches.TOLERANCE * scale
        logprobs[places, tokens] = -np.inf
        error = np.abs(logprobs.max(axis=-1) - out.rival[b, c, : len(tokens)])
        assert error.max() <= batches.TOLERANCE * scale


@pytest.fixture(scope="module")
def prompts():
    return batches.plain(*LENGTHS)


@pytest.fixture(scope="module")
def free(model, prompts):
    """What rows decode that only the limit ends."""
    return cola_jax.generate(model, prompts, pad([PATHS] * 3), max_new_tokens=NEW)


@pytest.mark.parametrize(
    ("variant", "data", "tensor"),
    [
        ("gpt-oss", 1, 1),  # windows, sinks and experts
        ("qwen3.5", 1, 1),
        ("gemma4-e", 1, 1),  # heads of two widths, some of whose keys are shared
        ("qwen2-window", 1, 2),  # KV heads split over devices, windows out of the whole stack
        pytest.param("gemma2", 1, 1, marks=pytest.mark.slow),  # softcaps
        pytest.param("glm4-moe", 1, 1, marks=pytest.mark.slow),  # two kinds of layers that attend
        # several workers of several devices, several rope tables
        pytest.param("gemma3", 2, 2, marks=pytest.mark.slow),
        # KV heads replicated, experts of all layers in one stack
        pytest.param("qwen2-moe-window", 1, 4, marks=pytest.mark.slow),
        pytest.param("qwen3.5", 2, 2, marks=pytest.mark.slow),
        pytest.param("gemma4-e", 2, 2, marks=pytest.mark.slow),
        pytest.param("granite4-mamba", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_generate_matches_uncached(pair, prompts, variant, data, tensor):
    found, alone = pair(variant), data * tensor == 1
    model = (
        found.ours if alone else cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    )
    paths = pad([PATHS] * 3) if alone else draw(4)
    paths[1] = batches.of_steps(paths[1], seed=len(variant))
    paths = batches.runnable(found.ours.config, paths)
    out = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW)
    ran = paths[:, :, 0] != STOP
    assert (out.length == np.where(ran, NEW, 0)).all()
    assert (out.finish[ran] == TRUNCATED).all()
    assert_greedy(found.ours, prompts, paths, out)


@pytest.mark.slow
def test_generate_takes_prompts_of_any_lengths(pair):
    found = pair("qwen2-window")
    prompts, metrics = batches.plain(40, 12, 3, 60, 7, 33), cola_jax.Metrics()
    paths = pad([random_paths(oracle.LAYERS, 1 + seed % 3, seed) for seed in range(6)])
    split = cola_jax.load(found.checkpoint, mesh=batches.mesh(2, 1))
    out = cola_jax.generate(split, prompts, paths, max_new_tokens=NEW, metrics=metrics)
    assert metrics.evaluations == (paths[:, :, 0] != STOP).sum()
    assert_greedy(found.ours, prompts, paths, out)


FAMILIES = [
    *("llama-gqa", "gemma2", "ministral3", "qwen3.5"),
    *(
        pytest.param(variant, marks=pytest.mark.slow)
        for variant in ("qwen3-window", "gpt-oss", "smollm3", "phi3-longrope", "granite4-mamba")
    ),
]


@pytest.mark.parametrize("variant", FAMILIES)
def test_generate_matches_transformers(pair, variant):
    """Where the cache of transformers has an entry for each position of the path."""
    found = pair(variant)
    ids = oracle.random_ids(1, 7)
    out = cola_jax.generate(found.ours, ids, [PATHS[:4]], max_new_tokens=NEW)
    for c, path in enumerate(PATHS[:4]):
        theirs = oracle.decode(found.theirs, ids, path, NEW)
        np.testing.assert_array_equal(out.tokens[0, c], theirs[0])


@pytest.mark.parametrize(
    ("variant", "devices", "states"),
    [
        pytest.param("qwen3.5", (1, 1), None, marks=pytest.mark.slow),
        ("gemma3", (1, 1), 16),  # few blocks: rows are admitted in several groups
        pytest.param("qwen2-moe-window", (2, 4), None, marks=pytest.mark.slow),
    ],
)
def test_prompts_that_begin_alike_share_what_they_have_in_common(
    pair, monkeypatch, variant, devices, states
):
    found, prompts = pair(variant), batches.plain(9, 2, 5, 11, shared=37)
    if states is not None:
        monkeypatch.setattr(driver, "count_blocks", lambda *_: states)
    model = found.ours
    if devices != (1, 1):
        model = cola_jax.load(found.checkpoint, mesh=batches.mesh(*devices))
    paths = pad([random_paths(oracle.LAYERS, 3, seed) for seed in range(4)])
    paths[2:] = batches.of_steps(paths[2:], seed=0)
    for every in (paths, np.tile(paths[:1], (4, 1, 1))):  # its own for each, and the same
        shared, whole = cola_jax.Metrics(), cola_jax.Metrics()
        out = cola_jax.generate(model, prompts, every, max_new_tokens=NEW, metrics=shared)
        with monkeypatch.context() as patch:
            patch.setattr(plan, "LEAST_GAIN", np.inf)
            expected = cola_jax.generate(model, prompts, every, max_new_tokens=NEW, metrics=whole)
        assert_greedy(found.ours, prompts, every, out)
        np.testing.assert_array_equal(out.tokens, expected.tokens)
        np.testing.assert_allclose(out.logprob, expected.logprob, atol=1e-4)
        # states of the prefix are run beside those of the prompts' own tokens, which are as many
        assert shared.cost.useful == whole.cost.useful
        assert shared.cost.unique > whole.cost.unique


@pytest.mark.parametrize("factor", [1, 5])
def test_generate_takes_turns_on_few_slots(model, prompts, factor):
    """Rows that found no slot or KV blocks are admitted when others have ended."""
    paths, metrics = draw(7), cola_jax.Metrics()
    run = functools.partial(cola_jax.generate, model, prompts, paths, max_new_tokens=NEW)
    budget = factor * batches.least_budget(run)
    out = run(memory_budget=budget, tile_tokens=24, metrics=metrics)
    assert metrics.evaluations == 7 * len(LENGTHS)
    assert metrics.tokens == 7 * len(LENGTHS) * NEW
    assert_greedy(model, prompts, paths, out)


def test_generate_repeats_to_the_bit(model, prompts, free):
    """An interrupted run decodes the same batches again: what they say must not change."""
    again = cola_jax.generate(model, prompts, pad([PATHS] * 3), max_new_tokens=NEW)
    batches.assert_identical(again, free)


def test_generate_ends_rows_at_stop_tokens(model, prompts, free):
    stop = cola_jax.Stop(tokens=tuple(np.unique(free.tokens[:, :, 3]).tolist()))
    out = cola_jax.generate(model, prompts, pad([PATHS] * 3), max_new_tokens=NEW, stop=stop)
    for b, c in np.ndindex(out.length.shape):
        hits = np.flatnonzero(np.isin(free.tokens[b, c], stop.tokens))
        length = hits[0] + 1
        assert out.length[b, c] == length
        np.testing.assert_array_equal(out.tokens[b, c, :length], free.tokens[b, c, :length])
        assert (out.tokens[b, c, length:] == -1).all()
        assert (out.logprob[b, c, length:] == 0).all()
        assert out.finish[b, c] == STOPPED


def test_generate_keeps_infinities_to_their_row(model, prompts):
    """Though the next row takes its slot and its KV blocks."""
    (stack,) = model.layers
    broken = model.replace(layers=(stack.replace(up=stack.up.at[4].set(jnp.inf)),))
    paths = pad([[(0, 1), (0, 4, 1), (2, 3), (4,), (0, 1, 2)]] * 3)
    run = functools.partial(cola_jax.generate, broken, prompts, paths, max_new_tokens=NEW)
    out = run(memory_budget=batches.least_budget(run))  # one slot, which all use in turn
    assert (out.finish[:, [1, 3]] == NOT_FINITE).all()
    assert (out.length[:, [1, 3]] == 0).all()
    paths[:, [1, 3]] = STOP
    assert_greedy(broken, prompts, paths, out)


@pytest.mark.slow
def test_rooted_scales_are_those_of_copies(pair, prompts):
    """A layer that runs N times takes the N-th root, though paths begin alike."""
    found, paths = pair("gemma4-e"), [*oracle.PATHS.values(), (0, 1, 2, 3), (0, 1, 1), (0, 1, 3, 3)]
    model = with_config(found.ours, rooted_scales=True)
    paths = pad([paths] * 3)
    paths[2] = batches.runnable(model.config, batches.of_steps(paths, seed=0))[2]
    for path in paths[0, :3]:
        layers, ids = path[path != STOP].tolist(), oracle.random_ids(2)
        with oracle.scaled_by_roots(found.theirs, layers):
            theirs = oracle.logits(found.theirs, ids, layers)
        ours = cola_jax.run_path(model, ids, path)
        assert oracle.relative_error(ours, theirs) < oracle.TOLERANCE
    readings = cola_jax.run_paths(model, prompts, paths)
    batches.assert_agree(readings, run_reference(model, prompts, paths))
    split = cola_jax.load(found.checkpoint, mesh=batches.mesh(1, 2))  # a call for several layers
    split = with_config(split, rooted_scales=True)
    batches.assert_agree(cola_jax.run_paths(split, prompts, paths), readings)
    assert_greedy(model, prompts, paths, cola_jax.generate(model, prompts, paths, max_new_tokens=2))
    plain = cola_jax.run_paths(found.ours, prompts, paths).logprob
    assert np.allclose(readings.logprob[:, 0], plain[:, 0])
    assert not np.allclose(readings.logprob[:, 2], plain[:, 2])


def test_generate_in_bfloat16(model, prompts, free):
    out = cola_jax.generate(model, prompts, pad([PATHS] * 3), max_new_tokens=3, dtype="bfloat16")
    same = out.tokens[:, :, 0] == free.tokens[:, :, 0]
    assert same.mean() > 0.7
    assert np.abs(out.logprob[:, :, 0] - free.logprob[:, :, 0])[same].max() < 0.3


TEMPERATURE = 2.0  # of few layers, so that most tokens are drawn


def test_generate_draws_from_softmax_of_transformers(pair, model, prompts):
    draw = functools.partial(cola_jax.generate, model, prompts, pad([PATHS] * 3))
    outs = [
        draw(max_new_tokens=NEW, temperature=TEMPERATURE, seed=seed)._asdict() for seed in range(8)
    ]
    tokens, ours, rival = (
        np.stack([out[name] for out in outs]) for name in ("tokens", "logprob", "rival")
    )
    counts = np.bincount(tokens.ravel(), minlength=oracle.VOCAB)
    expected = {temperature: np.zeros(oracle.VOCAB) for temperature in (TEMPERATURE, 1.0)}
    for b, c in np.ndindex(len(LENGTHS), EACH):
        prompt = np.tile(np.asarray(prompts.ids)[b, : LENGTHS[b]], (len(outs), 1))
        texts = np.concatenate([prompt, tokens[:, b, c]], axis=1)
        logits = oracle.logits(pair("qwen2-window").theirs, texts, PATHS[c])
        logits = logits[:, LENGTHS[b] - 1 : -1].astype(np.float64)
        for temperature, sums in expected.items():
            sums += scipy.special.softmax(logits / temperature, axis=-1).sum(axis=(0, 1))
        logprob = scipy.special.log_softmax(logits, axis=-1)  # without the temperature
        places = tokens[:, b, c, :, None]
        theirs = np.take_along_axis(logprob, places, axis=-1)[..., 0]
        np.testing.assert_allclose(ours[:, b, c], theirs, atol=1e-4)
        np.put_along_axis(logprob, places, -np.inf, axis=-1)
        np.testing.assert_allclose(rival[:, b, c], logprob.max(axis=-1), atol=1e-4)
    for temperature, sums in expected.items():
        fits = scipy.stats.chisquare(counts, sums).pvalue > 1e-3
        assert fits == (temperature == TEMPERATURE)


def test_generate_draws_from_nucleus_of_transformers(pair, model, prompts):
    paths, top_p = pad([PATHS[:4]] * 3), 0.7
    warp = TopPLogitsWarper(top_p)
    counts, expected = np.zeros((2, oracle.VOCAB))
    for seed in range(4):
        draw = {"temperature": TEMPERATURE, "top_p": top_p, "seed": seed}
        tokens = cola_jax.generate(model, prompts, paths, max_new_tokens=NEW, **draw).tokens
        for b, c in np.ndindex(len(LENGTHS), 4):
            prompt = np.asarray(prompts.ids)[b, : LENGTHS[b]]
            text = np.concatenate([prompt, tokens[b, c]])[None]
            logits = oracle.logits(pair("qwen2-window").theirs, text, PATHS[c])[0]
            logits = logits[LENGTHS[b] - 1 : -1] / TEMPERATURE
            kept = warp(None, torch.from_numpy(np.array(logits, np.float32))).numpy()
            assert np.isfinite(kept[np.arange(NEW), tokens[b, c]]).all()
            counts += np.bincount(tokens[b, c], minlength=oracle.VOCAB)
            expected += scipy.special.softmax(kept.astype(np.float64), axis=-1).sum(axis=0)
    common = expected > 5
    folded = ([*x[common], x[~common].sum()] for x in (counts, expected))
    assert scipy.stats.chisquare(*folded).pvalue > 1e-3


@pytest.fixture
def texted(tiny_checkpoint):
    return cola_jax.load(str(tiny_checkpoint))


def test_generate_takes_chats(texted, tiny_checkpoint):
    words = cola_jax.load_tokenizer(tiny_checkpoint)
    system = {"role": "system", "content": "the moon"}
    asked = [{"role": "user", "content": " ".join(tiny.WORDS[i : i + 2])} for i in range(2)]
    chats = [[asked[0]], [system, asked[1]]]
    out = cola_jax.generate(texted, chats, "0-3", max_new_tokens=4)
    for b, chat in enumerate(chats):
        text = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = words(text, add_special_tokens=False, return_tensors="np").input_ids
        stop = cola_jax.Stop(stop_tokens(tiny_checkpoint))
        alone = cola_jax.generate(texted, ids, "0-3", max_new_tokens=4, stop=stop)
        np.testing.assert_array_equal(out.tokens[b], alone.tokens[0])
        assert out.text[b] == alone.text[0]
    single = cola_jax.generate(texted, chats[1], "0-3", max_new_tokens=4)
    assert single.text.tolist() == out.text[1:].tolist()


def test_generate_ends_texts_at_strings(texted, tiny_checkpoint, monkeypatch):
    text = " ".join(tiny.WORDS[:3])
    free = cola_jax.generate(texted, text, max_new_tokens=8, stop=cola_jax.Stop())
    end = free.text[0][4:6]
    assert free.length[0] == 8
    for stop in (end, ["no such text", end]):
        out = cola_jax.generate(texted, text, max_new_tokens=8, stop=stop)
        assert out.text[0] == free.text[0][: free.text[0].index(end)]
        assert out.finish[0] == STOPPED
    # the model's own stop tokens end texts; of ids, only where strings are given
    ids = cola_jax.load_tokenizer(tiny_checkpoint)([text], return_tensors="np").input_ids
    ending = int(free.tokens[0, 2])
    monkeypatch.setattr("cola_jax.execute.generate.stop_tokens", lambda _: (ending,))
    for prompts, more in ((text, {}), ([text], {}), (ids, {"stop": "no such text"})):
        assert cola_jax.generate(texted, prompts, max_new_tokens=8, **more).length[0] <= 3
    assert cola_jax.generate(texted, ids, max_new_tokens=8).length[0] == 8


@pytest.mark.parametrize(
    ("prompts", "change", "message"),
    [
        ([{"role": "user"}], {}, "prompt 0 has the message {'role': 'user'}: give each a role"),
        ([[{"role": "user", "content": "a"}], "b"], {}, "prompt 1 is not a list of messages"),
        ("the sun", {"stop": [""]}, "an empty stop string"),
    ],
)
def test_generate_refuses_bad_texts(texted, prompts, change, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.generate(texted, prompts, **change)


def test_stop_of_refuses_other_types(texted):
    with pytest.raises(
        ValueError, match=r"must be a string, a list of strings, or a Stop, not \[5"
    ):
        stop_of(texted, "the sun", [5])


def test_draws_depend_on_seed_row_path_and_place_alone(model, prompts, free):
    every = functools.partial(cola_jax.generate, model, max_new_tokens=NEW)
    draw, paths = functools.partial(every, temperature=TEMPERATURE), pad([PATHS] * 3)
    whole = draw(prompts, paths)
    few = functools.partial(draw, prompts, paths[:, ::-1])  # in another order, a few at a time
    again = few(memory_budget=4 * batches.least_budget(few))
    np.testing.assert_array_equal(again.tokens[:, ::-1], whole.tokens)
    assert (draw(prompts, paths, seed=1).tokens != whole.tokens).mean() > 0.5
    twins = draw(jax.tree.map(lambda x: np.asarray(x)[[0, 0, 2]], prompts), paths)
    np.testing.assert_array_equal(twins.tokens[[0, 2]], whole.tokens[[0, 2]])
    assert (twins.tokens[1] != whole.tokens[0]).mean() > 0.5
    cold = every(prompts, paths, temperature=0.001)
    np.testing.assert_array_equal(cold.tokens, free.tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"temperature": -1.0},
            "the temperature is -1.0: give 0, which decodes greedily",
        ),
        ({"temperature": np.nan}, "the temperature is nan"),
        ({"temperature": np.inf}, "the temperature is inf"),
        ({"top_p": 0.9}, "top_p is 0.9, but nothing is drawn at temperature 0: give a temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0: give a share above 0 and up to 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5: give a share above 0 and up to 1"),
        ({"temperature": 1.0, "top_p": np.nan}, "top_p is nan: give a share"),
        ({"stop": "x"}, "was not loaded from a checkpoint with a tokenizer"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 120}, "12 tokens and 120 new ones exceed the model's context of 128"),
        ({"stop": cola_jax.Stop(tokens=(97,))}, r"stop tokens are \[97\], but the model's vocab"),
        ({"memory_budget": 10}, "a memory budget of 10B is too small to decode 9 tokens after 16"),
    ],
)
def test_generate_refuses_bad_arguments(model, prompts, change, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.generate(model, prompts, [[(0,)]] * 3, **{"max_new_tokens": NEW} | change)


def test_generate_refuses_bad_prompts(model, prompts):
    branch = np.pad(np.zeros((3, 11)), ((0, 0), (0, 1)), constant_values=1)
    cases = [
        (prompts.replace(branch=branch), "continuations packed after"),
        (prompts.replace(positions=np.asarray(prompts.positions) + 1), "positions of prompt 0 are"),
        (batches.plain(4, 0), "prompt 1 has no tokens"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            cola_jax.generate(model, bad, [[(0,)]] * len(bad.ids), max_new_tokens=2)


def test_generate_after_embeddings(model, prompts, free):
    carried = batches.with_embeddings(model, prompts, 1)
    out = cola_jax.generate(model, carried, pad([PATHS] * 3), max_new_tokens=NEW)
    np.testing.assert_array_equal(out.tokens, free.tokens)
    np.testing.assert_allclose(out.logprob, free.logprob, rtol=0, atol=1e-4)


@pytest.mark.parametrize("paths", ["0-4", ["0-4", "0-2"] * 10])
def test_generated_shows_texts_and_paths(tiny_checkpoint, paths):
    model = cola_jax.load(tiny_checkpoint)
    generated = cola_jax.generate(model, ["the sun", "ice"], paths, max_new_tokens=3)
    table = generated.to_pandas()
    expected = [paths] if isinstance(paths, str) else paths
    assert table["path"].tolist() == expected * 2
    lines = repr(generated).splitlines()
    assert lines[0] == f"Generated {len(table)} texts, {generated.length.sum()} tokens"
    assert len(lines) == 1 + min(len(table), 8) + (len(table) > 8)

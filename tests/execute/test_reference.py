"""`run_path` against transformers, and the executors against `run_path`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads
from transformers import BatchEncoding

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.execute import reference
from cola_jax.execute.reference import block_influence
from cola_jax.path import STOP, pad_path, random_paths
from cola_jax.prompts import Prompts, readings
from cola_jax.steps import Step, share_of
from tests import oracle
from tests.execute import batches
from tests.execute.one_by_one import run_reference

PATH = (0, 2, 3, 3, 1, 5)
CANDIDATES, POSITIONS = 3, 12  # of all waves, so that they share compilations


def wave(rows):
    """Pads lists of paths to one shape [B, C, P]."""
    return batches.pad(rows, POSITIONS, CANDIDATES)


def draw(*counts):
    """Draws that many paths for each question."""
    paths = random_paths(oracle.LAYERS, sum(counts), seed=0)
    return wave([[paths.pop() for _ in range(count)] for count in counts])


def test_run_path_compiles_once_for_a_padded_length(model):
    reference.logits.clear_cache()
    ids = oracle.random_ids(2)
    outs = [cola_jax.run_path(model, ids, pad_path(path, 9)) for path in (PATH, (5, 0), (1,) * 9)]
    assert reference.logits._cache_size() == 1
    assert not np.allclose(outs[0], outs[1])
    exact = cola_jax.run_path(model, ids, PATH)
    assert reference.logits._cache_size() == 2
    np.testing.assert_array_equal(outs[0], exact)
    for path in (list(PATH), np.array(PATH), jnp.array(PATH), np.array(PATH, np.int64)):
        np.testing.assert_array_equal(cola_jax.run_path(model, ids, path), exact)


def test_run_path_vmapped_over_paths_equals_a_loop(model):
    ids = oracle.random_ids(2)
    paths = np.stack([pad_path(path, 9) for path in ((0, 1, 2), PATH, (4,) * 8)])
    batched = jax.vmap(lambda path: cola_jax.run_path(model, ids, path))(paths)
    for out, path in zip(np.asarray(batched), paths, strict=True):
        assert oracle.relative_error(out, cola_jax.run_path(model, ids, path)) < oracle.TOLERANCE


STEPS = "0,2*0.5,3a,3m,1*1.5,5"


@pytest.mark.parametrize("variant", ["gemma3", "qwen2-moe", "qwen3.5"])
def test_run_path_differentiates_over_shares(pair, variant):
    """The gradient agrees with finite differences, at shares of 1 too."""
    model, ids = pair(variant).ours, oracle.random_ids(2)
    path = np.array(cola_jax.parse_path(STEPS, oracle.LAYERS))

    @jax.jit
    def loss(shares):
        logprobs = jax.nn.log_softmax(cola_jax.run_path(model, ids, path, shares=shares)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logprobs, ids[:, 1:, None], axis=-1))

    shares = jnp.asarray(share_of(path), jnp.float32)
    check_grads(loss, (shares,), order=1, modes=["rev"], eps=1e-3, rtol=1e-2, atol=2e-3)
    assert (np.abs(jax.grad(loss)(shares)) > 0).all()


def test_shares_take_the_place_of_those_of_the_path(model):
    ids = oracle.random_ids(2)
    path = cola_jax.parse_path(STEPS, oracle.LAYERS)
    whole = [Step.of(step)._replace(share=1.0).id for step in path]
    ours = cola_jax.run_path(model, ids, whole, shares=share_of(np.array(path)))
    expected = cola_jax.run_path(model, ids, path)
    assert oracle.relative_error(ours, expected) < oracle.TOLERANCE
    ones = cola_jax.run_path(model, ids, whole, shares=np.ones(len(path)))
    expected = cola_jax.run_path(model, ids, whole)
    assert oracle.relative_error(ones, expected) < oracle.TOLERANCE
    none = cola_jax.run_path(model, ids, [0, 3, 3], shares=[1.0, 0.0, 0.0])  # as if it did not run
    # to rounding: the state is the one after the layer, less its whole update
    expected = cola_jax.run_path(model, ids, [0])
    assert oracle.relative_error(none, expected) < oracle.TOLERANCE
    with pytest.raises(ValueError, match=r"shares \[2\] for a path \[3\]: give one for each"):
        cola_jax.run_path(model, ids, [0, 1, 2], shares=[1.0, 0.5])


def test_run_path_refuses_ids_without_a_step(model):
    ids = oracle.random_ids(1)
    for id in (oracle.LAYERS, 1000, 3 << 21, 1 << 23, (1000 << 10) + 1):
        with pytest.raises(ValueError, match="but the model has layers 0"):
            cola_jax.run_path(model, ids, [0, id])
        with pytest.raises(ValueError, match="but the model has layers 0"):
            cola_jax.run_paths(model, ids, np.array([[[0, id]]]))


def test_an_attention_of_a_lender_makes_keys_and_an_mlp_does_not(pair):
    model, ids = pair("gemma4-e").ours, oracle.random_ids(1)
    lender = model.config.keys_of[-1]
    last = oracle.LAYERS - 1
    cola_jax.run_path(model, ids, f"{lender}a,{last}a")
    cola_jax.run_path(model, ids, f"{lender}m,{last}m")  # needs none
    for path in (f"{lender}m,{last}", f"{lender}m,{last}a", f"{last}*0.5,{lender}"):
        with pytest.raises(ValueError, match=f"without layer {lender} before it"):
            cola_jax.run_path(model, ids, path)


LENGTHS = (12, 7, 1)
PAD = 5


def encoding_of(side):
    """A tokenizer's output for texts of LENGTHS tokens: arrays of torch."""
    ids = np.full((len(LENGTHS), max(LENGTHS)), PAD)
    mask = np.zeros_like(ids)
    for b, length in enumerate(LENGTHS):
        columns = slice(-length, None) if side == "left" else slice(length)
        ids[b, columns], mask[b, columns] = oracle.random_ids(1, length, seed=b)[0], 1
    return BatchEncoding({"input_ids": ids, "attention_mask": mask}, tensor_type="pt")


def masked_logits(theirs, encoding, path):
    """Returns the logits of transformers, which leaves positions to its caller."""
    mask = encoding["attention_mask"]
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    with torch.no_grad(), oracle.rebuilt(theirs, path):
        return theirs(**encoding, position_ids=positions, use_cache=False).logits.numpy()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ["gemma3", "qwen2-moe"])
def test_run_path_honours_the_attention_mask(pair, variant, side):
    models, encoding = pair(variant), encoding_of(side)
    ours = np.asarray(cola_jax.run_path(models.ours, encoding, pad_path(PATH, 9)))
    theirs = masked_logits(models.theirs, encoding, PATH)
    tokens = encoding["attention_mask"].numpy() == 1
    assert oracle.relative_error(ours[tokens], theirs[tokens]) < oracle.TOLERANCE
    assert (ours[~tokens] == 0).all()
    if side == "left":  # of every row the last column is the last token
        without = cola_jax.run_path(models.ours, encoding["input_ids"].numpy(), pad_path(PATH, 9))
        assert oracle.relative_error(np.asarray(without)[:, -1], theirs[:, -1]) > 0.1


@pytest.mark.parametrize("variant", ["llama-gqa", "qwen2-moe"])
def test_run_path_differentiates_over_a_whole_model(pair, variant):
    """The gradient agrees with finite differences, and is 0 for layers not run."""
    model, ids, path = pair(variant).ours, oracle.random_ids(2), pad_path((0, 3, 3), 5)

    @jax.jit
    def loss(model):
        logprobs = jax.nn.log_softmax(cola_jax.run_path(model, ids, path)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logprobs, ids[:, 1:, None], axis=-1))

    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(model))
    # a larger step chooses other experts
    check_grads(loss, (model,), order=1, modes=["rev"], eps=3e-4, rtol=2e-2, atol=2e-2)
    for slope in jax.tree.leaves(jax.grad(loss)(model).layers):
        used = np.abs(slope).reshape(oracle.LAYERS, -1).max(axis=1) > 0
        assert used.tolist() == [True, False, False, True, False, False]


def at(batch, place, reads):
    """Takes the readings of one path, without the padding of its reads."""
    one = jax.tree.map(lambda x: x[place], batch)
    return one.replace(**{n: getattr(one, n)[:reads] for n in ("logprob", "token", "rival")})


def test_run_reference_equals_run_path_and_readings(model):
    rows = [batches.question(12, 2, 0), batches.packed(1), batches.question(40, 3, 2)]
    prompts, paths = Prompts.stack(rows), draw(3, 1, 2)
    out = run_reference(model, prompts, paths)
    assert out.logprob.shape == (3, CANDIDATES, prompts.read.shape[1])
    for b, c in np.argwhere(paths[:, :, 0] != STOP):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], prompts)
        logits = cola_jax.run_path(model, one, paths[b, c])
        expected = jax.device_get(jax.jit(readings)(logits, one.targets))
        reads = len(rows[b].read)
        batches.assert_agree(at(out, (b, c), reads), at(expected, 0, reads), batches.ROUNDING)


def test_run_paths_skips_entries_of_stop_alone(model, questions):
    run = cola_jax.run_paths
    paths = wave([[], [], [(1, 4)]])
    paths[0, 1] = pad_path(PATH, POSITIONS)
    out = run(model, questions, paths)
    ran = np.zeros((3, CANDIDATES), bool)
    ran[0, 1] = ran[2, 0] = True
    np.testing.assert_array_equal(out.finite, ran)
    assert np.isneginf(out.logprob[~ran]).all()
    assert np.isneginf(out.rival[~ran]).all()
    assert (out.token[~ran] == -1).all()
    listed = run(model, questions, [[(1,) * 9], [], [(1, 4), (1, 4), (1, 4)]])
    assert listed.finite.tolist() == [[True, False, False], [False] * 3, [True] * 3]


def test_run_paths_flags_paths_that_are_not_finite(model, questions):
    run = cola_jax.run_paths
    (stack,) = model.layers
    broken = model.replace(layers=(stack.replace(up=stack.up.at[4].set(jnp.nan)),))
    out = run(broken, questions, wave([[PATH, (0, 4, 5)]] * 3))
    assert out.finite.tolist() == [[True, False, False]] * 3
    infinite = model.replace(norm=model.norm * 3e38)
    assert not run(infinite, questions, wave([[PATH]] * 3)).finite.any()


def test_run_paths_keeps_what_is_not_finite_to_its_path(model, questions):
    """Though other paths take its slots, in shorter and in longer tiles."""
    (stack,) = model.layers
    broken = model.replace(layers=(stack.replace(up=stack.up.at[4].set(jnp.nan)),))
    paths = wave([[(4, 4, 4), PATH, (4, 1)], [PATH, (0, 4, 5), (0, 2)], [(4, 0), (1, 2), PATH]])
    run = functools.partial(cola_jax.run_paths, broken, questions, paths)
    out = run(memory_budget=batches.least_budget(run))
    expected = run_reference(broken, questions, paths)
    np.testing.assert_array_equal(out.finite, expected.finite)
    assert out.finite.sum() == 5
    for b, c in np.argwhere(out.finite):
        reads = batches.QUESTIONS[b][1]
        batches.assert_agree(at(out, (b, c), reads), at(expected, (b, c), reads))


def test_layers_need_the_keys_that_they_share(pair, questions, monkeypatch):
    """Users are told; to a search, such a path is one that is not finite."""
    model, paths = pair("gemma4-e").ours, wave([[(1, 3, 4), (0, 2, 4), (0, 2, 5)], [], [(5, 0)]])
    prompts = batches.plain(5)
    for run in (
        lambda: cola_jax.run_path(model, prompts, "0-2,4"),
        lambda: cola_jax.run_paths(model, questions, paths),
        lambda: cola_jax.generate(model, prompts, "0-2,4", max_new_tokens=1),
    ):
        with pytest.raises(ValueError, match=r"runs layer 4.* of layer 3, without layer 3 before"):
            run()
    drawn = random_paths(oracle.LAYERS, 40, seed=0, refused=model.config.missing_keys)
    assert not any(map(model.config.missing_keys, drawn))
    assert any(map(model.config.missing_keys, random_paths(oracle.LAYERS, 40, seed=0)))
    monkeypatch.setattr(ModelConfig, "check_keys", lambda *_: None)
    out = cola_jax.run_paths(model, questions, paths)
    assert out.finite.tolist() == [[True, False, True], [False] * 3, [False] * 3]
    batches.assert_agree(out, run_reference(model, questions, paths))


def test_influence_is_one_minus_the_cosine_of_states(model):
    """Mean over the tokens of all prompts."""
    rows = [oracle.random_ids(1, n, seed=n) for n in (5, 9)]
    path = np.arange(oracle.LAYERS)
    states = [cola_jax.run_path(model, ids, path, return_states=True)[1][:, 0] for ids in rows]
    states = np.concatenate(states, axis=1)
    unit = states / np.linalg.norm(states, axis=-1, keepdims=True)
    expected = 1 - (unit[:-1] * unit[1:]).sum(axis=-1).mean(axis=-1)
    prompts = Prompts.stack([Prompts.plain(ids[0]) for ids in rows])
    np.testing.assert_allclose(block_influence(model, prompts), expected, atol=1e-5)


def test_influence_of_parts_is_that_of_their_steps(model):
    """The steps of a path that runs attention and MLP of each layer one after the other."""
    prompts = Prompts.stack([Prompts.plain(oracle.random_ids(1, 9)[0])])
    path = [step for i in range(oracle.LAYERS) for step in (f"{i}a", f"{i}m")]
    _, states = cola_jax.run_path(model, prompts, ",".join(path), return_states=True)
    unit = states[:, 0] / np.linalg.norm(states[:, 0], axis=-1, keepdims=True)
    expected = 1 - (unit[:-1] * unit[1:]).sum(axis=-1).mean(axis=-1)
    found = block_influence(model, prompts, parts=True)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize("first", [2, 52])
def test_embeddings_replace_those_of_tokens(model, first):
    """The same with ids and with their embeddings, within a shared prefix and after one."""
    prompts, paths = batches.alike(48), [list(range(oracle.LAYERS)), [0, 2, 3, 3, 5]]
    carried = batches.with_embeddings(model, prompts, first)
    expected = cola_jax.run_paths(model, prompts, paths)
    batches.assert_agree(cola_jax.run_paths(model, carried, paths), expected)
    batches.assert_agree(run_reference(model, carried, paths), expected)
    without = carried.replace(embeddings=None, places=None)
    assert not np.allclose(cola_jax.run_paths(model, without, paths).logprob, expected.logprob)

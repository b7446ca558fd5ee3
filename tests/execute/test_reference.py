"""`run_path` against a Python loop, `run_paths` against `run_path`, and what both refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.edits import random_paths
from cola_jax.execute import inputs, scan
from cola_jax.model import block, embed, unembed, view
from cola_jax.path import STOP, pad_path
from cola_jax.prompts import Prompts, readings
from tests import oracle

PATH = (0, 2, 3, 3, 1, 5)


@pytest.fixture(scope="module")
def model(pair):
    return pair("qwen2-window").ours


def question(tokens, seed, reads=2):
    """One unbatched row with random targets, read at its last positions."""
    ids, targets = oracle.random_ids(1, tokens, seed)[0], oracle.random_ids(1, reads, seed + 1)[0]
    return Prompts(
        ids=ids,
        positions=np.arange(tokens),
        branch=np.zeros(tokens, np.int32),
        read=np.arange(tokens - reads, tokens),
        targets=targets,
    )


@pytest.fixture(scope="module")
def questions():
    rows = [question(tokens, seed, reads) for seed, (tokens, reads) in enumerate(QUESTIONS)]
    return Prompts.stack(rows)


QUESTIONS = [(12, 2), (40, 3), (5, 1)]  # tokens and reads: the rows fall in different buckets


def test_scan_equals_a_loop_over_block(model):
    prompts = Prompts.plain(oracle.random_ids(3))
    h, here = embed(model, prompts.ids), view(model.config, prompts)
    run = jax.jit(block, static_argnums=0)
    for i in PATH:
        h = run(model.config, jax.tree.map(lambda w, i=i: w[i], model.layers), h, here)
    loop = unembed(model, h)
    assert oracle.relative_error(cola_jax.run_path(model, prompts, PATH), loop) < oracle.TOLERANCE


def test_paths_of_one_padded_length_compile_once(model):
    scan.logits.clear_cache()
    ids = oracle.random_ids(2)
    outs = [cola_jax.run_path(model, ids, pad_path(path, 9)) for path in (PATH, (5, 0), (1,) * 9)]
    assert scan.logits._cache_size() == 1
    assert not np.allclose(outs[0], outs[1])
    cola_jax.run_path(model, ids, pad_path(PATH, 7))
    assert scan.logits._cache_size() == 2


def test_padding_of_a_path_changes_nothing(model):
    ids = oracle.random_ids(2)
    exact = cola_jax.run_path(model, ids, PATH)
    for positions in (7, 12):
        padded = cola_jax.run_path(model, ids, pad_path(PATH, positions))
        np.testing.assert_array_equal(padded, exact)


def test_forms_of_a_path_mean_the_same(model):
    ids = oracle.random_ids(2)
    exact = cola_jax.run_path(model, ids, PATH)
    for path in (list(PATH), np.array(PATH), jnp.array(PATH), np.array(PATH, np.int64)):
        np.testing.assert_array_equal(cola_jax.run_path(model, ids, path), exact)


def test_read_takes_those_positions(model, questions):
    everywhere = cola_jax.run_path(model, questions.replace(read=None, targets=None), PATH)
    there = cola_jax.run_path(model, questions, PATH)
    for b, (_, reads) in enumerate(QUESTIONS):
        expected = everywhere[b, questions.read[b, :reads]]
        assert oracle.relative_error(there[b, :reads], expected) < oracle.TOLERANCE


def test_gradients_are_finite_and_reach_the_layers_run(model):
    """They are zero for the other layers, and agree with finite differences."""
    ids = oracle.random_ids(2)

    def loss(layers):
        out = cola_jax.run_path(model.replace(layers=layers), ids, pad_path((0, 3, 3), 5))
        return jnp.mean(jax.nn.logsumexp(out, axis=-1) - out[..., 7])

    floats, facts = split_facts(model.layers)
    grads = jax.jit(jax.grad(lambda floats: loss(floats.replace(**facts))))(floats)
    leaves = jax.tree.leaves(grads)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    used = np.array([[np.abs(leaf[i]).max() > 0 for i in range(6)] for leaf in leaves])
    assert (used == [True, False, False, True, False, False]).all()

    nudge = jax.tree.map(jnp.zeros_like, floats).replace(gate=jnp.full_like(floats.gate, 1e-2))
    moved = [jax.tree.map(lambda a, b, s=s: a + s * b, floats, nudge) for s in (1, -1)]
    slope = [jax.jit(loss)(floats.replace(**facts)) for floats in moved]
    np.testing.assert_allclose(slope[0] - slope[1], 2e-2 * grads.gate.sum(), rtol=2e-2)


def split_facts(layers):
    """Separates the integer facts, which have no gradient."""
    facts = {"rope": layers.rope, "window": layers.window}
    return layers.replace(rope=None, window=None), facts


def test_vmap_over_paths_equals_a_loop(model):
    ids = oracle.random_ids(2)
    paths = np.stack([pad_path(path, 8) for path in ((0, 1, 2), PATH, (4,) * 8)])
    batched = jax.vmap(lambda path: cola_jax.run_path(model, ids, path))(paths)
    for out, path in zip(batched, paths, strict=True):
        assert oracle.relative_error(out, cola_jax.run_path(model, ids, path)) < oracle.TOLERANCE


def candidates(counts, seed=0):
    """Draws that many random paths for each question."""
    paths = random_paths(6, sum(counts), seed)
    return [[paths.pop() for _ in range(count)] for count in counts]


def assert_same(ours, theirs):
    for name in ("logprob", "rival"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(ours.token, theirs.token)
    np.testing.assert_array_equal(ours.finite, theirs.finite)


@pytest.mark.parametrize("seed", range(3))
def test_run_paths_equals_run_path_and_readings(model, questions, seed):
    paths = candidates((3, 1, 2), seed)
    done = []
    out = cola_jax.run_paths(model, questions, paths, on_progress=done.append)
    assert out.logprob.shape == (3, 3, 3)
    assert sum(done) == 6
    for b, row in enumerate(paths):
        reads = QUESTIONS[b][1]
        for c, path in enumerate(row):
            one = jax.tree.map(lambda x, b=b: x[b : b + 1], questions)
            expected = readings(cola_jax.run_path(model, one, path), jnp.asarray(one.targets))
            expected = jax.tree.map(lambda x: x[0], expected)
            got = jax.tree.map(lambda x, b=b, c=c: x[b, c], out)
            assert_same(cut(got, reads), cut(expected, reads))


def cut(found, reads):
    values = {name: getattr(found, name)[:reads] for name in ("logprob", "token", "rival")}
    return found.replace(**values)


def test_arrays_and_lists_of_paths_agree(model, questions):
    paths = candidates((2, 2, 2))
    array = np.stack([np.stack([pad_path(path, 12) for path in row]) for row in paths])
    out = cola_jax.run_paths(model, questions, paths)
    for form in (array, jnp.asarray(array), [list(map(np.asarray, row)) for row in paths]):
        jax.tree.map(np.testing.assert_array_equal, cola_jax.run_paths(model, questions, form), out)


def test_entries_of_stop_alone_are_not_evaluated(model, questions):
    paths = np.full((3, 2, 8), STOP, np.int32)
    paths[0, 1, :6], paths[2, 0, :2] = PATH, (1, 4)
    done = []
    out = cola_jax.run_paths(model, questions, paths, on_progress=done.append)
    assert sum(done) == 2
    ran = np.array([[False, True], [False, False], [True, False]])
    np.testing.assert_array_equal(out.finite, ran)
    assert np.isneginf(out.logprob[~ran]).all()
    assert np.isneginf(out.rival[~ran]).all()
    assert (out.token[~ran] == -1).all()
    listed = cola_jax.run_paths(model, questions, [[PATH], [], [(1, 4)]])
    assert listed.finite.tolist() == [[True], [False], [True]]


def test_results_do_not_depend_on_the_batch(model, questions):
    paths = candidates((2, 3, 1))
    together = cola_jax.run_paths(model, questions, paths)
    # alone, out of order, and in a batch padded further
    wide = Prompts.stack([question(30, 9, 10), *(row(questions, b) for b in (2, 0, 1))])
    apart = cola_jax.run_paths(model, wide, [candidates((1,))[0], *(paths[b] for b in (2, 0, 1))])
    for b in range(3):
        alone = cola_jax.run_paths(model, Prompts.stack([row(questions, b)]), [paths[b]])
        reads = QUESTIONS[b][1]
        for c in range(len(paths[b])):
            whole = cut(jax.tree.map(lambda x, b=b, c=c: x[b, c], together), reads)
            for other, at in ((alone, 0), (apart, 1 + (2, 0, 1).index(b))):
                part = cut(jax.tree.map(lambda x, at=at, c=c: x[at, c], other), reads)
                jax.tree.map(np.testing.assert_array_equal, part, whole)


def row(prompts, b):
    """Takes one question out of a batch, without its padding."""
    tokens, reads = QUESTIONS[b]
    sizes = {"ids": tokens, "positions": tokens, "branch": tokens, "read": reads, "targets": reads}
    return Prompts(**{name: getattr(prompts, name)[b, :size] for name, size in sizes.items()})


def test_packed_options_read_like_separate_prompts(model):
    """Two continuations packed behind one prompt, read where they begin and where they end."""
    prompt, first, second = (oracle.random_ids(1, n, seed=n)[0] for n in (6, 2, 3))
    together = Prompts(
        ids=np.concatenate([prompt, first, second]),
        positions=np.array([0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]),
        branch=np.array([0] * 6 + [1] * 2 + [2] * 3),
        read=np.array([5, 6, 8, 9]),
        targets=np.array([first[0], first[1], second[1], second[2]]),
    )
    out = cola_jax.run_paths(model, Prompts.stack([together]), [[PATH]])
    for option, at in ((first, (0, 1)), (second, (2, 3))):
        whole = Prompts.plain(np.concatenate([prompt, option])[None])
        logits = cola_jax.run_path(model, whole, PATH)
        logprobs = jax.nn.log_softmax(logits, axis=-1)[0]
        if option is first:
            np.testing.assert_allclose(out.logprob[0, 0, 0], logprobs[5, first[0]], atol=1e-5)
            at = at[1:]
        for j, i in enumerate(at, start=1):
            expected = logprobs[5 + j, option[j]]
            np.testing.assert_allclose(out.logprob[0, 0, i], expected, atol=1e-5)


def test_nan_weights_flag_the_paths_that_run_them(model, questions):
    broken = model.replace(layers=model.layers.replace(up=model.layers.up.at[4].set(jnp.nan)))
    out = cola_jax.run_paths(broken, questions, [[PATH, (0, 4, 5)]] * 3)
    assert out.finite.tolist() == [[True, False]] * 3
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(lambda x: x[:, :1], out),
        cola_jax.run_paths(model, questions, [[PATH]] * 3),
    )


def test_infinite_logits_flag_the_path(model, questions):
    broken = model.replace(norm=model.norm * 3e38)
    assert not cola_jax.run_paths(broken, questions, [[PATH]] * 3).finite.any()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((0, 6), r"layer ids \[6\], but the model has layers 0\.\.5"),
        ((0, -2), r"layer ids \[-2\]"),
        ((), "at least one layer"),
        ((STOP, STOP), "at least one layer"),
        ((0, STOP, 1), r"layer ids \[-1\]"),
        (np.array([[0, 1]]), r"path has shape \(1, 2\)"),
        (np.array([0.0, 1.5]), "whole numbers"),
    ],
)
def test_bad_paths_are_refused(model, questions, path, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.run_path(model, oracle.random_ids(1), path)
    with pytest.raises(ValueError, match=message):
        cola_jax.run_paths(model, questions, [[path]] * 3)


def test_bad_arrays_of_paths_are_refused(model, questions):
    with pytest.raises(ValueError, match=r"shape \(3, 6\), but must be ids \[B, C, P\]"):
        cola_jax.run_paths(model, questions, np.array([PATH] * 3))
    with pytest.raises(ValueError, match=r"float64 of shape \(3, 1, 6\), but must be ids"):
        cola_jax.run_paths(model, questions, np.array([[PATH]] * 3, float))
    for bad in ((0, 6), (STOP, 0), (0, STOP, 1), (-2, 0)):
        with pytest.raises(ValueError, match=r"layer ids \[(6|-1|-2)\], but the model has"):
            cola_jax.run_paths(model, questions, np.array([[bad]] * 3))
    with pytest.raises(ValueError, match="paths for 2 questions, but 3 prompts"):
        cola_jax.run_paths(model, questions, [[PATH]] * 2)


def test_bad_prompts_are_refused(model, questions):
    ids = oracle.random_ids(2)
    with pytest.raises(ValueError, match=r"ids have shape \(12,\), but a batch is \[B, T\]"):
        cola_jax.run_path(model, ids[0], PATH)
    for bad in (97, -1):
        with pytest.raises(ValueError, match=rf"{bad}.*vocabulary is 0\.\.96"):
            cola_jax.run_path(model, np.where(np.arange(12) == 3, bad, ids), PATH)
    with pytest.raises(ValueError, match="129 tokens, but the model's context is 128"):
        cola_jax.run_path(model, oracle.random_ids(1, 129), PATH)
    with pytest.raises(ValueError, match="give prompts `read` and `targets`"):
        cola_jax.run_paths(model, questions.replace(targets=None), [[PATH]] * 3)
    for place in (12, 99, -2):  # the first question has twelve tokens, its row has more
        read = np.where(questions.read == 11, place, questions.read)
        with pytest.raises(ValueError, match=rf"read at .*{place}.* but have \[12, 40, 5\] tokens"):
            cola_jax.run_paths(model, questions.replace(read=read), [[PATH]] * 3)
    strange = questions.replace(targets=np.full_like(questions.targets, 97))
    with pytest.raises(ValueError, match=r"targets run from 97 to 97.*vocabulary is 0\.\.96"):
        cola_jax.run_paths(model, strange, [[PATH]] * 3)
    left = questions.replace(branch=questions.branch[:, ::-1])
    with pytest.raises(ValueError, match="padded on the right"):
        cola_jax.run_paths(model, left, [[PATH]] * 3)


def test_buckets_are_few_and_close():
    sizes = {inputs.bucket(size) for size in range(1, 129)}
    assert sizes == {8, 12, 16, 24, 32, 48, 64, 96, 128}
    for size in range(9, 129):
        assert size <= inputs.bucket(size) <= size * 1.5

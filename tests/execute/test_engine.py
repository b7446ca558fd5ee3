"""The planned executor against the reference: families, budgets, tiles and devices."""

import re

import jax
import numpy as np
import pytest
from cola_jax.execute.compilation import compilations
from cola_jax.execute.engine import Engine, split, take
from cola_jax.execute.pipeline import interleave
from jax.sharding import AxisType, Mesh

import cola_jax
from cola_jax.edits import random_paths
from cola_jax.execute import run_one_by_one
from cola_jax.execute.memory import Memory, choose_sizes, format_bytes, parse_bytes
from cola_jax.execute.worker import Lane, in_tpu_order
from cola_jax.path import STOP, identity, pad_path
from cola_jax.prompts import NO_READ, Prompts
from tests import oracle

QUESTIONS = 8
SETTINGS = [  # rows, budget, data, tensor
    (1, None, 1, 1),
    (2, "least", 1, 1),
    (32, None, 1, 1),
    (8, "40kB", 8, 1),
    (3, "least", 1, 2),
    (4, None, 2, 4),
    (16, "40kB", 1, 4),
    (5, "least", 2, 1),
]


# every family with two of the settings; of what only the model's code knows about, one
ONCE = ("gemma3", "olmo2", "olmoe-clip", "qwen2-moe", "qwen3-moe-window")
TWICE = range(list(oracle.VARIANTS).index(ONCE[0]))
MEETINGS = [(number, half) for number in TWICE for half in (0, 1)]
MEETINGS += [(list(oracle.VARIANTS).index(variant), 0) for variant in ONCE]


def setting_of(number, half):
    """Which of the settings a variant is tried with first and second."""
    return (number + half * (3 + number // 8)) % len(SETTINGS)


def mesh(data, tensor):
    devices = np.array(jax.devices()[: data * tensor]).reshape(data, tensor)
    return Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def packed(seed):
    """A question of two or three continuations behind a prompt, of one of two buckets."""
    generator = np.random.default_rng(seed)
    prompt = int(generator.integers(3, 30))
    sizes = generator.integers(1, 4, 2 + seed % 2)
    ids = oracle.random_ids(1, prompt + int(sizes.sum()), seed)[0]
    branch = np.repeat(np.arange(len(sizes) + 1), [prompt, *sizes])
    restart = np.concatenate([np.arange(size) for size in sizes])
    positions = np.concatenate([np.arange(prompt), prompt + restart])
    read = np.concatenate([np.full(len(sizes), prompt - 1), np.arange(prompt, len(ids))])
    targets = generator.integers(0, oracle.VOCAB, len(read))
    return Prompts(ids=ids, positions=positions, branch=branch, read=read, targets=targets)


@pytest.fixture(scope="module")
def prompts():
    return Prompts.stack([packed(seed) for seed in range(QUESTIONS)])


def paths_of(model, each, seed):
    found = random_paths(model.config.num_layers, QUESTIONS * each, seed)
    return [found[b * each : (b + 1) * each] for b in range(QUESTIONS)]


def assert_agree(ours, theirs, tolerance=1e-5):
    """Compares readings to a tolerance relative to the largest log-probability."""
    for name in ("logprob", "rival"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(other))
        real = np.isfinite(other)
        assert np.abs(mine[real] - other[real]).max() <= tolerance * np.abs(other[real]).max()
    np.testing.assert_array_equal(ours.token, theirs.token)
    np.testing.assert_array_equal(ours.finite, theirs.finite)


def least_budget(model, prompts, paths):
    """Reads the smallest budget that works out of the error for one that does not."""
    with pytest.raises(ValueError, match="give at least") as error:
        cola_jax.run_paths(model, prompts, paths, memory_budget=1)
    return parse_bytes(re.search(r"at least (\S+)\.", str(error.value))[1])


@pytest.mark.parametrize(("number", "half"), MEETINGS)
def test_planned_equals_reference(pair, prompts, number, half):
    """2,368 random paths in all: every family, with one or two of the settings."""
    made = pair(list(oracle.VARIANTS)[number])
    rows, budget, data, tensor = SETTINGS[setting_of(number, half)]
    paths = paths_of(made.ours, 8, number)
    model = made.ours
    if data * tensor > 1:
        model = cola_jax.load(made.checkpoint, mesh=mesh(data, tensor))
    if budget == "least":
        budget = least_budget(model, prompts, paths)
    elif budget is not None:
        budget = parse_bytes(budget)
    done = []
    got = cola_jax.run_paths(
        model, prompts, paths, memory_budget=budget, rows=rows, on_progress=done.append
    )
    assert sum(done) == 8 * QUESTIONS
    assert_agree(got, run_one_by_one(made.ours, prompts, paths))


def test_every_setting_meets_a_family():
    used = {setting_of(number, half) for number, half in MEETINGS}
    assert used == set(range(len(SETTINGS)))


@pytest.fixture(scope="module")
def model(pair):
    return pair("qwen2-window").ours


def test_waves_find_the_states_of_earlier_ones(model, prompts):
    """Later waves extend earlier paths; readings are those of one call, and fewer layers run."""
    same = split_first(prompts)
    waves = [paths_of(model, 6, seed) for seed in range(3)]
    for budget, hits in ((None, True), (60_000, False)):
        with Engine(model, memory_budget=budget, rows=2) as engine:
            batch = engine.batch(take(prompts, same), 18)
            for wave in waves:
                padded = np.array([[pad_path(p, 12) for p in wave[b]] for b in same])
                readings, futures = batch.submit(padded)
                assert sum(future.result() for future in futures) == padded[..., 0].size
                expected = run_one_by_one(model, take(prompts, same), padded)
                assert_agree(readings, expected)
            cost = engine.use.cost
            assert cost.useful == sum(len(p) for wave in waves for b in same for p in wave[b])
            assert cost.unique + cost.finals < cost.useful
            assert (cost.evicted == 0) == hits
            assert engine.report()["evaluations"] == 18 * len(same)


def split_first(prompts):
    """The questions of the fullest bucket."""
    from cola_jax.execute.inputs import buckets

    return max(split(buckets(prompts), 1), key=len)


def test_new_plans_compile_nothing(model, prompts):
    some = split_first(prompts)
    with Engine(model) as engine:
        for seed in range(3):
            wave = paths_of(model, 2 + seed, seed)
            padded = np.array([[pad_path(p, 12) for p in wave[b]] for b in some])
            batch = engine.batch(take(prompts, some), 8)
            before = compilations()
            _, futures = batch.submit(padded)
            for future in futures:
                future.result()
            assert compilations().count == before.count
            batch.close()
            # a smaller batch of the same bucket as well
            batch = engine.batch(take(prompts, some[:1]), 8)
            assert compilations().count == before.count
            batch.close()


def test_a_nan_in_a_tile_stays_with_its_path(model, prompts):
    broken = model.replace(layers=model.layers.replace(up=model.layers.up.at[4].set(np.nan)))
    paths = [[(0, 4, 5), (0, 1, 5), (0, 4), (4, 0)]] * QUESTIONS
    got = cola_jax.run_paths(broken, prompts, paths, rows=4)
    np.testing.assert_array_equal(got.finite, [[False, True, False, False]] * QUESTIONS)
    good = jax.tree.map(lambda x: x[:, 1:2], got)
    assert_agree(good, run_one_by_one(model, prompts, [[(0, 1, 5)]] * QUESTIONS))


def test_bfloat16_gives_what_the_reference_does_but_for_rounding(pair, prompts):
    model = cola_jax.load(pair("llama-gqa").checkpoint, dtype="bfloat16")
    paths = paths_of(model, 4, 0)
    got, expected = (run(model, prompts, paths) for run in (cola_jax.run_paths, run_one_by_one))
    real = np.isfinite(expected.logprob)
    assert np.abs(got.logprob[real] - expected.logprob[real]).mean() < 0.02
    wide = cola_jax.run_paths(model, prompts, paths, dtype="float32")
    assert_agree(wide, run_one_by_one(model, prompts, paths, dtype=np.dtype("float32")), 1e-4)


def test_a_tpus_order_of_weights_means_the_same(model, prompts):
    """The order in memory changes, the values do not; no TPU is here to profit from it."""
    ordered = model.replace(layers=in_tpu_order(model.layers))
    assert ordered.layers.q.format.layout.major_to_minor == (0, 2, 3, 1)
    np.testing.assert_array_equal(ordered.layers.k, model.layers.k)
    paths = paths_of(model, 1, 0)
    assert_agree(run_one_by_one(ordered, prompts, paths), run_one_by_one(model, prompts, paths))


def test_many_targets_at_one_place(model):
    """As a question with many options is read at the end of its prompt, once for each."""
    ids, many = oracle.random_ids(1, 20)[0], 40
    row = Prompts(
        ids=ids,
        positions=np.arange(20),
        branch=np.zeros(20, np.int32),
        read=np.array([19] * many + [NO_READ, 3]),
        targets=np.arange(many + 2),
    )
    prompts = Prompts.stack([row])
    got = cola_jax.run_paths(model, prompts, [[(0, 1, 5), (0, 0, 2)]])
    assert_agree(got, run_one_by_one(model, prompts, [[(0, 1, 5), (0, 0, 2)]]))
    assert len(np.unique(got.logprob[0, 0, :many])) == many
    assert np.isneginf(got.logprob[0, :, many]).all()


def test_padding_reads_are_nothing(model, prompts):
    got = cola_jax.run_paths(model, prompts, paths_of(model, 1, 0))
    padding = np.broadcast_to((prompts.read == NO_READ)[:, None], got.logprob.shape)
    assert padding.any()
    assert np.isneginf(got.logprob[padding]).all()
    assert (got.token[padding] == -1).all()


# Bad input


def test_more_questions_than_a_batch_takes(model, prompts, monkeypatch):
    paths = [[identity(model.config.num_layers)]] * len(prompts.ids)
    together = cola_jax.run_paths(model, prompts, paths)
    made = []
    monkeypatch.setattr(
        Engine, "batch", lambda *a, batch=Engine.batch, **k: made.append(a) or batch(*a, **k)
    )
    monkeypatch.setattr("cola_jax.execute.engine.MOST_TOGETHER", 1)
    for mine, whole in zip(
        jax.tree.leaves(cola_jax.run_paths(model, prompts, paths)),
        jax.tree.leaves(together),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, whole)
    assert len(made) == len(prompts.ids)


def test_more_devices_than_questions(pair, prompts):
    model = cola_jax.load(pair("llama-gqa").checkpoint, mesh=mesh(8, 1))
    few = take(prompts, np.arange(3))
    with pytest.raises(ValueError, match="3 questions for 8 places on the 'data' axis"):
        cola_jax.run_paths(model, few, [[(0, 1)]] * 3)


@pytest.mark.parametrize("rows", [0, -2])
def test_tiles_without_rows(model, prompts, rows):
    with pytest.raises(ValueError, match="a tile needs at least 1 row"):
        cola_jax.run_paths(model, prompts, [[(0, 1)]] * QUESTIONS, rows=rows)


def test_an_error_on_the_lane_reaches_the_caller(model, prompts, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("out of memory")

    with Engine(model) as engine:
        some = split_first(prompts)
        batch = engine.batch(take(prompts, some), 8)
        monkeypatch.setattr("cola_jax.execute.device.read", broken)
        paths = np.full((len(some), 1, 4), STOP, np.int32)
        paths[:, 0, 0] = 1
        _, (future,) = batch.submit(paths)
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result()


# Budgets


def test_sizes_stay_within_the_budget(model):
    config = model.config
    for budget in (10**5, 10**6, 10**8):
        for tokens, reads in ((32, 16), (96, 64)):
            memory = Memory(budget, sharing=1, itemsize=4, backend="cpu")
            sizes = choose_sizes(config, tokens, reads, memory, wanted=10**9)
            states = (sizes.slots + 1) * tokens * config.width * 4
            outputs = (sizes.outputs + 1) * reads * config.width * 4
            assert states + outputs + sizes.piece * config.vocab_size * 12 <= budget


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("512MiB", 2**29), ("1.5e9", 1.5e9), (" 3 kb", 3000)]
)
def test_sizes_in_bytes(text, size):
    assert parse_bytes(text) == size
    assert parse_bytes(format_bytes(int(size))) >= size


@pytest.mark.parametrize("text", ["", "GB", "2XB", "two", "-1GB", "0", "nan", "inf", "1e99"])
def test_texts_that_are_no_sizes(text):
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


# Groups and flights


def test_split_keeps_keys_apart():
    keys = [(32, 16)] * 5 + [(48, 16)] * 2 + [(32, 16)] * 4
    for parts, largest in ((1, None), (2, 4), (4, 100), (11, None)):
        groups = split(keys, parts, largest)
        assert sorted(i for group in groups for i in group.tolist()) == list(range(11))
        assert all(len({keys[i] for i in group}) == 1 for group in groups)
        assert len(groups) >= parts
        assert all(len(group) <= (largest or 11) for group in groups)


def test_flights_share_a_lane_and_end_in_any_order():
    from concurrent.futures import Future

    began = []

    def fly(group, lane):
        began.append(group)
        for step in range(group):
            future = Future()
            future.set_result(step)
            assert (yield future) == step
        return -group

    groups = [3, 1, 2, 0, 0, 4]
    assert sorted(interleave([object.__new__(Lane) for _ in range(2)], iter(groups), fly, 2)) == [
        (group, -group) for group in sorted(groups)
    ]
    assert began == groups

"""A decoder: its slots, steps and metrics, and the ends of texts."""

import threading

import numpy as np
import pytest

import cola_jax
from cola_jax.errors import InputError
from cola_jax.execute import memory
from cola_jax.execute.decoder import TRUNCATED, Decoder, decode_rows
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Stopped, make_workers
from cola_jax.metrics import compilations
from cola_jax.path import pad_path
from tests import tiny
from tests.execute import batches

NEW = 5
PATHS = [(0, 1, 2), (0, 1, 3), (0, 2, 2, 5)]


@pytest.fixture(scope="module")
def worker(model):
    (worker,) = make_workers(model)
    return worker


@pytest.fixture
def make(worker):
    """Makes decoders of one shape for three prompts."""
    made = []

    def make(stop=cola_jax.Stop()):  # noqa: B008 - frozen
        prompts, workload = batches.plain(12, 3, 7), Workload(len(PATHS), 8)
        made.append(Decoder(worker, prompts, workload, max_new_tokens=NEW, stop=stop))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()


def rows(paths=PATHS, questions=3):
    padded = np.array([[pad_path(path, 8) for path in paths]] * questions)
    return decode_rows(padded)


def decode(decoder, decoding):
    """Decodes rows to their ends; returns how many ended together, step by step."""
    return [len(ended) for ended in decoder.decode(decoding)]


def check_all_is_free(decoder):
    sizes, allocator = decoder.sizes, decoder.allocator
    assert sorted(allocator.slots.free) == list(range(sizes.decode_slots))
    assert not allocator.live
    for table, pages in ((allocator.prompts, sizes.prompts), (allocator.texts, sizes.texts)):
        (pool,) = table.pools
        assert sorted(pool.free) == list(range(1, 1 + pages.pages[0]))


def test_plan_is_kept_only_while_slots_have_the_same_blocks(make):
    """A row may take over a slot and the path of one that ended, but not its KV blocks."""
    decoder = make()
    allocator = decoder.allocator

    def admit(question):
        (row,) = rows([PATHS[0]], 1)
        row.question = question
        slots = decoder.sizes.slots
        allocator.admit([row], np.array([question]), decoder.lengths, slots, decoder.layout)
        return row

    first = admit(0)
    active = np.array([first.slot], np.int32)
    plan = decoder.plan(active)
    assert decoder.plan(active) is plan
    allocator.release(first)
    # the freed slot is the last to be given out again, but any slot may be the next one
    allocator.slots.free = np.roll(allocator.slots.free, 1)
    second = admit(1)
    assert second.slot == active[0]
    assert (allocator.path[second.slot][:3] == PATHS[0]).all()
    new = decoder.plan(active)
    assert new is not plan
    assert not np.array_equal(new.tables[0], plan.tables[0])
    allocator.release(second)


def test_decoder_needs_room_for_the_tokens_of_its_prompts(make, worker, monkeypatch):
    """Few numbers of them are used: 16 for the longest of 12."""
    monkeypatch.setattr(worker, "memory", worker.memory._replace(budget=10))
    with pytest.raises(InputError, match="decode 5 tokens after 16 on 8 layers"):
        make()


def test_decode_takes_rows_again_and_again(make):
    """What a decoder did before changes rounding at most; tiles of one height compile once."""
    decoder, first, again = make(), rows(), rows()
    other = [(5, 4, 3, 2, 1, 0)]
    decode(decoder, first)
    decode(decoder, rows(other, questions=2))
    before = compilations()
    decode(decoder, rows(other, questions=3))
    decode(decoder, again[::-1])
    assert compilations() == before
    for row, other in zip(first, again, strict=True):
        assert row.tokens == other.tokens
        largest = max(map(abs, row.rival))
        for name in ("logprob", "rival"):
            error = np.subtract(getattr(row, name), getattr(other, name))
            assert np.abs(error).max() <= batches.ROUNDING * largest


def test_decode_counts_what_it_runs(make, worker, monkeypatch):
    metrics, decoding = cola_jax.Metrics(), rows()
    monkeypatch.setattr(worker, "metrics", metrics)
    decode(make(), decoding)
    assert {row.finish for row in decoding} == {TRUNCATED}
    assert metrics.evaluations == metrics.cost.last == 3 * len(PATHS)
    assert metrics.tokens == 3 * len(PATHS) * NEW
    assert metrics.cost.useful == 3 * sum(map(len, PATHS))
    assert metrics.cost.unique == 3 * 4  # 0, 0-1, 0-2, 0-2-2


def test_decode_frees_slots_of_rows_that_ended(make):
    """A row that ends early leaves its slot and blocks to others, those of the last as well."""
    free = rows()
    decode(make(), free)
    ended = make(cola_jax.Stop(tokens=(free[0].tokens[0], free[4].tokens[2])))
    decoding = rows()
    decode(ended, decoding)
    assert {len(row.tokens) for row in decoding} > {1, NEW}
    check_all_is_free(ended)


def test_decode_ends_between_steps_when_stopped(make, worker, monkeypatch):
    decoder, decoding = make(), rows()
    collect = decoder.collect
    monkeypatch.setattr(worker, "stopped", threading.Event())

    def stop_after_two(*arguments):
        ended = collect(*arguments)
        if len(decoding[0].tokens) == 2:
            decoder.worker.stopped.set()
        return ended

    decoder.collect = stop_after_two
    with pytest.raises(Stopped):
        decode(decoder, decoding)
    assert all(len(row.tokens) < NEW for row in decoding)


def test_rows_without_a_page_are_preempted_and_decoded_anew(worker, monkeypatch):
    """With pages for a row and a half: what has decoded most goes on, the others wait."""
    limits = memory.CPU._replace(decode_page=2)
    monkeypatch.setattr(memory, "CPU", limits)
    prompts, workload = batches.plain(12, 3, 7), Workload(len(PATHS), 8)

    def make():
        return Decoder(worker, prompts, workload, max_new_tokens=9, stop=cola_jax.Stop())

    decoder = make()
    free = rows()
    decode(decoder, free)
    decoder.close()
    few = make()
    (pool,) = few.allocator.texts.pools
    pool.take(len(pool.free) - 8 * 5 - 12)
    preempted = []
    preempt = few.preempt
    monkeypatch.setattr(few, "preempt", lambda row: preempted.append(row) or preempt(row))
    metrics = cola_jax.Metrics()
    monkeypatch.setattr(worker, "metrics", metrics)
    decoding = rows()
    assert sum(decode(few, decoding)) == len(decoding)
    assert preempted
    assert metrics.tokens == 9 * len(decoding)  # those of preempted rows count once
    assert metrics.evaluations == len(decoding)
    assert [row.tokens for row in decoding] == [row.tokens for row in free]
    assert not few.allocator.live
    few.close()


def test_decode_yields_rows_as_they_end(make):
    free = rows()
    decode(make(), free)
    stop = cola_jax.Stop(tokens=(free[0].tokens[0], free[4].tokens[2]))
    ended = decode(make(stop), rows())
    assert sum(ended) == 3 * len(PATHS)
    assert len(ended) > 1


def first_stop(stop, words, ids):
    """Returns the text up to the first token at which a stop is reached."""
    reached = [stop.reached(ids[: i + 1]) for i in range(len(ids))]
    return words.decode(ids[: reached.index(True) + 1])


def test_stop_strings_and_rules_read_text():
    words = tiny.tokenizer()
    ids = words("sun moon water ice", add_special_tokens=False).input_ids
    stop = cola_jax.Stop(strings=("n w", "er"), tokenizer=words)
    assert first_stop(stop, words, ids).startswith("sun moon w")
    assert stop.text(ids) == "sun moo"
    rule = cola_jax.Stop(rule=lambda text: "water" in text, tokenizer=words)
    assert first_stop(rule, words, ids).startswith("sun moon water")
    assert rule.text(ids) == "sun moon water ice"
    ended = cola_jax.Stop(tokens=(ids[-1],), tokenizer=words)
    assert ended.text(ids) == words.decode(ids[:-1])
    long = words("sun moon water " * 40 + "ice", add_special_tokens=False).input_ids
    stop = cola_jax.Stop(strings=("ice",), tokenizer=words)
    assert first_stop(stop, words, long) == words.decode(long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": (-1,)}, "ids from 0 up"),
        ({"strings": ("",)}, "an empty stop string"),
        ({"strings": ("\n",)}, "give the tokenizer"),
        ({"rule": len}, "give the tokenizer"),
    ],
)
def test_stop_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.Stop(**arguments)

"""Records of starts: their order, and those that belong together."""

from cola_jax.files import write_whole
from cola_jax.runs.records import (
    Start,
    encode_record,
    last_starts,
    next_start,
    read_starts,
    start_order,
)
from cola_jax.storage import path_of


def test_starts_have_one_order_even_with_equal_numbers():
    names = [
        "",
        "0000-ffffffff",
        "0003-aaaaaaaa",
        "0003-bbbbbbbb",
        "9999-00000000",
        "10000-00000000",
    ]
    for shuffled in (names[::-1], names[3:] + names[:3]):
        assert sorted(shuffled, key=start_order) == names
    assert next_start([]).startswith("0000-")
    assert next_start(names).startswith("10001-")
    assert next_start(["0000-aaaaaaaa", "0005-aaaaaaaa"]).startswith("0006-")
    assert next_start(names) != next_start(names)


def test_read_starts_keeps_their_order(tmp_path):
    for name in ("10000-00000000", "9999-aaaaaaaa"):
        record = encode_record({"settings": {"seed": 1}, "device": name})
        write_whole(tmp_path / f"{name}.json", record)
    write_whole(tmp_path / "9999-aaaaaaaa.metrics.json", encode_record({"seconds": 2}))
    write_whole(tmp_path / "0001-aaaaaaaa.metrics.json", encode_record({"seconds": 3}))
    assert read_starts(path_of(tmp_path)) == [
        Start("9999-aaaaaaaa", {"seed": 1}, {"device": "9999-aaaaaaaa", "metrics": {"seconds": 2}}),
        Start("10000-00000000", {"seed": 1}, {"device": "10000-00000000"}),
    ]


def test_last_starts_are_those_of_one_distributed_start():
    def start(name, **record):
        return Start(name, {}, record)

    alone, other = start("a"), start("b", shard="0/4")  # of an earlier version
    first, second = (start(name, together="x") for name in "cd")
    assert last_starts([]) == []
    assert last_starts([first, alone]) == [alone]
    assert last_starts([alone, other]) == [other]
    assert last_starts([alone, first, other, second]) == [first, second]

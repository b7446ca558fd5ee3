"""Files that flags name: paths in every format, flags as YAML, and paths to export."""

import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cola_jax.cli.commands import parse
from cola_jax.cli.flags import PathFlags
from cola_jax.cli.parser import values_of
from cola_jax.deploy.export import read_path
from cola_jax.deploy.model_card import read_effect
from cola_jax.formats.peers import Searched, mergekit_config, polar_samples
from tests.fuzz.kind import Kind
from tests.fuzz.mutations import mutate_json, mutate_json_text, mutate_lines

LAYERS = 5
PLAIN = "0-4\n0,1,3,4  # without 2\n0-2,(2-3)x2,4\n"
ODD_PATHS = (
    *("", "#", "0-9", "4-0", "-1", "0,,1", "(0-4)x0", "(0-4)x999999999999", "((0)x2)x2", "(" * 999),
    *("0" * 200_000, "0," * 50_001, "0-4," * 20_000, "0" * 40, "\u0663", "0-4\u2028", "\ud800"),
    *("0x2", "1e9", "(0-4", "0-4)x2", "0-1-2", "9" * 29, "\0", "a: b", "slices:", "(2,3)", "2,3"),
    "layers:0,1",
)
RYS_LINES = "(2, 3)\nblocks:1,3;3,4\nlayers:0,1,2,2\n"
ODD_RYS = ("(3, 2)", "(0, 99)", "blocks:", "layers:", "layers:9", "(0,5);" * 3000, *ODD_PATHS)
LISTS = [[2, 3], [0, 1, 1], [4]]
DRLLM = {
    "num_layers": LAYERS,
    "best_path": [[0, 2], [0, 1, 2]],
    "good_paths": [[[0, 2], [0, 1, 1, 2]], []],
    "mcts_correct": [1, 0],
}
SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (2, 1)), False),
    Searched("2 + 2?", "4", ((0, 1, 2),), (), True),
]
DEEP = "\n".join(f"{' ' * i}a:" for i in range(1000))
ODD_YAML = (
    *("limit: &a [*a]", "limit: *b", "x: &x {<<: *x}", "<<: [1]"),
    *("limit: !!python/object/apply:os.system [ls]", "limit: !!python/name:os.system", "!!set {a}"),
    *("limit: !!int x", "limit: !!float x", "limit: !!timestamp x", "limit: !!binary x", "- a"),
    *(
        "limit: 2001-99-99",
        f"limit: {'9' * 5000}",
        "limit: 1" + ":1" * 50_000,
        "limit: 0x" + "f" * 999,
    ),
    *(
        "limit: .nan",
        "limit: .inf",
        "limit: 1_0",
        "limit: 010",
        "limit: 0b1",
        "limit: 1e999",
        "~: 3",
    ),
    *("limit: 3\nlimit: 4", "? [a]\n: 3", "? {a: b}\n: 3", "3: 3", "true: 3", "limit: {a: 1}"),
    *("limit: " + "[" * 3000, "limit: " + "{a: " * 3000, "- " * 3000, DEEP),
    *(
        "%YAML 9.9",
        "--- a",
        "...",
        "\t",
        "limit: |\n  3",
        'limit: "\\ud800"',
        "limit: \u2028",
        "\0",
    ),
    *("chat: yes", "chat: maybe", "model:", "model: []", "model: [a, b]", "rules: 3", "rules: [3]"),
    *("a" * 100_000, "variants: [" + "plain, " * 9999 + "]", "preset: none", "preset: {}", "&a"),
)
STATIC = {
    "path": "0-2,4",
    "layers": 4,
    "effect": {
        "task": "arc_easy",
        **{"n": 100, "before": 0.5, "after": 0.625, "difference": 0.125},
        "interval": [0.01, 0.24],
    },
    "model": "digest",
    "num_layers": LAYERS,
}
NAMES = ("path lines", "RYS lines", "JSON lists", "PoLar", "Dr.LLM", "mergekit", "flags", "static")


def make(folder: Path) -> None:
    """Makes nothing: the sound files are written here."""


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kinds of files that flags name."""
    read = reading(folder / "fuzzed.txt", lambda file: PathFlags(paths_file=file).collect(LAYERS))
    merge = yaml.safe_load(mergekit_config((0, 1, 1, 2, 3, 4), "someone/model"))
    flags = values_of(parse(["search", "--model", "m", "--task", "t", "--output", "o"]))
    return {
        "path lines": Kind(functools.partial(mutate_lines, PLAIN, ODD_PATHS), read, "fuzzed.txt"),
        "RYS lines": Kind(functools.partial(mutate_lines, RYS_LINES, ODD_RYS), read, "fuzzed.txt"),
        "JSON lists": of_value(LISTS, read),
        "PoLar": of_value(polar_samples(SEARCHED, LAYERS), read),
        "Dr.LLM": of_value(DRLLM, read),
        "mergekit": Kind(functools.partial(mutate_yaml, merge), read, "fuzzed.txt"),
        "flags": Kind(
            functools.partial(mutate_yaml, flags),
            reading(folder / "flags.yaml", read_flags),
            quick=25,
        ),
        "static": of_value(STATIC, reading(folder / "static.json", read_static), "static.json"),
    }


def of_value(value: Any, read: Callable[[bytes], object], names: str = "fuzzed.txt") -> Kind:
    """Makes the kind of a file of JSON."""
    return Kind(lambda seed: mutate_json_text(value, seed), read, names)


def reading(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Makes a function that writes a file and reads it."""

    def write_and_read(data: bytes) -> None:
        file.write_bytes(data)
        read(file)

    return write_and_read


def mutate_yaml(value: dict[str, Any], seed: int) -> bytes:
    """Changes values for one seed of two, and else lines or bytes."""
    if seed % 2:
        return mutate_lines(yaml.safe_dump(value, sort_keys=False), ODD_YAML, seed)
    return yaml.safe_dump(mutate_json(value, seed), allow_unicode=bool(seed % 4)).encode()


def read_flags(file: Path) -> None:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        parse(["search", "--config", str(file)])
    assert "Traceback" not in errors.getvalue()


def read_static(file: Path) -> None:
    path = read_path(str(file), LAYERS)
    read_effect(file, path, LAYERS)

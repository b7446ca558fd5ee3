"""Every kind of file that a user hands to a command, mutated: it is read, or refused in one line.

`COLA_FUZZ=5000 pytest tests/test_fuzz.py` tries that many mutations of each kind.
"""

import copy
import functools
import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax import checkpoint
from cola_jax.cli.commands import parse
from cola_jax.cli.flags import PathFlags, flag_values, values_of
from cola_jax.cli.runs import Generate
from cola_jax.deploy.model_card import read_effects
from cola_jax.deploy.path_file import read_path
from cola_jax.deploy.path_folder import export_path
from cola_jax.deploy.rules import MENU, SELECTOR, Selector, load_menu
from cola_jax.errors import InputError
from cola_jax.extras.router import RECORD, Record
from cola_jax.formats.conversion import try_tokenizer, write_tokenizer
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.huggingface import open_directory
from cola_jax.formats.identity import Identity
from cola_jax.scoring import Options
from cola_jax.tasks.task import TaskConfig
from experiments.shapes import llama
from tests import oracle, tiny
from tests.formats.gguf_writer import add_byte_level, tiny_llama, write

EXAMPLES = int(os.environ.get("COLA_FUZZ", "15"))
LAYERS = tiny.LAYERS
VALUES = (
    *(None, True, -1, 0, 7, 2**31, -(2**63), 0.5, 1e300, "", "x", "a\nb", "x" * 5000, "\0", "../a"),
    *("{{ x", "é", [], [None], [["a"]], {}, {"a": {}}, [0] * 99),
)
PIECES = (b"", b"\0", b"\xff" * 8, b"\0\0\0\0\0\0\0\x40", b"\n[", b'"', b"1e999", b"\xed\xa0\x80")
RUN = ("run/run.json", "run/starts/*.json", "run/evaluations/*.parquet", "run/questions/*.parquet")
LINES = (
    *("", "#", "0-9", "4-0", "0,,1", "(0-4)x999999999999", "((0)x2)x2", "(" * 999, "0" * 200_000),
    *("0-4," * 20_000, "(3, 2)", "blocks:", "layers:9", "slices:", "\0", "limit: &a [*a]", "- a"),
    *("x: &x {<<: *x}", "limit: !!python/object/apply:os.system [ls]", "limit: " + "[" * 3000),
    *(f"limit: {'9' * 5000}", "? [a]\n: 3", "model: []", "{question}" * 99, "{", "\u2028", "\t"),
)
KINDS = ("arc", "mmlu", "gsm8k", "math", "dart", "prompt", "inspect", "messages", "hellaswag")
TABLES = (
    *(f"{kind}.jsonl" for kind in (*KINDS, "piqa")),
    *("list.json", "rows.csv", "letters.csv", "cells.csv", "rows.tsv", "rows.tsv.gz"),
    *("sheet.xlsx", "columns.parquet"),
)
FILES = Path(__file__).with_name("fuzz")  # sound files that are small enough to keep
TEXTS = [file.relative_to(FILES).as_posix() for file in sorted(FILES.rglob("*.*"))]


def make(folder: Path) -> None:
    """Make a sound file of each kind."""
    tiny.make_checkpoint(folder)
    model = tiny_llama(vocab_size=300, num_hidden_layers=1)
    write(folder / "tiny.gguf", model, metadata=[add_byte_level])
    oracle.make("qwen3-moe", folder / "mixture")
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    flags = values_of(parse(["search", "--model", "m", "--task", "t", "--output", "o"]))
    (folder / "flags.yaml").write_text(yaml.safe_dump(flags))
    selector = Selector(np.ones(8), np.ones(8), np.ones((8, 3)), np.ones(3))
    (folder / "menu" / SELECTOR).write_bytes(selector.content)
    menu = json.loads((folder / "menu" / MENU).read_text())
    menu["selector"] = selector.digest
    (folder / "menu" / MENU).write_text(json.dumps(menu))
    sizes = {"num_layers": LAYERS, "width": 8, "early_layers": 1}
    record = Record(model="someone/model", identity="digest", settings={"epochs": 25}, **sizes)
    record.save(folder / "router", {"queries": np.zeros((LAYERS, 8), np.float32)})
    words, asked = checkpoint.read_tokenizer(folder / "ours"), tiny.questions(3)
    table = pandas.read_csv(folder / "letters.csv")
    table.to_excel(folder / "sheet.xlsx", index=False)
    table.to_parquet(folder / "columns.parquet")
    (folder / "rows.tsv.gz").write_bytes(gzip.compress((folder / "rows.tsv").read_bytes()))
    datasets.Dataset.from_pandas(table).save_to_disk(folder / "saved")
    model = cola_jax.load(folder / "ours")
    outcomes = cola_jax.search(model, asked, scorer=Options(words), simulations=4)
    cola_jax.save_run(outcomes, folder / "run")


def readers_of(folder: Path) -> dict[str, Callable[[], object]]:
    """Return functions that read a file as a command does, by patterns of its name."""
    words, static, menu = folder / "ours/tokenizer", folder / "static.json", str(folder / "menu")
    context: dict[str, Any] = {"context": 2048, "stop_tokens": lambda: [1]}
    tokenizer, named = tiny.tokenizer(), Identity("digest", "someone/model", "someone/model", None)

    def prepare(**settings: Any) -> None:
        settings = {x: f"{folder}/{y}" if isinstance(y, str) else y for x, y in settings.items()}
        TaskConfig(**settings).prepare(tokenizer, **context)

    def read_shots() -> None:
        Generate("model", prompts_file=folder / "shots.jsonl").prepare(tokenizer, **context)
        prepare(task="prompt.jsonl", shots=1, shots_file="shots.jsonl")

    def export_again() -> None:
        place, metadata = str(folder / "served"), checkpoint.read_metadata(folder / "ours")
        out = folder / f"export-{random.random()}"
        path = read_path(place, LAYERS, named)
        export_path(metadata, path, out, "vllm", source="me/base", given=place)
        shutil.rmtree(out)

    readers: dict[str, Callable[[], object]] = {
        "served/": export_again,
        "tiny.gguf": lambda: write_tokenizer(
            open_gguf(folder / "tiny.gguf"), folder / f"words-{random.random()}"
        ),
        "theirs/": lambda: open_directory(folder / "theirs"),
        "mixture/": lambda: open_directory(folder / "mixture"),
        "ours/cola.json": lambda: checkpoint.load_model(folder / "ours"),
        "ours/tokenizer/": lambda: try_tokenizer(
            checkpoint.load_folder(words, "model"), "model", 10**6
        ),
        "flags.yaml": lambda: parse(["search", "--config", str(folder / "flags.yaml")]),
        "static.json": lambda: read_path(str(static), LAYERS, named),
        "results.json": lambda: read_effects(folder / "results.json", (0, 1, 2), LAYERS, "digest"),
        "menu/": lambda: load_menu(menu, "digest", LAYERS),
        "router/": lambda: Record.read(folder / "router"),
        "held.jsonl": lambda: prepare(task="arc.jsonl", held_out_from="held.jsonl"),
        "shots.jsonl": read_shots,
        "saved/": lambda: prepare(task="saved"),
        "run/": parse(["report", str(folder / "run")]).run,
    }
    for name in TABLES:
        readers[name] = functools.partial(prepare, task=name)
    config = llama(LAYERS, 8, 1, 1, 8, 8)
    paths = "paths.txt", "rys.txt", "lists.json", "polar.json", "drllm.json", "merge.yaml"
    for name in (*paths, "evopress.txt", "skipped.json", "loop.json"):
        readers[name] = functools.partial(
            PathFlags(paths_file=folder / name).collect, config, named
        )
    return readers


def refusal(read: Callable[[], object]) -> str:
    """Return the line with which input is refused; "" where it is read."""
    try:
        read()
    except (InputError, OSError) as error:
        line = str(error)
    except SystemExit as end:  # after an error of tyro's
        return f"exit {end.code}"
    else:
        return ""
    assert 0 < len(line) < 1500
    return line


def mutate(data: bytes, suffix: str, draw: random.Random) -> bytes:
    """Change a few values, lines or bytes of a file."""
    parts = data.splitlines() if suffix == ".jsonl" else [data]
    if suffix in (".json", ".jsonl") and draw.random() < 0.7:
        values = [json.loads(part) for part in parts]
        for _ in range(draw.choice((1, 1, 2, 3))):
            if values:
                mutate_value(values, draw)
        escaped = draw.random() < 0.5
        return "\n".join(json.dumps(x, ensure_ascii=escaped) for x in values).encode()
    if suffix in (".txt", ".yaml", ".csv", ".tsv") and draw.random() < 0.7:
        lines = data.decode().splitlines()
        at = draw.randrange(len(lines) + 1)
        lines[at : at + draw.randrange(2)] = [draw.choice(LINES)]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    # in a binary file of keys and values, half of the changes lie close after a key
    keys = [match.end() for match in re.finditer(rb"[a-z_]{3,}(\.[a-z0-9_]+)+", data[:9000])]
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(max(1, min(9000, len(data))))
        if keys and draw.random() < 0.5:
            at = draw.choice(keys) + draw.randrange(16)
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in data[at : at + 1])
        piece, removed = draw.choice(PIECES), draw.choice((1, 8, 100, len(data)))
        changes = ((flipped, 1), (piece, len(piece)), (piece, 0), (b"", removed))
        new, length = draw.choice(changes)
        data = data[:at] + new + data[at + length :]
    return data


def mutate_value(node: Any, draw: random.Random) -> None:
    """Replace, remove, add or double an entry of a JSON value that is not empty."""
    key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
    kind = draw.randrange(6)
    if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
        mutate_value(node[key], draw)
    elif kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[draw.choice(("extra", "auto_map", "type", ""))] = copy.deepcopy(draw.choice(VALUES))
    elif kind == 1:
        node += [copy.deepcopy(node[key]) for _ in range(draw.choice((1, 99)))]
    else:
        node[key] = copy.deepcopy(draw.choice(VALUES))


@pytest.fixture(scope="module")
def sound(made_once, tmp_path_factory) -> tuple[Path, dict[str, Callable[[], object]]]:
    """A folder of sound files, and their readers."""
    folder = shutil.copytree(made_once("fuzz", make), tmp_path_factory.mktemp("fuzz") / "files")
    return folder, readers_of(folder)


NAMES = [
    *("tiny.gguf", "theirs/config.json", "theirs/model.safetensors", "mixture/config.json"),
    *("ours/cola.json", "ours/tokenizer/tokenizer.json", "ours/tokenizer/tokenizer_config.json"),
    *("flags.yaml", *TEXTS, f"menu/{SELECTOR}", f"router/{RECORD}", *RUN),
    *("sheet.xlsx", "columns.parquet", "rows.tsv.gz", "saved/state.json", "saved/*.arrow"),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_mutated_file_is_read_or_refused_in_one_line(sound, name, capsys):
    folder, readers = sound
    file = next(folder.glob(name))
    read = next(read for begin, read in readers.items() if name.startswith(begin))
    whole = file.read_bytes()

    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def run(seed):
        file.write_bytes(mutate(whole, file.suffix, random.Random(seed)))
        assert refusal(read).isprintable()

    read()  # as it is
    try:
        run()
    finally:
        file.write_bytes(whole)


ODD = (
    *("", " ", "nan", "-inf", "1e400", "9" * 5000, "0x10", "1_0", "1/0", "%", "\u0661\u0662GB"),
    *("2**63", "a\0b", "\ud800", "../..", "gs://bucket/x", "(" * 1000, "x" * 100_000),
    *("(0)x" + "9" * 30, "[]", "{}", "!!python/name:os"),
)
COMMANDS = {
    "search": ["--model", "m", "--task", "t", "--output", "o"],
    "evaluate": ["--model", "m", "--task", "t", "--output", "o", "--paths", "0"],
    "generate": ["--model", "m", "--prompt", "x"],
    "export": ["--model", "m", "--path", "0", "--output", "o"],
}


@settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
@example("search", "rules.exploration", "nan")
@example("search", "memory-budget", "\u0661\u0662GB")
@example("evaluate", "output", "a\0b")
@given(
    st.sampled_from([*COMMANDS]), st.integers(0, 99), st.sampled_from(ODD) | st.text(max_size=40)
)
def test_odd_values_of_flags_are_parsed_or_refused(command, flag, value):
    words = [command, *COMMANDS[command]]
    if isinstance(flag, int):
        names = [name for name, _ in flag_values(parse(words)) if name != "config"]  # a file
        flag = names[flag % len(names)]
    assert refusal(lambda: parse([*words, f"--{flag}={value}"])) != "exit 0"

"""RYS: lists of blocks (i, j) of layers that run twice, of block sets, and of layer ids.

A block (i, j) runs layers 0..j-1 and then i..L-1, so that i..j-1 run twice; (0, 0) is the identity
path. Several blocks are inserted one after another, each after the last run of layer j-1. This
is the meaning, and these are the layouts, of `src/core/layer_config.py` of dnhkng/RYS (commit
3e75aca): the lines of a `--config-file`, the JSON of a queue, and the manifest and `config.json`
of an exported model. Its results are pickles, which are never opened here.
"""

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import NamedTuple

from cola_jax.files import read_text
from cola_jax.formats.peers.document import (
    MOST_LAYERS,
    Field,
    Path,
    check_count,
    check_layers,
    parse_json,
)

ID = r"\s*[0-9]{1,9}\s*"
PAIR = rf"{ID},{ID}"
BARE = re.compile(PAIR)  # a pair in RYS, and a path of two layers in ours
BLOCK = re.compile(rf"\(({PAIR})\)|{PAIR}")
BLOCKS, LAYERS = "blocks:", "layers:"
MARK = re.compile(rf"\s*(?:{BLOCKS}.*|{LAYERS}.*|\({PAIR}\)\s*|.*;.*)", re.IGNORECASE)

# The fields of an entry of a queue, in the order in which RYS looks for the path.
LISTS, SPECS = ("layers", "layer_indices"), ("blocks", "key", "spec")
MANIFEST, MANIFEST_LAYERS = "layer_indices", "source_num_layers"
MODEL = "rys_relayer"  # what the config of an exported model holds of its manifest


class Layout(NamedTuple):
    """One entry: the layer ids of a path, or the blocks that run twice where there are none."""

    field: Field
    layers: Path
    blocks: tuple[tuple[int, int], ...]

    @property
    def largest(self) -> int:
        """The largest layer id."""
        return max([0, *self.layers, *(j - 1 for _, j in self.blocks)])

    def path(self, num_layers: int) -> Path:
        """Returns the path for a model of that many layers."""
        if self.layers:
            return self.layers
        path = list(range(num_layers))
        for i, j in self.blocks:
            if j == 0:
                continue
            last = len(path) - path[::-1].index(j - 1)  # the place after the last run of j - 1
            path[last:last] = range(i, j)
            if len(path) > MOST_LAYERS:
                raise self.field.error(f"a path has at most {MOST_LAYERS} layers.")
        return tuple(path)


def read_rys(file: FilePath, num_layers: int) -> list[Path]:
    """Reads a list of configurations as paths, in order.

    Lines such as `(30, 34)`, `30,34`, `blocks:31,34;43,45` or `layers:0,1,2,2,3`; or JSON: a list
    of pairs, lists of layer ids or such lines, a queue, or the manifest of an exported model.
    Raises ValueError for others, and for blocks that a model of `num_layers` layers does not have.
    """
    text = read_text(file)
    if text.lstrip()[:1] in ("[", "{"):
        return rys_paths(parse_json(file, text), num_layers)
    return rys_lines(file, text.splitlines(), num_layers)


def rys_lines(file: FilePath, lines: Sequence[str], num_layers: int) -> list[Path]:
    """Reads the lines of a configuration file; # starts a comment."""
    numbered = ((n, line.split("#")[0].strip()) for n, line in enumerate(lines, start=1))
    fields = [Field(file, f"line {number}", line) for number, line in numbered if line]
    return expand(file, [read_spec(field) for field in fields], num_layers)


def rys_paths(content: Field, num_layers: int) -> list[Path]:
    """Returns the paths of JSON that was parsed."""
    if isinstance(content.value, list):
        return expand(content.file, [read_entry(entry) for entry in content.items()], num_layers)
    if content.has(MODEL):
        content = content.child(MODEL)
    if (layers := content.get(MANIFEST_LAYERS)) and layers.integer() != num_layers:
        raise layers.error(f"but the model has {num_layers} layers.")
    entry = content.require(MANIFEST)
    return expand(content.file, [Layout(entry, entry.path(), ())], num_layers)


def is_rys(content: Field) -> bool:
    """Whether parsed JSON has one of the layouts of RYS."""
    if content.has(MODEL) or content.has(MANIFEST):
        return True
    return isinstance(content.value, list) and all(
        isinstance(entry, list | str)
        or (isinstance(entry, dict) and any(name in entry for name in (*LISTS, *SPECS)))
        for entry in content.value
    )


def expand(file: FilePath, layouts: Sequence[Layout], num_layers: int) -> list[Path]:
    """Returns the paths; ValueError where there are too many, or the model has fewer layers."""
    check_count(file, len(layouts))
    if layouts:
        largest = max(layouts, key=lambda layout: layout.largest)
        check_layers(largest.field, largest.largest, num_layers)
    return [layout.path(num_layers) for layout in layouts]


def read_entry(field: Field) -> Layout:
    """Reads an entry of a JSON list: a pair, a list of layer ids, a line, or that of a queue."""
    if isinstance(field.value, dict):
        for name in (*LISTS, *SPECS):
            if (found := field.get(name)) is not None:
                if name in LISTS:
                    return Layout(found, found.path(), ())
                return read_entry(found) if isinstance(found.value, list) else read_spec(found)
        raise field.error(f"it has none of {', '.join((*LISTS, *SPECS))}.")
    if isinstance(field.value, list):
        path = field.path()
        return pairs(field, [path]) if len(path) == 2 else Layout(field, path, ())
    return read_spec(field)


def read_spec(field: Field) -> Layout:
    """Reads a line."""
    text = field.text().strip()
    if text.lower().startswith(LAYERS):
        ids = text[len(LAYERS) :]
        if not re.fullmatch(rf"{ID}(?:,{ID})*", ids):
            raise field.error(f"layer ids separated by commas belong after {LAYERS}")
        return Layout(field, Field(field.file, field.place, numbers(ids)).path(), ())
    text = text[len(BLOCKS) :] if text.lower().startswith(BLOCKS) else text
    parts = [part.strip() for part in text.split(";") if part.strip()]
    matches = [BLOCK.fullmatch(part) for part in parts]
    if not parts or len(parts) > MOST_LAYERS or None in matches:
        raise field.error(
            "this is no configuration of RYS, such as (30, 34), blocks:31,34;43,45 or "
            "layers:0,1,2,2,3."
        )
    return pairs(field, [numbers(part.strip("()")) for part in parts])


def numbers(text: str) -> list[int]:
    """Reads numbers separated by commas."""
    return [int(number) for number in text.split(",")]


def pairs(field: Field, blocks: Sequence[Sequence[int]]) -> Layout:
    """Makes the layout of blocks (i, j); ValueError where one has no layer and is not (0, 0)."""
    for i, j in blocks:
        if i >= j and (i, j) != (0, 0):
            raise field.error(f"a block (i, j) runs layers i..j-1 twice, so i < j; ({i}, {j}).")
    return Layout(field, (), tuple((i, j) for i, j in blocks))

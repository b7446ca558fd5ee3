"""Paths: the text form, validation and padding."""

import os
import re
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from cola_jax.errors import InputError, reading, shown

Ids = Sequence[int] | np.ndarray | Array
STOP = -1  # marks the positions of a padded path after its last layer

ITEM = re.compile(r"(?P<first>[0-9]{1,30})(?:-(?P<last>[0-9]{1,30}))?")
GROUP = re.compile(r"\((?P<body>[^()]*)\)x(?P<times>[1-9][0-9]{0,29})")
PART = re.compile(r"(?:\([^()]*\)[^,]*|[^,]*)(?=,|$)")  # up to a comma outside a group


def parse_path(text: str, num_layers: int, max_length: int | None = None) -> tuple[int, ...]:
    """Read `0-5,7,7,8-29` or `0-5,(6-7)x2,8-29`: ids, inclusive ranges, groups run N times.

    Args:
      text: the path; spaces do not matter.
      num_layers: L, the layers of the model.
      max_length: the most layers that the path may run; 2 * num_layers when None.

    Returns:
      The layer ids in the order in which they run, each in 0..L-1.

    Raises:
      ValueError: for other text, ids outside 0..L-1, and more than `max_length` layers.
    """
    layers: list[int] = []
    limit = 2 * num_layers if max_length is None else max_length
    for part in parts("".join(text.split())):
        group = GROUP.fullmatch(part)
        body = group["body"] if group else part
        times = int(group["times"]) if group else 1
        block = [layer for item in body.split(",") for layer in parse_item(item, text, num_layers)]
        if len(layers) + len(block) * times > limit:
            raise InputError(
                f"path {shown(text)} runs more than {limit} layers: shorten it, or allow more "
                "with a larger maximum length."
            )
        layers += block * times
    return validate(layers, num_layers, max_length=limit)


def parse_path_of(file: str | os.PathLike[str], text: str, num_layers: int) -> tuple[int, ...]:
    """Read a path that a file holds; InputError as `parse_path`, with the file."""
    with reading(file):
        return parse_path(text, num_layers)


def parts(text: str) -> Iterator[str]:
    """Yield what is between the commas that are outside of groups."""
    start = 0
    while start <= len(text):
        part = PART.match(text, start)
        assert part is not None, "the pattern matches everywhere, the empty text too"
        yield part[0]
        start = part.end() + 1


def parse_item(item: str, text: str, num_layers: int) -> range:
    """Read one id or one ascending range of the path `text`."""
    match = ITEM.fullmatch(item)
    if not match:
        raise InputError(
            f"path {shown(text)} has {shown(item)} where a layer id, a range like 0-5 or a "
            "group like (6-7)x2 belongs."
        )
    first = int(match["first"])
    last = first if match["last"] is None else int(match["last"])
    if last < first:
        raise InputError(
            f"path {shown(text)} has the range {item}, which runs backwards: use {last}-{first}."
        )
    if last >= num_layers:
        raise InputError(
            f"path {shown(text)} names layer {last}, but the model has layers 0..{num_layers - 1}."
        )
    return range(first, last + 1)


def format_path(path: Ids) -> str:
    """Write a path in the text form that `parse_path` reads.

    Args:
      path: layer ids in order; padding is ignored.

    Returns:
      The shortest usual form, such as `0-5,7,7,8-29` or `0-5,(6-7)x2,8-29`; "" for no layers.
    """
    layers = [int(layer) for layer in path if layer != STOP]
    parts: list[str] = []
    plain: list[int] = []
    start = 0
    while start < len(layers):
        size, times = repeated_block(layers, start)
        if times == 1:
            plain.append(layers[start])
            start += 1
            continue
        parts += runs(plain)
        plain = []
        block = ",".join(runs(layers[start : start + size]))
        # a single layer run two or three times reads better written out
        parts += [block] * times if size == 1 and times < 4 else [f"({block})x{times}"]
        start += size * times
    return ",".join(parts + runs(plain))


def repeated_block(layers: list[int], start: int) -> tuple[int, int]:
    """Return the size of the shortest block at `start` that repeats, and how often it runs."""
    for size in range(1, (len(layers) - start) // 2 + 1):
        block = layers[start : start + size]
        times = 1
        while layers[start + times * size : start + (times + 1) * size] == block:
            times += 1
        if times > 1:
            return size, times
    return 1, 1


def runs(layers: Sequence[int]) -> list[str]:
    """Write layers as ids and ascending ranges."""
    return [
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ascending_ranges(layers)
    ]


def ascending_ranges(layers: Sequence[int]) -> list[range]:
    """Split layers into the fewest ranges of ascending ids, in order."""
    out: list[range] = []
    for layer in layers:
        if out and layer == out[-1].stop:
            out[-1] = range(out[-1].start, layer + 1)
        else:
            out.append(range(layer, layer + 1))
    return out


def validate(layers: Ids, num_layers: int, max_length: int | None = None) -> tuple[int, ...]:
    """Return the path as a tuple of ints, without padding.

    Raises ValueError where it is empty, has ids outside 0..num_layers-1, has padding in the
    middle, or is longer than `max_length`. Inside jit such ids would wrap or clamp silently.
    """
    path = [int(layer) for layer in layers]
    while path and path[-1] == STOP:
        path.pop()
    if not path:
        raise InputError("a path needs at least one layer, this one has none.")
    bad = sorted({layer for layer in path if not 0 <= layer < num_layers})
    if bad:
        raise InputError(
            f"path has layer ids {bad}, but the model has layers 0..{num_layers - 1}: {path}"
        )
    if max_length is not None and len(path) > max_length:
        raise InputError(
            f"path has {len(path)} layers, but at most {max_length} are allowed: {path}"
        )
    return tuple(path)


def pad_path(path: Ids, positions: int) -> np.ndarray:
    """Return the path as int32 [positions], STOP after its end; ValueError when it is longer."""
    if len(path) > positions:
        raise InputError(
            f"path has {len(path)} layers but only {positions} positions; pass "
            f"positions={len(path)} (one recompile)."
        )
    return np.pad(np.asarray(path, np.int32), (0, positions - len(path)), constant_values=STOP)


def unpad_path(path: np.ndarray) -> tuple[int, ...]:
    """Return the layer ids of a path [P] that is padded with STOP."""
    return tuple(path[path != STOP].tolist())


def identity(num_layers: int) -> tuple[int, ...]:
    """Return the path of the pretrained model."""
    return tuple(range(num_layers))


def path_length(path: Int[Array, "*B P"]) -> Int[Array, "*B"]:
    """Count the layers of padded paths."""
    return jnp.sum(path != STOP, axis=-1)

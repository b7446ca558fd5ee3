"""Paths: their text form, validation and padding; edits of paths, and random ones."""

import operator
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from cola_jax.errors import InputError, check_whole, reading, shown
from cola_jax.question import random_of
from cola_jax.steps import (
    ATTENTION,
    LARGEST_SHARE,
    LETTERS,
    MLP,
    MOST_LAYERS,
    WHOLE,
    Step,
    is_step,
    is_whole,
    layer_of,
    part_of,
    with_modifier,
)

Ids = Sequence[int] | np.ndarray | Array
LayerPath = tuple[int, ...]  # a path without padding: the ids of its steps (`cola_jax.steps`)
STOP = -1  # marks the positions of a padded path after its last step

MODIFIER = r"(?P<part>[am])?(?:\*(?P<share>[0-9]{0,9}\.?[0-9]{0,9}))?"
ITEM = re.compile(rf"(?P<first>[0-9]{{1,30}})(?:-(?P<last>[0-9]{{1,30}})|{MODIFIER})")
GROUP = re.compile(rf"\((?P<body>[^()]*)\){MODIFIER}(?:x(?P<times>[1-9][0-9]{{0,29}}))?")
TIMES = re.compile(r"(?P<body>[0-9][^()]*)x(?P<times>[0-9]+)")
EDIT = re.compile(
    r"(?P<kind>skip|repeat|move)(?: (?P<part>attention|mlp))? (?P<k>[0-9]{1,9})"
    r" at (?P<start>[0-9]{1,9})(?: x(?P<times>[0-9]{1,9})| by (?P<by>[+-][0-9]{1,9}))?"
    r"(?: \*(?P<share>[0-9]\.?[0-9]{0,3}))?"
)
ITEMS = re.compile(r"(?:^|,)(\([^()]*\)[^,]*|[^,]*)(?=,|$)")  # between commas outside of groups

SKIP = 0
REPEAT = 1
MOVE = 2
KINDS = ("skip", "repeat", "move")
SKIPPED = {"attention": MLP, "mlp": ATTENTION}  # the part that is left, by the one that is skipped
MOST_KNOWN = 1000  # random paths in a row


def parse_path(text: str, num_layers: int, max_length: int | None = None) -> LayerPath:
    """Read `0-5,7,7,8-29` or `0-5,(6-7)x2,8-29`: ids, inclusive ranges, groups run N times.

    After an id or a group, `a` is the attention of the layer alone and `m` its MLP, and `*0.5` the
    share of the update that is added: `0-5,7,7*0.5,8a,9m,(10-11)*0.5x2`. Spaces do not matter.
    Returns the ids of steps: a whole layer is its own id (see `cola_jax.steps`). ValueError for
    other text, ids outside 0..num_layers-1, shares out of range, and paths of more than
    `max_length` steps, by default 2 * num_layers.
    """
    check_whole("num_layers", num_layers)
    if not isinstance(text, str):
        raise InputError(f"a path is read from a text such as 0-5,7,7,8-29, not {shown(text)}.")
    steps: list[int] = []
    limit = 2 * num_layers if max_length is None else max_length
    for item in ITEMS.findall("".join(text.split())):
        group = GROUP.fullmatch(item)
        if group and not any(group[name] for name in ("part", "share", "times")):
            group = None  # parentheses of no use
        times = int(group["times"] or 1) if group else 1
        block = (
            parse_group(group, text, num_layers) if group else parse_item(item, text, num_layers)
        )
        if len(steps) + len(block) * times > limit:
            raise InputError(
                f"path {shown(text)} has more than {limit} steps: shorten it, or allow more "
                "with a larger maximum length."
            )
        steps += block * times
    return validate(steps, num_layers, max_length=limit)


def parse_path_of(file: str | os.PathLike[str], text: str, num_layers: int) -> LayerPath:
    """Read a path of a file; InputError as `parse_path`, with the file's name."""
    with reading(file):
        return parse_path(text, num_layers)


def parse_stored(text: str) -> LayerPath:
    """Read the text of a path that was checked when it was written."""
    return parse_path(text, MOST_LAYERS, 100 * MOST_LAYERS)


def parse_group(group: re.Match[str], text: str, num_layers: int) -> list[int]:
    """Read the steps of a group of the path `text`, once."""
    items = group["body"].split(",")
    block = [step for item in items for step in parse_item(item, text, num_layers)]
    modifier = parse_modifier(group, text)
    if not modifier:
        return block
    if not all(map(is_whole, block)):
        raise InputError(
            f"path {shown(text)} has parts or shares in a group and after it: give them to the "
            "layers in it, or to the group."
        )
    return [step + modifier for step in block]


def parse_item(item: str, text: str, num_layers: int) -> list[int]:
    """Read one id, with its part and share, or one ascending range of the path `text`."""
    match = ITEM.fullmatch(item)
    if not match:
        raise InputError(f"path {shown(text)} has {shown(item)} where {hint_for(item)}.")
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
    modifier = parse_modifier(match, text)
    return [layer + modifier for layer in range(first, last + 1)]


def hint_for(item: str) -> str:
    """Say what belongs in the place of an item that is none, whatever was meant by it."""
    if match := TIMES.fullmatch(item):
        body, times = match["body"], match["times"]
        text = f"a step belongs: ({body})x{times} runs it {times} times"
        return f"{text}, and {body}*{times} would add {times} times its update"
    if match := re.fullmatch(r"(?P<range>[0-9]+-[0-9]+)(?P<suffix>[am*].*)", item):
        return f"a range has a part or a share: write ({match['range']}){match['suffix']}"
    return (
        "a layer id, a range like 0-5 or a group like (6-7)x2 belongs, or a part or a share of a "
        "layer like 8a (its attention), 8m (its MLP) or 7*0.5 (half of its update)"
    )


def parse_modifier(match: re.Match[str], text: str) -> int:
    """Read the part and the share of a match of the path `text`; 0 for all of whole layers."""
    part = LETTERS.index(match["part"] or "")
    if match["share"] is None:
        return Step(0, part).modifier
    with reading(f"path {shown(text)}"):
        try:
            share = float(match["share"])
        except ValueError:
            raise InputError("it has a * without a share such as 0.5 after it.") from None
        try:
            return Step(0, part, share).modifier
        except InputError as error:
            is_count = share > LARGEST_SHARE and share.is_integer()
            hint = f" A layer N runs {share:g} times by (N)x{share:g}." if is_count else ""
            raise InputError(f"{error}{hint}") from None


def format_path(path: Ids) -> str:
    """Write a path, whose padding is ignored, in the shortest form that `parse_path` reads."""
    if isinstance(path, str):
        raise InputError(f"a path is written from its ids, and {shown(path)} is a text.")
    steps = [int(step) for step in path if step != STOP]
    items: list[str] = []
    plain: list[int] = []
    start = 0
    while start < len(steps):
        size, times = repeated_block(steps, start)
        if times == 1:
            plain.append(steps[start])
            start += 1
            continue
        items += format_ranges(plain)
        plain = []
        block = steps[start : start + size]
        # a single layer run two or three times reads better written out
        if size == 1 and times < 4:
            items += format_ranges(block) * times
        else:
            items.append(f"{format_group(block)}x{times}")
        start += size * times
    return ",".join(items + format_ranges(plain))


def repeated_block(layers: list[int], start: int) -> tuple[int, int]:
    """Return the size of the shortest repeating block at `start`, and the number of its runs."""
    for size in range(1, (len(layers) - start) // 2 + 1):
        block = layers[start : start + size]
        times = 1
        while layers[start + times * size : start + (times + 1) * size] == block:
            times += 1
        if times > 1:
            return size, times
    return 1, 1


def format_group(block: Sequence[int]) -> str:
    """Write a block as a group, in which there can be no other: `(6-7)*0.5`, `(6*0.5,7*0.5,8)`."""
    ranges = ascending_ranges(block)
    if len(ranges) == 1 and len(block) > 1 and not is_whole(block[0]):
        return format_ranges(block)[0]
    items: list[str] = []
    for run in ranges:
        if is_whole(run[0]):
            items += format_ranges(run)
        else:
            # one by one, as a range of them would be a group
            items += [f"{layer_of(step)}{format_modifier(step)}" for step in run]
    return f"({','.join(items)})"


def format_ranges(steps: Sequence[int]) -> list[str]:
    """Write steps as ids and ascending ranges, with their parts and shares."""
    texts = []
    for run in ascending_ranges(steps):
        first, last = layer_of(run[0]), layer_of(run[-1])
        modifier = format_modifier(run[0])
        if len(run) == 1:
            texts.append(f"{first}{modifier}")
        else:
            texts.append(f"({first}-{last}){modifier}" if modifier else f"{first}-{last}")
    return texts


def format_modifier(step: int) -> str:
    """Write the part and the share of a step: `a`, `*0.5`; nothing for all of a whole layer."""
    of_step = Step.of(step)
    share = "" if of_step.share == 1 else f"*{of_step.share:g}"
    return LETTERS[of_step.part] + share


def ascending_ranges(layers: Sequence[int]) -> list[range]:
    """Split layers into the fewest ranges of ascending ids, in order; likewise steps."""
    out: list[range] = []
    for layer in layers:
        if out and layer == out[-1].stop:
            out[-1] = range(out[-1].start, layer + 1)
        else:
            out.append(range(layer, layer + 1))
    return out


def validate(layers: Ids, num_layers: int, max_length: int | None = None) -> LayerPath:
    """Return the path as a tuple of ints, an array without the padding at its end.

    InputError where it is empty or longer than `max_length`, or has ids of no step of the model,
    which inside jit would wrap or clamp silently. A list has no padding: where a
    user writes -1 in one, the last layer may be meant.
    """
    if isinstance(layers, str):
        raise InputError(f"a path of ids is a list, and {shown(layers)} is a text: parse it first.")
    try:
        path = [operator.index(step) for step in layers]
    except TypeError:  # int() would cut 7.5 to 7
        raise InputError(
            f"a path is a list or an array [P] of whole numbers, not {shown(layers)}."
        ) from None
    while not isinstance(layers, Sequence) and path and path[-1] == STOP:
        path.pop()
    if not path:
        raise InputError("a path needs at least one layer, this one has none.")
    bad = sorted({step for step in path if not is_step(step, num_layers)})
    if bad:
        hint = " (-1 pads arrays alone)" if bad == [STOP] else ""
        kind = "layer ids" if all(map(is_whole, bad)) else "ids of steps"
        raise InputError(
            f"path has {kind} {bad}, but the model has layers 0..{num_layers - 1}{hint}: "
            f"{shown(path)}"
        )
    if max_length is not None and len(path) > max_length:
        raise InputError(
            f"path has {len(path)} steps, but at most {max_length} are allowed: {shown(path)}"
        )
    return tuple(path)


def is_whole_path(path: Ids) -> bool:
    """Tell whether a path, whose padding is ignored, has whole layers with all of their updates."""
    return all(is_whole(int(step)) for step in path)


def pad_path(path: Ids, positions: int) -> np.ndarray:
    """Return the path as int32 [positions], STOP after its end; InputError when it is longer."""
    if len(path) > positions:
        raise InputError(
            f"path has {len(path)} steps but only {positions} positions; pass "
            f"positions={len(path)} (one recompile)."
        )
    return np.pad(np.asarray(path, np.int32), (0, positions - len(path)), constant_values=STOP)


def pad_lists(rows: Sequence[Sequence[Ids]], positions: int) -> np.ndarray:
    """Pad lists of paths, one for each question, to an int32 array [B, C, P] as `pad_path` does."""
    paths = np.full((len(rows), max(map(len, rows), default=0), positions), STOP, np.int32)
    for b, row in enumerate(rows):
        for c, path in enumerate(row):
            paths[b, c, : len(path)] = path
    return paths


def unpad_path(path: np.ndarray) -> LayerPath:
    """Return a path [P] without its padding with STOP."""
    return tuple(path[path != STOP].tolist())


def identity(num_layers: int) -> LayerPath:
    """Return the path of the pretrained model."""
    return tuple(range(num_layers))


def path_of_parts(attentions: Collection[int], mlps: Collection[int]) -> LayerPath:
    """Return the path that runs the attentions of some layers and the MLPs of some, in order."""
    path = []
    for layer in sorted({*attentions, *mlps}):
        part = ATTENTION if layer not in mlps else MLP if layer not in attentions else WHOLE
        path.append(Step(layer, part).id)
    return tuple(path)


class Edit(NamedTuple):
    """One edit, or arrays of them: the kind, the first position, the steps, and the amount.

    `amount` is r for a repeat, s for a move and 0 for a skip. A skip with a modifier
    (`Step.modifier`) keeps of each step that part, or that share of the update; the extra runs of a
    repeat with a modifier have that share.
    """

    kind: Any  # a number, or an array [A], as the others
    start: Any
    k: Any
    amount: Any
    modifier: Any = 0  # of edits of whole layers


def edit_table(
    positions: int,
    skip: int = 4,
    repeat: int = 4,
    times: int = 4,
    move: int = 0,
    move_block: int = 1,
    *,
    parts: bool = False,
    shares: Sequence[float] = (),
) -> Edit:
    """List every edit of a path padded to `positions`, as numpy arrays [A].

    Blocks skipped are of 1..skip layers, blocks repeated of 1..repeat layers with 1..times extra
    runs, blocks moved of 1..move_block layers by 1..move places either way; 0 leaves a kind out.
    With `parts`, the attention or the MLP of blocks is skipped as well; with `shares`, extra runs
    may have one of them, and skips may keep one.
    """
    sizes = (skip, repeat, times, move, move_block)
    # larger ones fit in no path
    skip, repeat, times, move, move_block = (min(size, positions) for size in sizes)
    of_share = [Step(0, share=share).modifier for share in shares]
    of_skip = [0, *(Step(0, part).modifier for part in SKIPPED.values() if parts), *of_share]
    shapes = [(SKIP, k, 0, modifier) for modifier in of_skip for k in range(1, skip + 1)]
    shapes += [
        (REPEAT, k, r, modifier)
        for modifier in (0, *of_share)
        for k in range(1, repeat + 1)
        for r in range(1, times + 1)
    ]
    shifts = [s for s in range(-move, move + 1) if s]
    shapes += [(MOVE, k, s, 0) for k in range(1, move_block + 1) for s in shifts]
    if not shapes:
        raise InputError("no edit is allowed: give skip, repeat (with times) or move above 0.")
    rows = [
        (kind, start, k, amount, modifier)
        for kind, k, amount, modifier in shapes
        for start in range(positions)
    ]
    return Edit(*np.array(rows, np.int32).T)


def edited(path: LayerPath, edit: Ids) -> LayerPath:
    """Apply one edit, with its modifier or without, to one path without padding."""
    kind, start, k, amount, modifier = map(int, Edit(*edit))
    before = path[:start]
    block = path[start : start + k]
    after = path[start + k :]
    changed = tuple(with_modifier(step, modifier) for step in block)
    if kind == SKIP:
        return before + (changed if modifier else ()) + after
    if kind == REPEAT:
        return before + block + changed * amount + after
    rest = before + after
    return rest[: start + amount] + block + rest[start + amount :]


def edits_fit(path: Ids, edits: Edit, shortest: Any, longest: Any) -> Any:
    """Tell which edits [A] fit a path: their block lies in it, and the result has a legal length.

    A path that is longer than allowed, such as the identity, may be made shorter. A part is skipped
    where every step of the block has both.
    """
    return lengths_fit(len(path), edits, shortest, longest) & parts_fit(path, edits)


def lengths_fit(length: Any, edits: Edit, shortest: Any, longest: Any) -> Any:
    """Tell which edits [A] fit a path of a length, whatever its steps."""
    kind, start, k, amount, modifier = edits
    after = length - k * ((kind == SKIP) & (modifier == 0)) + k * amount * (kind == REPEAT)
    target = start + amount * (kind == MOVE)
    inside = (start + k <= length) & (target >= 0) & (target + k <= length)
    return inside & (after >= shortest) & ((after <= longest) | (after < length))


def parts_fit(path: Ids, edits: Edit) -> Any:
    """Tell which edits [A] skip no part of a step that has lost one."""
    lost = np.cumsum([0, *(part_of(step) != WHOLE for step in path)])
    first = np.minimum(edits.start, len(path))
    last = np.minimum(edits.start + edits.k, len(path))
    return (part_of(edits.modifier) == WHOLE) | (lost[first] == lost[last])


def format_edit(edit: Ids) -> str:
    """Write an edit for people: `skip 2 at 5`, `repeat 1 at 7 x2`, `move 1 at 3 by -1`.

    With a part or a share, `skip attention 2 at 5`, `skip 2 at 5 *0.5` (which keeps half of the
    update) or `repeat 1 at 7 x2 *0.5` (whose extra runs have that share).
    """
    kind, start, k, amount, modifier = map(int, Edit(*edit))
    step = Step.of(modifier)
    skipped = {left: f" {part}" for part, left in SKIPPED.items()}.get(step.part, "")
    suffix = {SKIP: "", REPEAT: f" x{amount}", MOVE: f" by {amount:+d}"}[kind]
    share = "" if step.share == 1 else f" *{step.share:g}"
    return f"{KINDS[kind]}{skipped} {k} at {start}{suffix}{share}"


def parse_edit(text: str) -> Edit:
    """Read what `format_edit` writes; InputError for other text."""
    match = EDIT.fullmatch(text)
    kind = KINDS.index(match["kind"]) if match else SKIP
    if (
        not match
        or (kind == REPEAT) != bool(match["times"])
        or (kind == MOVE) != bool(match["by"])
        or (match["part"] and kind != SKIP)
        or (match["share"] and (kind == MOVE or float(match["share"]) == 1))
    ):
        raise InputError(f"{shown(text)} is no edit such as skip 2 at 5 or repeat 1 at 7 x2.")
    part = SKIPPED.get(match["part"], WHOLE)
    modifier = Step(0, part, float(match["share"] or 1)).modifier
    amount = match["times"] or match["by"] or 0
    return Edit(*map(int, (kind, match["start"], match["k"], amount, modifier)))


def random_paths(
    num_layers: int,
    count: int,
    seed: int,
    edits: int = 3,
    max_length: int | None = None,
    refused: Callable[[LayerPath], Any] = lambda path: False,
    *,
    parts: bool = False,
    shares: Sequence[float] = (),
) -> list[LayerPath]:
    """Draw distinct paths of 1..edits random edits of the identity, never the identity itself.

    Nor one that is refused, such as by `ModelConfig.missing_keys`. The edits are those of
    `edit_table`, with `parts` and `shares` as there.
    The number of edits, the kind (skip or repeat) and one fitting edit of that kind are drawn
    evenly. InputError where fewer than `count` paths exist: after a thousand known ones in a row.
    """
    limit = 2 * num_layers if max_length is None else max_length
    if limit < num_layers or seed < 0:
        raise InputError(
            f"random paths start from all {num_layers} layers, so max_length must be at least "
            f"that, and the seed 0 or more: they are {limit} and {seed}."
        )
    generator = random_of(seed)
    fitting = FittingEdits(edit_table(limit, parts=parts, shares=shares), 1, limit)
    paths: dict[LayerPath, None] = {}
    known = 0  # since the last new one
    while len(paths) < count and known < MOST_KNOWN:
        path = identity(num_layers)
        for _ in range(generator.integers(1, edits + 1)):
            edit = fitting.draw(path, generator)
            path = path if edit is None else edited(path, edit)
        known += 1
        if path != identity(num_layers) and path not in paths and not refused(path):
            paths[path] = None
            known = 0
    if len(paths) < count:
        raise InputError(
            f"only {len(paths)} of {count} distinct random paths were found for {num_layers} "
            f"layers with at most {edits} edits: ask for fewer."
        )
    return list(paths)


class FittingEdits:
    """The edits of a table that fit paths."""

    def __init__(self, table: Edit, shortest: int, longest: int):
        """Take all edits [A], and the shortest and the longest path allowed."""
        self.table = table
        self.shortest = shortest
        self.longest = longest
        self.of_length: dict[int, dict[int, np.ndarray]] = {}  # computed when needed

    def of(self, path: LayerPath) -> dict[int, np.ndarray]:
        """Return the indices of the edits that fit a path, by kind; of kinds that have some."""
        fits = self.of_length.get(len(path))
        if fits is None:
            allowed = lengths_fit(len(path), self.table, self.shortest, self.longest)
            fits = {kind: np.flatnonzero(allowed & (self.table.kind == kind)) for kind in range(3)}
            self.of_length[len(path)] = fits
        if any(map(part_of, path)):
            whole = parts_fit(path, self.table)
            fits = {kind: edits[whole[edits]] for kind, edits in fits.items()}
        return {kind: edits for kind, edits in fits.items() if len(edits)}

    def draw(self, path: LayerPath, generator: np.random.Generator) -> np.ndarray | None:
        """Draw one edit [5] that fits a path, the kind first; None where none does."""
        fits = self.of(path)
        if not fits:
            return None
        kind = generator.choice(list(fits))
        chosen = generator.choice(fits[kind])
        return np.array([column[chosen] for column in self.table])

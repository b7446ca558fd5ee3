"""Steps: what a path runs at each position, written in one integer.

A step is a layer, whole or its attention or MLP alone, and the share of its update that is added.
The id of a whole layer is the layer. Above it, an id has bits for the share, in thousandths, and
for the part, so that any id tells its step without a table, on the host and in compiled programs:

    bits   0-9    10-20    21-22   23-30
           layer  share    part    run

The run is for executors alone: in a model whose layers scale by roots, how often the path runs the
layer decides the scale, so `with_runs` adds it to the ids of a path.
"""

from numbers import Real
from typing import Any, NamedTuple

from cola_jax.errors import InputError, shown

LAYER_BITS = 10
SHARE_BITS = 11
PART_BITS = 2
RUN_BITS = 8
MOST_LAYERS = 1_000  # of a model; `layer_of` padding, -1, is above it
WHOLE = 0
ATTENTION = 1  # or the mixer of a recurrent layer
MLP = 2  # or experts
LETTERS = ("", "a", "m")  # of the parts, in the text of paths
THOUSANDTHS = 1000
LARGEST_SHARE = 2


class Step(NamedTuple):
    """What a path runs at a position: out = h + share * (f(h) - h).

    f is the whole layer, its norms and scales included; or of a part, the layer with what the other
    part adds left out.
    """

    layer: int
    part: int = WHOLE
    share: float = 1.0

    @classmethod
    def of(cls, id: int) -> "Step":
        """Return the step of an id."""
        return cls(layer_of(int(id)), part_of(int(id)), share_of(int(id)))

    @property
    def id(self) -> int:
        """The id of the step; InputError for a share out of range or of more than 3 decimals."""
        return self.layer + self.modifier

    @property
    def modifier(self) -> int:
        """The part and the share in the id: 0 for a whole layer with all of its update."""
        thousandths = check_share(self.share)
        share = 0 if thousandths == THOUSANDTHS else thousandths
        return (share << LAYER_BITS) + (self.part << LAYER_BITS + SHARE_BITS)


class StepForm(NamedTuple):
    """What a compiled program of steps depends on: the part, and whether the share is not 1."""

    part: int = WHOLE
    damped: bool = False

    @classmethod
    def of(cls, id: int) -> "StepForm":
        """Return the form of an id."""
        return cls(part_of(id), share_of(id) != 1)


def check_share(share: float) -> int:
    """Return a share in thousandths; InputError where it is no number, out of range or finer."""
    if isinstance(share, bool) or not isinstance(share, Real):
        raise InputError(f"{shown(share)} is not a share of an update: give a number.")
    if not 0 < share <= LARGEST_SHARE:  # nor NaN
        raise InputError(
            f"{shown(share)} is not a share of an update: give more than 0 and at most "
            f"{LARGEST_SHARE}, such as 0.5; leave the layer out for 0."
        )
    thousandths = round(share * THOUSANDTHS)
    if not thousandths or abs(share * THOUSANDTHS - thousandths) > 1e-6:
        raise InputError(
            f"the share {shown(share)} has more than three decimals: round it, to "
            f"{max(thousandths, 1) / THOUSANDTHS:g} for example."
        )
    return thousandths


def layer_of(ids: Any) -> Any:
    """Return the layers of ids: a number, or an array of NumPy or JAX, as `ids` is."""
    return ids & (1 << LAYER_BITS) - 1


def part_of(ids: Any) -> Any:
    """Return the parts of ids: `WHOLE`, `ATTENTION` or `MLP`."""
    return ids >> LAYER_BITS + SHARE_BITS & (1 << PART_BITS) - 1


def missing_part(id: int) -> int | None:
    """Return the part of a layer that a step leaves out; None for a whole layer."""
    return {ATTENTION: MLP, MLP: ATTENTION}.get(part_of(id))


def share_of(ids: Any) -> Any:
    """Return the shares of ids, as floats."""
    thousandths = ids >> LAYER_BITS & (1 << SHARE_BITS) - 1
    return (thousandths + (thousandths == 0) * THOUSANDTHS) / THOUSANDTHS


def modifier_of(ids: Any) -> Any:
    """Return the modifiers of ids, as `Step.modifier`: 0 for all of whole layers."""
    return ids & (1 << LAYER_BITS + SHARE_BITS + PART_BITS) - (1 << LAYER_BITS)


def with_modifier(ids: Any, modifier: Any) -> Any:
    """Return ids with the part and the share that a modifier has in place of their own.

    A part is for steps that have both: what has lost one cannot get it back.
    """
    share = modifier & (1 << LAYER_BITS + SHARE_BITS) - 1
    # without their own share where the modifier has one, which is above 0
    kept = ids - (share > 0) * (ids & (1 << LAYER_BITS + SHARE_BITS) - (1 << LAYER_BITS))
    return kept | modifier


def runs_of(ids: Any) -> Any:
    """Return how often the path runs the layer, of ids that `with_runs` made."""
    return 1 + (ids >> LAYER_BITS + SHARE_BITS + PART_BITS)


def without_runs(ids: Any) -> Any:
    """Return ids that `with_runs` made as they were; not of padding."""
    return ids & (1 << LAYER_BITS + SHARE_BITS + PART_BITS) - 1


def is_step(ids: Any, num_layers: int) -> Any:
    """Tell which ids are steps of a model of `num_layers` layers, without runs."""
    share = ids >> LAYER_BITS & (1 << SHARE_BITS) - 1
    in_range = (ids >= 0) & (runs_of(ids) == 1) & (layer_of(ids) < num_layers)
    # a share of 1 has no bits, so that a step has one id
    known = (share != THOUSANDTHS) & (share <= LARGEST_SHARE * THOUSANDTHS) & (part_of(ids) <= MLP)
    return in_range & known


def has_share(ids: Any) -> Any:
    """Tell which ids have a share other than 1."""
    return (ids >> LAYER_BITS & (1 << SHARE_BITS) - 1) * (ids >= 0) != 0


def is_whole(ids: Any) -> Any:
    """Tell which ids are whole layers with all of their update; so is padding."""
    return modifier_of(ids) * (ids >= 0) == 0


def with_runs(paths: Any) -> Any:
    """Add to padded paths [..., P] of ids how often each runs the layer, in any part.

    In arrays of NumPy or JAX; InputError where NumPy paths run a layer too often.
    """
    import numpy as np  # which the flags of commands do without

    layers = layer_of(paths)
    # padding has a layer that no model has
    runs = (layers[..., None] == layers[..., None, :]).sum(-1)
    if isinstance(paths, np.ndarray):
        most = (runs * (paths >= 0)).max(initial=0)
        if most > 1 << RUN_BITS:
            raise InputError(
                f"a path runs a layer {most} times, too often for roots of scales: shorten it."
            )
        runs = runs.astype(paths.dtype)
    return paths + (paths >= 0) * ((runs - 1) << LAYER_BITS + SHARE_BITS + PART_BITS)

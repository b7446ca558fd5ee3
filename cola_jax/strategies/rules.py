"""Rules: the choices of a search as data, and `PRESETS` of them by name."""

import dataclasses
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from cola_jax.errors import InputError, did_you_mean, shown
from cola_jax.layer_costs import LayerCosts
from cola_jax.steps import WHOLE, check_share, is_step, part_of

if TYPE_CHECKING:
    from cola_jax.execute.plan import Workload

Space = Literal["skip", "repeat", "skip+repeat", "skip+repeat+move"]  # kinds of edits
Control = Literal["all", "one", "none"]  # options that a question is searched for beside gold
PLACES = 4  # that a block may move where a space has moves and the rules have none
ANY = float("inf")
LARGEST = 1e30  # weight
LONGEST = 100  # path, in multiples of L
MOST_EDITS = 100  # of a path that is drawn
FARTHEST = 10_000  # layer, block or amount of an edit of a prior
MOST_CHILDREN = 1000  # paths that a search without a tree draws at a time, of each kept
MOST_SHARES = 16  # of updates, in the rules of a search
RANGES = {  # the least and the largest value of each field of rules and settings
    "block_multiple": (0, ANY),
    **dict.fromkeys(("max_skip", "max_repeat", "max_times", "max_move", "seed"), (0, ANY)),
    **dict.fromkeys(("max_move_block", "deep_block", "max_runs", "simulations"), (1, ANY)),
    **dict.fromkeys(("min_length", "max_length"), (0, LONGEST)),
    **dict.fromkeys(("length_weight", "length_penalty"), (-LARGEST, LARGEST)),
    **dict.fromkeys(("width", "children", "offspring"), (1, MOST_CHILDREN)),
    **dict.fromkeys(("edits", "mutations"), (1, MOST_EDITS)),
    "exploration": (0, LARGEST),
    "widening": (1, LARGEST),
    "widening_power": (0, 1),
    "epsilon": (0, 1),
    "block_power": (-4, 4),
    "leaves": (1, 10_000),
}


def check_ranges(settings: Any) -> None:
    """Raise InputError for a field outside its range, or of another type."""
    for field in dataclasses.fields(settings):
        name = field.name
        value = getattr(settings, field.name)
        if name not in RANGES or (value is None and field.type == int | None):
            continue
        kind, number = (Real, "number") if field.type is float else (Integral, "whole number")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise InputError(f"{name} must be a {number}, it is {shown(value)}.")
        least, most = RANGES[name]
        if not least <= value <= most:
            allowed = f"at least {least:g}" if most == ANY else f"{least:g} to {most:g}"
            raise InputError(f"{name} must be {allowed}, it is {value}.")


def check_shares(shares: Any) -> None:
    """Raise InputError unless shares of updates are distinct, above 0, at most 2, and not 1."""
    if not isinstance(shares, tuple | list) or len(shares) > MOST_SHARES:
        raise InputError(
            f"shares must be a tuple of up to {MOST_SHARES} numbers, it is {shown(shares)}."
        )
    for share in shares:
        check_share(share)
    if 1 in shares or len(set(shares)) < len(shares):
        raise InputError(
            f"shares are {shown(shares)}: give each once, and none of 1, which plain repeats have."
        )


@dataclasses.dataclass(frozen=True)
class Rules:
    """Fields of all strategies; recorded whole with every run."""

    name: ClassVar[str]  # of the strategy, since two may have the same fields
    stream: ClassVar[int] = 1  # of its random numbers: another one draws other paths
    not_tried: ClassVar[tuple[str, ...]] = ()  # fields of edits that the strategy does not make

    max_skip: int = 4  # layers in the largest block skipped; 0 turns skips off
    max_repeat: int = 4  # layers in the largest block repeated; 0 turns repeats off
    max_times: int = 4  # extra runs of a repeated block
    max_move: int = 0  # places a block may move either way; 0 turns moves off
    max_move_block: int = 1  # layers in the largest block moved
    # of the layers of edited blocks and the places of moves; 0: the period of the model's kinds of
    # layers, so that each place of a path keeps its kind
    block_multiple: int = 1
    min_length: float = 0.25  # steps of the shortest path, in multiples of L, the model's layers
    max_length: float = 2.0  # steps of the longest path, in multiples of L
    parts: bool = False  # skip the attention or the MLP of blocks as well, of up to max_skip layers
    # shares of their update that the extra runs of a repeated block may add, and that a skipped
    # block may keep
    shares: tuple[float, ...] = ()

    def __post_init__(self):
        check_ranges(self)
        if not isinstance(self.parts, bool):
            raise InputError(f"parts must be True or False, it is {shown(self.parts)}.")
        check_shares(self.shares)
        if refused := [name for name in self.not_tried if getattr(self, name)]:
            names = " and ".join(refused)
            raise InputError(
                f"the strategy {self.name} tries no {names}: leave out {names}, or choose another "
                "strategy."
            )
        if not (self.max_skip or (self.max_repeat and self.max_times) or self.max_move):
            raise InputError("a search needs edits: give max_skip, max_repeat or max_move above 0.")
        repeated = self.max_repeat if self.max_times else 0
        moved = min(self.max_move, self.max_move_block)
        if self.block_multiple > max(self.max_skip, repeated, moved):
            raise InputError(
                f"blocks of a multiple of {self.block_multiple} layers need max_skip or max_repeat "
                f"of at least {self.block_multiple}, or moves as far of blocks as large."
            )
        if not self.min_length <= self.max_length or not self.max_length:
            raise InputError(
                "max_length must be above 0 and at least min_length (both in "
                f"multiples of L), they are {self.min_length} and {self.max_length}."
            )
        if self.parts and not self.max_skip:
            raise InputError(
                "parts skips the attention or the MLP of blocks of up to max_skip layers: give "
                "max_skip above 0, or leave out parts."
            )
        if self.shares and not self.max_skip and not repeated:
            raise InputError(
                "shares are of blocks that are repeated or skipped: give max_skip or max_repeat "
                "above 0, or leave out shares."
            )

    @property
    def has_steps(self) -> bool:
        """Whether paths may have parts or shares."""
        return self.parts or bool(self.shares)

    def lengths(self, num_layers: int) -> tuple[int, int]:
        """Return the shortest and the longest path allowed, in steps."""
        shortest = max(1, round(self.min_length * num_layers))
        return shortest, max(shortest, int(self.max_length * num_layers))

    def within(self, space: "Space") -> "Rules":
        """Allow only the kinds of edits of a search space, with the sizes of these rules.

        Blocks as large as those skipped may move, by default up to four places. Raises InputError
        where a kind of the space is turned off.
        """
        kinds = space.split("+")
        sizes = {"skip": self.max_skip, "repeat": self.max_repeat, "move": self.max_move or PLACES}
        for kind in kinds:
            if not sizes[kind]:
                raise InputError(f"the space {space} needs max_{kind} above 0.")
        limits = {f"max_{kind}": size if kind in kinds else 0 for kind, size in sizes.items()}
        if "move" in kinds:
            limits["max_move_block"] = max(self.max_skip, self.max_move_block)
        return dataclasses.replace(self, **limits)


@dataclasses.dataclass(frozen=True)
class TreeRules(Rules):
    """Monte Carlo tree search.

    A node P is worth Q(P)/v(P) + exploration * sqrt(ln V / v(P)) - length_weight * |P|/L, where v
    are the node's visits and V those of the whole tree (CoLa, section 3), or of its parent. |P|/L
    is the path's cost as a share of the model's, where layers have costs.
    """

    name = "tree"
    stream = 2  # 1 was NumPy's, of versions whose trees were lists

    exploration: float = 2.0  # c, the weight of nodes visited rarely
    length_weight: float = 0.1  # lambda, the weight of a path's length
    length_penalty: float = 0.0  # subtracted from the reward, times |P|/L
    # 1 or 0, or the logistic of the margin: in nats, or where scores have no unit, in multiples of
    # the identity path's
    reward: Literal["verdict", "margin"] = "verdict"
    widening: float = 2.0  # a node has at most this times visits ** widening_power children
    widening_power: float = 0.5  # the exponent of the visits in that number
    epsilon: float = 0.0  # the chance, at each node, that a descent ends there with a new child
    visits: Literal["tree", "parent"] = "tree"  # whose visits V counts
    deep_block: int | None = None  # layers of the largest block edited below the root
    max_runs: int | None = None  # the most runs of a layer in a path; any number by default
    ordered: bool = False  # edit from left to right: never before the parent's last edit
    block_power: float = 0.0  # blocks of k layers are drawn in proportion to k ** block_power


@dataclasses.dataclass(frozen=True)
class RandomRules(Rules):
    """Random paths of one to `edits` edits; the kind of each edit is drawn first."""

    name = "random"

    edits: int = 3  # the most edits of a path


@dataclasses.dataclass(frozen=True)
class EnumerateRules(Rules):
    """Every single edit of the identity path, in an order drawn for each question."""

    name = "enumerate"


@dataclasses.dataclass(frozen=True)
class BeamRules(Rules):
    """Stochastic beam search by margin: random edits of the best paths so far, in rounds."""

    name = "beam"  # as runs record it

    width: int = 4  # paths edited in a round
    children: int = 4  # edits of each path in a round


@dataclasses.dataclass(frozen=True)
class EvolutionRules(Rules):
    """(1 + offspring) evolution by margin, as EvoPress does it for pruning (ICML 2025)."""

    name = "evolution"

    offspring: int = 16  # children of the best path in each generation
    mutations: int = 3  # the most edits of a child; the number is the lesser of two draws


@dataclasses.dataclass(frozen=True)
class ExitRules(Rules):
    """Early exit: every prefix of the layers, the longest first."""

    name = "early-exit"
    not_tried = ("parts", "shares")


@dataclasses.dataclass(frozen=True)
class InfluenceRules(Rules):
    """Remove the layers of least block influence, one more in each path (ShortGPT).

    With parts, the attention or the MLP of a layer each.
    """

    name = "influence"
    not_tried = ("shares",)

    # layers, that of least influence first, or with parts the ids of attentions and MLPs; a run
    # measures them
    order: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a search, beside the model and the questions.

    Raises InputError for a value that is out of range or of another type.
    """

    preset: Rules
    simulations: int
    leaves: int
    seed: int
    early_stop: bool = False
    control: Control = "all"
    layer_costs: tuple[float, ...] | None = None  # milliseconds, [L]; 1 each where None
    # edits of the identity path that a tree tries at its root before all others, in this order:
    # kind, first layer, k and amount of each, and the modifier where it has one (`path.Edit`). One
    # that does not fit is left out.
    prior: tuple[tuple[int, ...], ...] = ()
    # of the attention and of the MLP of each layer, [L][2], in the unit of the layers; half of the
    # layer each where None. A run of a model whose rules have parts sets them.
    part_costs: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self):
        check_ranges(self)
        if self.prior and not isinstance(self.preset, TreeRules):
            trees = [name for name, rules in PRESETS.items() if isinstance(rules, TreeRules)]
            raise InputError(
                f"a prior is tried at the root of a tree, and the strategy {self.preset.name} has "
                f"none: choose one of {', '.join(trees)}, or leave out the prior."
            )
        for edit in self.prior:
            check_edit(edit)
        if any(len(edit) > 4 for edit in self.prior) and not self.preset.has_steps:
            raise InputError(
                "the prior has edits of parts or shares, and the rules have none: give parts or "
                "shares as well, or leave out the prior."
            )
        if self.control not in get_args(Control):
            names = get_args(Control)
            near = did_you_mean(str(self.control), get_args(Control))
            raise InputError(
                f"control {shown(self.control)} is not one of {', '.join(names)}{near}."
            )
        if not isinstance(self.early_stop, bool):
            raise InputError(f"early_stop must be True or False, it is {shown(self.early_stop)}.")

    def costs(self, num_layers: int) -> LayerCosts:
        """Return the costs of layers, by which trees weigh paths."""
        return LayerCosts(num_layers, self.layer_costs, self.part_costs)

    @property
    def steps(self) -> int:
        """The most evaluations of a question for gold, the identity path among them."""
        return 1 + self.simulations

    def positions(self, num_layers: int) -> int:
        """Return P, the layers of the longest path allowed; the identity path is always run."""
        return max(num_layers, self.preset.lengths(num_layers)[1])

    def workload(self, num_layers: int) -> "Workload":
        """Return the workload of a batch of questions."""
        from cola_jax.execute.plan import Workload

        # searches for wrong options: some for a question that the model gets wrong, else none
        searches = 1 if self.control == "none" else 2
        evaluations = searches * self.steps
        return Workload(self.leaves, self.positions(num_layers), evaluations=evaluations)


# `cola`: CoLa's reward, tree value and edits, with c and lambda of the setting in its main text;
# widening and the limits of length, which the paper does not name, are ours. `cola-appendix`:
# lambda, epsilon and the budget of its appendix B, which names no c. `polar`: the released search
# of PoLar, with lengths from a table for each model there. `drllm`: the search that Dr.LLM
# describes, with the chain that its code makes of it. `best`, ours: a margin tells before the first
# hit, edits from left to right share most of a parent's states, and more than one extra run or a
# large block mostly breaks the model. `parts` and `damped`, ours, are `best` with other edits.
DEFAULT = "best"
PRESETS: dict[str, Rules] = {
    "best": TreeRules(
        exploration=0.5, max_times=1, reward="margin", ordered=True, block_power=-1.0
    ),
    "parts": TreeRules(
        exploration=0.5,
        max_repeat=0,
        reward="margin",
        ordered=True,
        block_power=-1.0,
        parts=True,
    ),
    "damped": TreeRules(
        exploration=0.5,
        max_times=1,
        reward="margin",
        ordered=True,
        block_power=-1.0,
        shares=(0.5, 0.25),
    ),
    "cola": TreeRules(),
    "cola-appendix": TreeRules(length_weight=5.0, epsilon=0.1),
    "polar": TreeRules(
        exploration=2**0.5,
        length_weight=5.0,
        max_times=1,
        widening=1.0,
        widening_power=0.0,
        epsilon=0.1,
        deep_block=1,
        max_runs=2,
        min_length=0.57,
        max_length=1.22,
    ),
    "drllm": TreeRules(
        exploration=1.8,
        length_weight=3.0,
        max_skip=2,
        max_repeat=1,
        max_times=1,
        widening=1.0,
        widening_power=0.0,
        epsilon=0.1,
        visits="parent",
        max_runs=2,
    ),
    "random": RandomRules(),
    "enumerate": EnumerateRules(),
    "stochastic-beam": BeamRules(),
    "greedy": BeamRules(width=1, children=16),
    "evolution": EvolutionRules(),
    "early-exit": ExitRules(min_length=0.0),
    "shortgpt": InfluenceRules(min_length=0.0),
}
ALIASES = {"cola-paper": "cola-appendix"}  # other names of presets
PRESETS |= {alias: PRESETS[name] for alias, name in ALIASES.items()}
RENAMED = {"beam": "stochastic-beam"}  # presets of earlier versions
SIMULATIONS = 100  # evaluations of a question, beyond the baseline, of most presets
BUDGETS = {"cola-appendix": 200, "drllm": 50}  # those of others, as their papers have them

if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[tuple(PRESETS)]  # the choices of a flag


def simulations_of(preset: str | Rules) -> int:
    """Return the budget of a preset: evaluations per question, beyond the baseline."""
    if isinstance(preset, Rules):
        return SIMULATIONS
    return BUDGETS.get(ALIASES.get(preset, preset), SIMULATIONS)


def check_edit(edit: Any) -> None:
    """Raise InputError for what is no edit: kind, first layer, k, amount, perhaps a modifier."""
    values = list(edit) if isinstance(edit, list | tuple) else []
    whole = all(isinstance(value, Integral) and not isinstance(value, bool) for value in values)
    from cola_jax.path import MOVE, REPEAT, SKIP  # with NumPy, which flags do without

    is_edit = len(values) in (4, 5) and whole and values[0] in (SKIP, REPEAT, MOVE)
    if is_edit:
        kind, start, k, amount, *modifiers = values
        has_amount = {SKIP: amount == 0, REPEAT: amount >= 1, MOVE: amount != 0}[kind]
        is_edit = start >= 0 and k >= 1 and has_amount and max(start, k, abs(amount)) <= FARTHEST
        for modifier in modifiers:
            is_edit &= modifier > 0 and bool(is_step(modifier, num_layers=1)) and kind != MOVE
            is_edit &= kind == SKIP or part_of(modifier) == WHOLE
    if not is_edit:
        raise InputError(
            f"the prior has {shown(edit)} where an edit belongs: give kind (0 skip, 1 repeat, 2 "
            "move), first layer, k and amount: 0 of a skip, the extra runs of a repeat, the places "
            "of a move; with a part or a share, its `cola_jax.steps.Step.modifier` as well."
        )


def check_renamed(preset: str) -> None:
    """Raise InputError for the name that a preset had in earlier versions."""
    if preset in RENAMED:
        raise InputError(f"the preset {preset} is now called {RENAMED[preset]}: give that name.")

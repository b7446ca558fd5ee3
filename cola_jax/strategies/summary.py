"""`SearchSummary`: what searches reached, what was expected, and the sentence about both."""

import dataclasses
import html
import math

from cola_jax.errors import count
from cola_jax.scoring.number_format import (
    NO_VALUE,
    Row,
    Table,
    format_interval,
    format_p,
    format_percent,
    format_points,
    is_shown,
    table_html,
    value_row,
)
from cola_jax.scoring.preference import Kept, Net, Preference
from cola_jax.scoring.statistics import Share, holm
from cola_jax.strategies.reached import AGAIN, ONCE, AskedAgain, Ways, share

LABELS = {
    ONCE: "W→C: wrong before, right on some path",
    AGAIN: "W→C: its best path right in all wordings",
}
STATED = {  # of a search in all wordings at once, the last one
    ONCE: "the searches found a correct path for",
    AGAIN: "the searches found a path that is correct in all wordings for",
}


@dataclasses.dataclass(frozen=True, eq=False)
class SearchSummary:
    """The results of searches beside those of their control searches.

    Questions whose baseline is ungraded are excluded.
    """

    open: bool  # questions without options offered
    before: Share  # right on the identity path
    corrected: Share  # of those wrong before (in all wordings, of a search in all): W→C
    # The control: searches of the same questions for wrong answers other than the model's own.
    control: Share  # of those searches on the questions wrong before: reached their target
    without_control: int  # of the questions wrong before: have no wrong answer to search for
    unscored: int  # of those that have: without finite scores of the pretrained model
    preference: Preference | None  # of the model for gold among the targets; None for open ones
    # W→C and the number expected by that preference, by what counts as right: `once`, and where
    # other wordings were asked `asked again` (the best path in all)
    nets: dict[str, Net]
    kept: dict[str, Kept]  # layers saved on right and on wrong answers that are kept
    again: AskedAgain | None  # None where no other wording was asked

    @classmethod
    def of(
        cls, ways: Ways, num_layers: int, preference: Preference | None = None
    ) -> "SearchSummary":
        """Compare searches with their controls.

        The preference is of another run of the model; by default fitted to these questions.
        """
        first = ways.names[0]
        wrong = [case for case in ways.asked(first) if case.before == "wrong"]
        targets = {name: ways.targets(name)[1] for name in ways.names}
        fitted = {name: preference or reached.preference() for name, reached in targets.items()}
        nets = {name: Net.of(reached, fitted[name]) for name, reached in targets.items()}
        again = None if ways.names == (ONCE,) else AskedAgain.of(ways, num_layers)
        return cls(
            open=not ways.weighted,
            before=share(case.baseline for case in ways.cases),
            corrected=share(case.searches[case.gold].best is not None for case in wrong),
            control=share(search.best is not None for case in wrong for search in case.controls),
            without_control=sum(not case.controls for case in wrong),
            unscored=sum(bool(case.controls) for case in wrong) - nets[first].n,
            preference=fitted[first] if ways.weighted and nets[first].n else None,
            nets=nets,
            kept={first: ways.kept(first, num_layers)} if ways.weighted else {},
            again=again,
        )

    @property
    def counted(self) -> str:
        """The way of counting of `net`: once, or asked again for a search in all wordings."""
        return next(iter(self.nets))

    @property
    def net(self) -> Net:
        """W→C beyond the expected number; of a search in all wordings at once, right in all."""
        return self.nets[self.counted]

    @property
    def p_values(self) -> dict[str, tuple[float, float]]:
        """P-values of `nets` by name and of `kept` by `kept NAME`, as such and after Holm."""
        values = {name: math.nan if net.undecided else net.p for name, net in self.nets.items()}
        values |= {f"kept {name}": kept.p for name, kept in self.kept.items()}
        corrected = holm(list(values.values()))
        return {name: (values[name], p) for name, p in zip(values, corrected, strict=True)}

    @property
    def answer_noun(self) -> str:
        """The name of the questions' answers: options, where they are offered."""
        return "answer" if self.open else "option"

    @property
    def sentence(self) -> str:
        """Whether the searches reach the correct answers more often than expected, and why.

        The p-value is corrected for all tests of the searches.
        """
        net, (_, p), stated = self.net, self.p_values[self.counted], STATED[self.counted]
        if not self.before.n:
            return "Nothing shown: no question was graded before."
        if self.before.hits == self.before.n:
            return f"Nothing to correct: the model was right before on {all_of(self.before.n)}."
        if not self.corrected.n:
            return "Nothing to compare: the model got no question wrong in all wordings."
        got_wrong = "that the model got wrong"
        if self.counted == AGAIN:
            got_wrong += " in all wordings"
        if not net.n:
            found = f"{self.corrected.hits} of {self.corrected.n} questions {got_wrong}"
            return f"Nothing shown: {stated} {found}, but {self.no_comparison()}."
        compared = f"{count(net.n, 'question')} {got_wrong}"
        if net.n < self.corrected.n:
            compared = (
                f"{count(net.n, 'question')} that can be compared, of {self.corrected.n} "
                f"{got_wrong}"
            )
        wrong = f"{stated} {net.reached} of the {compared}"
        if net.undecided:
            reason = f"the model's preference alone nearly decides which {self.answer_noun} is"
            return f"Nothing shown: {wrong}, but {reason} the correct one."
        low, high = net.difference_interval
        interval = f"95 % interval {format_interval((low, high), signed=True)}"
        if math.isnan(low):
            interval = "too few questions for an interval"
        points = f"{format_points(net.difference)} points"
        size = f"Difference: {points} ({interval}, p {format_p(p)})"
        expected = f"{net.expected:.1f} were expected by chance"
        if is_shown(p, (low, high)):
            if low > 0:
                return f"Shown: {wrong}, and {expected}. {size}."
            return f"Shown to be fewer than expected: {wrong}, but {expected}. {size}."
        undone = ", which the correction for several tests undoes" * (low > 0 or high < 0)
        return f"Nothing shown: {wrong}, but {expected}, {self.because()}. {size}{undone}."

    def no_comparison(self) -> str:
        """Return why no question can be compared with a control search."""
        if self.unscored:
            return "the pretrained model's scores, which the comparison needs, are not stored"
        return "none of these questions has a control search to compare with"

    def because(self) -> str:
        """Return why correct answers are expected to be reached."""
        reason = f"as searches reach wrong {self.answer_noun}s too"
        if self.preference is None or self.preference.tau <= 0:
            return reason
        return f"{reason}, and the correct one is often the model's second choice"

    def rows(self, name: str | None = None) -> list[Row]:
        """Make the rows of W→C in one of the ways of counting: reached, expected, difference, p."""
        name = name or self.counted
        net, (p, corrected) = self.nets[name], self.p_values[name]
        if not net.n:
            return [
                value_row(LABELS[name], self.corrected),
                Row("expected: no control to compare with", (NO_VALUE, "", "0"), control=True),
            ]
        suffix = "" if name == self.counted else f", {name}"
        low, high = net.by_chance
        expected = format_percent(net.expected / net.n)
        interval = format_interval(net.difference_interval, signed=True) or "too few for one"
        points = format_points(net.difference)
        if net.undecided:
            points, interval = "undecided", ""
        uncorrected = "" if math.isnan(p) else f"uncorrected {format_p(p)}"
        kind = "chance" if self.open else "chance and preference"
        return [
            value_row(LABELS[name], Share(net.reached, net.n)),
            Row(
                f"expected by {kind}{suffix}",
                (expected, format_interval((low / net.n, high / net.n)), f"{net.n:,}"),
                control=True,
            ),
            Row(
                f"difference in points{suffix}",
                (points, interval, f"{net.n:,}"),
            ),
            Row(f"p, corrected for all tests{suffix}", (format_p(corrected), uncorrected, "")),
        ]

    def __repr__(self) -> str:
        rows = [value_row("right before", self.before), *self.rows()]
        width = max(len(row.label) for row in rows)
        lines = [f"{row.label:<{width}}  {'  '.join(filter(None, row.cells[:2]))}" for row in rows]
        return "\n".join([self.sentence, *lines])

    def _repr_html_(self) -> str:
        rows = [value_row("right before", self.before), *self.rows()]
        table = table_html(Table(rows, columns=("", "value", "95 %", "n")))
        return f"<p><b>{html.escape(self.sentence)}</b></p>{table}"


def all_of(n: int) -> str:
    """Name all n questions."""
    return "the only question" if n == 1 else f"all {n:,} questions"

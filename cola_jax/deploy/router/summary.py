"""The summary of a router, in lines of text."""

from cola_jax.deploy.router.distill import Distilled
from cola_jax.deploy.router.evaluate import ClassMetrics, Collapse, Routed
from cola_jax.scoring.statistics import Share


def lines(distilled: Distilled) -> list[str]:
    """Says what a router was trained on, and what it is worth on held-out questions."""
    examples = distilled.examples
    reasons = ", ".join(f"{count} {reason}" for reason, count in examples.left_out.items() if count)
    speed = distilled.examples_per_second
    out = [
        f"trained on {examples.training} paths, {len(examples.paths) - examples.training} questions"
        f" held out; left out: {reasons or 'none'}",
        f"final loss {distilled.losses[-1]:.4f}"
        + ("" if speed is None else f"; {speed:.0f} examples/s"),
    ]
    for name, metrics in distilled.heads.items():
        out += class_lines(f"{name}, along the labelled path", metrics)
    out += class_lines("layers, in the path named", distilled.layers)
    return [*out, *collapse_lines(distilled.collapse), *routed_lines(distilled.routed)]


def class_lines(title: str, metrics: ClassMetrics) -> list[str]:
    """Says how well each class is predicted."""
    rows = zip(metrics.names, metrics.precision, metrics.recall, metrics.f1, strict=True)
    return [
        f"{title}: accuracy {percent(metrics.accuracy)}, macro F1 {percent(metrics.macro_f1)}",
        *(
            f"  {name:<8} precision {percent(p)}, recall {percent(r)}, F1 {percent(f)}; predicted "
            + ", ".join(
                f"{n} {m}" for n, m in zip(metrics.confusion[i], metrics.names, strict=True)
            )
            for i, (name, p, r, f) in enumerate(rows)
        ),
    ]


def collapse_lines(collapse: Collapse) -> list[str]:
    """Says whether the router distinguishes questions."""
    over = 100 * (collapse.accuracy - collapse.identity_accuracy)
    said = (
        f"identity named for {percent(collapse.identity / collapse.questions)} of "
        f"{collapse.questions} questions; {collapse.distinct} distinct paths; layers as in the "
        f"label {percent(collapse.accuracy)}, {over:+.1f} points over always identity"
    )
    return [said] if collapse.warning is None else [said, collapse.warning]


def routed_lines(routed: Routed) -> list[str]:
    """Says what the paths named do to the accuracy on held-out questions."""
    difference, count = routed.difference, routed.named.shape[1]
    low, high = difference.interval
    out = [
        f"held-out accuracy: plain {share(routed.plain)}, routed {share(routed.top)}; difference "
        f"{100 * difference.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), W→C "
        f"{difference.first_only}, C→W {difference.second_only}",
        f"mean layers {routed.layers:.2f}; to name a path, {routed.decided:.2f} layers run over "
        "the prompt",
    ]
    if count > 1:
        out.append(
            f"any of {count} is right (which one takes the answer): {share(routed.named.any(1))}"
        )
    return out


def share(mask) -> str:
    """Writes a share with its interval."""
    found = Share.of(mask)
    low, high = found.interval
    return f"{percent(found.value)} ({percent(low)} to {percent(high)}, n = {found.n})"


def percent(value: float) -> str:
    """Writes a share in percent."""
    return f"{100 * value:.1f} %"

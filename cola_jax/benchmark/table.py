"""The benchmark's tables, for a terminal."""

from typing import Any

from rich.table import Table


def ratio_table(found: dict[str, Any]) -> Table:
    """Shows what the engine does, and how many times as long others take."""
    machine = found["machine"]
    table = Table(title=f"{machine['device']}, {machine['date'][:10]}", show_header=False)
    shares = {
        "matmul of 2048": f"{found['matmul_gflops']:,.0f} GFLOP/s",
        f"engine, {found['paths']} paths of one question, T = {found['tokens']}": (
            f"{found['evaluations_per_second']:,.1f} evaluations/s"
        ),
        "layers of all paths over layers run": f"{found['sharing']:.2f}",
        "padding rows": f"{found['padding_share']:.1%}",
        "useful operations over matmul": f"{found['useful_over_matmul']:.2f}",
        "unique operations over matmul": f"{found['unique_over_matmul']:.2f}",
        "a layer of the engine": f"{found['ms_layer']:.3f} ms",
        "over a block alone": spread(found["layer_over_block"]),
        "over its products alone": spread(found["layer_over_products"]),
    }
    for name, text in shares.items():
        table.add_row(name, text)
    for name, ratio in found["over_engine"].items():
        table.add_row(f"{name}, over the engine", spread(ratio))
    for name, value in found["planning"].items():
        if name.startswith("R="):
            table.add_row(
                f"plan of {found['planning']['paths']:,} paths, {name}", f"{value:.1f} ms"
            )
    return table


def spread(ratio: dict[str, float]) -> str:
    """Writes a ratio with its range over the rounds."""
    return f"{ratio['ratio']:.2f}  ({ratio['least']:.2f} to {ratio['most']:.2f})"


def growth_table(points: list[dict[str, Any]]) -> Table:
    """Shows how cost grows."""
    names = ("grows", "paths", "questions", "tokens", "depth")
    table = Table(title="one wave, compiled before")
    for name in (*names, "evaluations/s", "seconds", "sharing", "padding"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            *(str(point[name]) for name in names),
            f"{point['evaluations_per_second']:,.1f}",
            f"{point['seconds']:.2f}",
            f"{point['sharing']:.2f}",
            f"{point['padding_share']:.1%}",
        )
    return table

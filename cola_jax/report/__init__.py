"""Renderers of results: tables for the terminal and Markdown, figures, and an HTML page."""

from cola_jax.report.results import effect_cells as effect_cells
from cola_jax.report.results import held_out_of as held_out_of

"""Searching paths: one tree for each question, grown in waves."""

from cola_jax.search.outcome import Outcome
from cola_jax.search.presets import PRESETS, Preset
from cola_jax.search.search import search

__all__ = ["PRESETS", "Outcome", "Preset", "search"]

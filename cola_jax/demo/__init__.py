"""The demonstration: a small real model, and two dozen questions written for it."""

from cola_jax.demo.model import demo_model
from cola_jax.demo.questions import demo_questions

__all__ = ["demo_model", "demo_questions"]

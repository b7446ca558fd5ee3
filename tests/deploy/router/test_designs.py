"""Designs: their settings, and what they refuse."""

import pytest

from cola_jax.deploy.router.designs import make_design


def test_make_design_reads_a_quarter_of_the_layers():
    assert make_design("polar", 30, 8).early_layers == 7  # pyright: ignore
    assert make_design("polar", 2, 8).early_layers == 1  # pyright: ignore
    assert make_design("polar", 30, 8, 3).layers_run((0, 1)) == 3
    assert make_design("drllm", 30, 8).layers_run((0, 1)) == 2


def test_make_design_refuses_what_a_design_lacks():
    with pytest.raises(ValueError, match="a setting of the design polar"):
        make_design("drllm", 30, 8, 3)
    with pytest.raises(ValueError, match="after 31 layers, but the model has 30"):
        make_design("polar", 30, 8, 31)
    with pytest.raises(ValueError, match="drllm and polar, not 'gpt'"):
        make_design("gpt", 30, 8)

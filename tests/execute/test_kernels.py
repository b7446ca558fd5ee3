"""Which kernel of attention is chosen, and what is said where it cannot be used."""

import logging
import types

import jax
import jax.numpy as jnp
import pytest

from cola_jax.execute import kernels
from cola_jax.execute.kernels import choose_attention
from cola_jax.execute.random_model import SHAPES

CONFIG = SHAPES["llama-3.2-3b"]
GPU = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", "bfloat16"), ("gpu", "float32")])
def test_attention_is_plain_where_no_kernel_fits(platform, dtype, caplog):
    device = types.SimpleNamespace(platform=platform, device_kind="any")
    assert choose_attention(device, CONFIG, dtype, 1) is None
    assert not caplog.text


def test_attention_is_fused_where_its_trial_runs(monkeypatch):
    monkeypatch.setattr(kernels, "run_attention", lambda *_: jnp.zeros(3))
    for split in (1, 4, 8):
        assert choose_attention(GPU, CONFIG, "bfloat16", split) == "cudnn"


def test_attention_is_plain_where_its_heads_cannot_be_split(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "run_attention", lambda *_: jnp.zeros(3))
    assert choose_attention(GPU, CONFIG, "bfloat16", 16) is None
    assert "(16 devices do not divide 8 key/value heads)" in caplog.text


def test_attention_that_fails_its_trial_falls_back_with_one_line(caplog):
    """On this device JAX itself refuses the kernel."""
    (device, *_) = jax.devices()
    claims = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA T4")
    with pytest.raises(Exception, match=r"(?i)cudnn"):
        kernels.run_attention(CONFIG, jnp.dtype("bfloat16"), device)
    with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
        run = kernels.run_attention
        patch.setattr(kernels, "run_attention", lambda config, dtype, _: run(config, dtype, device))
        assert choose_attention(claims, CONFIG, "bfloat16", 1) is None
    (record,) = caplog.records
    assert "attention is not fused on NVIDIA T4 (" in record.getMessage()
    assert "\n" not in record.getMessage()

"""Which kernel of attention is chosen, and what is said where it cannot be used."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute import kernels
from cola_jax.execute.kernels import choose_attention, kernel_of
from cola_jax.execute.random_model import SHAPES

CONFIG = SHAPES["llama-3.2-3b"]
GPU = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")
TPU = types.SimpleNamespace(platform="tpu", device_kind="TPU v5e")


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "bfloat16"), ("gpu", "float32"), ("tpu", "float16")]
)
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


def test_attention_on_a_tpu_is_our_kernel_where_its_trial_runs(monkeypatch, caplog):
    """The trial itself runs here, interpreted; heads of 64 would gain nothing."""
    (device, *_) = jax.devices()
    run = kernels.run_prompt_attention
    monkeypatch.setattr(
        kernels, "run_prompt_attention", lambda config, dtype, _: run(config, dtype, device)
    )
    assert choose_attention(TPU, CONFIG, "bfloat16", 4) == "pallas"
    assert not caplog.text
    assert choose_attention(TPU, SHAPES["llama-3.2-1b"], "bfloat16", 1) is None
    (record,) = caplog.records
    assert record.getMessage() == (
        "attention is not fused on TPU v5e (heads of 64 are no multiple of 128): the products with "
        "the weights of queries, keys and values take twice as long."
    )


@pytest.mark.parametrize("count", [1, 4])
def test_kernel_of_a_worker_splits_heads_over_its_devices(count):
    devices = np.array(jax.devices()[:count])
    assert kernel_of("cudnn", devices) == "cudnn"
    assert kernel_of(None, devices) is None
    kernel = kernel_of("pallas", devices)
    assert kernel.interpret
    assert (kernel.mesh is None) == (count == 1)
    if kernel.mesh is not None:
        assert kernel.mesh.devices.tolist() == devices.tolist()

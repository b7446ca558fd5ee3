"""Which kernel of attention is chosen, and what is said where it cannot be used."""

import dataclasses
import logging
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute import kernels
from cola_jax.execute.decode_attention import DecodeKernel
from cola_jax.execute.decode_attention_gpu import GpuDecodeKernel
from cola_jax.execute.kernels import choose_attention, choose_decode_kernel, choose_prompt_kernel
from cola_jax.execute.prompt_attention import PromptKernel
from cola_jax.execute.random_model import SHAPES

CONFIG = SHAPES["llama-3.2-3b"]


class Device(NamedTuple):
    platform: str
    device_kind: str


GPU, TPU = Device("gpu", "NVIDIA H100"), Device("tpu", "TPU v5 lite")


@pytest.fixture(autouse=True)
def untried():
    choosers = choose_decode_kernel, choose_prompt_kernel
    for choose in choosers:
        choose.cache_clear()
    yield
    for choose in choosers:
        choose.cache_clear()


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "bfloat16"), ("gpu", "float32"), ("tpu", "float16")]
)
def test_attention_is_plain_where_no_kernel_fits(platform, dtype, caplog):
    device = Device(platform, "any")
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
    monkeypatch.setattr(kernels, "run_prompt_kernel", lambda *_: (np.zeros(3),) * 2)
    assert choose_attention(TPU, CONFIG, "bfloat16", 8) == PromptKernel()
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [
        ("llama-3.2-3b", 16, "(16 devices do not divide 8 key/value heads)"),
        ("llama-3.2-1b", 1, "(heads of 64 are not a multiple of 128 wide)"),
        ("llama-3.2-3b", 1, "interpret"),  # JAX compiles such a kernel for no CPU
    ],
)
def test_attention_on_a_tpu_is_plain_where_the_kernel_does_not_run(
    name, split, reason, monkeypatch, caplog
):
    (device, *_), run = jax.devices(), kernels.run_prompt_kernel
    monkeypatch.setattr(
        kernels,
        "run_prompt_kernel",
        lambda kernel, config, dtype, _, split: run(kernel, config, dtype, device, split),
    )
    assert choose_attention(TPU, SHAPES[name], "bfloat16", split) is None
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_trial_of_the_prompt_kernel_compares_it_with_plain_attention(monkeypatch, caplog):
    mixed, plain = kernels.run_prompt_kernel(
        PromptKernel(interpret=True), CONFIG, jnp.dtype("float32"), jax.devices()[0], 4
    )
    assert mixed.shape == (1, 128, CONFIG.num_heads // 4, CONFIG.head_dim)
    np.testing.assert_allclose(mixed, plain, atol=1e-5)
    assert np.abs(plain).max() > 0.5
    monkeypatch.setattr(kernels, "run_prompt_kernel", lambda *_: (mixed, 2 * plain))
    assert choose_attention(TPU, CONFIG, "bfloat16", 4) is None
    assert "(its trial differs from plain attention)" in caplog.text


def test_decode_steps_use_the_kernel_where_its_trial_runs(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "run_decode_kernel", lambda *_: (np.zeros(3),) * 2)
    assert choose_decode_kernel(TPU, CONFIG, "bfloat16", 8) == DecodeKernel()
    assert choose_decode_kernel(GPU, CONFIG, "bfloat16", 8) == GpuDecodeKernel()
    assert choose_decode_kernel(jax.devices()[0], CONFIG, "bfloat16", 1) is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("kind", "name", "split", "reason"),
    [
        (TPU, "llama-3.2-3b", 16, "(16 devices do not divide 8 key/value heads)"),
        (GPU, "llama-3.2-3b", 16, "(16 devices do not divide 8 key/value heads)"),
        (TPU, "llama-3.2-1b", 1, "(heads of 64 are not a multiple of 128 wide)"),
        (GPU, "llama-3.2-3b", 1, "interpret"),
        (TPU, "llama-3.2-3b", 1, "interpret"),  # JAX compiles such a kernel for no CPU
    ],
)
def test_decode_steps_gather_where_the_kernel_does_not_run(
    kind, name, split, reason, monkeypatch, caplog
):
    (device, *_), run = jax.devices(), kernels.run_decode_kernel
    monkeypatch.setattr(
        kernels,
        "run_decode_kernel",
        lambda kernel, config, dtype, _, split: run(kernel, config, dtype, device, split),
    )
    assert choose_decode_kernel(kind, SHAPES[name], "bfloat16", split) is None
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_decode_steps_gather_on_a_gpu_without_pallas_for_triton(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton", raising=False)
    run, device = kernels.run_decode_kernel, jax.devices()[0]
    monkeypatch.setattr(kernels, "run_decode_kernel", lambda *a: run(*a[:3], device, a[4]))
    assert choose_decode_kernel(GPU, CONFIG, "bfloat16", 4) is None
    assert "decode steps gather keys and values" in caplog.text
    assert "triton" in caplog.text


@pytest.mark.parametrize("width", [8, 96])
def test_a_gpu_takes_heads_of_a_power_of_two(width, caplog):
    config = dataclasses.replace(CONFIG, head_dim=width)
    assert choose_decode_kernel(GPU, config, "bfloat16", 1) is None
    assert f"(heads of {width} are not a power of two wide, from 16 on)" in caplog.text


@pytest.mark.parametrize("kernel", [DecodeKernel(interpret=True), GpuDecodeKernel(interpret=True)])
def test_trial_of_the_decode_kernel_compares_it_with_plain_attention(kernel, monkeypatch, caplog):
    mixed, plain = kernels.run_decode_kernel(
        kernel, CONFIG, jnp.dtype("float32"), jax.devices()[0], 4
    )
    assert mixed.shape == (2, 1, CONFIG.num_heads // 4, CONFIG.head_dim)
    np.testing.assert_allclose(mixed, plain, atol=1e-5)
    assert np.abs(plain).max() > 0.5
    monkeypatch.setattr(kernels, "run_decode_kernel", lambda *_: (mixed, 2 * plain))
    assert choose_decode_kernel(TPU, CONFIG, "bfloat16", 4) is None
    assert "(its trial differs from plain attention)" in caplog.text

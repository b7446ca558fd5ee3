"""Which kernel of attention is chosen, and what is said where it cannot be used."""

import dataclasses
import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from cola_jax.kernels import choice
from cola_jax.kernels.attention import PromptAttention
from cola_jax.kernels.choice import (
    choose_decode_attention,
    choose_experts,
    choose_prompt_attention,
)
from cola_jax.kernels.decode import DecodeAttention
from cola_jax.kernels.tpu_decode import TpuDecodeAttention
from cola_jax.kernels.tpu_experts import run_experts_on_tpu
from cola_jax.kernels.tpu_prompt import TpuPromptAttention
from cola_jax.moe import run_experts
from experiments.shapes import SHAPES

CONFIG = SHAPES["llama-3.2-3b"].kinds[0]
BFLOAT16 = jnp.dtype("bfloat16")


class Device(NamedTuple):
    platform: str
    device_kind: str


GPU, TPU = Device("gpu", "NVIDIA H100"), Device("tpu", "TPU v5 lite")
# how to choose, the trial, and what is there without a kernel
PROMPTS = (choose_prompt_attention, "run_prompts", PromptAttention())
DECODING = (choose_decode_attention, "run_decoding", DecodeAttention())
KERNELS = [
    (*PROMPTS, GPU, PromptAttention("cudnn")),
    (*PROMPTS, TPU, TpuPromptAttention()),
    (*DECODING, TPU, TpuDecodeAttention()),
]


@pytest.fixture(autouse=True)
def untried():
    choosers = choose_decode_attention, choose_experts, choose_prompt_attention
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
    assert choose_prompt_attention(device, CONFIG, jnp.dtype(dtype), 1) == PromptAttention()
    if platform != "tpu":
        assert choose_decode_attention(device, CONFIG, BFLOAT16, 1) == DecodeAttention()
    assert not caplog.text


@pytest.mark.parametrize(("choose", "trial", "plain", "device", "kernel"), KERNELS)
def test_a_kernel_is_chosen_where_its_trial_agrees(
    choose, trial, plain, device, kernel, monkeypatch, caplog
):
    monkeypatch.setattr(choice, trial, lambda *_: np.zeros(3))
    for split in (1, 8):
        assert choose(device, CONFIG, BFLOAT16, split) == kernel
    assert not caplog.text
    monkeypatch.setattr(choice, trial, lambda tried, *_: np.full(3, float(tried == kernel)))
    assert choose(device, CONFIG, BFLOAT16, 4) == plain
    assert "(its trial differs from plain attention)" in caplog.text


@pytest.mark.parametrize(("choose", "trial", "plain", "device", "kernel"), KERNELS)
@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [
        ("llama-3.2-3b", 16, "(16 devices do not divide 8 key/value heads)"),
        ("llama-3.2-1b", 1, "(heads of 64 are not a multiple of 128 wide)"),
        ("llama-3.2-3b", 1, ""),  # JAX compiles none of these kernels for a CPU
    ],
)
def test_attention_is_plain_where_a_kernel_does_not_run(
    choose, trial, plain, device, kernel, name, split, reason, monkeypatch, caplog
):
    """One line says so, and names the device and the reason."""
    (cpu, *_), run = jax.devices(), getattr(choice, trial)
    monkeypatch.setattr(choice, trial, lambda kernel, _, *rest: run(kernel, cpu, *rest))
    # with CUDA packages, JAX finds cuDNN and fails later, at a rule for CPUs
    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", None)
    with caplog.at_level(logging.WARNING):
        assert choose(device, SHAPES[name].kinds[0], BFLOAT16, split) == plain
    (record,) = caplog.records
    message = record.getMessage()
    assert f"on {device.device_kind} (" in message
    assert "\n" not in message
    if device is TPU or "multiple" not in reason:  # cuDNN takes heads of any width
        assert (reason or ("cudnn" if device is GPU else "interpret")) in message.lower()


@pytest.mark.parametrize(("choose", "trial", "plain", "device", "kernel"), KERNELS)
@pytest.mark.parametrize("change", [{"attention_softcap": 30.0}, {"sinks": True}])
def test_attention_with_softcaps_or_sinks_is_plain_but_over_prompts_on_a_tpu(
    choose, trial, plain, device, kernel, change, monkeypatch, caplog
):
    monkeypatch.setattr(choice, trial, lambda *_: np.zeros(3))
    config = dataclasses.replace(CONFIG, **change)
    has_both = isinstance(kernel, TpuPromptAttention)
    expected = kernel if has_both else plain
    expected = dataclasses.replace(expected, softcap=config.attention_softcap)
    assert choose(device, config, BFLOAT16, 1) == expected
    assert ("(it has no softcaps or sinks)" in caplog.text) != has_both


@pytest.mark.parametrize(
    ("run", "kernel", "plain", "shape"),
    [
        (choice.run_prompts, TpuPromptAttention(interpret=True), PROMPTS[-1], (1, 128)),
        (choice.run_decoding, TpuDecodeAttention(interpret=True), DECODING[-1], (2, 1)),
    ],
)
@pytest.mark.parametrize("sinks", [False, True])
def test_trials_of_kernels_meet_plain_attention(run, kernel, plain, shape, sinks):
    """On random values around 1, with a device's part of the heads."""
    config = dataclasses.replace(CONFIG, sinks=sinks)
    on = jax.devices()[0], config, jnp.dtype("float32"), 4
    mixed, expected = (run(each, *on) for each in (kernel, plain))
    assert mixed.shape == (*shape, CONFIG.num_heads // 4, CONFIG.head_dim)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.5


def test_heads_that_rotate_in_part_are_rotated_by_xla(caplog):
    config = dataclasses.replace(CONFIG, rotary_dim=96)
    assert choose_prompt_attention(TPU, config, BFLOAT16, 1) == PromptAttention()
    assert "(it rotates whole heads)" in caplog.text


EXPERTS = dataclasses.replace(CONFIG, experts=4, experts_per_token=2, expert_width=32)


def test_experts_are_fused_on_a_tpu_where_the_trial_agrees(monkeypatch, caplog):
    run = functools.partial(choose_experts, TPU, EXPERTS, 64)
    monkeypatch.setattr(choice, "run_expert", lambda *_: np.zeros(3))
    assert run(BFLOAT16, 1) is run_experts_on_tpu
    assert run(BFLOAT16, 2) is None  # devices that split the experts
    assert run(jnp.dtype("float32"), 1) is None
    assert choose_experts(GPU, EXPERTS, 64, BFLOAT16, 1) is None
    assert choose_experts(TPU, CONFIG, 64, BFLOAT16, 1) is None
    assert not caplog.text
    choose_experts.cache_clear()
    different = lambda kernel, *_: np.full(3, float(kernel is run_experts_on_tpu))  # noqa: E731
    monkeypatch.setattr(choice, "run_expert", different)
    assert run(BFLOAT16, 1) is None
    assert "(its trial differs from plain products)" in caplog.text


def test_trial_of_experts_meets_plain_products():
    on = jax.devices()[0], EXPERTS, 64, jnp.dtype("float32")
    kernel = functools.partial(run_experts_on_tpu, interpret=True)
    mixed, expected = (choice.run_expert(each, *on) for each in (kernel, run_experts))
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1

"""The call of the prompt kernel in a compiled program, and what it must compute and move."""

import importlib.util

import pytest

from experiments import hlo
from experiments.tpu_chips import topology_of
from experiments.tpu_kernel import Call, call_in

PROGRAM = """
%body (arg: (s32[])) -> (s32[]) {
  %q = bf16[16,128,3072]{2,1,0:T(8,128)(2,1)S(1)} fusion(%arg), kind=kOutput, calls=%product
  %k = bf16[16,256,1024]{2,1,0:T(8,128)(2,1)S(1)} fusion(%arg), kind=kOutput, calls=%product
  %decode.1 = bf16[64,24,128]{2,1,0} custom-call(%q, %k), custom_call_target="tpu_custom_call"
  %prompt_attention.3 = RESULT custom-call(%q, %k, %k), custom_call_target="tpu_custom_call"
  ROOT %out = (s32[]) tuple(%arg)
}
"""
ONE = "bf16[16,128,3072]{2,1,0}"
THREE = f"({ONE}, bf16[16,8,256,128]{{3,2,1,0}}, bf16[16,8,256,128]{{3,2,1,0}})"


def body_with(result: str) -> list[hlo.Instruction]:
    return hlo.parse(PROGRAM.replace("RESULT", result))["body"]


def test_call_in_reads_the_sizes_of_the_call():
    assert call_in(body_with(ONE), 128) == Call(16, 128, 256, 3072, 1024, 128, 0)
    assert call_in(body_with(THREE), 128) == Call(16, 128, 256, 3072, 1024, 128, 1)
    assert call_in(body_with(ONE)[:3], 128) is None


def test_call_counts_operations_and_bytes():
    call = Call(rows=2, reads=4, tokens=8, queries=6, keys=3, width=3, kept=0)
    assert call.flops() == 2 * 2 * 2 * (4 * 8 * 6)  # two products of multiplications and additions
    assert call.bytes() == 2 * 2 * (2 * 4 * 6 + 2 * 8 * 3)
    assert call._replace(kept=1).bytes() - call.bytes() == 2 * 2 * (2 * 8 * 3)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="there is a compiler for TPUs"
)
def test_compiling_without_a_compiler_says_what_to_install():
    with pytest.raises(SystemExit, match=r"no compiler for TPUs here \(.*\): pip install libtpu"):
        topology_of("v5e")

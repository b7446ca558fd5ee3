"""Reading compiled programs: which copies of weights are found, and what is not a copy."""

import re

from experiments import hlo

PROGRAM = """
%fused_slice (p: bf16[28,3072,24,128], i: s32[]) -> bf16[1,3072,24,128] {
  %p = bf16[28,3072,24,128]{3,2,1,0} parameter(0)
  ROOT %slice = bf16[1,3072,24,128]{3,2,1,0:T(8,128)} dynamic-slice(%p)
}

%fused_product (p: bf16[28,3072,8192]) -> bf16[16,128,8192] {
  %p.1 = bf16[28,3072,8192]{2,1,0} parameter(0)
  %one = bf16[1,3072,8192]{2,1,0} dynamic-slice(%p.1)
  ROOT %dot = bf16[16,128,8192]{2,1,0} convolution(%one, %one)
}

%body (arg: (s32[], bf16[2049,128,3072])) -> (s32[], bf16[2049,128,3072]) {
  %arg = (s32[], bf16[2049,128,3072]{2,1,0}) parameter(0)
  %copy.q = bf16[3072,3072]{1,0:T(8,128)} fusion(%arg), kind=kLoop, calls=%fused_slice, CYCLES(100)
  %stage.k = bf16[1,3072,8,128]{3,2,1,0:T(8,128)S(1)} copy(%arg)
  %gate = bf16[16,128,8192]{2,1,0} fusion(%arg), kind=kOutput, calls=%fused_product, CYCLES(2000)
  %act = bf16[16,128,3072]{2,1,0} copy(%gate)
  ROOT %out = (s32[], bf16[2049,128,3072]{2,1,0}) tuple(%arg)
}

ENTRY %main (a: bf16[2049,128,3072]) -> bf16[2049,128,3072] {
  %a = bf16[2049,128,3072]{2,1,0} parameter(0)
  %loop = (s32[], bf16[2049,128,3072]{2,1,0}) while(%a), condition=%cond, body=%body
  ROOT %r = bf16[2049,128,3072]{2,1,0} get-tuple-element(%loop), index=1
}
"""
NOTE = r'backend_config={"window_config":{"estimated_cycles":"\1"}}'
PROGRAM = re.sub(r"CYCLES\((\d+)\)", NOTE, PROGRAM)  # as the compiler writes them
WEIGHTS = {"q": (3072, 24, 128), "k": (3072, 8, 128), "gate": (3072, 8192)}


def test_weight_copies_finds_copies_but_not_fused_reads():
    program = hlo.parse(PROGRAM)
    body = hlo.longest_body(program)
    assert body == "body"
    assert hlo.weight_copies(program, body, WEIGHTS, "bf16") == [
        ("q", "bf16[3072, 3072]", False),
        ("k", "bf16[1, 3072, 8, 128]", True),
    ]
    assert hlo.weight_copies(program, body, WEIGHTS, "f32") == []


def test_parse_reads_cycles_shapes_and_bodies():
    program = hlo.parse(PROGRAM)
    assert sum(one.cycles for one in program["body"]) == 2100
    (loop,) = (one for one in program["main"] if one.op == "while")
    assert [dims for _, dims, _ in loop.arrays()] == [(), (2049, 128, 3072)]
    assert loop.body == "body"

"""Reading compiled programs: which copies are found, and what is not a copy."""

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

%fused_update (p: bf16[2049,128,3072], h: bf16[1,128,3072]) -> bf16[2049,128,3072] {
  %p.2 = bf16[2049,128,3072]{2,1,0} parameter(0)
  %h = bf16[1,128,3072]{2,1,0} parameter(1)
  ROOT %put = bf16[2049,128,3072]{2,1,0} dynamic-update-slice(%p.2, %h)
}

%body (arg: (s32[], bf16[2049,128,3072])) -> (s32[], bf16[2049,128,3072]) {
  %arg = (s32[], bf16[2049,128,3072]{2,1,0}) parameter(0)
  %split = bf16[2049,128,256]{2,1,0} slice(%arg)
  %turned = bf16[3072,128,2049]{2,1,0} copy(%arg)
  %updated = bf16[2049,128,3072]{2,1,0} fusion(%arg, %act), kind=kLoop, calls=%fused_update
  %kernel = bf16[2049,128,3072]{2,1,0} custom-call(%arg), custom_call_target="tpu_custom_call", output_to_operand_aliasing={{}: (0, {})}
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
"""  # noqa: E501
GPU_PROGRAM = """
%fused_concatenate (p: bf16[3072,24,128], k: bf16[1,3072,8,128]) -> bf16[3072,5120] {
  %p = bf16[3072,24,128]{2,1,0} parameter(0)
  %k = bf16[1,3072,8,128]{3,2,1,0} parameter(1)
  ROOT %joined = bf16[3072,5120]{1,0} concatenate(%p, %k, %k)
}

%gemm_fusion (h: bf16[2048,3072], p: bf16[1,3072,8192]) -> bf16[2048,8192] {
  %h = bf16[2048,3072]{1,0} parameter(0)
  %p.1 = bf16[1,3072,8192]{2,1,0} parameter(1)
  ROOT %dot = bf16[2048,8192]{1,0} dot(%h, %p.1)
}

%fused_multiply (h: bf16[2048,8192]) -> bf16[2048,8192] {
  %h = bf16[2048,8192]{1,0} parameter(0)
  ROOT %twice = bf16[2048,8192]{1,0} multiply(%h, %h)
}

%body (arg: (s32[], bf16[1,3072,24,128], bf16[1,3072,8,128], bf16[1,3072,8192])) -> (s32[]) {
  %arg = (s32[], bf16[1,3072,24,128]{3,2,1,0}, bf16[1,3072,8,128]{3,2,1,0}, bf16[1,3072,8192]{2,1,0}) parameter(0)
  %q = bf16[1,3072,24,128]{3,2,1,0} get-tuple-element(%arg), index=1
  %k = bf16[1,3072,8,128]{3,2,1,0} get-tuple-element(%arg), index=2
  %gate = bf16[1,3072,8192]{2,1,0} get-tuple-element(%arg), index=3
  %flat = bf16[3072,24,128]{2,1,0} bitcast(%q)
  %join = bf16[3072,5120]{1,0} fusion(%flat, %k), kind=kInput, calls=%fused_concatenate
  %attention = (bf16[16,24,128,128]{3,1,2,0}, u8[0]{0}) custom-call(%join), custom_call_target="__cudnn$fmhaScaleBiasSoftmax", api_version=API_VERSION_STATUS_RETURNING
  %product = bf16[2048,8192]{1,0} fusion(%join, %gate), kind=kCustom, calls=%gemm_fusion
  %library = (bf16[2048,8192]{1,0}, s8[4194304]{0}) custom-call(%join, %gate), custom_call_target="__cublas$lt$matmul"
  %twice = bf16[2048,8192]{1,0} fusion(%product), kind=kLoop, calls=%fused_multiply
  ROOT %out = (s32[]) tuple(%arg)
}

ENTRY %main (a: bf16[2049,128,3072]) -> bf16[2049,128,3072] {
  %a = bf16[2049,128,3072]{2,1,0} parameter(0)
  %loop = (s32[], bf16[2049,128,3072]{2,1,0}) while(%a), condition=%cond, body=%body
  ROOT %r = bf16[2049,128,3072]{2,1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501
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


def test_large_copies_finds_splits_and_other_orders_but_not_updates():
    copies = ["slice bf16[2049, 128, 256]", "copy bf16[3072, 128, 2049]"]
    assert hlo.large_copies(PROGRAM) == copies


def test_parse_reads_cycles_shapes_and_bodies():
    program = hlo.parse(PROGRAM)
    assert sum(one.cycles for one in program["body"]) == 2100
    (loop,) = (one for one in program["main"] if one.op == "while")
    assert [dims for _, dims, _ in loop.arrays()] == [(), (2049, 128, 3072)]
    assert loop.body == "body"


def test_weight_reads_finds_joined_weights():
    program = hlo.parse(GPU_PROGRAM)
    body = hlo.longest_body(program)
    names = [one.name for one in hlo.kernels(program, body)]
    assert names == ["join", "attention", "product", "library", "twice"]
    assert hlo.weight_reads(program, body, WEIGHTS, "bf16") == {"join": 2 * 3072 * 5120}
    assert program[body][6].target == "__cudnn$fmhaScaleBiasSoftmax"

"""Reading the programs that XLA compiles: loop bodies, cycles, kernels, copies of large arrays."""

import dataclasses
import json
import math
import re
from typing import Any

COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (.+)$")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
# operations that only name existing arrays
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call"}
PRODUCTS = {"dot", "convolution"}
UPDATES = {"dynamic-update-slice", "scatter"}  # in place
LARGE = 2**25  # elements: more than what a tile computes has, for the models compiled here


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its result, operation, called computations, and the compiler's notes."""

    name: str
    shape: str
    op: str
    calls: str | None
    body: str | None
    target: str | None  # of a custom call
    operands: tuple[str, ...]
    in_place: bool  # of a custom call
    notes: dict[str, Any]

    @property
    def cycles(self) -> int:
        """The compiler's estimate; none is given for gathers, scatters and communication."""
        results = self.notes.get("window_config", {}).get("estimated_cycles")
        return int(results or self.notes.get("estimated_cycles") or 0)

    def arrays(self) -> list[tuple[str, tuple[int, ...], bool]]:
        """Return the type and dimensions of each result, and whether it is in on-chip memory."""
        return [
            (kind, tuple(int(n) for n in dims.split(",") if n), "S(1)" in layout)
            for kind, dims, layout in ARRAY.findall(self.shape)
        ]


Computations = dict[str, list[Instruction]]


def parse(text: str) -> Computations:
    """Split a compiled program into its computations."""
    results: Computations = {}
    now: list[Instruction] | None = None
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            now = results.setdefault(head[1], [])
        elif line.startswith("}"):
            now = None
        elif now is not None and (match := INSTRUCTION.match(line)):
            now.append(instruction(match[1], match[2]))
    return results


def instruction(name: str, rest: str) -> Instruction:
    """Parse what follows `%name = `."""
    end = shape_end(rest)
    shape, rest = rest[:end], rest[end:].strip()
    op = re.match(r"[\w-]+", rest)
    at = rest.find("backend_config=")
    notes = {}
    if at >= 0 and rest[at + 15 : at + 17] == '{"':  # that of a Pallas kernel is no JSON
        notes = json.JSONDecoder().raw_decode(rest[at + 15 :])[0]
    head = rest if at < 0 else rest[:at]
    patterns = {"calls": r"calls=%([^\s,]+)", "body": r"body=%([^\s,]+)"}
    patterns |= {"target": r'custom_call_target="([^"]*)"'}
    results = {key: re.search(pattern, head) for key, pattern in patterns.items()}
    named = {key: match[1] if match else None for key, match in results.items()}
    given = re.match(r"[\w-]+\(([^)]*)\)", head)
    operands = tuple(re.findall(r"%([^\s,)]+)", given[1])) if given else ()
    in_place = "output_to_operand_aliasing" in head
    return Instruction(
        name, shape, op[0] if op else "", operands=operands, in_place=in_place, notes=notes, **named
    )


def shape_end(text: str) -> int:
    """Find the end of a shape, which may be a tuple of shapes."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == (")" if text[0] == "(" else " "):
            return at + 1
    return len(text)


def longest_body(program: Computations) -> str:
    """Return the loop body with the most cycles, or instructions without: that of the tiles."""
    bodies = [i.body for rows in program.values() for i in rows if i.body]
    return max(bodies, key=lambda name: (sum(i.cycles for i in program[name]), len(program[name])))


def entry(program: Computations) -> str:
    """Return the computation with which a program begins: that of a tile where it runs only one."""
    return [*program][-1]


def kernels(program: Computations, computation: str) -> list[Instruction]:
    """List what a GPU starts a kernel for."""
    return [each for each in program[computation] if each.op not in FREE]


def large_copies(text: str) -> list[str]:
    """List the results in memory that hold a large argument: at least half, or a part of all rows.

    Arguments are slot buffers, KV blocks and stacks of weights. Updates in place are left out.
    """
    program = parse(text)
    *_, entry = program.values()
    arguments = [
        dims
        for each in entry
        if each.op == "parameter"
        for _, dims, _ in each.arrays()
        if math.prod(dims) >= LARGE
    ]
    fused = {each.calls for rows in program.values() for each in rows}
    return [
        f"{each.op} {kind}{list(dims)}"
        for name, rows in program.items()
        if name not in fused
        for each in rows
        if each.op not in FREE | UPDATES and not each.op.endswith("-start") and not each.in_place
        if not (each.calls and contains(program, each.calls, UPDATES))
        for kind, dims, staged in each.arrays()
        if not staged and any(holds(dims, argument) for argument in arguments)
    ]


def holds(dims: tuple[int, ...], argument: tuple[int, ...]) -> bool:
    """Return whether a result is at least half of an argument, or part of all rows."""
    least = 64 if dims[:1] == argument[:1] else 2
    return least * math.prod(dims) >= math.prod(argument)


def weight_copies(
    program: Computations, computation: str, weights: dict[str, tuple[int, ...]], kind: str
) -> list[tuple[str, str, bool]]:
    """List the results that hold a layer's weight outside a fusion with a matrix product.

    A result counts if its dimensions contain those of a weight, or of its matrix forms; more
    dimensions are a batch of weights. Returns the weight, the shape, and whether it is only staged
    in on-chip memory.
    """
    results = []
    for each in program[computation]:
        if each.op in FREE or each.op.endswith("-done"):
            continue
        if each.calls and contains(program, each.calls, PRODUCTS):
            continue
        for dtype, dims, staged in each.arrays():
            names = [n for n, w in weights.items() if any(covers(dims, form) for form in forms(w))]
            if dtype == kind and names:
                results.append((names[0], f"{dtype}{list(dims)}", staged))
                break
    return results


def weight_reads(
    program: Computations, computation: str, weights: dict[str, tuple[int, ...]], kind: str
) -> dict[str, int]:
    """Sum the bytes that kernels write which read a weight, and are no products.

    Keys are the names of these kernels. Unlike `weight_copies` this follows the weights from the
    arguments, a stack of each, and so finds those that are joined.
    """
    results: dict[str, int] = {}
    stacks: set[str] = set()
    for each in program[computation]:
        if each.op in ("get-tuple-element", "parameter"):
            if any(
                dtype == kind and dims[1:] == shape
                for dtype, dims, _ in each.arrays()
                for shape in weights.values()
            ):
                stacks.add(each.name)
        elif not stacks.isdisjoint(each.operands):
            if each.op == "bitcast":
                stacks.add(each.name)
            elif each.op not in FREE and not is_product(program, each):
                sizes = [math.prod(dims) for dtype, dims, _ in each.arrays() if dtype == kind]
                results[each.name] = 2 * sum(sizes)
    return results


def is_product(program: Computations, called: Instruction) -> bool:
    """Return whether an instruction is a matrix product, by itself, fused or by a library."""
    return (
        called.op in PRODUCTS
        or bool(called.target and ("gemm" in called.target or "matmul" in called.target))
        or bool(called.calls and contains(program, called.calls, PRODUCTS))
    )


def contains(program: Computations, computation: str, ops: set[str]) -> bool:
    """Return whether a computation, or a computation that it calls, has any of these operations."""
    return any(
        each.op in ops or bool(each.calls and contains(program, each.calls, ops))
        for each in program.get(computation, [])
    )


def forms(weight: tuple[int, ...]) -> list[list[int]]:
    """Return a weight's dimensions above 1, and those merged into a matrix in every way."""
    dims = [n for n in weight if n > 1]
    return [
        dims,
        *([math.prod(dims[:k]), math.prod(dims[k:])] for k in range(1, len(dims))),
    ]


def covers(dims: tuple[int, ...], wanted: list[int]) -> bool:
    """Return whether dimensions contain others, in any order."""
    rest = list(dims)
    for size in wanted:
        if size not in rest:
            return False
        rest.remove(size)
    return True

"""Compile the attention kernels for GPUs, without one: registers, spills and shared memory, one JSON line a kernel.

    python -m experiments.kernels
    python -m experiments.kernels --heads 48 128 --capabilities 90

Spilled bytes are per thread and cost time; shared memory beyond a GPU's (A100: 163 KiB a block, H100: 227 KiB, others:
99 KiB) would not run. The tilings of tbptt/models/attention/fused.py were chosen by this table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tbptt.models.attention import kernels
from tbptt.models.attention.fused import tiling

KERNELS = ("forward", "backward_queries", "backward_keys", "backward_positions")
HALF = ("q", "kv", "r", "y", "dy", "dq", "dkv")  # tensors of the precision asked for; the others are float32
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
SCALARS = {"seed": "*i64", "since": "*i64", "scale": "fp32", "factor": "fp32", "dropout": "fp32"}
NUMBERS = ("B", "T", "K", "window", "group_size")
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
LAUNCH = ("num_warps", "num_stages")


def compile_kernel(name: str, d_head: int, dtype: torch.dtype, dropout: bool, documents: bool, capability: int) -> dict:
    """What a kernel of 10 heads needs on a GPU of this compute capability."""
    kernel, tiles = getattr(kernels, name), tiling(d_head, dtype, name == "forward")
    options = {key: tiles.pop(key) for key in LAUNCH}
    constants = {"H": 10, "E": d_head, "PRECISION": "tf32x3", "DROP": dropout, **tiles}
    if not documents:
        constants["since"] = None

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        other = "i32" if argument in NUMBERS else "*fp32"
        return TYPES[dtype] if argument in HALF else SCALARS.get(argument, other)

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {
        "kernel": name,
        "capability": capability,
        "d_head": d_head,
        "dtype": str(dtype).removeprefix("torch."),
        "dropout": dropout,
        "documents": documents,
        **tiles,
        **options,
        "shared_bytes": compiled.metadata.shared,
        **assembled(compiled.asm["ptx"], "sm_90a" if capability == 90 else f"sm_{capability}"),
    }


def assembled(ptx: str, architecture: str) -> dict[str, int]:
    """Registers and spilled bytes of a thread, as the assembler tells them."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx", encoding="utf-8") as file:
        file.write(ptx)
        file.flush()
        command = [str(PTXAS), "-v", f"--gpu-name={architecture}", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stderr
    registers, spilled = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes spill stores", told)
    if registers is None or spilled is None:
        raise RuntimeError(f"the assembler said: {told}")
    return {"registers": int(registers[1]), "spilled_bytes": int(spilled[1])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="+", default=[48, 64, 128])
    parser.add_argument("--capabilities", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--largest", action="store_true", help="only with dropout and documents, which need most")
    arguments = parser.parse_args()
    choices = (True,) if arguments.largest else (False, True)
    for chosen in itertools.product(KERNELS, arguments.heads, TYPES, choices, choices, arguments.capabilities):
        print(json.dumps(compile_kernel(*chosen)), flush=True)

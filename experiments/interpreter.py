"""Triton's interpreter as the kernels need it: import this before `tbptt`, where there is no GPU."""

import ast
import os
from collections.abc import Callable
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton and the choice of attention are imported

    import triton.language as tl
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import (
        ASTTransformer,
        InterpreterBuilder,
        ReduceOps,
        TensorHandle,
        interpreter_builder,
    )

    dot, total = InterpreterBuilder.create_dot, ReduceOps.sum

    def widened(x: TensorHandle) -> TensorHandle:
        """The interpreter would compute with the bits of bfloat16 as integers."""
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype("uint32") << 16).view("float32"), tl.float32)

    def narrowed(x: TensorHandle, like: TensorHandle) -> TensorHandle:
        return interpreter_builder.cast_impl(x, tl.bfloat16) if like.dtype.scalar == tl.bfloat16 else x

    def in_float32(elementwise: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
        def run(self: InterpreterBuilder, x: TensorHandle, *rest: Any) -> TensorHandle:
            rest = [widened(each) if isinstance(each, TensorHandle) else each for each in rest]
            return narrowed(elementwise(self, widened(x), *rest), x)

        return run

    def sum_in_float32(self: ReduceOps, x: tl.tensor) -> tl.tensor:
        result = total(self, tl.tensor(widened(x.handle), tl.block_type(tl.float32, x.shape)))
        bits = narrowed(result.handle, x.handle).data
        return self.to_tensor(bits if result.type.is_block() else bits.item(), tl.bfloat16)

    InterpreterBuilder.unary_op = in_float32(InterpreterBuilder.unary_op)
    InterpreterBuilder.binary_op = in_float32(InterpreterBuilder.binary_op)
    InterpreterBuilder.get_bf16 = lambda self, value: self.cast_impl(self.get_fp32(value), tl.bfloat16)
    ReduceOps.sum = lambda self, x: sum_in_float32(self, x) if x.dtype == tl.bfloat16 else total(self, x)
    InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)

    def with_a_tensor(self: ASTTransformer, node: ast.For) -> ast.For:
        """The interpreter would count loops in Python's integers, which have not all that a kernel may ask of them."""
        self.generic_visit(node)
        name = ast.unparse(node.target)
        node.body[:0] = ast.parse(f"{name} = interpreter_semantic.to_tensor({name}, False)").body
        return node

    ASTTransformer.visit_For = with_a_tensor
    Autotuner.do_bench = lambda self, call, quantiles: [0.0]  # settings that are tried by time: the first is taken

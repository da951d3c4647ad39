"""Rows of a table as vectors of eight: products and scaled sums that the compiler need not prove safe.

A loop over a short row of a table that is read beside one that is written is left scalar, since the two might
overlap; these are written as vector instructions from the start.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["LANE", "add_scaled", "dot"]

#: Values of a vector; the width of a row must be a multiple.
LANE = 8
#: How sums may be rearranged: within a row only, and always in the same way.
_FLAGS = ("contract", "reassoc", "nsz", "arcp")


def _pointers(context: Any, builder: Any, array_type: Any, array: Any, index: Any, width: int) -> list[Any]:
    """Return pointers to the vectors of a row."""
    real = context.get_data_type(array_type.dtype)
    data = context.make_array(array_type)(context, builder, array).data
    start = builder.mul(index, ir.Constant(index.type, width))
    vectors = ir.VectorType(real, LANE).as_pointer()
    return [
        builder.bitcast(builder.gep(data, [builder.add(start, ir.Constant(index.type, k))]), vectors)
        for k in range(0, width, LANE)
    ]


def _load(builder: Any, pointer: Any, real_bytes: int) -> Any:
    return builder.load(pointer, align=real_bytes)


def _dot(typing_context: Any, left: Any, i: Any, right: Any, j: Any, width: Any) -> Any:
    """Return the product of row i of one C-ordered table with row j of another of the same type."""
    n, size = width.literal_value, left.dtype.bitwidth // 8
    signature = left.dtype(left, types.intp, right, types.intp, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = [
            builder.fmul(_load(builder, a, size), _load(builder, b, size), flags=_FLAGS)
            for a, b in zip(
                _pointers(context, builder, left, arguments[0], arguments[1], n),
                _pointers(context, builder, right, arguments[2], arguments[3], n),
                strict=True,
            )
        ]
        total = parts[0]
        for part in parts[1:]:
            total = builder.fadd(total, part, flags=_FLAGS)
        # halves are added to halves: the same order on every machine
        for half in (4, 2, 1):
            shape = ir.VectorType(ir.IntType(32), half)
            undefined = ir.Constant(total.type, ir.Undefined)
            low = ir.Constant(shape, list(range(half)))
            high = ir.Constant(shape, list(range(half, 2 * half)))
            total = builder.fadd(
                builder.shuffle_vector(total, undefined, low),
                builder.shuffle_vector(total, undefined, high),
                flags=_FLAGS,
            )
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return signature, generate


def _add_scaled(typing_context: Any, out: Any, i: Any, scale: Any, table: Any, j: Any, width: Any) -> Any:
    """Add ``scale`` times row j of a C-ordered table to row i of another of the same type."""
    n, size = width.literal_value, out.dtype.bitwidth // 8
    signature = types.void(out, types.intp, out.dtype, table, types.intp, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = context.get_data_type(out.dtype)
        wide = ir.Constant(ir.VectorType(real, LANE), ir.Undefined)
        place = ir.Constant(ir.IntType(32), 0)
        wide = builder.insert_element(wide, arguments[2], place)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANE), [0] * LANE)
        wide = builder.shuffle_vector(wide, wide, zeros)
        for a, b in zip(
            _pointers(context, builder, out, arguments[0], arguments[1], n),
            _pointers(context, builder, table, arguments[3], arguments[4], n),
            strict=True,
        ):
            part = builder.fmul(_load(builder, b, size), wide, flags=_FLAGS)
            new = builder.fadd(_load(builder, a, size), part, flags=_FLAGS)
            builder.store(new, a, align=size)
        return context.get_dummy_value()

    return signature, generate


# mypy takes the typing context for an argument of the call
dot: Any = intrinsic(prefer_literal=True)(_dot)
add_scaled: Any = intrinsic(prefer_literal=True)(_add_scaled)

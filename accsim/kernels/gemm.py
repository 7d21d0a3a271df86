"""The micro-kernel under every product: 8 x 16 accumulators of unsigned-by-signed bytes, exact.

A `tile` holds 8 rows by 16 columns of 32-bit accumulators in registers. Each step multiplies, for
every row, 4 consecutive bytes of the left operand by 4 x 16 bytes of the right operand, as the
VNNI instruction ``vpdpbusd`` does. Sums wrap modulo 2**32 and are therefore exact whenever the
true sum fits 32 bits, in any order: the same bits with the instruction and without.

The left operand is unsigned: a signed byte ``x`` is stored as ``x + 128``, and the caller takes
``128 * sum(right)`` off the result.
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

ROWS = 8
LANES = 16
GROUP = 4  # bytes that one 32-bit lane multiplies at once
LARGEST_SUM = 133_144  # products of two bytes of at most 127 that a 32-bit sum surely holds


def target_features() -> set[str]:
    """Features of the CPU that numba compiles for: the host's, unless the user overrides them."""
    if config.CPU_FEATURES is not None:
        named = config.CPU_FEATURES.split(",")
        return {feature.strip("+ ") for feature in named if not feature.startswith("-")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


HAS_VNNI = {"avx512vnni", "avx512bw", "avx512f"} <= target_features()

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES_I32 = ir.VectorType(_I32, LANES)
_LANES_I8 = ir.VectorType(_I8, LANES)
_BYTES = ir.VectorType(_I8, LANES * GROUP)


def _splat(builder, scalar):
    """The 32-bit `scalar` in every lane."""
    undefined = ir.Constant(_LANES_I32, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), None)
    return builder.shuffle_vector(first, undefined, zeros)


def _dot_vnni(builder, total, left, right):
    """``total`` plus the dot products of the 4 bytes `left` with each lane's 4 bytes of `right`."""
    kind = ir.FunctionType(_LANES_I32, [_LANES_I32] * 3)
    name = "llvm.x86.avx512.vpdpbusd.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [total, _splat(builder, left), right])


def _dot_generic(builder, total, left, right):
    """The same sums from plain multiplications, for any target."""
    flat = builder.bitcast(right, _BYTES)
    for byte in range(GROUP):
        lanes = [ir.Constant(_I32, GROUP * lane + byte) for lane in range(LANES)]
        picked = builder.shuffle_vector(
            flat, ir.Constant(_BYTES, ir.Undefined), ir.Constant(_LANES_I32, lanes)
        )
        shifted = builder.lshr(left, ir.Constant(_I32, 8 * byte))
        unsigned = builder.and_(shifted, ir.Constant(_I32, 255))
        signed = builder.sext(picked, _LANES_I32)
        total = builder.add(total, builder.mul(_splat(builder, unsigned), signed))
    return total


_dot = _dot_vnni if HAS_VNNI else _dot_generic


@intrinsic
def multiply_tile(
    typing,
    left,
    row_offsets,
    left_step,
    outer_offsets,
    right,
    right_step,
    outer_count,
    inner_count,
    tile,
    add,
):
    """Write (or, if `add`, accumulate) one tile of products; all arguments are int64.

    ``tile[row, lane] (+)= sum over o, i, b of
    left[row_offsets[row] + outer_offsets[o] + i * left_step + b]
    * right[(o * inner_count + i) * right_step + 4 * lane + b]``

    Parameters
    ----------
    left, right, tile : addresses of uint8 and int8 operands and of int32[8, 16]
    row_offsets, outer_offsets : addresses of int64[8] and int64[outer_count], bytes
    left_step, right_step : bytes between two steps of the inner loop
    """
    signature = types.void(*([types.int64] * 10))

    def generate(context, builder, _signature, arguments):
        left, row_offsets, left_step, outer_offsets, right, right_step = arguments[:6]
        outer_count, inner_count, tile, add = arguments[6:]
        zero, one = ir.Constant(_I64, 0), ir.Constant(_I64, 1)

        def pointer(address, kind):
            return builder.inttoptr(address, ir.PointerType(kind))

        def load(address, kind, align):
            return builder.load(pointer(address, kind), align=align)

        def offset(address, count):
            return builder.add(address, ir.Constant(_I64, count))

        rows = [
            builder.add(left, load(offset(row_offsets, 8 * row), _I64, 8)) for row in range(ROWS)
        ]
        keep = builder.icmp_signed("!=", add, zero)
        start = [
            builder.select(
                keep,
                load(offset(tile, 4 * LANES * row), _LANES_I32, 4),
                ir.Constant(_LANES_I32, None),
            )
            for row in range(ROWS)
        ]
        before = builder.block
        outer = builder.append_basic_block("outer")
        inner = builder.append_basic_block("inner")
        outer_end = builder.append_basic_block("outer_end")
        done = builder.append_basic_block("done")
        builder.branch(outer)

        builder.position_at_end(outer)
        outer_index = builder.phi(_I64)
        outer_right = builder.phi(_I64)
        outer_totals = [builder.phi(_LANES_I32) for _ in range(ROWS)]
        shift = load(
            builder.add(outer_offsets, builder.mul(outer_index, ir.Constant(_I64, 8))), _I64, 8
        )
        builder.branch(inner)

        builder.position_at_end(inner)
        inner_index = builder.phi(_I64)
        inner_left = builder.phi(_I64)
        inner_right = builder.phi(_I64)
        totals = [builder.phi(_LANES_I32) for _ in range(ROWS)]
        lanes = load(inner_right, _LANES_I32, 4)
        sums = [
            _dot(builder, total, load(builder.add(row, inner_left), _I32, 1), lanes)
            for row, total in zip(rows, totals, strict=True)
        ]
        next_index = builder.add(inner_index, one)
        next_left = builder.add(inner_left, left_step)
        next_right = builder.add(inner_right, right_step)
        builder.cbranch(builder.icmp_signed("<", next_index, inner_count), inner, outer_end)

        builder.position_at_end(outer_end)
        next_outer = builder.add(outer_index, one)
        builder.cbranch(builder.icmp_signed("<", next_outer, outer_count), outer, done)

        for phi, first, again in [
            (outer_index, zero, next_outer),
            (outer_right, right, next_right),
            *zip(outer_totals, start, sums, strict=True),
        ]:
            phi.add_incoming(first, before)
            phi.add_incoming(again, outer_end)
        for phi, first, again in [
            (inner_index, zero, next_index),
            (inner_left, shift, next_left),
            (inner_right, outer_right, next_right),
            *zip(totals, outer_totals, sums, strict=True),
        ]:
            phi.add_incoming(first, outer)
            phi.add_incoming(again, inner)

        builder.position_at_end(done)
        for row, total in enumerate(sums):
            builder.store(total, pointer(offset(tile, 4 * LANES * row), _LANES_I32), align=4)
        return context.get_dummy_value()

    return signature, generate

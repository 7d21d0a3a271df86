"""The micro-kernel under every product: 8 rows by 16 or 32 columns of 32-bit sums in registers.

Each step multiplies, for every row, one 32-bit word of the left operand (4 bytes or 2 words of
consecutive k) by 16 or 32 such words of the right operand, as the VNNI instructions ``vpdpbusd``
and ``vpdpwssd`` do. Sums wrap modulo 2**32: they are exact whenever the true sum fits 32 bits, in
any order, and every back end gives the same bits.

Bytes of the left operand are unsigned: a signed byte ``x`` is stored as ``x + 128``, and the caller
takes ``128 * sum(right)`` off the result. 16-bit words are signed as they are.
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from accsim.kernels.fixed_point import HASH_FACTORS, HASH_SHIFTS

ROWS = 8
LANES = 16  # 32-bit lanes of a vector; a tile is one or two vectors wide
WORD = 4  # bytes that one lane multiplies at once
BYTE_OFFSET = 128  # added to the bytes of the left operand
SUM_LIMIT = 2**31 - 1


def target_features() -> set[str]:
    """Features of the CPU that numba compiles for: the host's, unless the user overrides them."""
    if config.CPU_FEATURES is not None:
        named = config.CPU_FEATURES.split(",")
        return {feature.strip("+ ") for feature in named if not feature.startswith("-")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def back_end(features: set[str]) -> str:
    """``vnni``, ``avx2`` or ``generic``: an instruction that a CPU lacks would end the process."""
    if {"avx512vnni", "avx512bw", "avx512f"} <= features:
        return "vnni"
    return "avx2" if "avx2" in features else "generic"


BACK_END = back_end(target_features())

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_VECTOR = ir.VectorType(_I32, LANES)
_PAIRS = ir.VectorType(_I16, 2 * LANES)


def _splat(builder, scalar, lanes=LANES):
    """`scalar` in every lane."""
    kind = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), None))


def _same(value):
    """The constant `value` in every lane."""
    return ir.Constant(_VECTOR, [ir.Constant(_I32, value)] * LANES)


def _picked(builder, vector, lanes):
    """The lanes of `vector` with these numbers."""
    numbers = ir.Constant(ir.VectorType(_I32, len(lanes)), [ir.Constant(_I32, n) for n in lanes])
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), numbers)


def _call(builder, name, result, arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _pairs_avx2(builder, left, right):
    """Sums of the products of 16-bit pairs, by two halves of ``vpmaddwd``."""
    halves = []
    for start in (0, LANES):
        half = range(start, start + LANES)
        pair = [_picked(builder, vector, half) for vector in (left, right)]
        halves.append(_call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(_I32, 8), pair))
    numbers = [ir.Constant(_I32, n) for n in range(LANES)]
    return builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(_I32, LANES), numbers))


def _pairs_generic(builder, left, right):
    """Sums of the products of 16-bit pairs, from plain multiplications."""
    products = []
    for first in (0, 1):
        chosen = range(first, 2 * LANES, 2)
        wide = [builder.sext(_picked(builder, vector, chosen), _VECTOR) for vector in (left, right)]
        products.append(builder.mul(*wide))
    return builder.add(*products)


def _dot_words(builder, total, left, right):
    """`total` plus, in every lane, the products of 2 signed 16-bit words."""
    operands = _splat(builder, left), right
    if BACK_END == "vnni":
        return _call(builder, "llvm.x86.avx512.vpdpwssd.512", _VECTOR, [total, *operands])
    pairs = _pairs_avx2 if BACK_END == "avx2" else _pairs_generic
    words = (builder.bitcast(operand, _PAIRS) for operand in operands)
    return builder.add(total, pairs(builder, *words))


def _dot_bytes(builder, total, left, right):
    """`total` plus, in every lane, the products of 4 unsigned by 4 signed bytes."""
    operands = _splat(builder, left), right
    if BACK_END == "vnni":
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _VECTOR, [total, *operands])
    pairs = _pairs_avx2 if BACK_END == "avx2" else _pairs_generic
    eight = _splat(builder, ir.Constant(_I16, 8), 2 * LANES)
    low_byte = _splat(builder, ir.Constant(_I16, 255), 2 * LANES)
    unsigned, signed = (builder.bitcast(operand, _PAIRS) for operand in operands)
    even = pairs(
        builder,
        builder.and_(unsigned, low_byte),
        builder.ashr(builder.shl(signed, eight), eight),
    )
    odd = pairs(builder, builder.lshr(unsigned, eight), builder.ashr(signed, eight))
    return builder.add(total, builder.add(even, odd))


def _tile(vectors):
    """The micro-kernel for tiles of `vectors` x 16 columns."""

    def multiply_tile(
        typing,
        left,
        start,
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
        """Write (or, if `add`, accumulate) one tile of products.

        ``tile[row, lane] (+)= sum over o, i, j of
        left[start + row_offsets[row] + outer_offsets[o] + i * left_step + j]
        * right[(o * inner_count + i) * right_step + 4 * lane + j]``

        with offsets, steps and j in bytes; j counts 4 bytes or 2 words.

        Parameters
        ----------
        left : array of uint8 (bytes, + 128) or int16, contiguous
        row_offsets, outer_offsets : addresses of int64[8] and int64[outer_count]
        right, tile : addresses of int8 or int16 operands and of int32[8, 16 * vectors]
        start, left_step, right_step, outer_count, inner_count, add : int64
        """
        signature = types.void(left, *([types.int64] * 10))
        dot = _dot_bytes if left.dtype == types.uint8 else _dot_words

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            start, row_offsets, left_step, outer_offsets, right, right_step = arguments[1:7]
            outer_count, inner_count, tile, add = arguments[7:]
            left = builder.add(builder.ptrtoint(array.data, _I64), start)
            zero, one = ir.Constant(_I64, 0), ir.Constant(_I64, 1)
            places = [(row, vector) for row in range(ROWS) for vector in range(vectors)]

            def pointer(address, kind):
                return builder.inttoptr(address, ir.PointerType(kind))

            def load(address, kind, align):
                return builder.load(pointer(address, kind), align=align)

            def offset(address, count):
                return builder.add(address, ir.Constant(_I64, count))

            def place_in_tile(row, vector):
                return offset(tile, WORD * LANES * (row * vectors + vector))

            rows = [
                builder.add(left, load(offset(row_offsets, 8 * row), _I64, 8))
                for row in range(ROWS)
            ]
            keep = builder.icmp_signed("!=", add, zero)
            nothing = ir.Constant(_VECTOR, None)
            first_sums = [
                builder.select(keep, load(place_in_tile(*place), _VECTOR, 4), nothing)
                for place in places
            ]
            before = builder.block
            outer = builder.append_basic_block("outer")
            inner = builder.append_basic_block("inner")
            outer_end = builder.append_basic_block("outer_end")
            done = builder.append_basic_block("done")
            builder.branch(outer)

            builder.position_at_end(outer)
            outer_index, outer_right = builder.phi(_I64), builder.phi(_I64)
            outer_sums = [builder.phi(_VECTOR) for _ in places]
            place = builder.add(outer_offsets, builder.mul(outer_index, ir.Constant(_I64, 8)))
            outer_left = load(place, _I64, 8)
            builder.branch(inner)

            builder.position_at_end(inner)
            inner_index, inner_left, inner_right = (builder.phi(_I64) for _ in range(3))
            inner_sums = [builder.phi(_VECTOR) for _ in places]
            columns = [
                load(offset(inner_right, WORD * LANES * vector), _VECTOR, 4)
                for vector in range(vectors)
            ]
            words = [load(builder.add(row, inner_left), _I32, 1) for row in rows]
            sums = [
                dot(builder, total, words[row], columns[vector])
                for (row, vector), total in zip(places, inner_sums, strict=True)
            ]
            next_index = builder.add(inner_index, one)
            next_left = builder.add(inner_left, left_step)
            next_right = builder.add(inner_right, right_step)
            more = builder.icmp_signed("<", next_index, inner_count)
            builder.cbranch(more, inner, outer_end)

            builder.position_at_end(outer_end)
            next_outer = builder.add(outer_index, one)
            more = builder.icmp_signed("<", next_outer, outer_count)
            builder.cbranch(more, outer, done)

            for phi, entering, again in [
                (outer_index, zero, next_outer),
                (outer_right, right, next_right),
                *zip(outer_sums, first_sums, sums, strict=True),
            ]:
                phi.add_incoming(entering, before)
                phi.add_incoming(again, outer_end)
            for phi, entering, again in [
                (inner_index, zero, next_index),
                (inner_left, outer_left, next_left),
                (inner_right, outer_right, next_right),
                *zip(inner_sums, outer_sums, sums, strict=True),
            ]:
                phi.add_incoming(entering, outer)
                phi.add_incoming(again, inner)

            builder.position_at_end(done)
            for place, total in zip(places, sums, strict=True):
                builder.store(total, pointer(place_in_tile(*place), _VECTOR), align=4)
            return context.get_dummy_value()

        return signature, generate

    return multiply_tile


multiply_narrow_tile = intrinsic(_tile(vectors=1))
multiply_wide_tile = intrinsic(_tile(vectors=2))


@intrinsic
def round_vectors(
    typing,
    rows,
    sums,
    sums_step,
    corrections,
    counter,
    key,
    shifts,
    limit,
    largest,
    clipped,
    out,
    place,
    out_step,
):
    """Round 16 sums of each of `rows` pixels and store them in ``out`` from element `place` on.

    ``out = saturate(round(sums - corrections, shifts), limit)``: half up where key < 0, else
    stochastic, as `fixed_point.noise32` rounds the elements from index `counter` on.

    Parameters
    ----------
    rows : int64, at least 1
    sums, corrections, shifts, largest, clipped : addresses of int32[16]; the last two are updated:
        the largest magnitudes before the shift, and how many outputs were clipped
    sums_step : int64, bytes from a pixel's sums to the next pixel's
    counter, key, limit, place : int64
    out : array of int8 or int16, contiguous
    out_step : int64, elements from a pixel to the next, in `out` and of `counter`
    """
    signature = types.void(*([types.int64] * 10), out, types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        rows, sums, sums_step, corrections, counter, key, shifts, limit = arguments[:8]
        largest, clipped, _, place, out_step = arguments[8:]
        codes = context.make_array(signature.args[10])(context, builder, arguments[10])
        lane_numbers = ir.Constant(_VECTOR, [ir.Constant(_I32, n) for n in range(LANES)])

        def load(address):
            pointer = builder.inttoptr(address, ir.PointerType(_VECTOR))
            return builder.load(pointer, align=4)

        def store(value, address):
            builder.store(value, builder.inttoptr(address, ir.PointerType(_VECTOR)), align=4)

        def splat(scalar):
            return _splat(builder, builder.trunc(scalar, _I32))

        def choose(comparison, a, b):
            return builder.select(builder.icmp_signed(comparison, a, b), a, b)

        shifts, corrections = load(shifts), load(corrections)
        zero, one, top, seed = _same(0), _same(1), splat(limit), splat(key)
        unit = builder.shl(one, shifts)
        half, mask = builder.ashr(unit, one), builder.sub(unit, one)
        before = builder.block
        seen = load(largest), load(clipped)
        stochastic = builder.icmp_signed(">=", key, ir.Constant(_I64, 0))
        row_block = builder.append_basic_block("row")
        done = builder.append_basic_block("done")
        builder.branch(row_block)

        builder.position_at_end(row_block)
        row = builder.phi(_I64)
        kept = [builder.phi(_VECTOR) for _ in seen]
        total = load(builder.add(sums, builder.mul(row, sums_step)))
        total = builder.sub(total, corrections)
        moved = builder.mul(row, out_step)
        entered = builder.block
        with builder.if_then(stochastic):
            random = builder.add(splat(builder.add(counter, moved)), lane_numbers)
            random = builder.xor(random, seed)
            for shift, factor in zip(HASH_SHIFTS, (*HASH_FACTORS, 1), strict=True):
                random = builder.xor(random, builder.lshr(random, _same(shift)))
                random = builder.mul(random, _same(factor))
            drawn = builder.lshr(builder.lshr(random, one), builder.sub(_same(31), shifts))
            inside = builder.block
        noise = builder.phi(_VECTOR)
        noise.add_incoming(half, entered)
        noise.add_incoming(drawn, inside)
        carry = builder.ashr(builder.add(builder.and_(total, mask), noise), shifts)
        wide = builder.add(builder.ashr(total, shifts), carry)
        narrow = choose("<", choose(">", wide, builder.sub(zero, top)), top)
        lost = builder.zext(builder.icmp_signed("!=", wide, narrow), _VECTOR)
        size = choose(">", total, builder.sub(zero, total))
        updated = choose(">", size, kept[0]), builder.add(lost, kept[1])
        code = ir.VectorType(codes.data.type.pointee, LANES)
        target = builder.gep(codes.data, [builder.add(place, moved)])
        target = builder.bitcast(target, ir.PointerType(code))
        builder.store(builder.trunc(narrow, code), target, align=1)
        next_row = builder.add(row, ir.Constant(_I64, 1))
        more = builder.icmp_signed("<", next_row, rows)
        last = builder.block
        builder.cbranch(more, row_block, done)
        for phi, first, again in [
            (row, ir.Constant(_I64, 0), next_row),
            *zip(kept, seen, updated, strict=True),
        ]:
            phi.add_incoming(first, before)
            phi.add_incoming(again, last)

        builder.position_at_end(done)
        store(updated[0], largest)
        store(updated[1], clipped)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def interleave_vector(typing, values, first, step, offset, words, place):
    """Bring 16 values of each of several images side by side, so that a lane holds one of each.

    ``words[place + lane * g + i] = values[first + i * step + lane] + offset`` for 16 lanes and g
    images: 4 where words are bytes, 2 where they are of 16 bits

    Parameters
    ----------
    values : array of int8 or int16, contiguous
    first, step, offset, place : int64; the first three count elements
    words : array of uint8 (signed bytes too) or int16, contiguous
    """
    signature = types.void(values, *([types.int64] * 3), words, types.int64)

    def generate(context, builder, signature, arguments):
        _, first, step, offset, _, place = arguments
        source, target = (
            context.make_array(signature.args[n])(context, builder, arguments[n]).data
            for n in (0, 4)
        )
        vector = ir.PointerType(ir.VectorType(source.type.pointee, LANES))
        bits = target.type.pointee.width
        offset = _splat(builder, builder.trunc(offset, _I32))
        mask = _same((1 << bits) - 1)
        mixed = ir.Constant(_VECTOR, None)
        for image in range(8 * WORD // bits):
            loaded = builder.load(builder.bitcast(builder.gep(source, [first]), vector), align=1)
            value = builder.and_(builder.add(builder.sext(loaded, _VECTOR), offset), mask)
            left = _same(bits * image)
            mixed = builder.or_(mixed, builder.shl(value, left))
            first = builder.add(first, step)
        target = builder.bitcast(builder.gep(target, [place]), ir.PointerType(_VECTOR))
        builder.store(mixed, target, align=1)
        return context.get_dummy_value()

    return signature, generate

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
from numba import njit, types
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


def _load(builder, address, kind=_VECTOR, align=4):
    pointer = builder.inttoptr(address, ir.PointerType(kind))
    return builder.load(pointer, align=align)


def _store(builder, value, address):
    builder.store(value, builder.inttoptr(address, ir.PointerType(_VECTOR)), align=4)


def _offset(builder, address, count):
    return builder.add(address, ir.Constant(_I64, count))


def _dot_of(left):
    """The back end's multiplication for this type of the left operand."""
    return _dot_bytes if left.dtype == types.uint8 else _dot_words


def _array(context, builder, signature, arguments, number):
    """Pointer to the first element of the array that is argument `number`."""
    return context.make_array(signature.args[number])(context, builder, arguments[number]).data


def _accumulate(builder, dot, vectors, operands):
    """The loops of the micro-kernel: the sums of all rows and vectors."""
    left, row_offsets, left_step, outer_offsets, right, right_step = operands[:6]
    outer_count, inner_count, first, first_step = operands[6:]
    zero, one = ir.Constant(_I64, 0), ir.Constant(_I64, 1)
    places = [(row, vector) for row in range(ROWS) for vector in range(vectors)]
    rows = [
        builder.add(left, _load(builder, _offset(builder, row_offsets, 8 * row), _I64, 8))
        for row in range(ROWS)
    ]
    first_sums = []
    for row, vector in places:
        start = builder.add(first, builder.mul(first_step, ir.Constant(_I64, row)))
        first_sums.append(_load(builder, _offset(builder, start, WORD * LANES * vector)))
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
    outer_left = _load(builder, place, _I64, 8)
    builder.branch(inner)

    builder.position_at_end(inner)
    inner_index, inner_left, inner_right = (builder.phi(_I64) for _ in range(3))
    inner_sums = [builder.phi(_VECTOR) for _ in places]
    columns = [
        _load(builder, _offset(builder, inner_right, WORD * LANES * vector))
        for vector in range(vectors)
    ]
    words = [_load(builder, builder.add(row, inner_left), _I32, 1) for row in rows]
    sums = [
        dot(builder, total, words[row], columns[vector])
        for (row, vector), total in zip(places, inner_sums, strict=True)
    ]
    next_index = builder.add(inner_index, one)
    next_left = builder.add(inner_left, left_step)
    next_right = builder.add(inner_right, right_step)
    more = builder.icmp_signed("<", next_index, inner_count)
    inner_end = builder.block
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
        phi.add_incoming(again, inner_end)

    builder.position_at_end(done)
    return sums


def _multiply(vectors):
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
        first,
        first_step,
        tile,
    ):
        """Write one tile of products, added to what each row begins with.

        ``tile[row, lane] = first[row * first_step + 4 * lane] + sum over o, i, j of
        left[start + row_offsets[row] + outer_offsets[o] + i * left_step + j]
        * right[(o * inner_count + i) * right_step + 4 * lane + j]``

        with offsets, steps and j in bytes; j counts 4 bytes or 2 words.

        Parameters
        ----------
        left : array of uint8 (bytes, + 128) or int16, contiguous
        row_offsets, outer_offsets : addresses of int64[8] and int64[outer_count]
        right : address of int8 or int16 operands
        first, tile : addresses of int32[16 * vectors] and int32[8, 16 * vectors]; may be the same
        start, left_step, right_step, outer_count, inner_count, first_step : int64
        """
        signature = types.void(left, *([types.int64] * 11))
        dot = _dot_of(left)

        def generate(context, builder, signature, arguments):
            left = builder.ptrtoint(_array(context, builder, signature, arguments, 0), _I64)
            operands = builder.add(left, arguments[1]), *arguments[2:11]
            sums = _accumulate(builder, dot, vectors, operands)
            for number, total in enumerate(sums):
                _store(builder, total, _offset(builder, arguments[11], WORD * LANES * number))
            return context.get_dummy_value()

        return signature, generate

    return multiply_tile


_multiply_narrow_tile = intrinsic(_multiply(vectors=1))
multiply_wide_tile = intrinsic(_multiply(vectors=2))


def _choose(builder, comparison, a, b):
    """In every lane `a` where it compares so with `b`, else `b`."""
    return builder.select(builder.icmp_signed(comparison, a, b), a, b)


def _drawn(builder, key, index, shift):
    """`fixed_point.noise32` of stochastic rounding for 16 elements from `index` on.

    `index` is a multiple of 16, so that the lanes differ in 4 bits only and the first round of the
    hash is the same for all but for these.
    """
    same = builder.trunc(builder.xor(index, key), _I32)
    same = builder.xor(same, builder.lshr(same, ir.Constant(_I32, HASH_SHIFTS[0])))
    lanes = ir.Constant(_VECTOR, [ir.Constant(_I32, n) for n in range(LANES)])
    random = builder.xor(_splat(builder, same), lanes)
    for drop, factor in zip(HASH_SHIFTS[1:], HASH_FACTORS, strict=True):
        random = builder.mul(random, _same(factor))
        random = builder.xor(random, builder.lshr(random, _same(drop)))
    return _call(builder, "llvm.fshl.v16i32", _VECTOR, [_same(0), random, shift])


def _narrow(builder, wide, limit, target):
    """Clip the integers of one row to `limit`, store them as codes, and count the clipped ones.

    Two vectors that become bytes are clipped as one vector of 16-bit words where the CPU packs
    them so: saturated words that are no bytes stay so.
    """
    code = target.type.pointee
    packed = BACK_END == "vnni" and len(wide) == 2 and code == _I8
    if packed:
        wide = [_call(builder, "llvm.x86.avx512.packssdw.512", _PAIRS, wide)]
    lost = ir.Constant(_I32, 0)
    for number, vector in enumerate(wide):
        kind = vector.type
        top = _splat(builder, builder.trunc(limit, kind.element), kind.count)
        bottom = builder.sub(ir.Constant(kind, None), top)
        clipped = _choose(builder, "<", _choose(builder, ">", vector, bottom), top)
        changed = builder.icmp_signed("!=", vector, clipped)
        mask = builder.bitcast(changed, ir.IntType(kind.count))
        count = _call(builder, f"llvm.ctpop.i{kind.count}", mask.type, [mask])
        lost = builder.add(lost, count if packed else builder.zext(count, _I32))
        codes = builder.trunc(clipped, ir.VectorType(code, kind.count))
        if packed:  # every 4 words of the one vector are followed by 4 of the other
            codes = _picked(
                builder, codes, [n // 4 % 4 * 8 + n // 16 * 4 + n % 4 for n in range(32)]
            )
        place = builder.gep(target, [ir.Constant(_I64, LANES * number)])
        builder.store(codes, builder.bitcast(place, ir.PointerType(codes.type)), align=1)
    return lost


def _round(vectors):
    """The micro-kernel for tiles of `vectors` x 16 columns that it rounds itself."""

    def round_tile(
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
        first,
        rows,
        key,
        shifts,
        limit,
        most,
        least,
        clipped,
        out,
        place,
        step,
    ):
        """Round a tile of products and store its first `rows` in ``out`` from element `place` on.

        ``out = saturate(round(sums, shifts), limit)``: half up where key < 0, else stochastic, as
        `fixed_point.noise32` rounds the elements from index `place` on, of which 16 share all but
        their lowest 4 bits. The sums never leave the registers.

        Parameters
        ----------
        left, ..., inner_count : as of the products without rounding, see `_multiply`
        first : address of int32[lanes], what the sums of every row begin with; sums are so small
            that rounding does not overflow
        rows : int64, 1 to 8
        shifts, most, least : addresses of int32[lanes]; the last two are updated: the largest and
            smallest sums before the shift
        clipped : address of int32, to which the number of outputs that were clipped is added
        key, limit, place : int64; a multiple of 16 for stochastic rounding
        out : array of int8 or int16, contiguous
        step : int64, elements from a row to the next
        """
        signature = types.void(left, *([types.int64] * 16), out, types.int64, types.int64)
        dot = _dot_of(left)

        def generate(context, builder, signature, arguments):
            left = builder.ptrtoint(_array(context, builder, signature, arguments, 0), _I64)
            operands = (builder.add(left, arguments[1]), *arguments[2:10], ir.Constant(_I64, 0))
            sums = _accumulate(builder, dot, vectors, operands)
            rows, key, shifts, limit, most, least, clipped, _, place, step = arguments[10:]
            codes = _array(context, builder, signature, arguments, 17)
            columns = range(0, LANES * vectors, LANES)

            def across(address):
                return [_load(builder, _offset(builder, address, WORD * c)) for c in columns]

            stochastic = builder.icmp_signed(">=", key, ir.Constant(_I64, 0))
            shifts = across(shifts)
            halves = [builder.lshr(builder.shl(_same(1), shift), _same(1)) for shift in shifts]
            state = [*across(most), *across(least), ir.Constant(_I32, 0)]
            done = builder.append_basic_block("done")
            ends = []
            for row in range(ROWS):
                start = builder.add(place, builder.mul(step, ir.Constant(_I64, row)))
                entered = builder.block
                with builder.if_then(stochastic):
                    drawn = [
                        _drawn(builder, key, _offset(builder, start, column), shift)
                        for column, shift in zip(columns, shifts, strict=True)
                    ]
                    inside = builder.block
                noises = [builder.phi(_VECTOR) for _ in columns]
                for noise, half, random in zip(noises, halves, drawn, strict=True):
                    noise.add_incoming(half, entered)
                    noise.add_incoming(random, inside)
                totals = sums[row * vectors : (row + 1) * vectors]
                wide = [
                    builder.ashr(builder.add(total, noise), shift)
                    for total, noise, shift in zip(totals, noises, shifts, strict=True)
                ]
                lost = _narrow(builder, wide, limit, builder.gep(codes, [start]))
                state = [
                    *(
                        _choose(builder, ">", *pair)
                        for pair in zip(totals, state[:vectors], strict=True)
                    ),
                    *(
                        _choose(builder, "<", *pair)
                        for pair in zip(totals, state[vectors:-1], strict=True)
                    ),
                    builder.add(state[-1], lost),
                ]
                ends.append((builder.block, state))
                if row + 1 < ROWS:
                    following = builder.append_basic_block("row")
                    more = builder.icmp_signed(">", rows, ir.Constant(_I64, row + 1))
                    builder.cbranch(more, following, done)
                    builder.position_at_end(following)
            builder.branch(done)

            builder.position_at_end(done)
            last = [builder.phi(value.type) for value in state]
            for block, values in ends:
                for phi, value in zip(last, values, strict=True):
                    phi.add_incoming(value, block)
            for i, column in enumerate(columns):
                _store(builder, last[i], _offset(builder, most, WORD * column))
                _store(builder, last[vectors + i], _offset(builder, least, WORD * column))
            before = _load(builder, clipped, _I32)
            total = builder.inttoptr(clipped, ir.PointerType(_I32))
            builder.store(builder.add(before, last[-1]), total, align=4)
            return context.get_dummy_value()

        return signature, generate

    return round_tile


_round_narrow_tile = intrinsic(_round(vectors=1))
_round_wide_tile = intrinsic(_round(vectors=2))


@njit(cache=True, inline="always")
def multiply_tile(
    lanes,
    left,
    start,
    row_offsets,
    left_step,
    outer_offsets,
    right,
    right_step,
    outer_count,
    inner_count,
    first,
    first_step,
    tile,
):
    """A tile of `lanes` columns, 16 or 32, as `_multiply` says."""
    if lanes == LANES:
        _multiply_narrow_tile(
            left,
            start,
            row_offsets,
            left_step,
            outer_offsets,
            right,
            right_step,
            outer_count,
            inner_count,
            first,
            first_step,
            tile,
        )
    else:
        multiply_wide_tile(
            left,
            start,
            row_offsets,
            left_step,
            outer_offsets,
            right,
            right_step,
            outer_count,
            inner_count,
            first,
            first_step,
            tile,
        )


@njit(cache=True, inline="always")
def round_tile(
    lanes,
    left,
    start,
    row_offsets,
    left_step,
    outer_offsets,
    right,
    right_step,
    outer_count,
    inner_count,
    first,
    rows,
    key,
    shifts,
    limit,
    most,
    least,
    clipped,
    out,
    place,
    step,
):
    """A tile of `lanes` columns, 16 or 32, as `_round` says."""
    if lanes == LANES:
        _round_narrow_tile(
            left,
            start,
            row_offsets,
            left_step,
            outer_offsets,
            right,
            right_step,
            outer_count,
            inner_count,
            first,
            rows,
            key,
            shifts,
            limit,
            most,
            least,
            clipped,
            out,
            place,
            step,
        )
    else:
        _round_wide_tile(
            left,
            start,
            row_offsets,
            left_step,
            outer_offsets,
            right,
            right_step,
            outer_count,
            inner_count,
            first,
            rows,
            key,
            shifts,
            limit,
            most,
            least,
            clipped,
            out,
            place,
            step,
        )


def _woven(builder, vectors):
    """One vector with the first elements of all `vectors`, 1, 2 or 4, then the second ones ..."""
    if len(vectors) == 1:
        return vectors[0]
    even, odd = (_woven(builder, vectors[start::2]) for start in (0, 1))
    count = even.type.count
    order = [
        place for pair in zip(range(count), range(count, 2 * count), strict=True) for place in pair
    ]
    numbers = ir.Constant(ir.VectorType(_I32, 2 * count), [ir.Constant(_I32, n) for n in order])
    return builder.shuffle_vector(even, odd, numbers)


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
        word = target.type.pointee
        images = []
        for _ in range(8 * WORD // word.width):
            loaded = builder.load(builder.bitcast(builder.gep(source, [first]), vector), align=1)
            same = source.type.pointee == word
            images.append(loaded if same else builder.sext(loaded, ir.VectorType(word, LANES)))
            first = builder.add(first, step)
        mixed = _woven(builder, images)
        offset = _splat(builder, builder.trunc(offset, word), mixed.type.count)
        mixed = builder.add(mixed, offset)
        target = builder.bitcast(builder.gep(target, [place]), ir.PointerType(mixed.type))
        builder.store(mixed, target, align=1)
        return context.get_dummy_value()

    return signature, generate

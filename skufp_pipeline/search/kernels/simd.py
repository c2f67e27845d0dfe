"""Vector types and operations for numba: sixteen int32 (or 64 bytes), sixteen float32, eight float64.

With AVX-512 VNNI a dot product of 64 bytes is one instruction; otherwise LLVM compiles the same arithmetic
from plain vector operations.
"""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic, models, register_model

BYTES = 64
LANES = 16

_BYTE, _WORD, _INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_FLOATS, _DOUBLES = ir.VectorType(_FLOAT, LANES), ir.VectorType(_DOUBLE, LANES // 2)
_INTS, _BYTES = ir.VectorType(_INT, LANES), ir.VectorType(_BYTE, BYTES)


class Int32x16(types.Type):
    """Sixteen int32, or the 64 bytes that they are made of."""

    def __init__(self) -> None:
        super().__init__(name="Int32x16")


@register_model(Int32x16)
class _Int32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _INTS)


class Float32x16(types.Type):
    """Sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


@register_model(Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


class Float64x8(types.Type):
    """Eight float64."""

    def __init__(self) -> None:
        super().__init__(name="Float64x8")


@register_model(Float64x8)
class _Float64x8Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _DOUBLES)


INTS, FLOATS, DOUBLES = Int32x16(), Float32x16(), Float64x8()


def can(feature: str) -> bool:
    """Whether the compilation target has this CPU feature (LLVM name)."""
    if config.CPU_NAME is None:
        return bool(llvmlite.binding.get_host_cpu_features().get(feature))
    return f"+{feature}" in (config.CPU_FEATURES or "").split(",")


@intrinsic
def zeros(typing: Any) -> Any:
    """Sixteen zeros."""
    return INTS(), lambda context, builder, signature, arguments: ir.Constant(_INTS, None)


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """The 64 bytes at `offset` of a flat array of bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        return builder.load(builder.bitcast(pointer, _INTS.as_pointer()), align=1, typ=_INTS)

    return INTS(array, types.intp), generate


@intrinsic
def prefetch(typing: Any, array: Any, offset: Any) -> Any:
    """Prefetches the 64 bytes at the element `offset` of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.bitcast(_pointer(context, builder, signature, arguments), _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        read, keep, data = (ir.Constant(_INT, value) for value in (0, 3, 1))
        builder.call(function, [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def broadcast(typing: Any, array: Any, offset: Any) -> Any:
    """Broadcasts the 4 bytes at `offset` of a flat array of bytes to sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        value = builder.load(builder.bitcast(pointer, _INT.as_pointer()), align=1, typ=_INT)
        undefined = ir.Constant(_INTS, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, None))

    return INTS(array, types.intp), generate


@intrinsic
def store(typing: Any, vector: Any, array: Any, offset: Any) -> Any:
    """Writes the vector to the flat `array` from the element `offset` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments, first=1)
        builder.store(arguments[0], builder.bitcast(pointer, arguments[0].type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), generate


@intrinsic
def low_nibbles(typing: Any, vector: Any) -> Any:
    """The low four bits of each of the 64 bytes."""
    return INTS(vector), _gathered((0, 0x0F))


@intrinsic
def high_nibbles(typing: Any, vector: Any) -> Any:
    """The high four bits of each of the 64 bytes, as numbers from 0 to 15."""
    return INTS(vector), _gathered((-4, 0x0F))


@intrinsic
def high_fives(typing: Any, vector: Any) -> Any:
    """The high five bits of each of the 64 bytes, unshifted: eight times a number from 0 to 31."""
    return INTS(vector), _gathered((0, 0xF8))


@intrinsic
def spare_fives(typing: Any, first: Any, second: Any) -> Any:
    """As `high_fives`, joined from the lowest three bits of `first` and the lowest two bits of `second`."""
    return INTS(first, second), _gathered((5, 0xE0), (3, 0x18))


@intrinsic
def last_fives(typing: Any, first: Any, second: Any, third: Any) -> Any:
    """As `high_fives`, joined from the lowest three bits of `first` and bit 2 of `second` and of `third`."""
    return INTS(first, second, third), _gathered((5, 0xE0), (2, 0x10), (1, 0x08))


@intrinsic
def add_bytes(typing: Any, left: Any, right: Any) -> Any:
    """64 byte sums; they must not overflow."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return INTS(left, right), generate


@intrinsic
def add_products(typing: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """Adds to each of sixteen sums the products of four unsigned bytes with four bytes from -127 to 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        produce = _products_vnni if can("avx512vnni") else _products_anywhere
        return produce(builder, *arguments)

    return INTS(sums, unsigned, signed), generate


@intrinsic
def add_sums(typing: Any, left: Any, right: Any) -> Any:
    """Adds sixteen int32 lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return INTS(left, right), generate


@intrinsic
def fold_pairs(typing: Any, left: Any, right: Any) -> Any:
    """Adds lanes 0, 1 to lanes 2, 3 in every four: left and right results alternate."""
    return INTS(left, right), _fold((0, 16, 1, 17), (2, 18, 3, 19), stride=4)


@intrinsic
def fold_quads(typing: Any, left: Any, right: Any) -> Any:
    """Adds two results of `fold_pairs`: every four lanes hold one sum of four of each of four vectors."""
    return INTS(left, right), _fold((0, 1, 16, 17), (2, 3, 18, 19), stride=4)


@intrinsic
def fold_fours(typing: Any, left: Any, right: Any) -> Any:
    """Adds neighbouring groups of four lanes: two sums of the left, two of the right."""
    evens, odds = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
    return INTS(left, right), _fold(evens, odds, stride=16)


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of the sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_INT, [_INTS])
        function = builder.module.declare_intrinsic("llvm.vector.reduce.add.v16i32", (), kind)
        return builder.call(function, arguments)

    return types.int32(vector), generate


@intrinsic
def load_ints(typing: Any, array: Any, offset: Any) -> Any:
    """The sixteen int32 from `offset` on of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        return builder.load(builder.bitcast(pointer, _INTS.as_pointer()), align=4, typ=_INTS)

    return INTS(array, types.intp), generate


@intrinsic
def load_floats(typing: Any, array: Any, offset: Any) -> Any:
    """The sixteen float32 from `offset` on of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        return builder.load(builder.bitcast(pointer, _FLOATS.as_pointer()), align=4, typ=_FLOATS)

    return FLOATS(array, types.intp), generate


@intrinsic
def affine(typing: Any, sums: Any, centres: Any, steps: Any, scale: Any, error: Any) -> Any:
    """`scale * steps * (2 * sums - centres) + error` in sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, centres, steps, scale, error = arguments
        doubled = builder.sub(builder.shl(sums, _splat(1)), centres)
        factors = builder.fmul(_everywhere(builder, scale), steps)
        scores = builder.fmul(factors, builder.sitofp(doubled, _FLOATS))
        return builder.fadd(scores, _everywhere(builder, error))

    return FLOATS(sums, centres, steps, types.float32, types.float32), generate


@intrinsic
def affine_rows(typing: Any, sums: Any, centre: Any, factor: Any, scales: Any, errors: Any) -> Any:
    """`factor * scales * (2 * sums - centre) + errors` in sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, centre, factor, scales, errors = arguments
        doubled = builder.sub(builder.shl(sums, _splat(1)), _everywhere(builder, centre, _INTS))
        factors = builder.fmul(_everywhere(builder, factor), scales)
        return builder.fadd(builder.fmul(factors, builder.sitofp(doubled, _FLOATS)), errors)

    return FLOATS(sums, types.int32, types.float32, scales, errors), generate


@intrinsic
def largest(typing: Any, vector: Any) -> Any:
    """The largest of the sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOATS])
        function = builder.module.declare_intrinsic("llvm.vector.reduce.fmax.v16f32", (), kind)
        return builder.call(function, arguments)

    return types.float32(vector), generate


@intrinsic
def larger(typing: Any, left: Any, right: Any) -> Any:
    """The lane-wise maximum."""
    return FLOATS(left, right), _chosen(">")


@intrinsic
def smaller(typing: Any, left: Any, right: Any) -> Any:
    """The lane-wise minimum."""
    return FLOATS(left, right), _chosen("<")


@intrinsic
def numbered(typing: Any, vector: Any, number: Any) -> Any:
    """Replaces the lowest three bits of all sixteen float32 by `number`, 0 to 7."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.and_(builder.bitcast(arguments[0], _INTS), _splat(~7))
        number = builder.trunc(arguments[1], _INT)
        return builder.bitcast(builder.or_(bits, _everywhere(builder, number, _INTS)), _FLOATS)

    return FLOATS(vector, types.int64), generate


@intrinsic
def number_of(typing: Any, array: Any, offset: Any) -> Any:
    """The number in the lowest three bits of the float32 at `offset` of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        bits = builder.load(builder.bitcast(pointer, _INT.as_pointer()), align=4, typ=_INT)
        return builder.zext(builder.and_(bits, ir.Constant(_INT, 7)), ir.IntType(64))

    return types.int64(array, types.intp), generate


@intrinsic
def reaching(typing: Any, left: Any, right: Any) -> Any:
    """Sixteen bits: in which lanes left >= right."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flags = builder.fcmp_ordered(">=", *arguments)
        return builder.zext(builder.bitcast(flags, _WORD), ir.IntType(64))

    return types.int64(left, right), generate


@intrinsic
def same_floats(typing: Any, value: Any) -> Any:
    """Broadcasts a float32 to sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _everywhere(builder, arguments[0])

    return FLOATS(types.float32), generate


@intrinsic
def load_bits(typing: Any, array: Any, offset: Any) -> Any:
    """The 64 bits from byte `offset` on of a flat array of bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        pointer = _pointer(context, builder, signature, arguments)
        return builder.load(builder.bitcast(pointer, word.as_pointer()), align=1, typ=word)

    return types.int64(array, types.intp), generate


@intrinsic
def count_bits(typing: Any, bits: Any) -> Any:
    """The number of set bits of 64."""
    return types.int64(types.int64), _of_bits("llvm.ctpop.i64")


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The position of the lowest set bit; 64 if none is set."""
    return types.int64(types.int64), _of_bits("llvm.cttz.i64", ir.Constant(ir.IntType(1), 0))


@intrinsic
def zero_doubles(typing: Any) -> Any:
    """Eight zeros."""
    return DOUBLES(), lambda context, builder, signature, arguments: ir.Constant(_DOUBLES, None)


@intrinsic
def add_double_products(typing: Any, sums: Any, narrow: Any, at: Any, wide: Any, wide_at: Any) -> Any:
    """Adds the products of float32 from `narrow[at]` on and float64 from `wide[wide_at]` on to eight sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left = _pointer(context, builder, signature, arguments, first=1)
        narrow = ir.VectorType(_FLOAT, LANES // 2)
        left = builder.load(builder.bitcast(left, narrow.as_pointer()), align=4, typ=narrow)
        right = _pointer(context, builder, signature, arguments, first=3)
        right = builder.load(builder.bitcast(right, _DOUBLES.as_pointer()), align=8, typ=_DOUBLES)
        return builder.fadd(arguments[0], builder.fmul(builder.fpext(left, _DOUBLES), right))

    return DOUBLES(sums, narrow, types.intp, wide, types.intp), generate


@intrinsic
def pairwise_total(typing: Any, vector: Any) -> Any:
    """The sum of eight lanes: neighbours first, then neighbouring sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = [builder.extract_element(arguments[0], ir.Constant(_INT, lane)) for lane in range(8)]
        while len(parts) > 1:
            parts = [builder.fadd(parts[lane], parts[lane + 1]) for lane in range(0, len(parts), 2)]
        return parts[0]

    return types.float64(vector), generate


@intrinsic
def fetch_add(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Adds to a shared int64 atomically; returns the previous value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        number = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, arguments[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def peek(typing: Any, array: Any, offset: Any) -> Any:
    """Loads a shared int64 atomically."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        number = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        return builder.load_atomic(number, "seq_cst", 8, typ=ir.IntType(64))

    return types.int64(array, types.intp), generate


@intrinsic
def pause(typing: Any) -> Any:
    """Hints to the processor that this is a spin loop (x86-64 only)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if llvmlite.binding.get_process_triple().startswith("x86_64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.void(), generate


def _fold(first: tuple[int, ...], second: tuple[int, ...], stride: int) -> Any:
    """Generates the sum of two shuffles of two vectors; the lane patterns repeat every `stride` lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = []
        for chosen in (first, second):
            places = [place + begin for begin in range(0, LANES, stride) for place in chosen]
            if len(places) < LANES:
                places += [place + LANES for place in places]
            parts.append(builder.shuffle_vector(*arguments, ir.Constant(_INTS, places)))
        return builder.add(*parts)

    return generate


def _chosen(comparison: str) -> Any:
    """Generates a lane-wise choice: the left number if `left <comparison> right`, else the right one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(comparison, *arguments), *arguments)

    return generate


def _gathered(*parts: tuple[int, int]) -> Any:
    """Generates the union of vectors, each shifted left (right if negative) and masked per byte."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        joined = ir.Constant(_INTS, None)
        for vector, (shift, mask) in zip(arguments, parts, strict=True):
            move = builder.shl if shift > 0 else builder.lshr
            moved = move(vector, _splat(abs(shift))) if shift else vector
            joined = builder.or_(joined, builder.and_(moved, _splat(mask * 0x01010101)))
        return joined

    return generate


def _of_bits(name: str, *options: Any) -> Any:
    """Generates a call of an LLVM intrinsic on an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, *(option.type for option in options)])
        function = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(function, [arguments[0], *options])

    return generate


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, first: int = 0) -> Any:
    """Address of the element `arguments[first + 1]` of the flat array `arguments[first]`."""
    kind = signature.args[first]
    array = context.make_array(kind)(context, builder, arguments[first])
    return builder.gep(array.data, [arguments[first + 1]], source_etype=context.get_data_type(kind.dtype))


def _everywhere(builder: Any, value: Any, kind: ir.VectorType = _FLOATS) -> Any:
    """Broadcasts a number to sixteen lanes."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, None))


def _splat(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _products_vnni(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    kind = ir.FunctionType(_INTS, [_INTS, _INTS, _INTS])
    function = builder.module.declare_intrinsic("llvm.x86.avx512.vpdpbusd.512", (), kind)
    return builder.call(function, [sums, unsigned, signed])


def _products_anywhere(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    words = ir.VectorType(_WORD, BYTES)
    left = builder.zext(builder.bitcast(unsigned, _BYTES), words)
    right = builder.sext(builder.bitcast(signed, _BYTES), words)
    products = builder.mul(left, right)  # 255 * 127 fits 16 bits
    for place in range(4):
        every_fourth = ir.Constant(_INTS, [4 * lane + place for lane in range(LANES)])
        picked = builder.shuffle_vector(products, ir.Constant(words, ir.Undefined), every_fourth)
        sums = builder.add(sums, builder.sext(picked, _INTS))
    return sums

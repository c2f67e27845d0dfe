"""Passes many arrays to a compiled function as a single array of addresses.

Numba inspects every array argument. For the forty arrays of a search, with cold caches, that takes a good
part of the time of a small search.
"""

import typing
from functools import cache
from typing import Any, get_type_hints

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import numpy_support
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

LINE = 64  # bytes of a cache line

ScalarT = typing.TypeVar("ScalarT", bound=np.generic)
Matrix = np.ndarray[tuple[int, int], np.dtype[ScalarT]]
Cube = np.ndarray[tuple[int, int, int], np.dtype[ScalarT]]


def aligned(shape: int | tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    """Zeros aligned to cache lines: a vector that straddles two lines is read at half the speed."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    zeros = np.zeros(size + LINE, np.uint8)
    first = -zeros.ctypes.data % LINE
    return zeros[first : first + size].view(dtype).reshape(shape)


def addresses(values: tuple[Any, ...]) -> NDArray[np.int64]:
    """Addresses, shapes and numbers of a (nested) NamedTuple, as `at_addresses` reads them.

    The arrays must be contiguous, stay in place and outlive the result.
    """
    return np.array(list(_words(values, _compiled_kind(type(values)))), np.int64)


def at_addresses(kind: type[tuple[Any, ...]]) -> Any:
    """A function for compiled code that builds a NamedTuple of this class from its `addresses`.

    Arrays are flat unless they are annotated as `Matrix` or `Cube`.
    """
    compiled_kind = _compiled_kind(kind)

    @intrinsic
    def find(typing: Any, words: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return _build(context, builder, compiled_kind, _Reader(builder, array.data))

        return compiled_kind(words), generate

    return find


def _words(values: tuple[Any, ...], kinds: Any) -> typing.Iterator[int]:
    for value, kind in zip(values, kinds, strict=True):
        if isinstance(kind, types.Array):
            _require_kind(value, kind)
            yield from (value.ctypes.data, *value.shape)
        elif isinstance(kind, types.BaseTuple):
            yield from _words(value, kind)
        elif isinstance(kind, types.Float):
            yield int(np.float64(value).view(np.int64))
        else:
            yield int(value)


def _require_kind(array: NDArray[Any], kind: Any) -> None:
    """Checks the array's type, because compiled code can't check what is at an address."""
    dtype = numpy_support.as_dtype(kind.dtype)
    if not (array.flags.c_contiguous and array.dtype == dtype and array.ndim == kind.ndim):
        raise TypeError(f"expected a contiguous {kind}, found {array.dtype} of strides {array.strides}")


@cache
def _compiled_kind(kind: Any) -> types.Type:
    if typing.get_origin(kind) is np.ndarray:
        shape, dtype = typing.get_args(kind)
        (scalar,) = typing.get_args(dtype)
        dimensions = max(1, typing.get_args(shape).count(int))
        return types.Array(numpy_support.from_dtype(np.dtype(scalar)), dimensions, "C")
    if kind in (int, float):
        return types.int64 if kind is int else types.float64
    fields = get_type_hints(kind)
    return types.NamedTuple([_compiled_kind(field) for field in fields.values()], kind)


class _Reader:
    """Generates code that reads consecutive words."""

    def __init__(self, builder: Any, words: Any) -> None:
        self.builder = builder
        self.words = words
        self.place = 0

    def next(self) -> Any:
        pointer = self.builder.gep(
            self.words, [ir.Constant(ir.IntType(64), self.place)], source_etype=ir.IntType(64)
        )
        self.place += 1
        return self.builder.load(pointer, typ=ir.IntType(64))


def _build(context: Any, builder: Any, kind: Any, reader: _Reader) -> Any:
    if isinstance(kind, types.Array):
        return _build_array(context, builder, kind, reader)
    if isinstance(kind, types.BaseTuple):
        values = [_build(context, builder, field, reader) for field in kind]
        return context.make_tuple(builder, kind, values)
    word = reader.next()
    return builder.bitcast(word, ir.DoubleType()) if isinstance(kind, types.Float) else word


def _build_array(context: Any, builder: Any, kind: Any, reader: _Reader) -> Any:
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(reader.next(), array.data.type)
    shape = [reader.next() for _ in range(kind.ndim)]
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [itemsize]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()

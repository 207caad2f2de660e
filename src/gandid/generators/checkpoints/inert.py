"""Pickles, read without running anything.

A pickle is a program that may call any function it names. Here it may name only what checkpoints of networks need, and
gets for each name a *stand-in*: a class that keeps what it is given and does nothing with it. Any other name is refused,
and so is any instruction that no checkpoint needs. What is read is bounded by the size of the file.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from gandid.errors import UsageError

INSTRUCTIONS = 100_000  # of one pickle; a checkpoint with its optimizers has some 10,000
DIMENSIONS = 8  # of one array
LARGEST_ITEM = 256 * 2**20  # bytes of one array or text


def short(text: object, length: int = 100) -> str:
    """Quote a text from a file in a message: one line of at most `length` printable characters."""
    # Nothing else is printed: of a few nested tuples it could take forever.
    text = text if isinstance(text, str) else f"a {type(text).__name__}"
    line = "".join(char if char.isprintable() else "?" for char in text[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


class StandIn:
    """Keeps what a pickle calls it with and what state it is given."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    args: tuple = ()
    state: Any = None


class Settings(StandIn):
    """For `models.utils.config.BaseConfig` of PyTorch GAN Zoo: attributes, as a dictionary in `state`."""


class Network(StandIn):
    """For `tfutil.Network` of Karras et al.: the state holds `variables`, and source code that stays text."""


class OrderedDict(dict, StandIn):
    """For `collections.OrderedDict`."""

    def __init__(self, *args: Any):
        StandIn.__init__(self, *args)


class Storage(StandIn):
    """For a storage of PyTorch: how many numbers it holds."""

    numel = 0
    itemsize = 0


class Tensor(StandIn):
    """For `torch._utils._rebuild_tensor`: refused unless it lies within its storage."""

    def __init__(self, storage: Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...], *rest: Any):
        super().__init__()
        if len(size) > DIMENSIONS:
            raise UsageError("is damaged: a tensor has too many dimensions")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride, 0) < 0 or (math.prod(size) and last >= storage.numel):
            raise UsageError("is damaged: a tensor reaches beyond its storage")


class Encoded(StandIn):
    """For `_codecs.encode`, which protocol 2 makes bytes with."""

    def __new__(cls, text: str, encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise UsageError("is damaged: bytes in an unknown encoding")
        return text.encode(encoding)


class Dtype(StandIn):
    """For `numpy.dtype`."""

    def numpy(self) -> np.dtype:
        """The type, refused unless it is one of numbers."""
        code, order = self.args[0], (self.state or (3, "|"))[1]
        if code not in ("f2", "f4", "f8", "i4", "i8") or order not in ("<", ">", "=", "|"):
            raise UsageError(f"holds an array of type '{short(code)}', which is none of numbers")
        return np.dtype(code).newbyteorder(order)


class Array(StandIn):
    """For NumPy's array: built from an empty one and a state."""

    def numpy(self) -> np.ndarray:
        """The array, whose bytes are those of the file."""
        _, shape, dtype, fortran, data = self.state or (0, (), None, False, b"")
        return _array(data, dtype, shape, "F" if fortran else "C")


class Buffer(Array):
    """For NumPy's array of protocol 5: `_frombuffer(data, dtype, shape, order, axes)`."""

    def numpy(self) -> np.ndarray:
        data, dtype, shape, order, axes = (*self.args, None)[:5]
        array = _array(data, dtype, shape, order)
        return array if axes is None else array.transpose(axes)


class Scalar(Array):
    """For a number of NumPy: `scalar(dtype, data)`."""

    def numpy(self) -> np.ndarray:
        dtype, data = self.args
        return _array(data, dtype, (), "C")


def _array(data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(data, bytes) or not isinstance(dtype, Dtype):
        raise UsageError("holds an array that is none of numbers")
    kind = dtype.numpy()
    if len(shape) > DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise UsageError("is damaged: an array has no shape")
    if math.prod(shape) * kind.itemsize != len(data):
        raise UsageError(f"is damaged: an array of shape {short(repr(shape))} has {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")


Names = dict[str, type[StandIn]]

TORCH: Names = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": Tensor,
    "torch._utils._rebuild_tensor_v2": Tensor,
    "_codecs.encode": Encoded,
    "models.utils.config.BaseConfig": Settings,
}
_KEPT = ["_utils._rebuild_parameter", "Size", "device", "float64", "float32", "float16", "bfloat16"]
TORCH |= {f"torch.{name}": StandIn for name in [*_KEPT, "int64", "int32", "int16", "int8", "uint8", "bool"]}
_SIZES = {8: ("Double", "Long"), 4: ("Float", "Int"), 2: ("Half", "BFloat16", "Short"), 1: ("Char", "Byte", "Bool")}
for _size, _kinds in _SIZES.items():
    for _kind in _kinds:
        _storage = type(_kind, (Storage,), {"itemsize": _size})
        TORCH |= {f"torch.{_kind}Storage": _storage, f"torch.cuda.{_kind}Storage": _storage}

KARRAS: Names = {
    "tfutil.Network": Network,
    "dnnlib.tflib.network.Network": Network,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": Encoded,
    "numpy.ndarray": StandIn,
    "numpy.dtype": Dtype,
}
_OF_NUMPY = {"multiarray._reconstruct": Array, "multiarray.scalar": Scalar, "numeric._frombuffer": Buffer}
KARRAS |= {f"{core}.{name}": kind for core in ("numpy.core", "numpy._core") for name, kind in _OF_NUMPY.items()}


class Stream:
    """A file for the unpickler, which never gives more than there is, nor one item that is too large."""

    def __init__(self, view: mmap.mmap | memoryview | bytes, position: int = 0):
        self.view, self.position = view, position

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        if size > LARGEST_ITEM:
            raise UsageError(f"is damaged, or holds one item of {size // 2**20} MiB, where a network's are smaller")
        data = bytes(self.view[self.position : self.position + size])
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        """The next line: a name, and therefore short."""
        line, newline, _ = bytes(self.view[self.position : self.position + 1000]).partition(b"\n")
        if not newline:
            raise UsageError("is damaged: a name has no end")
        self.position += len(line) + 1
        return line + newline


class Unpickler(pickle._Unpickler):
    """Reads one pickle, knowing only the given names. The one in Python, because its instructions can be replaced."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: Stream, names: Names):
        super().__init__(stream, fix_imports=False, encoding="utf-8")
        self.names, self.left = names, INSTRUCTIONS
        self.storages: dict[str, int] = {}  # bytes of each, by its key

    def find_class(self, module: str, name: str) -> type[StandIn]:
        """The stand-in for a name."""
        wanted = f"{module}.{name}"
        if wanted not in self.names:
            known = {"posix": "os", "nt": "os", "__builtin__": "builtins"}.get(module)  # what a pickle calls them
            also = f" ({known}.{name})" if known else ""
            raise UsageError(
                f"is refused: it wants to run {short(wanted)}{short(also)}, and a checkpoint needs no code"
            )
        return self.names[wanted]

    def persistent_load(self, found: Any) -> Storage:
        """Note a storage of PyTorch, whose numbers lie elsewhere in the file."""
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            raise UsageError("is refused: it holds a whole pickled network with its code, not only weights")
        kind, key, _, numel = found[1:5]
        if not (isinstance(kind, type) and issubclass(kind, Storage) and type(key) is str and type(numel) is int):
            raise UsageError("is damaged: a storage has no name or size")
        storage = kind()
        storage.numel = numel
        self.storages[key] = max(self.storages.get(key, 0), numel * kind.itemsize)
        return storage

    # The instructions that differ from Python's own.

    def _call(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        if not (isinstance(called, type) and issubclass(called, StandIn)):
            raise UsageError("is refused: it wants to call something that is no part of a checkpoint")
        self.append(called(*args))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, StandIn):
            raise UsageError("is refused: it wants to set the state of something that is no part of a checkpoint")
        target.state = state

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, bytes):  # a tuple of tuples of ... takes forever to hash
                raise UsageError("is damaged: a dictionary has a key that is no name")
            target[key] = value

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_many(self) -> None:
        self._set(self.pop_mark())

    def _bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))  # and not first an array of that size


PYTHON = """PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1
TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID"""
OURS = {
    "REDUCE": Unpickler._call,
    "NEWOBJ": Unpickler._call,
    "BUILD": Unpickler._build,
    "SETITEM": Unpickler._set_one,
    "SETITEMS": Unpickler._set_many,
    "BYTEARRAY8": Unpickler._bytearray,
}
CODES = {instruction.name: ord(instruction.code) for instruction in pickletools.opcodes}
KNOWN = OURS | {name: pickle._Unpickler.dispatch[CODES[name]] for name in PYTHON.split()}


class Instructions(dict[int, Callable[[Any], None]]):
    """The instructions that are known; any other one is refused."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        name = next((name for name, known in CODES.items() if known == code), f"number {code}")
        raise UsageError(f"is refused: its pickle has the instruction {name}, which no checkpoint needs")


def _counted(instruction: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(unpickler: Unpickler) -> None:
        unpickler.left -= 1
        if unpickler.left < 0:
            raise UsageError(f"is refused: its pickle has more than {INSTRUCTIONS:,} instructions")
        instruction(unpickler)

    return run


Unpickler.dispatch = Instructions({CODES[name]: _counted(instruction) for name, instruction in KNOWN.items()})

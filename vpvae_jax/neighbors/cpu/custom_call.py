"""Numpy functions as custom calls of compiled programs, by the C interface of XLA, which ctypes speaks.

JAX's callbacks refer to a Python object of the process that compiled the program, so JAX does not store such a program
in its persistent compilation cache: it compiles anew at every start. A custom call is found by its name.

Source: `xla/ffi/api/c_api.h`, which jaxlib brings (`jax.ffi.include_dir()`). Fields are only added at the end of its
structures within a major version; those below were there in its first, 0.1.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import jax
import numpy as np

_VERSION = (0, 1)
_METADATA = 1  # type of extension
_EXECUTE = 3  # stage
_INTERNAL = 13  # code of an error
_DTYPES = {4: np.dtype(np.int32), 11: np.dtype(np.float32)}
_HEAD: list[Any] = [("struct_size", c_size_t), ("extension", c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("next", c_void_p), ("metadata", POINTER(_Metadata))]


class _Buffer(ctypes.Structure):
    _fields_ = [*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64))]


class _Buffers(ctypes.Structure):
    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("buffers", POINTER(POINTER(_Buffer)))]


class _NewError(ctypes.Structure):
    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


class _Api(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", ctypes.CFUNCTYPE(c_void_p, POINTER(_NewError))),
    ]


class _CallFrame(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    ]


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))
_handlers: list[ctypes._FuncPointer] = []  # XLA keeps their addresses


def register(name: str, function: Callable[..., Iterable[np.ndarray | float]]) -> None:
    """Make a numpy function callable by name from programs for CPUs, with `jax.ffi.ffi_call`.

    Args:
        name: as compiled programs know it, in this process and in those that load a stored program.
        function: takes and returns float32 and int32 arrays; what it returns is broadcast to the results. It sees
            arguments in place and must not keep them. An exception becomes an error of the program.
    """

    def run(pointer) -> int | None:
        frame = pointer.contents
        if frame.extension:
            extension = ctypes.cast(frame.extension, POINTER(_MetadataExtension)).contents
            if extension.type == _METADATA:
                version = extension.metadata.contents.version
                version.major, version.minor = _VERSION
                return None
        if frame.stage != _EXECUTE:
            return None
        try:
            arguments = _arrays(frame.arguments)
            for array in arguments:
                array.flags.writeable = False
            for result, values in zip(_arrays(frame.results), function(*arguments), strict=True):
                result[...] = values
        except BaseException as error:  # nothing may pass through XLA's frames
            message = f"{name}: {type(error).__name__}: {error}".encode()
            new_error = _NewError(ctypes.sizeof(_NewError), None, message, _INTERNAL)
            return frame.api.contents.create_error(new_error)
        return None

    handler = _Handler(run)
    _handlers.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.cast(handler, c_void_p)), platform="cpu")


def _arrays(buffers: _Buffers) -> list[np.ndarray]:
    """The buffers as arrays, in place."""
    return [_array(buffers.buffers[i].contents) for i in range(buffers.size)]


def _array(buffer: _Buffer) -> np.ndarray:
    if buffer.dtype not in _DTYPES:
        raise TypeError(f"arrays of XLA's type {buffer.dtype}: expected float32 or int32")
    shape, dtype = tuple(buffer.dims[: buffer.rank]), _DTYPES[buffer.dtype]
    if not math.prod(shape):
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(buffer.data)
    return np.frombuffer(memory, dtype).reshape(shape)

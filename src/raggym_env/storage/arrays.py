"""NumPy's array files, opened without trust: a header cannot promise more than the file holds."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from raggym_env.storage.parsing import ParseError, open_file

__all__ = ["open_array"]

# The header that NumPy writes for an array of numbers in C order. Any other is refused: NumPy's own reader evaluates
# headers as Python literals, and knows types, orders and versions that no file of this library has.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<type>[<>|][a-z][0-9]{1,2})', 'fortran_order': False, 'shape': \((?P<shape>[0-9, ]*)\), \} *\n",
    re.DOTALL,
)


def open_array(path: Path, *dtypes: DTypeLike, ndim: int = 1, mapped: bool = True) -> NDArray[Any]:
    """Return the array of a `.npy` file.

    Args:
        path: The file.
        *dtypes: The types it may have.
        ndim: Its number of dimensions.
        mapped: Map the file, read-only, instead of reading it.

    Raises:
        OSError: The file cannot be read.
        ParseError: It is not such an array, or is shorter or longer than its header says. A mapped file that is too
            short would otherwise end the process by a signal.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _HEADER.match(file.read(4096))
        if header is None:
            raise ParseError(f"{path.name} has no header of an array of numbers")
        names = {np.dtype(dtype).str: np.dtype(dtype) for dtype in dtypes}
        dtype = names.get(header["type"].decode())
        shape = tuple(map(int, re.findall(rb"[0-9]+", header["shape"])))
        if dtype is None or len(shape) != ndim:
            kind = f"{header['type'].decode()} with {len(shape)} dimensions"
            raise ParseError(f"{path.name} holds {kind}, not {' or '.join(names)} with {ndim}")
        start, count = header.end(), math.prod(shape)
        if int.from_bytes(header["length"], "little") != start - 10 or start + count * dtype.itemsize != size:
            raise ParseError(
                f"{path.name} has {size:,} bytes, not the {start + count * dtype.itemsize:,} of its header"
            )
        if mapped and count:  # an empty mapping is not possible
            return np.memmap(file, dtype, "r", start, shape)
        file.seek(start)
        return np.fromfile(file, dtype, count).reshape(shape)

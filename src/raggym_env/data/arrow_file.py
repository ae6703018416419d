"""The checks that Arrow leaves to its callers, on a file of record batches from somebody else.

Arrow verifies the structure of a file's metadata. It does not verify that offsets stay within their buffers, so that
reading a text could read other memory or end the process, and it decompresses a batch of a few bytes to gigabytes.
The files of this library are never compressed.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from raggym_env.storage.parsing import ParseError

__all__ = ["check_columns", "require_uncompressed"]

# Positions of fields in the tables of Arrow's flatbuffers, see Message.fbs and File.fbs of the Arrow format.
_DICTIONARIES, _BATCHES = 2, 3  # of Footer
_HEADER = 2  # of Message
_COMPRESSION = 3  # of RecordBatch
_BLOCK = 24  # bytes: offset, length of the metadata, length of the body


def require_uncompressed(file: memoryview, number: int) -> None:
    """Check that a batch is not compressed, from a few bytes of metadata.

    Args:
        file: The bytes of a file that Arrow has opened, and whose metadata it has verified.
        number: Number of the batch.

    Raises:
        ParseError: It is compressed, or the file has dictionaries, which may be.
    """
    try:
        # The file ends in its footer, the footer's length, and six bytes of magic.
        end = len(file) - 10
        footer = file[end - struct.unpack_from("<i", file, end)[0] : end]
        dictionaries, batches = (_field(footer, _target(footer, 0), index) for index in (_DICTIONARIES, _BATCHES))
        # A vector is its length, then its items.
        if batches is None or (dictionaries and struct.unpack_from("<I", footer, _target(footer, dictionaries))[0]):
            raise ParseError("it has dictionaries, or no batches")
        marker, start = b"\xff" * 4, struct.unpack_from("<q", footer, _target(footer, batches) + 4 + number * _BLOCK)[0]
        message = file[start + 8 :]  # after the marker and the message's length
        header = _field(message, _target(message, 0), _HEADER)
        if file[start : start + 4] != marker or header is None:
            raise ParseError(f"batch {number} is of an old version of Arrow")
        if _field(message, _target(message, header), _COMPRESSION) is not None:
            raise ParseError(f"batch {number} is compressed")
    except struct.error as error:
        raise ParseError(f"its metadata is damaged ({error})") from error


def _target(table: memoryview, position: int) -> int:
    """Follow the reference at a position of a flatbuffer."""
    return position + int(struct.unpack_from("<I", table, position)[0])


def _field(buffer: memoryview, table: int, index: int) -> int | None:
    """Return the position of a field of a flatbuffer's table; None if the table does not have it."""
    positions = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", buffer, positions)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, positions + 4 + 2 * index)[0]
    return table + offset if offset else None


def check_columns(batch: Any, rows: int) -> list[Any]:
    """Return the columns of a batch of `large_string` columns, after checking that no offset leaves its buffer.

    Texts need not be UTF-8: Python checks that where it decodes one.

    Raises:
        ParseError: An offset is out of range or order, a value is missing, or there are not `rows` rows.
    """
    if batch.num_rows != rows:
        raise ParseError(f"a batch has {batch.num_rows:,} rows, not {rows:,}")
    for column in batch.columns:
        _, offsets, texts = column.buffers()
        if column.offset or column.null_count or offsets is None or offsets.size < 8 * (rows + 1):
            raise ParseError("a column has missing values, or offsets that do not fit its rows")
        bounds = np.frombuffer(offsets, "<i8", rows + 1)
        if bounds[0] < 0 or bounds[-1] > (texts.size if texts else 0) or (bounds[1:] < bounds[:-1]).any():
            raise ParseError("an offset of a text is out of range or order")
    return list(batch.columns)

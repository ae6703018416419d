"""The one reader of JSON and TOML. What it returns is safe to compute with, to print and to write again.

Files and replies come from strangers, and a parser's own exceptions are not enough: a deeply nested text ends in a
`RecursionError`, a number of 400 digits in an `OverflowError` where it is used, half of a surrogate pair in a
`UnicodeEncodeError` where it is written. All of them are one `ParseError` here, or are mended.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "MAX_BYTES",
    "MAX_INT",
    "ParseError",
    "check_value",
    "json_decoder",
    "open_file",
    "parse_json",
    "parse_toml",
    "read_file",
]

MAX_BYTES = 64 << 20
"""Default limit on the size of one document, in bytes. Data sets are read record by record instead."""

# Far more than any format of this field needs, and far less than recursive functions over the value can take.
_MAX_DEPTH = 64

MAX_INT = 1 << 64
"""Whole numbers are smaller than this, and greater than its negative."""

# Only a text with one of these can hold a value that needs mending: a long integer, a large exponent, or an escaped
# surrogate. Nearly no text does. Finding them after a translation of bytes is six times faster than one pattern.
_CLASSES = bytes.maketrans(b"123456789E", b"000000000e")
_SUSPECT = (b"0" * 19, b"e000", b"\\ud", b"\\uD")


class ParseError(ValueError):
    """A text is not JSON or TOML, or holds what no file of this library holds. The message is one line."""


def _refuse_constant(name: str) -> NoReturn:
    raise ParseError(f"{name} is not a JSON value")


def json_decoder() -> json.JSONDecoder:
    """Return a decoder for texts that hold more than one value. Its values still have to pass `check_value`.

    It raises `json.JSONDecodeError`, `ParseError` for NaN and Infinity, which Python accepts by default but which are
    not JSON, `ValueError` for an integer of thousands of digits, and `RecursionError`.
    """
    return json.JSONDecoder(parse_constant=_refuse_constant)


_DECODER = json_decoder()
# For replies of servers, in which a count or a log-probability that is no number must not cost the text beside it.
_FORGIVING = json.JSONDecoder(
    parse_constant=lambda _: None,
    parse_int=lambda digits: int(digits) if len(digits) < 20 else None,
    parse_float=lambda digits: number if math.isfinite(number := float(digits)) else None,
)


def parse_json(text: str | bytes, *, max_bytes: int = MAX_BYTES, forgive_numbers: bool = False) -> Any:
    """Return the value of a JSON text. Half of a surrogate pair becomes U+FFFD; two halves are joined.

    >>> parse_json('{"k": 10}')
    {'k': 10}

    Args:
        text: The text, or its bytes in UTF-8, with or without a byte order mark.
        max_bytes: Maximum length of `text`, in its own units.
        forgive_numbers: Whether NaN, Infinity and numbers beyond 64 bits become None instead of an error.

    Raises:
        ParseError: The text is not JSON, too long, nested too deeply, or has a number beyond 64 bits.
    """
    return _parse(text, "JSON", (_FORGIVING if forgive_numbers else _DECODER).decode, max_bytes)


def parse_toml(text: str | bytes, *, max_bytes: int = 1 << 20) -> dict[str, Any]:
    """Return the table of a TOML text. Arguments and errors as for `parse_json`; `inf` and `nan` are refused too."""
    # The depth is checked again, since dotted keys nest tables without a bracket.
    table: dict[str, Any] = _parse(text, "TOML", lambda content: _checked_depth(tomllib.loads(content)), max_bytes)
    # TOML has constants where JSON has none, so that no pattern finds all of its infinite numbers.
    return _mended(table)  # type: ignore[no-any-return]


def _parse(text: str | bytes, form: str, parser: Callable[[str], Any], max_bytes: int) -> Any:
    if len(text) > max_bytes:
        raise ParseError(f"not readable: {len(text):,} bytes, the limit is {max_bytes:,}")
    try:
        if isinstance(text, bytes):
            text = text.removeprefix(b"\xef\xbb\xbf").decode()  # "utf-8-sig" takes ten times as long
        value = parser(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise ParseError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError:
        # Without the cause: its traceback has a thousand entries.
        raise ParseError(f"not readable {form}: nested more than {_MAX_DEPTH} deep") from None
    except ParseError:
        raise
    except ValueError as error:
        raise ParseError(f"not {form}: {str(error).splitlines()[0]}") from error
    return check_value(value, text)


def check_value(value: Any, text: str) -> Any:
    """Return a decoded value, with surrogates mended.

    Args:
        value: The value that a JSON decoder returned.
        text: The text it was decoded from; more text around it does no harm.

    Raises:
        ParseError: The value is nested too deeply, or has a number beyond 64 bits.
    """
    # A text with few brackets cannot be nested deeply.
    if text.count("[") + text.count("{") > _MAX_DEPTH:
        _checked_depth(value)
    return _mended(value) if _is_suspect(text) else value


def _checked_depth(value: Any) -> Any:
    level, depth = [value] if type(value) in _NESTING else [], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ParseError(f"nested more than {_MAX_DEPTH} deep")
        rows = [outer.values() if type(outer) is dict else outer for outer in level]
        level = [inner for row in rows for inner in row if type(inner) in _NESTING]
    return value


_NESTING = frozenset({dict, list})


def _is_suspect(text: str) -> bool:
    try:
        marks = text.encode().translate(_CLASSES, delete=b"+")
    except UnicodeEncodeError:
        return True  # half of a surrogate pair, not escaped
    return any(mark in marks for mark in _SUSPECT)


def _mended(value: Any) -> Any:
    """Return a copy without surrogates; raise `ParseError` for a number beyond 64 bits."""
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if (isinstance(value, int) and abs(value) >= MAX_INT) or (isinstance(value, float) and not math.isfinite(value)):
        raise ParseError("a number is beyond 64 bits, infinite or not a number")
    return value


def open_file(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """Open a regular file to read its bytes, whatever its size.

    Args:
        path: The file. A pipe or a device is refused, since reading it may never end.
        follow_links: Whether the last part of the path may be a symbolic link. False for files in a folder from
            somebody else, whose links may lead anywhere.

    Raises:
        OSError: The file cannot be opened, e.g. `FileNotFoundError`.
        ParseError: It is not a regular file, or a link that is not followed.
    """
    if not follow_links and path.is_symlink():
        raise ParseError("a symbolic link, which is not followed")
    # O_NONBLOCK: opening a pipe without a writer would wait for one. Windows has none of these but O_BINARY.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if follow_links else flags | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ParseError("not a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, *, max_bytes: int = MAX_BYTES, follow_links: bool = True) -> bytes:
    """Return the bytes of a regular file. `follow_links` and errors as for `open_file`.

    Raises:
        ParseError: It is larger than `max_bytes`, too.
    """
    with open_file(path, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ParseError(f"{size:,} bytes, the limit is {max_bytes:,}")
        return file.read(size)  # not `max_bytes`, which would be allocated first

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raggym_env.storage.arrays import open_array
from raggym_env.storage.parsing import ParseError

DTYPES = (np.float32, np.float16, np.int32, np.int64)


@given(array=st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=3))))
def test_an_array_that_numpy_saved_is_read_as_numpy_reads_it(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("array") / "a.npy"
    np.save(path, array)
    for mapped in (True, False):
        opened = open_array(path, *DTYPES, ndim=array.ndim, mapped=mapped)
        assert opened.dtype == array.dtype
        assert opened.tobytes() == array.tobytes()
        assert isinstance(opened, np.memmap) == mapped


def test_an_array_without_numbers_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 3), np.float32))
    assert open_array(tmp_path / "a.npy", np.float32, ndim=2).shape == (0, 3)


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"


def stored(header: bytes, size: int = 12, version: bytes = b"\x01\x00") -> bytes:
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + bytes(size)


def test_the_header_that_the_next_test_changes_is_good(tmp_path):
    (tmp_path / "a.npy").write_bytes(stored(GOOD))
    assert open_array(tmp_path / "a.npy", np.float32).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        stored(GOOD, 11),
        stored(GOOD, 13),
        stored(GOOD, 0),
        stored(GOOD, version=b"\x02\x00"),
        stored(GOOD.replace(b"3,", b"4,")),
        stored(GOOD.replace(b"3,", b"-3,")),
        stored(GOOD.replace(b"3,", b"9" * 30 + b",")),
        stored(GOOD.replace(b"3,", b"4294967296, 4294967296, 3")),
        stored(GOOD.replace(b"3,", b"3, 1")),
        stored(GOOD.replace(b"3,", b"")),
        stored(GOOD.replace(b"<f4", b"|O")),
        stored(GOOD.replace(b"<f4", b">f4")),
        stored(GOOD.replace(b"<f4", b"<f8")),
        stored(GOOD.replace(b"<f4", b"<M8")),
        stored(GOOD.replace(b"False", b"True")),
        stored(GOOD.replace(b"False", b"(" * 50)),
        stored(b"__import__('os').abort()"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
    ],
)
def test_a_header_that_promises_what_the_file_does_not_hold_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    for mapped in (True, False):
        with pytest.raises(ParseError, match=r"a\.npy"):
            open_array(tmp_path / "a.npy", np.float32, mapped=mapped)


def test_a_pipe_or_folder_in_place_of_an_array_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ParseError, match="not a regular file"):
            open_array(path, np.float32)
    with pytest.raises(FileNotFoundError):
        open_array(tmp_path / "missing", np.float32)

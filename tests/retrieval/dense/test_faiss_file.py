from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import OptionError, RetrievalError
from raggym_env.retrieval.dense.faiss_file import check_faiss_file
from raggym_env.retrieval.dense.faiss_index import FaissIndex, IndexOptions, MappedVectors, build_index
from raggym_env.storage.parsing import ParseError

pytest.importorskip("faiss")

DIMENSION = 8
RNG = np.random.default_rng(0)


def split(code: str) -> tuple[np.dtype, str]:
    """The precision of the vectors, and how the index quantizes them."""
    return (np.dtype("float32"), code) if code in ("int8", "pq") else (np.dtype(code), "none")


def check(file: Path, kind: str, code: str, rows: int, dimension: int = 0) -> None:
    dtype, quantization = split(code)
    check_faiss_file(file, kind, dtype, rows, dimension, quantization)


def built(folder: Path, kind: str, code: str, rows: int = 120, *, m: int = 4, spread: bool = True):
    """The vectors and the file of an index over them."""
    dtype, quantization = split(code)
    vectors = RNG.standard_normal((rows, DIMENSION)).astype(dtype)
    if not spread:
        vectors[:] = vectors[0]
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{0:010d}-{rows:010d}.npy", vectors)
    stored, options = (
        MappedVectors.load(folder),
        IndexOptions(index=kind, m=m, nlist=min(rows, 9), quantization=quantization, pq_bytes=4),
    )
    build_index(stored, options, folder / "index.faiss")
    return stored, folder / "index.faiss"


CODES = [*((kind, code) for kind in ("hnsw", "ivf") for code in ("float32", "float16", "int8")), ("ivf", "pq")]
INDEXES = pytest.mark.parametrize(("kind", "code"), CODES)


def rows_of(code: str) -> int:
    return 300 if code == "pq" else 120  # product quantization needs 256


@INDEXES
@pytest.mark.parametrize("rows", [1, 2, 9, 120, 3000])
@pytest.mark.parametrize("spread", [True, False])
def test_every_index_that_faiss_writes_passes(tmp_path, kind, code, rows, spread):
    if code == "pq" and rows < 256:
        with pytest.raises(OptionError, match="256"):
            built(tmp_path, kind, code, rows)
        return
    _, file = built(tmp_path, kind, code, rows, m=2, spread=spread)
    check(file, kind, code, rows, DIMENSION)
    check(file, kind, code, rows)


@INDEXES
def test_an_index_of_another_kind_precision_or_size_is_refused(tmp_path, kind, code):
    rows = rows_of(code)
    stored, file = built(tmp_path, kind, code, rows)
    other = {"hnsw": "ivf", "ivf": "hnsw"}[kind]
    wrong = [(each, rows, 8) for each in [*CODES, (other, code)] if each != (kind, code)]
    for (wrong_kind, wrong_code), *size in [*wrong, ((kind, code), rows + 1, 8), ((kind, code), rows, 9)]:
        with pytest.raises(ParseError):
            check(file, wrong_kind, wrong_code, *size)
    with pytest.raises(RetrievalError, match="Delete its folder"):
        FaissIndex(file, IndexOptions(index=other), stored)


@INDEXES
def test_an_index_cut_anywhere_or_longer_is_refused(tmp_path, kind, code):
    rows = 256 if code == "pq" else 20
    _, file = built(tmp_path, kind, code, rows)
    content = file.read_bytes()
    for end in (*range(0, 200), *range(200, len(content), 37)):
        file.write_bytes(content[:end])
        with pytest.raises(ParseError):
            check(file, kind, code, rows, DIMENSION)
    file.write_bytes(content + bytes(8))
    with pytest.raises(ParseError, match="its length"):
        check(file, kind, code, rows, DIMENSION)


EXTREMES = st.sampled_from([-1, 0, 1, 119, 120, 299, 300, 2**20, 2**31 - 1, -(2**31), 2**62])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {(kind, code): built(tmp_path_factory.mktemp(kind), kind, code, rows_of(code)) for kind, code in CODES}


@INDEXES
@given(data=st.data())
def test_numbers_replaced_anywhere_give_hits_in_range_or_one_clear_error(folders, kind, code, data):
    # In the same process: a search that leaves its arrays would end the tests.
    stored, good = folders[kind, code]
    file = good.with_name("changed")
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, data.draw(st.sampled_from([300, len(content) - 8]))))
        form, largest = data.draw(st.sampled_from([("<i", 2**31 - 1), ("<q", 2**62)]))
        struct.pack_into(form, content, start, min(data.draw(EXTREMES), largest))
    file.write_bytes(content)
    queries = RNG.standard_normal((3, DIMENSION)).astype(np.float32)
    try:
        options = IndexOptions(index=kind, ef_search=500, nprobe=9, quantization=split(code)[1])
        index = FaissIndex(file, options, stored)
    except RetrievalError:
        return
    for k in (1, 120, 500):
        _, positions = index.search(queries, k)
        assert positions.min() >= -1
        assert positions.max() < len(stored)


def test_a_link_on_an_upper_level_to_a_vector_below_it_is_refused(tmp_path):
    # FAISS would read the links of that vector's neighbor in memory, or beyond the last.
    _, file = built(tmp_path, "hnsw", "float32", 120, m=2)
    content = file.read_bytes()
    import faiss

    opened = faiss.read_index(str(file))  # kept, since what follows is a view of it
    graph = opened.hnsw
    heights = faiss.vector_to_array(graph.levels)
    starts = faiss.vector_to_array(graph.offsets).astype(int)
    links = faiss.vector_to_array(graph.neighbors)
    high = int(np.flatnonzero(heights > 1)[0])
    low = int(np.flatnonzero(heights == 1)[-1])
    place = content.index(links.tobytes()) + 4 * (starts[high] + graph.cum_nb_neighbors(1))
    file.write_bytes(content[:place] + struct.pack("<i", low) + content[place + 4 :])
    with pytest.raises(ParseError, match="a link"):
        check_faiss_file(file, "hnsw", np.dtype("float32"), 120, DIMENSION)

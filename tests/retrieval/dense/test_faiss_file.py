from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import RetrievalError
from raggym_env.retrieval.dense.faiss_file import check_faiss_file
from raggym_env.retrieval.dense.faiss_index import FaissIndex, IndexOptions, MappedVectors, build_index
from raggym_env.storage.parsing import ParseError

pytest.importorskip("faiss")

DIMENSION = 8
RNG = np.random.default_rng(0)


def built(folder: Path, kind: str, dtype: str, rows: int = 120, *, m: int = 4, spread: bool = True):
    """The vectors and the file of an index over them."""
    vectors = RNG.standard_normal((rows, DIMENSION)).astype(dtype)
    if not spread:
        vectors[:] = vectors[0]
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{0:010d}-{rows:010d}.npy", vectors)
    stored, options = MappedVectors.load(folder), IndexOptions(index=kind, m=m, nlist=min(rows, 9))
    build_index(stored, options, folder / "index.faiss")
    return stored, folder / "index.faiss"


INDEXES = pytest.mark.parametrize(("kind", "dtype"), [(k, d) for k in ("hnsw", "ivf") for d in ("float32", "float16")])


@INDEXES
@pytest.mark.parametrize("rows", [1, 2, 9, 120, 3000])
@pytest.mark.parametrize("spread", [True, False])
def test_every_index_that_faiss_writes_passes(tmp_path, kind, dtype, rows, spread):
    _, file = built(tmp_path, kind, dtype, rows, m=2, spread=spread)
    check_faiss_file(file, kind, np.dtype(dtype), rows, DIMENSION)
    check_faiss_file(file, kind, np.dtype(dtype), rows)


@INDEXES
def test_an_index_of_another_kind_precision_or_size_is_refused(tmp_path, kind, dtype):
    stored, file = built(tmp_path, kind, dtype)
    others = {"hnsw": "ivf", "ivf": "hnsw", "float32": "float16", "float16": "float32"}
    for wrong in (
        (others[kind], dtype, 120, 8), (kind, others[dtype], 120, 8), (kind, dtype, 121, 8), (kind, dtype, 120, 9),
    ):  # fmt: skip
        with pytest.raises(ParseError):
            check_faiss_file(file, wrong[0], np.dtype(wrong[1]), *wrong[2:])
    with pytest.raises(RetrievalError, match="Delete its folder"):
        FaissIndex(file, IndexOptions(index=others[kind]), stored)


@INDEXES
def test_an_index_cut_anywhere_or_longer_is_refused(tmp_path, kind, dtype):
    _, file = built(tmp_path, kind, dtype, 20)
    content = file.read_bytes()
    for end in (*range(0, 200), *range(200, len(content), 37)):
        file.write_bytes(content[:end])
        with pytest.raises(ParseError):
            check_faiss_file(file, kind, np.dtype(dtype), 20, DIMENSION)
    file.write_bytes(content + bytes(8))
    with pytest.raises(ParseError, match="its length"):
        check_faiss_file(file, kind, np.dtype(dtype), 20, DIMENSION)


EXTREMES = st.sampled_from([-1, 0, 1, 119, 120, 2**20, 2**31 - 1, -(2**31), 2**62])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {(kind, dtype): built(tmp_path_factory.mktemp(kind), kind, dtype) for kind, dtype in INDEXES.args[1]}


@INDEXES
@given(data=st.data())
def test_numbers_replaced_anywhere_give_hits_in_range_or_one_clear_error(folders, kind, dtype, data):
    # In the same process: a search that leaves its arrays would end the tests.
    stored, good = folders[kind, dtype]
    file = good.with_name("changed")
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, data.draw(st.sampled_from([300, len(content) - 8]))))
        form, largest = data.draw(st.sampled_from([("<i", 2**31 - 1), ("<q", 2**62)]))
        struct.pack_into(form, content, start, min(data.draw(EXTREMES), largest))
    file.write_bytes(content)
    queries = RNG.standard_normal((3, DIMENSION)).astype(np.float32)
    try:
        index = FaissIndex(file, IndexOptions(index=kind, ef_search=500, nprobe=9), stored)
    except RetrievalError:
        return
    for k in (1, 120, 500):
        _, positions = index.search(queries, k)
        assert positions.min() >= -1
        assert positions.max() < 120


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

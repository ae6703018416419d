from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raggym_env.errors import OptionError, RetrievalError, UnknownName
from raggym_env.retrieval.dense.faiss_index import FaissIndex, FlatIndex, IndexOptions, MappedVectors, build_index

pytest.importorskip("faiss")

RNG = np.random.default_rng(0)


def vectors(rows: int, dimension: int = 16) -> np.ndarray:
    """Unit vectors around a few centres, as those of texts are."""
    centres = RNG.standard_normal((20, dimension))
    drawn = centres[RNG.integers(0, 20, rows)] + 0.7 * RNG.standard_normal((rows, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def mapped(array: np.ndarray, folder: Path, shard: int = 300) -> MappedVectors:
    folder.mkdir(exist_ok=True)
    for start in range(0, len(array), shard):
        part = array[start : start + shard]
        np.save(folder / f"{start:010d}-{start + len(part):010d}.npy", part)
    return MappedVectors.load(folder)


def recall(positions: np.ndarray, nearest: np.ndarray) -> float:
    return float(np.mean([np.isin(row, hits).mean() for hits, row in zip(positions, nearest, strict=True)]))


DATA = vectors(2000)
QUERIES = vectors(50)
EXACT = np.argsort(-(QUERIES.astype(np.float64) @ DATA.T.astype(np.float64)), axis=1)[:, :10]


def test_vectors_in_files_are_one_long_array(tmp_path):
    stored = mapped(DATA, tmp_path)
    positions = np.array([1999, 0, 299, 300, 301, 300])
    assert (len(stored), stored.dimension) == (2000, 16)
    assert np.array_equal(stored.rows(positions), DATA[positions])
    assert np.array_equal(np.concatenate([block for _, block in stored.blocks()]), DATA)
    assert [start for start, _ in stored.blocks()] == [0, 300, 600, 900, 1200, 1500, 1800]


def test_float32_vectors_are_searched_in_the_mapped_file_without_a_copy(tmp_path):
    stored = mapped(DATA, tmp_path)
    assert all(
        np.shares_memory(block, shard) for (_, block), shard in zip(stored.blocks(), stored._shards, strict=True)
    )
    assert all(isinstance(shard.base, np.memmap) for shard in stored._shards)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_flat_index_finds_exactly_the_nearest(tmp_path, dtype):
    data = DATA.astype(dtype)
    nearest = np.argsort(-(QUERIES.astype(np.float64) @ data.T.astype(np.float64)), axis=1)[:, :10]

    scores, positions = FlatIndex(mapped(data, tmp_path)).search(QUERIES, 10)

    assert np.array_equal(positions, nearest)
    assert scores == pytest.approx(np.take_along_axis(QUERIES @ data.T.astype(np.float32), nearest, axis=1), abs=1e-5)


def test_a_flat_index_returns_positions_of_minus_1_beyond_its_size(tmp_path):
    _, positions = FlatIndex(mapped(DATA[:7], tmp_path, shard=3)).search(QUERIES[:1], 9)
    assert sorted(positions[0, :7]) == list(range(7))
    assert positions[0, 7:].tolist() == [-1, -1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.95), ("ivf", 0.85)])
def test_an_approximate_index_finds_most_of_the_nearest(tmp_path, kind, least, dtype):
    options = IndexOptions(index=kind, nprobe=8)
    stored = mapped(DATA.astype(dtype), tmp_path)
    build_index(stored, options, tmp_path / "index")
    _, positions = FaissIndex(tmp_path / "index", options, stored).search(QUERIES, 10)
    assert recall(positions, EXACT) >= least


def test_an_ivf_index_is_exact_over_all_clusters_and_finds_fewer_in_one(tmp_path):
    stored = mapped(DATA, tmp_path)
    build_index(stored, IndexOptions(index="ivf", nlist=30), tmp_path / "index")
    options = [IndexOptions(index="ivf", nlist=30, nprobe=nprobe) for nprobe in (30, 1)]
    _, everything = FaissIndex(tmp_path / "index", options[0], stored).search(QUERIES, 10)
    _, little = FaissIndex(tmp_path / "index", options[1], stored).search(QUERIES, 200)
    assert recall(everything, EXACT) == 1
    assert (little == -1).any()


def test_float16_halves_an_index(tmp_path):
    sizes = []
    for dtype in ("float32", "float16"):
        build_index(mapped(DATA.astype(dtype), tmp_path / dtype), IndexOptions(index="ivf"), tmp_path / "index")
        sizes.append((tmp_path / "index").stat().st_size)
    assert 0.4 < sizes[1] / sizes[0] < 0.65


@pytest.mark.parametrize(
    ("kind", "quantization", "share", "least"),
    [("hnsw", "int8", 0.6, 0.95), ("ivf", "int8", 0.45, 0.85), ("ivf", "pq", 0.4, 0.8)],
)
def test_a_quantized_index_is_smaller_and_has_the_nearest_among_its_candidates(
    tmp_path, kind, quantization, share, least
):
    data, queries = vectors(2000, 64), vectors(50, 64)
    exact = np.argsort(-(queries @ data.T), axis=1)[:, :10]
    stored, sizes = mapped(data, tmp_path / "vectors"), []
    for each in ("none", quantization):
        options = IndexOptions(index=kind, m=8, nprobe=16, quantization=each)
        build_index(stored, options, tmp_path / "index")
        sizes.append((tmp_path / "index").stat().st_size)

    _, positions = FaissIndex(tmp_path / "index", options, stored).search(queries, 100)

    assert sizes[1] < share * sizes[0]
    assert np.mean([np.isin(row, hits).mean() for hits, row in zip(positions, exact, strict=True)]) > least


def test_a_key_says_how_vectors_are_quantized_and_is_as_before_where_they_are_not():
    int8 = IndexOptions(index="ivf", nlist=5, quantization="int8")
    assert int8.build_key(100) == {"kind": "ivf", "nlist": 5, "quantization": "int8"}
    assert int8.search_key == {"nprobe": 32, "rescored": 100}
    pq = IndexOptions(index="ivf", nlist=5, quantization="pq", pq_bytes=8, rescored=50)
    assert pq.build_key(100) == {"kind": "ivf", "nlist": 5, "quantization": "pq", "pq_bytes": 8}
    assert pq.search_key == {"nprobe": 32, "rescored": 50}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"index": "flat", "quantization": "int8"}, "quantization"),
        ({"index": "hnsw", "quantization": "pq"}, "quantization"),
        ({"index": "ivf", "quantization": "pq", "pq_bytes": 0}, "pq_bytes"),
        ({"index": "ivf", "quantization": "int8", "rescored": 0}, "rescored"),
    ],
)
def test_a_quantization_that_the_index_does_not_have_is_refused(options, name):
    with pytest.raises(OptionError, match=name):
        IndexOptions(**options)


@pytest.mark.parametrize(
    ("rows", "pq_bytes", "message"), [(300, 5, "a divisor of the vectors' 16 dimensions"), (255, 4, "256 passages")]
)
def test_product_quantization_that_does_not_fit_the_vectors_is_refused(tmp_path, rows, pq_bytes, message):
    options = IndexOptions(index="ivf", quantization="pq", pq_bytes=pq_bytes)
    with pytest.raises(OptionError, match=message):
        build_index(mapped(vectors(rows), tmp_path), options, tmp_path / "index")


def test_an_unknown_quantization_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'int8'"):
        IndexOptions(index="ivf", quantization="int-8")


def test_there_are_39_vectors_or_more_in_a_cluster_by_default():
    assert [IndexOptions(index="ivf").clusters(n) for n in (1, 100, 56_327, 21_000_000)] == [1, 2, 949, 18_330]
    with pytest.raises(OptionError, match="nlist must be at most the number of passages, 9"):
        IndexOptions(index="ivf", nlist=10).clusters(9)


def test_a_key_holds_only_the_options_of_its_kind():
    assert IndexOptions(index="flat", m=9, nprobe=9).build_key(100) == {"kind": "flat"}
    hnsw, ivf = IndexOptions(index="hnsw", m=8, ef_search=9), IndexOptions(index="ivf", nlist=5, nprobe=9)
    assert hnsw.build_key(100) == {"kind": "hnsw", "m": 8, "ef_construction": 100}
    assert ivf.build_key(100) == {"kind": "ivf", "nlist": 5}
    assert (hnsw.search_key, ivf.search_key) == ({"ef_search": 9}, {"nprobe": 9})


@pytest.mark.parametrize(
    "option", [{"m": 1}, {"ef_search": 0}, {"nprobe": 2.5}, {"nlist": 0}, {"ef_construction": "9"}]
)
def test_parameters_out_of_range_are_refused_by_name(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        IndexOptions(index="hnsw", **option)


def test_an_unknown_kind_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'hnsw'"):
        IndexOptions(index="hsnw")


def test_unreadable_files_are_one_clear_error(tmp_path):
    (tmp_path / "index").write_bytes(b"no index")
    with pytest.raises(RetrievalError, match="Delete its folder"):
        FaissIndex(tmp_path / "index", IndexOptions(index="hnsw"), mapped(DATA, tmp_path / "vectors"))
    with pytest.raises(RetrievalError, match="Delete this folder"):
        MappedVectors.load(tmp_path)  # holds no vectors
    np.save(tmp_path / "0-1.npy", np.array([{}], dtype=object))
    with pytest.raises(RetrievalError, match="Delete this folder"):
        MappedVectors.load(tmp_path)


SHARD = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"0-2.npy": SHARD},
        {"1-4.npy": SHARD},
        {"0-3.npy": SHARD, "4-7.npy": SHARD},
        {"0-3.npy": SHARD, "2-5.npy": SHARD},
        {"0-3.npy": SHARD, "3-6.npy": SHARD.astype(np.float16)},
        {"0-3.npy": SHARD, "3-6.npy": SHARD[:, :2]},
        {"0-3.npy": SHARD, "x.npy": SHARD},
        {"0-3.npy": SHARD.astype(np.float64)},
        {"0-3.npy": SHARD[0]},
        {"0-3.npy": SHARD[:, :0]},
        {"0-0.npy": SHARD[:0]},
        {"0-3.npy": np.asfortranarray(SHARD)},
    ],
)
def test_files_that_are_not_the_rows_of_one_array_are_refused(tmp_path, files):
    for name, array in files.items():
        np.save(tmp_path / name, array)
    with pytest.raises(RetrievalError, match="Delete this folder"):
        MappedVectors.load(tmp_path)


def test_a_check_finds_vectors_that_are_not_finite(tmp_path):
    mapped(DATA, tmp_path).check()
    broken = DATA.copy()
    broken[1500, 3] = np.nan
    with pytest.raises(RetrievalError, match=r"from 1,500 on, one is not finite"):
        mapped(broken, tmp_path / "other").check()

"""A corpus on disk: passages in one memory-mapped Arrow file, with a manifest beside it.

    <folder>/passages.arrow     record batches of `BATCH_ROWS` rows (the last may be shorter): id, title, text
    <folder>/manifest.json      format version, number of rows, fingerprint, source of the passages, checksums

Opening a corpus reads the manifest and the file's footer only, so it takes as long for 21 million passages as for ten;
the whole file once more if it was copied or changed, see `raggym_env.storage.checksums`. A batch is checked when the
first passage of it is read, so that a corpus from somebody else can be wrong but cannot end the process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

from raggym_env.core import Passage
from raggym_env.data.arrow_file import check_columns, require_uncompressed
from raggym_env.errors import DataError, DataNotFound, MalformedData
from raggym_env.storage.atomic import write_atomic
from raggym_env.storage.checksums import Progress, checksums, file_problems
from raggym_env.storage.parsing import ParseError, parse_json, read_file

__all__ = ["BATCH_ROWS", "FORMAT_VERSION", "Corpus", "write_corpus"]

FORMAT_VERSION = 2
"""Increased whenever a corpus prepared from the same source would differ."""
BATCH_ROWS = 1024
"""Passages per record batch. The first read from a batch fetches all of it, so batches are small (about 0.5 MB)."""
PASSAGES, MANIFEST = "passages.arrow", "manifest.json"
_CURE = "to have it prepared again."


class Corpus(Sequence[Passage]):
    """An immutable sequence of passages that stays on disk.

    Safe to read from several threads. A copy, or a corpus sent to another process, opens the same folder.
    """

    def __init__(self, path: Path) -> None:
        """Open the prepared corpus in the folder `path`. `raggym_env.data.prepare_corpus` makes such folders.

        Raises:
            DataNotFound: The folder has no manifest.
            DataError: The manifest or the passages file is damaged, or of another format version.

        Reading a passage raises `DataError` too if it is in a damaged part of the file.
        """
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        self.fingerprint: str = manifest["fingerprint"]
        """Hash of all ids, titles and texts, in order."""
        self.origin: str = manifest["origin"]
        """Description of the source that the passages were read from."""
        self._rows: int = manifest["rows"]
        self._files = manifest["files"]
        self._lock = threading.Lock()  # Arrow does not promise that its reader is thread-safe
        if problems := file_problems(self.path, self._files):
            raise self._problem("; ".join(problems))
        self._file, self._reader = _open_passages(self.path / PASSAGES, self._rows)
        self._bytes = memoryview(self._file.read_buffer()).cast("B")
        self._batches: list[list[Any] | None] = [None] * self._reader.num_record_batches

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(self._rows))]
        row = operator.index(index)
        if row < 0:
            row += self._rows
        if not 0 <= row < self._rows:
            raise IndexError(f"passage {index} of a corpus of {self._rows}")
        number, row = divmod(row, BATCH_ROWS)
        columns = self._batches[number]
        if columns is None:
            # Kept, as looking a batch up takes longer than reading passages from it. The columns are views of the
            # mapped file, whose pages the system may drop at any time.
            columns = self._batches[number] = self._columns(number)
        ids, titles, texts = columns
        try:
            return Passage(ids[row].as_py(), titles[row].as_py(), texts[row].as_py())
        except UnicodeDecodeError as error:
            raise self._damaged(number, error) from error

    def __iter__(self) -> Iterator[Passage]:
        # One conversion per column of a batch is many times faster than one per value. Nothing is kept: a pass over
        # the corpus leaves no trace in memory.
        for number in range(len(self._batches)):
            try:
                columns = [column.to_pylist() for column in self._columns(number)]
            except UnicodeDecodeError as error:
                raise self._damaged(number, error) from error
            yield from map(Passage, *columns)

    def __repr__(self) -> str:
        return f"Corpus({self._rows:,} passages, {self.path})"

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path]]:
        # Neither the lock nor the mapped file can be copied or pickled.
        return Corpus, (self.path,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file. Passages that were read stay valid; reading from the corpus then raises `DataError`."""
        self._batches = [None] * len(self._batches)
        self._bytes.release()
        self._file.close()

    def check(self, progress: Progress | None = None) -> None:
        """Read the whole corpus and compare it with its checksum, its fingerprint and its number of passages.

        Raises:
            DataError: It is damaged.
        """
        if problems := file_problems(self.path, self._files, full=True, progress=progress):
            raise self._problem("; ".join(problems))
        digest, hashes = hashlib.blake2b(digest_size=16), array("q")
        for passage in self:
            digest.update(_encoded(passage))
            hashes.append(hash(passage.id))
        _require_unique_ids(self.path / PASSAGES, hashes, str(self.path))
        if digest.hexdigest() != self.fingerprint:
            raise self._problem(f"its passages have the fingerprint {digest.hexdigest()}, not {self.fingerprint}")

    def _columns(self, number: int) -> list[Any]:
        if self._file.closed:  # else Arrow's own error would not say which corpus
            raise DataError(f"The corpus at {self.path} was closed.")
        import pyarrow as pa

        rows = min(BATCH_ROWS, self._rows - number * BATCH_ROWS)
        try:
            with self._lock:
                require_uncompressed(self._bytes, number)
                return check_columns(self._reader.get_batch(number), rows)
        except (pa.ArrowException, OSError, ParseError) as error:
            raise self._damaged(number, error) from error

    def _damaged(self, number: int, error: Exception) -> DataError:
        first = number * BATCH_ROWS
        return self._problem(f"passages {first:,} to {min(first + BATCH_ROWS, self._rows) - 1:,}: {error}")

    def _problem(self, problem: str) -> DataError:
        return DataError(f"The corpus at {self.path} is damaged: {problem}. Delete it {_CURE}")


def write_corpus(passages: Iterable[Passage], folder: Path, *, origin: str) -> None:
    """Store passages as a corpus. The manifest is written last.

    Memory: one batch of passages, and 8 bytes per passage to find duplicate ids.

    Args:
        passages: Read once, in order, as a stream.
        folder: An existing, empty folder.
        origin: Description of the source, for messages and the manifest.

    Raises:
        MalformedData: Two passages have the same id, or there is no passage.
    """
    import pyarrow as pa

    digest = hashlib.blake2b(digest_size=16)
    # 21 million ids as Python strings in a set would take 2 GB.
    hashes = array("q")
    stream = iter(passages)
    with pa.OSFile(str(folder / PASSAGES), "wb") as sink, pa.ipc.new_file(sink, _schema()) as writer:
        while batch := list(itertools.islice(stream, BATCH_ROWS)):
            for passage in batch:
                digest.update(_encoded(passage))
                hashes.append(hash(passage.id))
            columns = [pa.array(column, pa.large_string()) for column in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=_schema()))
    if not hashes:
        raise MalformedData(origin, "all records", "there is no passage")
    _require_unique_ids(folder / PASSAGES, hashes, origin)
    # In this order: a power cut after the folder got its final name must not leave an empty file under that name.
    with (folder / PASSAGES).open("rb+") as file:
        os.fsync(file.fileno())
    manifest = {"version": FORMAT_VERSION, "rows": len(hashes), "fingerprint": digest.hexdigest(), "origin": origin}
    manifest["files"] = checksums(folder, [PASSAGES])
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _encoded(passage: Passage) -> bytes:
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    return "{}\0{}\0{}\0{}{}{}".format(*map(len, passage), *passage).encode()


def _schema() -> Any:
    import pyarrow as pa

    # large_string, as the texts of a batch may exceed the 2 GiB that the offsets of `string` can address.
    return pa.schema([pa.field(name, pa.large_string(), nullable=False) for name in ("id", "title", "text")])


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = parse_json(read_file(file))
    except FileNotFoundError as error:
        raise DataNotFound(f"No prepared corpus at {folder}: it has no {MANIFEST}.") from error
    except (OSError, ParseError) as error:
        raise DataError(f"{file} cannot be read ({error}). Delete {folder} {_CURE}") from error
    types = {"version": int, "rows": int, "fingerprint": str, "origin": str}
    # Of these types and not of their subclasses, which `true` would be.
    if not isinstance(manifest, dict) or any(type(manifest.get(key)) is not kind for key, kind in types.items()):
        raise DataError(f"{file} is not a corpus manifest. Delete {folder} {_CURE}")
    if manifest["version"] != FORMAT_VERSION:
        raise DataError(
            f"{folder} has corpus format {manifest['version']}, this version reads {FORMAT_VERSION}. Delete it {_CURE}"
        )
    if not isinstance(manifest.get("files"), dict) or PASSAGES not in manifest["files"]:
        raise DataError(f"{file} has no checksum of {PASSAGES}. Delete {folder} {_CURE}")
    return manifest


def _open_passages(path: Path, rows: int) -> tuple[Any, Any]:
    """Return the mapped file and its reader, after checking its schema and its number of batches."""
    import pyarrow as pa

    try:
        file = pa.memory_map(str(path))
        reader = pa.ipc.open_file(file)
        schema = reader.schema
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be opened ({error}). Delete its folder {_CURE}") from error
    if rows < 1 or schema != _schema() or reader.num_record_batches != -(-rows // BATCH_ROWS):
        raise DataError(f"{path} does not fit its {MANIFEST}. Delete its folder {_CURE}")
    file.seek(0)
    return file, reader


def _require_unique_ids(path: Path, hashes: array[int], origin: str) -> None:
    """Raise `MalformedData` if an id occurs twice: it could not tell search results apart."""
    import numpy as np
    import pyarrow as pa

    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return
    # Different ids may share a hash, so the ids behind repeated hashes are read back and compared themselves.
    seen: set[str] = set()
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(number).column(0).to_pylist() for number in range(reader.num_record_batches))
        for number, identifier in enumerate(itertools.chain.from_iterable(batches), start=1):
            if hash(identifier) in repeated:
                if identifier in seen:
                    raise MalformedData(origin, f"passage {number}", f"id {identifier!r} occurred before")
                seen.add(identifier)

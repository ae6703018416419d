from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raggym_env.core import Passage
from raggym_env.data.corpus import Corpus
from raggym_env.data.prepare import CorpusSource, contexts_source, file_source, prepare_corpus, prepared_corpus
from raggym_env.errors import DataError, DataNotFound, MalformedData

# Prepares a corpus of which every passage takes a while, and logs each start and each passage.
SLOW = """
import sys, time
from pathlib import Path
from raggym_env.core import Passage
from raggym_env.data.prepare import CorpusSource, prepare_corpus

def passages():
    with Path(sys.argv[1]).open("a") as log:
        log.write("start\\n")
        for number in range(int(sys.argv[2])):
            log.write("passage\\n"); log.flush()
            time.sleep(float(sys.argv[3]))
            yield Passage(str(number), "t", "x")

print(len(prepare_corpus(CorpusSource("slow", ("slow",), passages))))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def corpus_file(folder: Path, count: int = 3) -> Path:
    path = folder / "corpus.jsonl"
    rows = [{"id": str(number), "title": f"T{number}", "text": "x"} for number in range(count)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def slow(log: Path, count: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(log), str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_corpus_is_prepared_once_and_then_only_opened(tmp_path):
    path = corpus_file(tmp_path)
    assert prepared_corpus(file_source(path)) is None
    first = prepare_corpus(path)
    reads = []
    again = prepare_corpus(CorpusSource(str(path), file_source(path).identity, lambda: reads.append(1) or ()))
    assert (again.path, again.fingerprint, reads) == (first.path, first.fingerprint, [])


def test_a_changed_file_is_prepared_again(tmp_path):
    first = prepare_corpus(corpus_file(tmp_path, 3))
    second = prepare_corpus(corpus_file(tmp_path, 4))
    assert (len(first), len(second)) == (3, 4)


def test_contexts_are_pooled_from_all_rows_of_the_file(tmp_path):
    path = tmp_path / "q.json"
    rows = [{"context": [["Shared", ["s"]], [f"Own {number}", ["o"]]]} for number in range(3)]
    path.write_text(json.dumps(rows))
    corpus = prepare_corpus(contexts_source(path, "hotpotqa"))
    assert [passage.title for passage in corpus] == ["Shared", "Own 0", "Own 1", "Own 2"]


def test_a_source_that_fails_leaves_nothing_behind(tmp_path, cache):
    path = corpus_file(tmp_path)
    path.write_text(f"{path.read_text()}{{}}\n")
    with pytest.raises(MalformedData, match="line 4"):
        prepare_corpus(path)
    assert [entry.name for entry in (cache / "corpora").iterdir() if entry.is_dir()] == []


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(DataNotFound, match="No file at"):
        prepare_corpus(tmp_path / "none.jsonl")


@pytest.mark.slow
def test_of_several_processes_that_prepare_a_corpus_at_once_only_one_does(tmp_path):
    log = tmp_path / "log"
    processes = [slow(log, 40, 0.01) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["40"] * 3
    assert log.read_text().count("start") == 1


@pytest.mark.slow
def test_a_killed_preparation_is_started_again(tmp_path, cache):
    log = tmp_path / "log"
    with slow(log, 1000, 1) as process:
        while not (log.exists() and "passage" in log.read_text()):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert [path.name.endswith(".partial") for path in (cache / "corpora").iterdir() if path.is_dir()] == [True]

    source = CorpusSource("slow", ("slow",), lambda: [Passage("1", "t", "x")])
    assert prepared_corpus(source) is None
    assert list(prepare_corpus(source)) == [Passage("1", "t", "x")]
    assert [path for path in (cache / "corpora").iterdir() if path.is_dir()] == [source.folder]


def test_the_folder_and_its_manifest_name_the_source(tmp_path):
    corpus = prepare_corpus(corpus_file(tmp_path))
    assert "corpus-jsonl" in corpus.path.name
    assert Corpus(corpus.path).origin == str(tmp_path / "corpus.jsonl")


def test_a_file_replaced_by_another_of_its_size_and_time_is_prepared_again(tmp_path):
    path, new = tmp_path / "corpus.jsonl", tmp_path / "new.jsonl"
    path.write_text('{"id": "1", "title": "Oslo", "text": "a"}\n')
    with prepare_corpus(path) as corpus:
        assert corpus[0].title == "Oslo"
        folder = corpus.path
    before = path.stat()
    new.write_text('{"id": "1", "title": "Rome", "text": "b"}\n')
    new.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert prepared_corpus(file_source(path)) is None
    with prepare_corpus(path) as corpus:
        assert corpus.path == folder
        assert corpus[0] == Passage("1", "Rome", "b")
    assert prepared_corpus(file_source(path)) is not None


def test_a_file_that_only_looks_changed_is_not_prepared_again(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "title": "Oslo", "text": "a"}\n')
    folder = prepare_corpus(path).path
    inode = (folder / "passages.arrow").stat().st_ino
    before = path.stat()
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (prepare_corpus(path).path / "passages.arrow").stat().st_ino == inode


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_source_that_is_not_a_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "corpus.jsonl")
    with pytest.raises(DataError, match=r"corpus\.jsonl is not a regular file"):
        prepare_corpus(tmp_path / "corpus.jsonl")

"""Change every file that the library reads in hundreds of ways, and see that nothing dies.

    python benchmarks/fuzz_files.py                           # 200 changed files of each kind: about 3 minutes
    python benchmarks/fuzz_files.py --mutations 2000 bm25 dense
    python benchmarks/fuzz_files.py --case 17 bm25            # one change again, with its traceback

A file is changed, used as the library uses it, and the outcome noted. Changes are flipped bits, cut, grown, zeroed and
swapped blocks, numbers replaced by others, in text and in binary, other values at a random place of a JSON document,
deep nesting, long texts, gzip bombs, and pipes, folders, devices and links in place of the file. In folders with
checksums most changes are followed by new checksums, as by somebody who wants the change to be read.

Good outcomes are success and the library's own errors. Bad ones are a signal, more than 10 seconds, more than 2 GB of
memory, and any other exception. Each kind has a process of its own, which is started again where it dies. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, MEGABYTES = 10, 2048
HANG = signal.SIGALRM
QUERIES = ["Which river does Town3 lie on?", "Town5", "river", "the", ""]


# ---- changes ----

LARGE = [0, 1, -1, 2, 127, 255, 1000, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63]
VALUES: list[Any] = [
    None, True, False, "", " ", "\0", "\ud800", "\u202e\x1b[31m", "{{ 7 * 7 }}", "../../../etc/passwd", "/dev/zero",
    "http://127.0.0.1:9/", "os:system", [], {}, [[]], {"": None}, 1.5, -0.0, 1e308, float("nan"), float("inf"), *LARGE,
    -(10**400), 10**400, "x" * 3_000_000, ["a"] * 100_000,
]  # fmt: skip


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 20])):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def grow(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice([draw.randbytes(100), bytes(5000), data, b"\n\n", b"\xff"])


def zero_block(data: bytes, draw: random.Random) -> bytes:
    start, size = draw.randrange(len(data) + 1), draw.choice([1, 8, 64, 4096])
    return data[:start] + bytes(len(data[start : start + size])) + data[start + size :]


def swap_blocks(data: bytes, draw: random.Random) -> bytes:
    size = draw.choice([4, 8, 64, 512])
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    if len(blocks) > 1:
        i, j = draw.randrange(len(blocks)), draw.randrange(len(blocks))
        blocks[i], blocks[j] = blocks[j], blocks[i]
    return b"".join(blocks)


def binary_number(data: bytes, draw: random.Random) -> bytes:
    """Replace an aligned number of four or eight bytes, more often one near the beginning."""
    size = draw.choice([4, 8])
    start = draw.randrange(max(1, min(len(data), draw.choice([256, len(data)])) // 4)) * 4 + draw.choice([0, 0, 1])
    value = draw.choice([*LARGE, draw.randrange(2**16)]) if draw.random() < 0.8 else draw.getrandbits(8 * size)
    number = np.float32(draw.choice([np.nan, np.inf, -1.0])).tobytes() if draw.random() < 0.2 else b""
    number = number or (value % 2 ** (8 * size)).to_bytes(size, "little")
    return data[:start] + number + data[start + len(number) :]


def text_number(data: bytes, draw: random.Random) -> bytes:
    """Replace a number that is written in digits, such as a length in the header of an array."""
    numbers = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data[:100_000]))
    if not numbers:
        return data
    number = draw.choice(numbers)
    value = draw.choice([*map(str, LARGE), "1e999", "nan", "-5", "9" * len(number[0]), "0" * len(number[0])])
    return data[: number.start()] + value.encode() + data[number.end() :]


def nest(data: bytes, draw: random.Random) -> bytes:
    depth = draw.choice([100, 5000, 100_000])
    deep = draw.choice([b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
    start = draw.choice([0, draw.randrange(len(data) + 1)])
    return deep if draw.random() < 0.3 else data[:start] + deep + data[start:]


def json_value(data: bytes, draw: random.Random) -> bytes:
    """Replace the value at a random place of a JSON document, or of a line of JSON lines."""
    lines = data.split(b"\n")
    with contextlib.suppress(ValueError):
        return dumped(replaced(json.loads(data), draw))
    number = draw.randrange(len(lines))
    with contextlib.suppress(ValueError):
        lines[number] = dumped(replaced(json.loads(lines[number]), draw))
    return b"\n".join(lines)


def replaced(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        key = draw.choice([*value] if isinstance(value, dict) else range(len(value)))
        if isinstance(value, dict) and draw.random() < 0.1:
            return {other: inner for other, inner in value.items() if other != key}
        value[key] = replaced(value[key], draw)
        return value
    return draw.choice(VALUES)


def dumped(value: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode()
    finally:
        sys.set_int_max_str_digits(limit)


def toml_value(data: bytes, draw: random.Random) -> bytes:
    """Replace the value of a line of TOML."""
    lines = data.split(b"\n")
    places = [number for number, line in enumerate(lines) if re.match(rb"[\w.\"]+ *=", line)]
    if places:
        number = draw.choice(places)
        value = draw.choice(["inf", "nan", "[" * 5000, "'''", "1979-05-27", "{}", *map(dumped, VALUES[:-4])])
        key = lines[number].partition(b"=")[0]
        lines[number] = key + b"= " + (value if isinstance(value, bytes) else value.encode())
    return b"\n".join(lines)


BINARY = [flip_bits, cut, grow, zero_block, swap_blocks, binary_number, binary_number, text_number]
CHANGES: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
    ".json": [json_value, json_value, json_value, text_number, nest, flip_bits, cut, grow],
    ".jsonl": [json_value, json_value, json_value, text_number, nest, flip_bits, cut, grow],
    ".toml": [toml_value, toml_value, toml_value, text_number, nest, flip_bits, cut, grow],
    ".tsv": [text_number, nest, flip_bits, cut, grow, swap_blocks],
}


def other_thing(path: Path, draw: random.Random) -> str:
    """Put something in place of a file that is not a file, or not this one."""
    kind = draw.choice(["missing", "empty", "pipe", "folder", "zero", "null", "itself", "nowhere", "neighbor", "bomb"])
    if kind == "bomb" and path.suffix != ".gz":
        kind = "pipe"
    neighbors = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":
        path.write_bytes(gzip.compress(draw.choice([b" ", b"[", b'"', b"1"]) * 2**24) * 192)
    elif kind == "neighbor" and neighbors:
        path.symlink_to(draw.choice(neighbors))
    elif kind != "missing":
        path.symlink_to({"zero": "/dev/zero", "null": "/dev/null", "itself": path}.get(kind, path.parent / "nowhere"))
    return kind


def change(folder: Path, pattern: str, number: int, *, signed: bool) -> str:
    """Change one of the files of a folder, and return in words how. The same number makes the same change."""
    draw = random.Random(number)
    path = draw.choice(
        sorted(path for path in folder.rglob("*") if path.is_file() and re.fullmatch(pattern, path.name))
    )
    where = path.relative_to(folder)
    if draw.random() < 0.08:
        return f"{where}: {other_thing(path, draw)}"
    data = path.read_bytes()
    packed = path.suffix == ".gz" and draw.random() < 0.7
    suffix = Path(path.stem).suffix if packed else path.suffix
    mutate = draw.choice(CHANGES.get(suffix, BINARY))
    path.write_bytes(gzip.compress(mutate(gzip.decompress(data), draw)) if packed else mutate(data, draw))
    if signed and draw.random() < 0.9:
        sign(folder)
    return f"{where}: {mutate.__name__}"


def sign(folder: Path) -> None:
    """Write the checksums of the present files into every manifest, where it still is one."""
    from raggym_env.storage.checksums import checksums

    for manifest in folder.rglob("manifest.json"):
        with contextlib.suppress(Exception):
            content = json.loads(manifest.read_bytes())
            files = [path for path in manifest.parent.rglob("*") if path.is_file()]
            names = [path.relative_to(manifest.parent).as_posix() for path in files]
            content["files"] = checksums(
                manifest.parent, [n for n in names if n not in ("manifest.json", "source.json")]
            )
            manifest.write_text(json.dumps(content), encoding="utf-8")


# ---- what is changed, and how it is used ----


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    make: Callable[[Path], object]
    """Makes a good example in an existing folder."""
    use: Callable[[Path], object]
    """Uses the folder as the library does."""
    pattern: str
    """The names of the files that are changed, as a regular expression."""
    signed: bool = False
    """Whether manifests with checksums are renewed."""
    limited: bool = True
    """Whether the address space can be limited: Java and torch reserve more than they use."""
    requires: tuple[str, ...] = ()
    """Packages without which the kind is left out."""


CARD = """
title = "Towns"
[dataset]
format = "jsonl"
[[dataset.splits.test]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"
[[dataset.splits.train]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"
[retrieval]
name = "bm25"
k = 3
[retrieval.options]
k1 = 1.2
[episode]
metric = "em"
max_searches = 2
[reward]
process_reward = "mini"
"""
TOWNS = [(f"Town{number}", f"River{number % 7}") for number in range(40)]


def passages() -> list[Any]:
    from raggym_env.core import Passage

    return [
        Passage(str(i), town, f"{town} is a town é. It lies on the {river}.") for i, (town, river) in enumerate(TOWNS)
    ]


def write_lines(path: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))


def question(number: int) -> dict[str, Any]:
    town, river = TOWNS[number]
    asked = f"On which river does {town} lie?"
    context = [[town, [f"{town} is a town.", f" It lies on the {river}."]], [river, ["A river."]]]
    return {"id": f"q{number}", "question": asked, "golden_answers": [river], "supporting_facts": [[town, 1]],
            "context": context, "metadata": {"type": "bridge"}}  # fmt: skip


def make_towns(folder: Path) -> Path:
    """Write a data set with its card."""
    write_lines(folder / "corpus.jsonl", [passage._asdict() for passage in passages()])
    write_lines(folder / "questions.jsonl", [question(number) for number in range(12)])
    for path in folder.glob("*.gz"):
        path.unlink()
    card = folder / "Towns-v0.toml"
    card.write_text(CARD, encoding="utf-8")
    return card


def use_environment(folder: Path) -> None:
    from raggym_env.core import Answer, Search
    from raggym_env.envs import make_env

    env = make_env(folder / "Towns-v0.toml")
    env.reset(seed=0)
    env.step(Search("Town3"))
    env.step(Answer("River3"))
    env.close()


def make_policy(folder: Path) -> None:
    from raggym_env.storage.paths import card_file

    for name in ("re2search", "react", "lexical"):
        shutil.copy(card_file("policies", name), folder)


def use_policy(folder: Path) -> None:
    from raggym_env import policies
    from raggym_env.core import Question, State
    from raggym_env.llm.scripted import ScriptedLLM

    for path in sorted(folder.iterdir()):
        options = {} if path.stem == "lexical" else {"llm": ScriptedLLM(["Reasoning.\n```json\n{}\n```"] * 8)}
        policy = policies.make(path, **options)
        policy.propose([State(Question("1", "Who?"), (), 2)])


def make_questions(folder: Path) -> None:
    rows = [question(number) for number in range(12)]
    official = [
        {**row, "_id": row["id"], "answer": row["golden_answers"][0], "type": "bridge", "level": "hard"} for row in rows
    ]
    text = json.dumps(official)
    (folder / "hotpotqa.json").write_text(text, encoding="utf-8")
    (folder / "hotpotqa.json.gz").write_bytes(gzip.compress(text.encode()))
    triples = [{**row, "evidences": [["a", "b", "c"]], "answer_id": "Q1", "entity_ids": "Q1_Q2"} for row in official]
    (folder / "2wikimultihopqa.json").write_text(json.dumps(triples), encoding="utf-8")
    write_lines(folder / "id_aliases.json", [{"Q_id": "Q1", "aliases": ["x"], "demonyms": []}])
    cells = ["Question\tAnswer\tAnswer 2", *(f"{row['question']}\t{row['answer']}\tx" for row in official)]
    (folder / "bamboogle.tsv").write_text("\n".join(cells), encoding="utf-8")
    (folder / "bamboogle.tsv.gz").write_bytes(gzip.compress("\n".join(cells).encode()))
    options = {
        "options": {"A": "aspirin", "B": "ibuprofen"},
        "answer": "aspirin",
        "answer_idx": "A",
        "meta_info": "step1",
    }
    write_lines(folder / "medqa.jsonl", [{"question": row["question"], **options} for row in rows])
    write_lines(folder / "jsonl.jsonl", rows)


def use_questions(folder: Path) -> None:
    from raggym_env.data.dataset import tasks_fingerprint
    from raggym_env.data.formats import FORMATS, read_contexts, read_tasks
    from raggym_env.errors import RAGGymError

    errors = []
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        if name in FORMATS:
            try:
                tasks_fingerprint(read_tasks(path, name))
                if FORMATS[name].contexts:
                    list(read_contexts(path, name))
            except RAGGymError as error:
                errors.append(error)
    if errors:
        raise errors[0]


def make_corpus_file(folder: Path) -> None:
    write_lines(folder / "corpus.jsonl", [passage._asdict() for passage in passages()])
    write_lines(folder / "contents.jsonl", [{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in passages()])


def use_corpus_file(folder: Path) -> None:
    from raggym_env.data import prepare_corpus

    for path in sorted(folder.iterdir()):
        with prepare_corpus(path) as corpus:
            list(corpus)


def make_corpus(folder: Path) -> None:
    from raggym_env.data import write_corpus

    with patched_batches():
        write_corpus(passages(), folder, origin="towns")


@contextlib.contextmanager
def patched_batches() -> Iterator[None]:
    """Make batches of a corpus small, for a small file to have several."""
    from raggym_env.data import corpus

    rows, corpus.BATCH_ROWS = corpus.BATCH_ROWS, 16
    try:
        yield
    finally:
        corpus.BATCH_ROWS = rows


def use_corpus(folder: Path) -> None:
    from raggym_env.data import Corpus

    with patched_batches(), Corpus(folder) as corpus:
        for row in (0, len(corpus) - 1, len(corpus) // 2, 17):
            corpus[row % len(corpus)]
        list(corpus)


def search_all(retriever: Any) -> None:
    for k in (1, 5, 1000):
        retriever.search(QUERIES, k)
        retriever.search(QUERIES[:1], k)


def use_bm25(folder: Path) -> None:
    from raggym_env.retrieval.bm25.retriever import BM25Retriever

    for backend in ("numpy", "numba"):
        search_all(BM25Retriever(passages(), store=folder, backend=backend))


class Hashes:
    """Stands in for an encoder: a vector is drawn from a text's hash."""

    query_key = passage_key = {"encoder": "hashes"}  # noqa: RUF012

    def __init__(self, *_: Any) -> None:
        pass

    def queries(self, texts: Any) -> Any:
        rows = [np.random.default_rng(list(text.encode()[:50])).standard_normal(16) for text in texts]
        return np.array(rows, np.float32)

    def passages(self) -> Any:
        return lambda batch: self.queries([passage.text for passage in batch])


def use_dense(folder: Path) -> None:
    from raggym_env.retrieval.dense import retriever

    retriever.Encoder = Hashes  # type: ignore[assignment, misc]
    many = [passage._replace(id=f"{copy}-{passage.id}") for copy in range(5) for passage in passages()]
    for options in ({"index": "flat"}, {"index": "hnsw", "m": 4}, {"index": "ivf", "dtype": "float16"}):
        search_all(retriever.DenseRetriever(many, store=folder, shard=64, **options))  # type: ignore[arg-type]


def use_lucene(folder: Path) -> None:
    from raggym_env.retrieval.lucene.retriever import LuceneRetriever

    search_all(LuceneRetriever(passages(), store=folder))
    for index in folder.glob("lucene-*/"):
        search_all(LuceneRetriever(passages(), index=index))


def make_run(folder: Path) -> None:
    from raggym_env.evaluation import evaluate
    from raggym_env.training.process_data.collect import collect

    (folder / "data").mkdir()
    card = make_towns(folder / "data")
    evaluate(card, "lexical", out=folder / "run")
    collect(card, "lexical", critic="mini", n=2, keep="all", out=folder / "collection")
    predictions = [{"id": f"q{number}", "prediction": TOWNS[number][1]} for number in range(12)]
    write_lines(folder / "predictions.jsonl", predictions)
    result = '[[result]]\nenvironment = "Towns-v0"\npolicy = "x"\nsource = "y"\nem = 0.5\n'
    (folder / "results.toml").write_text(result, encoding="utf-8")


def use_run(folder: Path) -> None:
    from raggym_env.evaluation import build_leaderboard, report_page

    os.environ["RAGGYM_DATA"] = str(folder / "data")  # the folder of the card that is recorded is gone
    board = build_leaderboard(
        [folder / "run", folder / "predictions.jsonl"],
        card=folder / "data" / "Towns-v0.toml",
        published=folder / "results.toml",
    )
    board.to_markdown()
    json.dumps(board.to_json())
    report_page(board)


def use_collection(folder: Path) -> None:
    from raggym_env.training.process_data.rows import reward_rows
    from raggym_env.training.process_data.trajectories import Collection

    collection = Collection.read(folder / "collection")
    list(reward_rows(collection.trajectories(kept=False)))
    list(collection.trajectories())
    _ = collection.failed, collection.sha256


def resume_run(folder: Path) -> None:
    from raggym_env.evaluation import evaluate

    evaluate(folder / "data" / "Towns-v0.toml", "lexical", out=folder / "run")


def make_weights(folder: Path) -> None:
    from raggym_env.rewards.mini import WEIGHTS

    shutil.copy(WEIGHTS, folder / "mini.safetensors")


def use_weights(folder: Path) -> None:
    from raggym_env.core import Answer, Question, Search, State
    from raggym_env.rewards.mini import MiniReward

    states = [State(Question("1", "Who wrote Dawn?"), (), 2)]
    MiniReward(folder / "mini.safetensors").score(states, [[Answer("Ada"), Search("Dawn")]])


def use_synth(folder: Path) -> None:
    from raggym_env.data.dataset import tasks_fingerprint
    from raggym_env.data.synth import SynthWorld
    from raggym_env.data.synth.cached_tasks import cached_tasks

    cache, os.environ["RAGGYM_CACHE"] = os.environ["RAGGYM_CACHE"], str(folder)
    try:
        tasks_fingerprint(cached_tasks(SynthWorld(seed=0), "test", 20))
    finally:
        os.environ["RAGGYM_CACHE"] = cache


def make_script(folder: Path) -> None:
    (folder / "list.json").write_text('["a", "b"]', encoding="utf-8")
    (folder / "texts.json").write_text('{"Who": ["a", "b"], "What": "c"}', encoding="utf-8")
    rules = [{"contains": "Who", "reply": "a"}, {"pattern": "Wh.t", "reply": ["b", "c"]}]
    (folder / "rules.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules), encoding="utf-8")


def use_script(folder: Path) -> None:
    from raggym_env.llm.scripted import load
    from raggym_env.protocols import Sampling

    for path in sorted(folder.iterdir()):
        load(path).generate([[{"role": "user", "content": "Who? What?"}]], Sampling())


def make_model(folder: Path) -> None:
    """Write a tiny language model with random weights, and an adapter of it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), max_position_embeddings=128, **sizes))
    fast.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(folder / "adapter")


def use_model(folder: Path) -> None:
    from raggym_env.llm.hf.model import load
    from raggym_env.protocols import Sampling

    model = load(f"{folder / 'model'}+{folder / 'adapter'}")
    model.generate([[{"role": "user", "content": "Who?"}]], Sampling(max_tokens=3))


RUN = r"run\.json|episodes\.jsonl"
KINDS = {
    "environment": Kind(make_towns, use_environment, r".*\.toml"),
    "policy": Kind(make_policy, use_policy, r".*\.toml"),
    "questions": Kind(make_questions, use_questions, ".*"),
    "corpus file": Kind(make_corpus_file, use_corpus_file, ".*"),
    "corpus": Kind(make_corpus, use_corpus, ".*", signed=True),
    "bm25": Kind(use_bm25, use_bm25, r"(?!.*\.lock).*", signed=True),
    "dense": Kind(use_dense, use_dense, r"(?!.*\.lock).*", signed=True, requires=("faiss",)),
    "lucene": Kind(use_lucene, use_lucene, r"(?!.*\.lock).*", signed=True, limited=False, requires=("jnius",)),
    "run": Kind(make_run, use_run, rf"{RUN}|predictions\.jsonl|results\.toml"),
    "resumed run": Kind(make_run, resume_run, RUN),
    "process data": Kind(make_run, use_collection, RUN),
    "mini weights": Kind(make_weights, use_weights, ".*"),
    "synth cache": Kind(use_synth, use_synth, r".*\.jsonl"),
    "script": Kind(make_script, use_script, ".*"),
    "hf model": Kind(make_model, use_model, r".*\.(json|safetensors)", limited=False, requires=("torch", "peft")),
}


# ---- one process ----


def outcome(kind: Kind, folder: Path) -> str:
    """Use a changed folder, and return what came of it."""
    from raggym_env.errors import RAGGymError

    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.use(folder)
        return "ok"
    except RAGGymError as error:
        return f"typed {type(error).__name__}"
    except MemoryError:
        return "memory MemoryError"
    except Exception as error:  # noqa: BLE001
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return f"untyped {type(error).__name__} at {place}: {str(error)[:120]!r}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def child(name: str, root: Path, start: int, end: int, step: int = 1) -> None:
    """Make the example if there is none, then change and use copies of it. Prints a line for each."""
    kind, good, changed = KINDS[name], root / "good", root / "changed"
    os.environ["RAGGYM_CACHE"] = str(root / "cache")
    if not good.exists():
        shutil.rmtree(root / "partial", ignore_errors=True)
        (root / "partial").mkdir()
        kind.make(root / "partial")
        (root / "partial").rename(good)
    signal.signal(HANG, signal.SIG_DFL)
    for number in range(start, end, step):
        shutil.rmtree(changed, ignore_errors=True)
        shutil.rmtree(root / "cache", ignore_errors=True)
        shutil.copytree(good, changed)
        if number == start:
            report({"unchanged": outcome(kind, changed)})
            memory = peak()
            if kind.limited:
                limit = size() + (MEGABYTES << 20)
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        description = change(changed, kind.pattern, number, signed=kind.signed)
        report({"case": number, "change": description})
        began = time.perf_counter()
        result = outcome(kind, changed)
        if peak() - memory > MEGABYTES:
            result = f"memory {peak() - memory:.0f} MB, {result}"
        report({"outcome": result, "seconds": time.perf_counter() - began})
        if result.startswith("memory"):
            sys.exit(0)  # the peak is that of the process


def report(line: dict[str, Any]) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# ---- all of them ----


@dataclass
class Tally:
    """What came of the changes of one kind."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, number: int, description: str, result: str) -> None:
        group = result.split()[0]
        self.outcomes[result if group == "typed" else group] += 1
        if group not in ("ok", "typed"):
            self.bad.append(f"{self.name} case {number}, {description}: {result}")

    def row(self) -> str:
        counts = [sum(self.outcomes.values()), self.outcomes["ok"]]
        counts += [self.outcomes[group] for group in ("signal", "hang", "memory", "untyped")]
        typed = [
            f"{count} {name.split()[1]}" for name, count in self.outcomes.most_common() if name.startswith("typed")
        ]
        return (
            f"{self.name:14}" + "".join(f"{count:9,}" for count in counts) + f"{self.slowest:9.2f}  {', '.join(typed)}"
        )


HEAD = f"{'kind':14}" + "".join(
    f"{head:>9}" for head in ("changes", "ok", "signal", "hang", "memory", "untyped", "slowest")
)


def run(name: str, mutations: int, seed: int = 0) -> Tally:
    """Change files of one kind, in processes of their own."""
    tally, number, end = Tally(name), seed, seed + mutations
    with tempfile.TemporaryDirectory(prefix="raggym-fuzz-") as folder:
        while number < end:
            command = [sys.executable, __file__, "--child", name, folder, str(number), str(end)]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            description = ""
            for line in map(json.loads, filter(lambda line: line.startswith("{"), process.stdout.splitlines())):
                if line.get("unchanged", "ok") != "ok":
                    raise RuntimeError(f"{name}: the unchanged files are not read: {line['unchanged']}")
                if "case" in line:
                    number, description = line["case"], line["change"]
                elif "outcome" in line:
                    tally.add(number, description, line["outcome"])
                    tally.slowest = max(tally.slowest, line["seconds"])
                    number, description = number + 1, ""
            if description:  # it died of this change
                code = -process.returncode
                last = (process.stderr.strip().splitlines() or [""])[-1]
                dead = (
                    "hang"
                    if code == HANG
                    else f"signal {code} {last[:120]}"
                    if code > 0
                    else f"untyped exit {-code} {last}"
                )
                tally.add(number, description, dead)
                number += 1
            elif process.returncode:
                raise RuntimeError(f"{name}: no example: {process.stderr[-2000:]}")
    return tally


def available(kind: Kind) -> bool:
    from importlib.util import find_spec

    return all(find_spec(package) for package in kind.requires)


def one_case(name: str, number: int) -> None:
    """Make one change again and use it, without limits."""
    with tempfile.TemporaryDirectory(prefix="raggym-fuzz-") as folder:
        root, kind = Path(folder), KINDS[name]
        os.environ["RAGGYM_CACHE"] = str(root / "cache")
        (root / "changed").mkdir()
        kind.make(root / "changed")
        print(change(root / "changed", kind.pattern, number, signed=kind.signed), flush=True)
        kind.use(root / "changed")
        print("ok")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--mutations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="make this change only, and show what comes of it")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, start, end = options.child
        child(name, Path(folder), int(start), int(end))
        return
    if options.case is not None:
        one_case(options.kinds[0], options.case)
        return
    bad = []
    print(HEAD, flush=True)
    for name in options.kinds or KINDS:
        if available(KINDS[name]):
            tally = run(name, options.mutations, options.seed)
            print(tally.row(), flush=True)
            bad += tally.bad
    print(*bad, sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

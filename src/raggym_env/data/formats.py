"""The official file formats of the data sets, and what each of their records means.

Titles of HotpotQA are HTML-escaped in places ("Ant &amp; Dec"). They are unescaped in supporting facts, contexts
and corpora alike, so a gold title always equals its passage's title.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raggym_env.core import Evidence, Fact, Passage, Question, Task, option_letter
from raggym_env.data.files import Record, json_records, tsv_records
from raggym_env.errors import MalformedData, UnknownName

__all__ = ["FORMATS", "Format", "clean_title", "read_contexts", "read_tasks"]

ALIASES_FILE = "id_aliases.json"


@dataclass(frozen=True)
class Format:
    """How the files of one data set are read."""

    task: Callable[[Record], Task]
    contexts: Callable[[Record], Iterator[Passage]] | None = None
    """The paragraphs a record holds itself; None where the format has none."""
    records: Callable[[Path], Iterator[Record]] = json_records
    finish: Callable[[list[Task], Path], list[Task]] = lambda tasks, _: tasks
    """Adds what other files of the folder say about the tasks."""
    page: str = ""
    """Where the official files are published."""


def read_tasks(path: Path, format: str) -> list[Task]:
    """All tasks of a question file, in its order.

    Args:
        path: JSON or JSON lines (for Bamboogle TSV), plain or `.gz`.
        format: A key of `FORMATS`.

    Raises:
        UnknownName: There is no such format.
        DataNotFound: There is no such file.
        MalformedData: The file breaks its format, or two records have one id.
    """
    if format not in FORMATS:
        raise UnknownName("file format", format, FORMATS)
    form = FORMATS[format]
    records = json_records if ".jsonl" in path.suffixes else form.records
    tasks: dict[str, Task] = {}
    for record in records(path):
        task = form.task(record)
        if task.id in tasks:
            raise record.error(f"id {task.id!r} was given to an earlier record already")
        tasks[task.id] = task
    if not tasks:
        raise MalformedData(path, "all records", "the file holds no question")
    return form.finish(list(tasks.values()), path)


def read_contexts(path: Path, format: str) -> Iterator[Passage]:
    """The paragraphs that a question file's records hold, each title-and-text pair once, in order of appearance.

    Ids are hashes of title and text, so one paragraph has one id in every file. Memory: about 100 bytes per
    distinct paragraph.
    """
    contexts = FORMATS[format].contexts
    if contexts is None:
        raise MalformedData(path, "all records", f"files of format {format!r} hold no contexts: name a corpus")
    seen: set[str] = set()
    for record in json_records(path):
        for passage in contexts(record):
            if passage.id not in seen:
                seen.add(passage.id)
                yield passage
    if not seen:
        raise MalformedData(path, "all records", "every context is empty: name a corpus in the card")


def clean_title(title: str) -> str:
    """The title without HTML escapes.

    >>> clean_title("Ant &amp; Dec")
    'Ant & Dec'
    """
    return html.unescape(title) if "&" in title else title


def _hotpotqa(record: Record) -> Task:
    key = "id" if "id" in record.fields and "_id" not in record.fields else "_id"  # the hub renames it
    metadata = {"level": level} if (level := record.optional_text("level")) else {}
    return Task(
        Question(record.text(key), record.text("question")),
        (record.text("answer"),),
        supporting=_facts(record),
        type=record.optional_text("type"),
        metadata=metadata,
    )


def _2wikimultihopqa(record: Record) -> Task:
    task = replace(_hotpotqa(record), evidences=_evidences(record))
    extra = ("answer_id", "entity_ids")
    metadata = {name: record.optional_text(name) for name in extra if record.fields.get(name) is not None}
    return replace(task, metadata=metadata)


def _bamboogle(record: Record) -> Task:
    other = record.optional_text("Answer 2").strip()
    return Task(
        Question(f"bamboogle-{record.index:03d}", record.text("Question").strip()),
        (record.text("Answer").strip(), *([other] if other else [])),
    )


def _medqa(record: Record) -> Task:
    options = _options(record)
    letter, answer = record.text("answer_idx"), record.text("answer")
    correct = _option_index(options, letter)
    if correct is None or options[correct] != answer:
        raise record.wrong("answer_idx", f"the letter of the option {answer!r}", letter)
    # The file's name says which part of the data set it is: phrases_no_exclude_test.jsonl.
    part = record.path.name.partition(".")[0].replace("-", "_").rpartition("_")[2]
    return Task(
        Question(f"medqa-{part}-{record.index:04d}", record.text("question"), options),
        (answer,),
        correct,
        type=record.optional_text("meta_info"),
    )


def _jsonl(record: Record) -> Task:
    question = Question(record.identifier("id"), record.text("question"), _options(record))
    answers = tuple(dict.fromkeys(_golden_answers(record)))
    correct = _correct(record, question.options, answers) if question.options else None
    metadata = record.optional_mapping("metadata")
    nested = _flattened(record)
    return Task(
        question,
        answers if correct is None else (question.options[correct],),
        correct,
        supporting=_facts(nested),
        type=nested.optional_text("type"),
        metadata={name: value for name, value in metadata.items() if name not in ("context", "supporting_facts")},
    )


def _flattened(record: Record) -> Record:
    """The record with the fields of `metadata` (where FlashRAG keeps the supporting facts) beside its own."""
    return replace(record, fields={**record.optional_mapping("metadata"), **record.fields})


def _golden_answers(record: Record) -> Iterator[str]:
    answers = record.optional_list("golden_answers")
    if not answers:
        raise record.wrong("golden_answers", "a list of at least one answer", record.fields.get("golden_answers"))
    for answer in answers:
        if not record.checked("golden_answers", answer).strip():
            raise record.wrong("golden_answers", "a list of answers that are not blank", answers)
        yield answer


def _options(record: Record) -> tuple[str, ...]:
    """Option texts in letter order, from a list or from an object with the keys A, B, ..."""
    options = record.fields.get("options")
    if options is None:
        return ()
    if isinstance(options, dict):
        letters = [option_letter(index) for index in range(min(len(options), 26))]
        if sorted(options) != letters:
            raise record.wrong("options", "an object with the keys A, B, ... and no gap", sorted(options))
        options = [options[letter] for letter in letters]
    if not isinstance(options, list) or not 2 <= len(options) <= 26:
        raise record.wrong("options", "2 to 26 options, as a list or an object with the keys A, B, ...", options)
    for option in options:
        if not record.checked("options", option).strip():
            raise record.wrong("options", "options that are not blank", options)
    return tuple(options)


def _option_index(options: tuple[str, ...], answer: str) -> int | None:
    letters = [option_letter(index) for index in range(len(options))]
    return letters.index(answer) if answer in letters else None


def _correct(record: Record, options: tuple[str, ...], answers: tuple[str, ...]) -> int:
    """The option that all golden answers name, by letter or by text."""
    named = set()
    for answer in answers:
        by_letter = _option_index(options, answer)
        by_text = options.index(answer) if answer in options else None
        named |= {by_letter, by_text} - {None} or {None}
    if len(named) != 1 or (correct := named.pop()) is None:
        raise record.wrong("golden_answers", "the letter or the text of exactly one option", list(answers))
    return correct


def _facts(record: Record) -> tuple[Fact, ...]:
    """Supporting facts: `[title, sentence]` pairs, bare titles, or the hub's `{"title": [], "sent_id": []}`."""
    return tuple(_fact(record, item) for item in _rows(record, "supporting_facts", ("title",), ("sent_id",)))


def _fact(record: Record, item: object) -> Fact:
    if isinstance(item, str):
        item = [item, None]
    if not isinstance(item, list) or len(item) != 2:
        raise record.wrong("supporting_facts", "[title, sentence] pairs or titles", item)
    title, sentence = item
    if sentence is not None and (type(sentence) is not int or sentence < 0):
        raise record.wrong("supporting_facts", "pairs of a title and a sentence number from 0", item)
    return Fact(clean_title(record.checked("supporting_facts", title)), sentence)


def _evidences(record: Record) -> tuple[Evidence, ...]:
    return tuple(
        _evidence(record, item)
        for item in _rows(record, "evidences", ("fact", "subject"), ("relation",), ("entity", "object"))
    )


def _evidence(record: Record, item: object) -> Evidence:
    if not isinstance(item, list) or len(item) != 3:
        raise record.wrong("evidences", "[subject, relation, object] triples", item)
    return Evidence(*(record.checked("evidences", part) for part in item))


def _rows(record: Record, name: str, *columns: tuple[str, ...]) -> list[Any]:
    """The field as a list of rows. Hub data sets store the same lists by column, under one of the given names."""
    value = record.fields.get(name)
    if not isinstance(value, dict):
        return record.optional_list(name)
    lists = [next((value[key] for key in names if key in value), None) for names in columns]
    if not all(isinstance(column, list) for column in lists) or len({len(column or ()) for column in lists}) != 1:
        expected = " and ".join("/".join(names) for names in columns)
        raise record.wrong(name, f"an object with equally long lists {expected}", value)
    return [list(row) for row in zip(*(column or () for column in lists), strict=True)]


def _contexts(record: Record) -> Iterator[Passage]:
    """The paragraphs of `context`: `[title, sentences]` pairs."""
    for item in _rows(record, "context", ("title",), ("sentences", "content")):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], list):
            raise record.wrong("context", "[title, sentences] pairs", item)
        title = clean_title(record.checked("context", item[0]))
        sentences = [record.checked("context", sentence).strip() for sentence in item[1]]
        text = " ".join(filter(None, sentences))
        digest = hashlib.blake2b(f"{title}\x00{text}".encode(), digest_size=8)
        yield Passage(digest.hexdigest(), title, text)


def _nested_contexts(record: Record) -> Iterator[Passage]:
    return _contexts(_flattened(record))


def _with_aliases(tasks: list[Task], path: Path) -> list[Task]:
    """Add the aliases of the answers' Wikidata entities, where the later release's alias file is beside `path`.

    They count as correct answers in the official evaluation, version 1.1.
    """
    names = (path.with_name(ALIASES_FILE), path.with_name(f"{ALIASES_FILE}.gz"))
    file = next((name for name in names if name.is_file()), None)
    wanted = {task.metadata["answer_id"] for task in tasks if "answer_id" in task.metadata}
    if file is None or not wanted:
        return tasks
    aliases = _read_aliases(file, wanted)
    return [_add_answers(task, aliases.get(task.metadata.get("answer_id"), ())) for task in tasks]


def _read_aliases(path: Path, wanted: set[str]) -> Mapping[str | None, list[str]]:
    aliases: dict[str | None, list[str]] = {}
    for record in json_records(path):
        if (entity := record.text("Q_id")) in wanted:
            names = [*record.optional_list("aliases"), *record.optional_list("demonyms")]
            aliases[entity] = sorted({record.checked("aliases", name) for name in names})
    return aliases


def _add_answers(task: Task, more: list[str] | tuple[()]) -> Task:
    return replace(task, answers=tuple(dict.fromkeys((*task.answers, *filter(str.strip, more)))))


FORMATS: dict[str, Format] = {
    "hotpotqa": Format(_hotpotqa, _contexts, page="https://hotpotqa.github.io"),
    "2wikimultihopqa": Format(
        _2wikimultihopqa,
        _contexts,
        finish=_with_aliases,
        page="https://github.com/Alab-NII/2wikimultihop",
    ),
    "bamboogle": Format(_bamboogle, records=tsv_records, page="https://github.com/ofirpress/self-ask"),
    "medqa": Format(_medqa, page="https://github.com/jind11/MedQA"),
    "jsonl": Format(_jsonl, _nested_contexts),
}
"""Readers by the name that cards give. "synth" is generated, so it is not among them."""

"""The official file formats of the data sets: how a record becomes a task, and which paragraphs it holds.

Some titles of HotpotQA are HTML-escaped ("Ant &amp; Dec"). They are unescaped in supporting facts, contexts and
corpora alike, so that a gold title always equals its passage's title.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raggym_env.core import Evidence, Fact, Passage, Question, Task, option_letter
from raggym_env.data.files import Record, json_records, tsv_records
from raggym_env.errors import MalformedData, UnknownName
from raggym_env.mdp.metrics import option_key

__all__ = ["FORMATS", "Format", "clean_title", "joined", "read_contexts", "read_tasks", "web_page"]


@dataclass(frozen=True)
class Format:
    """The functions that read the files of one data set."""

    task: Callable[[Record], Task]
    """Converts a record of a questions file into a task."""
    contexts: Callable[[Record], Iterator[Passage]] | None = None
    """Yields the paragraphs that a record holds; None if the format has none."""
    records: Callable[[Path], Iterator[Record]] = json_records
    """Reads the records of a file."""
    finish: Callable[[list[Task], Path], list[Task]] = lambda tasks, _: tasks
    """Completes the tasks from other files beside the questions file, whose path it gets."""
    page: str = ""
    """URL of the page that publishes the official files."""
    fields: frozenset[str] | None = None
    """Names of the fields that are read or known to change nothing; None if any others may be there."""


def read_tasks(path: Path, format: str) -> list[Task]:
    """Return all tasks of a questions file, in the file's order.

    Args:
        path: JSON or JSON lines (for Bamboogle also TSV), plain, `.gz` or `.bz2`.
        format: A key of `FORMATS`.

    Raises:
        UnknownName: The format does not exist.
        DataNotFound: The file does not exist.
        MalformedData: The file does not follow its format, has a field that changes what is asked and is not read,
            or two records have the same id.

    Warns:
        UserWarning: Records have fields that are not read. They are named once for the file.
    """
    if format not in FORMATS:
        raise UnknownName("file format", format, FORMATS)
    form = FORMATS[format]
    # Downloaded rows are JSON lines, whatever the official files are.
    records = json_records if ".jsonl" in path.suffixes else form.records
    tasks: dict[str, Task] = {}
    unread: set[str] = set()
    for record in records(path):
        if form.fields is not None and (others := record.fields.keys() - form.fields):
            _check_unread(record, others)
            unread |= others
        task = form.task(record)
        if task.id in tasks:
            raise record.error(f"id {task.id!r} occurred in an earlier record")
        tasks[task.id] = task
    if not tasks:
        raise MalformedData(path, "all records", "the file holds no question")
    if unread:
        names = ", ".join(f"{name!r:.60}" for name in sorted(unread)[:_LISTED])
        more = f" and {len(unread) - _LISTED} more" if len(unread) > _LISTED else ""
        warnings.warn(f"{path}: fields that format {format!r} does not read: {names}{more}.", stacklevel=2)
    return form.finish(list(tasks.values()), path)


# Without these a question is another one: what is to be chosen from, looked at, or was said before.
_DECISIVE = frozenset(("A", "B", "answer_choices", "answer_options", "audio", "candidates", "choice_list", "dialog",
                       "conversation", "dialogue", "distractors", "history", "image", "image_path", "images",
                       "messages", "mc1_targets", "mc2_targets", "multiple_choice", "opa", "opb", "option_a",
                       "option_b", "table", "tables", "video"))  # fmt: skip
_LISTED = 12  # a file may have a thousand


def _check_unread(record: Record, names: Set[str]) -> None:
    """Raise `MalformedData` if one of the fields, which are not read, changes what is asked. An empty one does not."""
    decisive = sorted(name for name in names & _DECISIVE if record.fields[name])
    if decisive:
        raise record.error(
            f"field {decisive[0]!r} changes the question and cannot be read. Rename it to 'options' if it holds the "
            "answers to choose from; leave it out if the question is complete without it"
        )


def read_contexts(path: Path, format: str) -> Iterator[Passage]:
    """Yield the paragraphs of a questions file's records, each title-and-text pair once, in order of appearance.

    Ids are hashes of title and text, so a paragraph has the same id in every file. Memory: about 100 bytes per
    distinct paragraph.

    Raises:
        MalformedData: The format has no contexts, the file has none, or it does not follow the format.
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
    """Return the title without HTML escapes.

    >>> clean_title("Ant &amp; Dec")
    'Ant & Dec'
    """
    return html.unescape(title) if "&" in title else title


def joined(sentences: Iterable[str]) -> str:
    """Return sentences as one text, with single spaces between them.

    >>> joined(["It is old.", " It is tall.", ""])
    'It is old. It is tall.'
    """
    return " ".join(filter(None, map(str.strip, sentences)))


def _hotpotqa(record: Record) -> Task:
    # The official files have "_id"; the hub's copy renames it.
    key = "id" if "id" in record.fields and "_id" not in record.fields else "_id"
    metadata = {"level": level} if (level := record.optional_text("level")) else {}
    return Task(
        Question(record.text(key), record.text("question")),
        (record.text("answer"),),
        supporting=_facts(record),
        type=record.optional_text("type"),
        metadata=metadata,
    )


def _2wikimultihopqa(record: Record) -> Task:
    # The format is HotpotQA's with the gold reasoning chain added. Only the later release has Wikidata ids.
    ids = {
        name: record.optional_text(name) for name in ("answer_id", "entity_ids") if record.fields.get(name) is not None
    }
    triples = _rows(record, "evidences", ("fact", "subject"), ("relation",), ("entity", "object"))
    for triple in triples:
        if not isinstance(triple, list) or len(triple) != 3:
            raise record.wrong("evidences", "[subject, relation, object] triples", triple)
    evidences = tuple(Evidence(*(record.checked("evidences", part) for part in triple)) for triple in triples)
    return replace(_hotpotqa(record), evidences=evidences, metadata=ids)


def _bamboogle(record: Record) -> Task:
    # The sheet has no ids: a question's position is its id, as for MedQA.
    other = record.optional_text("Answer 2").strip()
    return Task(
        Question(f"bamboogle-{record.index:03d}", record.text("Question").strip()),
        (record.text("Answer").strip(), *([other] if other else [])),
    )


def _medqa(record: Record) -> Task:
    options = _options(record)
    letter, answer = record.text("answer_idx"), record.text("answer")
    correct = _option_index(options, letter)
    # The file gives the correct option twice. Where the two disagree, one is wrong and grading would be, too.
    if correct is None or options[correct] != answer:
        raise record.wrong("answer_idx", f"the letter of the option {answer!r}", letter)
    # The records have no ids, and their part of the data set is in the file's name: phrases_no_exclude_test.jsonl.
    part = record.path.name.partition(".")[0].replace("-", "_").rpartition("_")[2]
    return Task(
        Question(f"medqa-{part}-{record.index:04d}", record.text("question"), options),
        (answer,),
        correct,
        type=record.optional_text("meta_info"),
    )


def _musique(record: Record) -> Task:
    # MuSiQue-Full pairs each question with a twin of the same id whose paragraphs do not support the answer.
    if record.fields.get("answerable") is False:
        raise record.error("the question is not answerable from its paragraphs. Use the files musique_ans_v1.0_*.jsonl")
    if not _objects(record, "paragraphs"):
        raise record.wrong("paragraphs", "a list of at least one paragraph", record.fields.get("paragraphs"))
    aliases = record.texts("answer_aliases", record.optional("answer_aliases", list))
    return replace(
        Task(
            Question(record.text("id"), record.text("question")),
            tuple(dict.fromkeys((record.text("answer"), *aliases))),
            # The shape of the reasoning: "3hop1__9285_5188_23307" is a "3hop1".
            type=shape[1] if (shape := re.match(r"(\d+hop\d*)__", record.text("id"))) else "",
        ),
        **_decomposed(record),
    )


def _decomposed(record: Record) -> dict[str, Any]:
    """Return `supporting`, `evidences` and `metadata` of a task from MuSiQue's question decomposition.

    Facts are in the order of the steps. A step that reads "Green >> performer" is the link of subject and relation;
    the subject of one that is a sentence is the title of the paragraph that supports it. The reference "#1" is
    replaced by the answer of step 1.
    """
    paragraphs = _objects(record, "paragraphs")
    titles = {paragraph.identifier("idx"): clean_title(paragraph.text("title")) for paragraph in paragraphs}
    gold: list[str] = []
    answers: dict[str, str] = {}  # by the reference of later steps to them
    evidences: list[Evidence] = []
    for number, step in enumerate(_objects(record, "question_decomposition"), start=1):
        title = _step_title(step, titles)
        question = re.sub(r"#\d+\b", lambda match: answers.get(match[0], match[0]), step.text("question"))
        answers[f"#{number}"] = answer = step.text("answer")
        subject, separator, relation = question.partition(">>")
        link = (subject.strip(), relation.strip()) if separator else (title, question)
        gold.append(title)
        evidences.append(Evidence(*link, answer))
    gold += [titles[paragraph.identifier("idx")] for paragraph in paragraphs if paragraph.fields.get("is_supporting")]
    facts = tuple(Fact(title) for title in dict.fromkeys(gold) if title)
    return {"supporting": facts, "evidences": tuple(evidences), "metadata": {"hops": len(evidences)}}


def _step_title(step: Record, titles: Mapping[str, str]) -> str:
    """Return the title of the paragraph that supports a step, the record's or, in FlashRAG's files, the step's own."""
    if own := step.optional("support_paragraph", dict):
        return clean_title(replace(step, fields=own).text("title"))
    # FlashRAG's steps may have numbers of paragraphs that the record does not hold.
    if step.fields.get("paragraph_support_idx") is None or not titles:
        return ""
    if (index := step.identifier("paragraph_support_idx")) not in titles:
        raise step.wrong("paragraph_support_idx", "the idx of a paragraph", index)
    return titles[index]


def _objects(record: Record, name: str) -> list[Record]:
    """Return the objects in a list field as records. Data sets on the hub may store an object of one list each."""
    value = record.fields.get(name)
    if isinstance(value, dict):
        names = list(value)
        rows = [dict(zip(names, row, strict=True)) for row in _rows(record, name, *((key,) for key in names))]
    else:
        rows = record.optional(name, list)
    if not all(isinstance(row, dict) for row in rows):
        raise record.wrong(name, "a list of objects", value)
    return [replace(record, fields=row) for row in rows]


def _browsecomp(record: Record) -> Task:
    query = record.text("query")
    if _CIPHERTEXT.fullmatch(query):
        raise record.error(
            "field 'query' is encrypted, as on the hub, to keep the benchmark out of training data. Decrypt the rows "
            "by the script of github.com/texttron/BrowseComp-Plus, which writes browsecomp_plus_decrypted.jsonl"
        )
    documents = _objects(record, "evidence_docs") or _objects(record, "gold_docs")
    pages = (web_page(document.identifier("docid"), document.text("text")) for document in documents)
    return Task(
        Question(record.identifier("query_id"), query),
        (record.text("answer"),),
        supporting=tuple(Fact(page.title) for page in pages),
    )


_CIPHERTEXT = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")  # base64, which no question looks like
_FRONT_MATTER = re.compile(r"---\n(?:.*\n)*?title:[ \t]*(\S.*)\n(?:.*\n)*?---\n")


def web_page(identifier: str, text: str) -> Passage:
    """Return a document of BrowseComp-Plus, whose text starts with lines such as `title: Ant` between lines `---`.

    Its title has the document's id, so that gold documents are told apart from others of the same title.

    >>> web_page("7", "---\\ntitle: Ant\\n---\\nAn ant.").title
    'Ant (7)'
    """
    head = _FRONT_MATTER.match(text[:_HEAD])
    title = clean_title(head[1].strip().strip("\"'")) if head else ""
    return Passage(identifier, f"{title} ({identifier})" if title else identifier, text)


_HEAD = 4096  # characters; a page may be long, and have no end of its front matter


def _jsonl(record: Record) -> Task:
    flat = _flattened(record)
    question = Question(record.identifier("id"), record.text("question"), _options(flat))
    golden = record.optional("golden_answers", list)
    if not golden:
        raise record.wrong("golden_answers", "a list of at least one answer", record.fields.get("golden_answers"))
    answers = tuple(dict.fromkeys(record.texts("golden_answers", golden)))
    correct = _correct(record, question.options, answers) if question.options else None
    metadata = record.optional("metadata", dict)
    try:
        steps, paragraphs = (_objects(flat, name) for name in ("question_decomposition", "paragraphs"))
    except MalformedData:  # fields of its own by these names
        steps, paragraphs = [], []
    is_musique = all({"question", "answer"} <= step.fields.keys() for step in steps) and all(
        {"idx", "title"} <= paragraph.fields.keys() for paragraph in paragraphs
    )
    decomposition = _decomposed(flat) if steps and is_musique else {}
    # Tasks stay in memory and are sent to workers, and the paragraphs would be most of their size.
    left_out = {"context", "supporting_facts", *(("paragraphs", "question_decomposition") if decomposition else ())}
    task = Task(
        question,
        answers if correct is None else (question.options[correct],),
        correct,
        supporting=_facts(flat),
        type=flat.optional_text("type"),
        metadata={name: value for name, value in metadata.items() if name not in left_out},
    )
    if decomposition:
        decomposition["supporting"] = task.supporting or decomposition["supporting"]
        decomposition["metadata"] = {**task.metadata, **decomposition["metadata"]}
    return replace(task, **decomposition)


def _flattened(record: Record) -> Record:
    # FlashRAG's files have the fields of the original data set, such as the supporting facts, under `metadata`.
    return replace(record, fields={**record.optional("metadata", dict), **record.fields})


def _options(record: Record) -> tuple[str, ...]:
    """Return the options' texts in letter order, from a list or from an object with the keys A, B, ...

    FlashRAG's files call them `choices`.
    """
    name = "options" if record.fields.get("options") is not None else "choices"
    options = record.fields.get(name)
    if options is None:
        return ()
    if name == "options" and record.fields.get("choices") not in (None, options):
        raise record.error("fields 'options' and 'choices' differ: only one of them can be the options")
    if isinstance(options, dict):
        letters = [option_letter(index) for index in range(min(len(options), 26))]
        if sorted(options) != letters:
            raise record.wrong(name, "an object with the keys A, B, ... and no gap", sorted(options))
        options = [options[letter] for letter in letters]
    if not isinstance(options, list) or not 2 <= len(options) <= 26:
        raise record.wrong(name, "2 to 26 options, as a list or an object with the keys A, B, ...", options)
    return record.texts(name, options)


def _option_index(options: tuple[str, ...], answer: str) -> int | None:
    letters = [option_letter(index) for index in range(len(options))]
    return letters.index(answer) if answer in letters else None


def _correct(record: Record, options: tuple[str, ...], answers: tuple[str, ...]) -> int:
    """Return the index of the one option that every golden answer names, by letter or by text.

    An answer that is the letter of one option and the text of another names both, and the record is refused: unlike
    an agent, a file does not say which it means. Options of equal texts are one.
    """
    keys = [option_key(option) for option in options]
    candidates: list[set[str]] = []
    for answer in answers:
        by_letter = _option_index(options, answer)
        candidates.append({option_key(answer)} & set(keys) | (set() if by_letter is None else {keys[by_letter]}))
    # Each must name one option, and all the same.
    if any(len(names) != 1 for names in candidates) or len(set.union(*candidates)) != 1:
        raise record.wrong("golden_answers", "the letter or the text of exactly one option", list(answers))
    # Of equal options the one that the first answer names by its letter, or else the first.
    by_letter = _option_index(options, answers[0])
    return keys.index(candidates[0].pop()) if by_letter is None else by_letter


def _facts(record: Record) -> tuple[Fact, ...]:
    """Parse supporting facts: `[title, sentence]` pairs, bare titles, or the hub's `{"title": [], "sent_id": []}`."""
    facts = []
    for item in _rows(record, "supporting_facts", ("title",), ("sent_id",)):
        pair = [item, None] if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2:
            raise record.wrong("supporting_facts", "[title, sentence] pairs or titles", pair)
        title, sentence = pair
        # type() rather than isinstance(): True is an int.
        if sentence is not None and (type(sentence) is not int or sentence < 0):
            raise record.wrong("supporting_facts", "pairs of a title and a sentence number from 0", pair)
        facts.append(Fact(clean_title(record.checked("supporting_facts", title)), sentence))
    return tuple(facts)


def _rows(record: Record, name: str, *columns: tuple[str, ...]) -> list[Any]:
    """Return a list field by rows. Data sets on the hub store such lists as an object with one list per column.

    For each column, `columns` has the names under which it may be stored.
    """
    value = record.fields.get(name)
    if not isinstance(value, dict):
        return record.optional(name, list)
    lists = [next((value[key] for key in names if key in value), None) for names in columns]
    if not all(isinstance(column, list) for column in lists) or len({len(column or ()) for column in lists}) != 1:
        expected = " and ".join("/".join(names) for names in columns)
        raise record.wrong(name, f"an object with equally long lists {expected}", value)
    return [list(row) for row in zip(*(column or () for column in lists), strict=True)]


def _contexts(record: Record) -> Iterator[Passage]:
    """Yield the paragraphs of the field `context`, a list of `[title, sentences]` pairs."""
    for item in _rows(record, "context", ("title",), ("sentences", "content")):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], list):
            raise record.wrong("context", "[title, sentences] pairs", item)
        title = clean_title(record.checked("context", item[0]))
        yield _paragraph(title, joined(record.checked("context", sentence) for sentence in item[1]))


def _paragraph(title: str, text: str) -> Passage:
    """Return a passage whose id is a hash of its title and text."""
    # "\x00" keeps ("ab", "c") and ("a", "bc") apart. 8 bytes: a collision in 10 million has odds of 1 in 400,000.
    # NFC, so that two spellings of one paragraph are one passage.
    content = unicodedata.normalize("NFC", f"{title}\x00{text}")
    return Passage(hashlib.blake2b(content.encode(), digest_size=8).hexdigest(), title, text)


def _musique_contexts(record: Record) -> Iterator[Passage]:
    for paragraph in _objects(record, "paragraphs"):
        yield _paragraph(clean_title(paragraph.text("title")), paragraph.text("paragraph_text"))


def _with_aliases(tasks: list[Task], path: Path) -> list[Task]:
    """Add the aliases of the answers' Wikidata entities to the correct answers, if their file is beside `path`.

    They count as correct in version 1.1 of the official evaluation (github.com/Alab-NII/2wikimultihop).
    """
    # Part of the later release of the data set.
    files = (path.with_name("id_aliases.json"), path.with_name("id_aliases.json.gz"))
    file = next((file for file in files if file.is_file()), None)
    entities = {task.metadata["answer_id"] for task in tasks if "answer_id" in task.metadata}
    if file is None or not entities:
        return tasks
    # The file covers the answers of the whole data set. Only those of these tasks are worth the memory.
    aliases: dict[Any, list[str]] = {}
    for record in json_records(file):
        if (entity := record.text("Q_id")) in entities:
            names = [*record.optional("aliases", list), *record.optional("demonyms", list)]
            aliases[entity] = sorted({name for name in names if record.checked("aliases", name).strip()})
    return [
        # The answer itself stays first: it is the one that is shown.
        replace(task, answers=tuple(dict.fromkeys((*task.answers, *aliases.get(task.metadata.get("answer_id"), ())))))
        for task in tasks
    ]


_HOTPOTQA = frozenset(("_id", "id", "question", "answer", "type", "level", "supporting_facts", "context"))
_2WIKI = _HOTPOTQA | {"evidences", "answer_id", "entity_ids", "evidences_id"}
_MUSIQUE = frozenset(("id", "question", "answer", "answer_aliases", "answerable", "paragraphs",
                      "question_decomposition"))  # fmt: skip
_BROWSECOMP = frozenset(("query_id", "query", "answer", "gold_docs", "evidence_docs", "negative_docs", "canary"))
_MEDQA = frozenset(("question", "answer", "options", "answer_idx", "meta_info", "metamap_phrases"))
_JSONL = frozenset(("id", "question", "golden_answers", "options", "choices", "metadata", "type", "supporting_facts",
                    "context"))  # fmt: skip

FORMATS: dict[str, Format] = {
    "hotpotqa": Format(_hotpotqa, _contexts, page="https://hotpotqa.github.io", fields=_HOTPOTQA),
    "2wikimultihopqa": Format(
        _2wikimultihopqa,
        _contexts,
        finish=_with_aliases,
        page="https://github.com/Alab-NII/2wikimultihop",
        fields=_2WIKI,
    ),
    "musique": Format(_musique, _musique_contexts, page="https://github.com/StonyBrookNLP/musique", fields=_MUSIQUE),
    "bamboogle": Format(_bamboogle, records=tsv_records, page="https://github.com/ofirpress/self-ask"),
    "medqa": Format(_medqa, page="https://github.com/jind11/MedQA", fields=_MEDQA),
    "browsecomp": Format(_browsecomp, page="https://github.com/texttron/BrowseComp-Plus", fields=_BROWSECOMP),
    "jsonl": Format(_jsonl, lambda record: _contexts(_flattened(record)), fields=_JSONL),
}
"""Formats by their name in cards, without "synth", which is generated and not read."""

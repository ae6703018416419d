"""The Search-R1 wire format of `POST /retrieve`, read and written, for the server and for the client.

    {"queries": ["who wrote Dune?"], "topk": 3, "return_scores": true}          Search-R1, verl
    {"query": "who wrote Dune?", "topk": 3, "return_scores": true}              SkyRL
    {"result": [[{"document": {"id": "7", "title": "Dune", "contents": "\\"Dune\\"\\nDune is ..."}, "score": 9.1}]]}
    {"result": [[{"id": "7", "title": "Dune", "contents": "\\"Dune\\"\\nDune is ..."}]]}     without return_scores

There is one list per query, in the order of the queries; a single `query` is a list of one. The source of the format is
`search_r1/search/retrieval_server.py` of Search-R1 (arXiv:2503.09516) and its corpus: `contents` is the title in
double quotes on the first line, and then the text. Its clients take the first line for the title. Ours takes the title
from `title`, which may contain line breaks, and the text from the rest of `contents`, so a passage arrives unchanged.

`read_results` also reads what other servers of that family send: see there.
"""

# This format and no other, because the trainers that people use (Search-R1, verl, SkyRL) speak it already. Parsed by
# hand: the checks say which field is wrong and what was sent, at a fraction of a schema library's time.

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError, check_option
from raggym_env.protocols import Hit
from raggym_env.storage.parsing import ParseError, parse_json

__all__ = [
    "FINGERPRINT_HEADER",
    "TOKEN_ENV",
    "BadRequest",
    "Limits",
    "SearchRequest",
    "join_rows",
    "read_request",
    "read_results",
    "write_document",
    "write_results",
    "write_row",
]

FINGERPRINT_HEADER = "x-raggym-fingerprint"
"""Header of every answer with the retriever's fingerprint, by which a client notices that the index has changed."""

TOKEN_ENV = "RAGGYM_RETRIEVER_TOKEN"  # noqa: S105  # the name of a variable, not a token
"""Environment variable with the token, for the server and for the client."""

_MAX_TITLE, _MAX_TEXT = 1 << 16, 1 << 22  # characters; real titles have tens, and real passages thousands

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_WHOLE_NUMBER = re.compile(r"\s*[0-9]{1,9}(\.0*)?\s*")
_QUOTED_TITLE = re.compile(r'"(.*)"\n')
# How Search-R1's reranker writes a passage as one text. The title is in quotes if it was in quotes in the corpus.
_TITLED_TEXT = re.compile(r'\(Title: (?:"(.*?)"|([^()\n]*(?:\([^()\n]*\)[^()\n]*)*))\) (.*)', re.DOTALL)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class Limits:
    """Maximum number of requests, and maximum size and duration of each.

    Raises:
        OptionError: A limit is not a number above 0, or `memory` has no room for one body and one answer.
    """

    requests: int = 1024
    """Requests at the same time. Further ones are answered with 503, without reading them."""
    memory: int = 512 * 2**20
    """Bytes of all bodies and answers together. Requests for which there is no room are answered with 503."""
    body: int = 4 * 2**20
    """Bytes of a body. A longer one is answered with 413."""
    queries: int = 4096
    """Queries in one request: Search-R1 sends those of a whole training batch."""
    query_length: int = 16_384
    """Characters of a query."""
    topk: int = 1000
    """Passages per query."""
    passages: int = 131_072
    """Passages in one answer: the number of queries times `topk`."""
    answer: int = 64 * 2**20
    """Bytes of an answer. A longer one is broken off, and the request is answered with 413."""
    body_seconds: float = 10.0
    """Seconds that a client may take to send a body. A slower one is answered with 408."""
    search_seconds: float = 60.0
    """Seconds that a request may wait for its results, and that one search may take. Longer is answered with 504."""
    send_seconds: float = 60.0
    """Seconds that a client may take to read a part of an answer. The connection of a slower one is closed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            valid = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            check_option(f"{name} of a server's limits", value, valid, "a number above 0")
        least = self.body + self.answer
        expected = f"at least {least:,}, the bytes of one body and one answer"
        check_option("memory of a server's limits", self.memory, self.memory >= least, expected)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """The content of a request, checked."""

    queries: tuple[str, ...]
    k: int
    scores: bool
    """True if the answer has to contain scores."""


class BadRequest(RetrievalError):
    """A request that is refused. `status` is the HTTP status: 400 if the body is not a JSON object, else 413 or 422."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def read_request(body: bytes, limits: Limits, default_k: int) -> SearchRequest:
    """Parse and check the body of a request. Unknown fields are ignored, as by Search-R1's server.

    Blank queries and an empty list of queries are valid: Search-R1 and verl send both. A `topk` that is absent or null
    is `default_k`. What other clients send for a number or a boolean is read where it has one meaning: a `topk` of
    3.0 or "3", and `return_scores` of 1 or "true".

    Raises:
        BadRequest: A field is wrong, or over its limit. The message names it, and says what was sent.
    """
    try:
        content = parse_json(body, max_bytes=limits.body)
    except ParseError as error:
        raise BadRequest(f"The body cannot be read: {error!s:.200}.", 400) from error
    if not isinstance(content, dict):
        raise BadRequest(f"The body must be a JSON object, got {content!r:.80}.", 400)
    k = _topk(content.get("topk"), limits, default_k)
    scores = _scores(content.get("return_scores"))
    queries = _queries(content, limits)
    if (passages := len(queries) * k) > limits.passages:
        raise BadRequest(
            f"{len(queries):,} queries with topk {k:,} are {passages:,} passages in one answer; at most "
            f"{limits.passages:,} are sent. Send fewer queries at a time, or a smaller topk."
        )
    return SearchRequest(queries, k, scores)


def _topk(value: Any, limits: Limits, default_k: int) -> int:
    k: Any = default_k if value is None else value
    if (isinstance(k, str) and _WHOLE_NUMBER.fullmatch(k)) or (isinstance(k, float) and k.is_integer()):
        k = int(float(k))
    if type(k) is not int or not 1 <= k <= limits.topk:  # type: true is an int, too
        raise BadRequest(f"topk must be a whole number from 1 to {limits.topk}, got {value!r:.80}.")
    return k


def _scores(value: Any) -> bool:
    if value is None:
        return False
    scores = _FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if scores is None:
        raise BadRequest(f"return_scores must be true or false, got {value!r:.80}.")
    return scores


def _queries(content: dict[str, Any], limits: Limits) -> tuple[str, ...]:
    single = "query" in content
    if single == ("queries" in content):
        raise BadRequest(f"Send either queries, a list of texts, or query, one text; got {sorted(content)!s:.200}.")
    queries = [content["query"]] if single else content["queries"]
    if not isinstance(queries, list):
        raise BadRequest(f"queries must be a list of texts, got {queries!r:.80}. Send one text as query.")
    if len(queries) > limits.queries:
        raise BadRequest(f"{len(queries):,} queries in one request; at most {limits.queries:,} are answered.")
    longest = limits.query_length
    if set(map(type, queries)) <= {str} and max(map(len, queries), default=0) <= longest:
        return tuple(queries)
    for number, query in enumerate(queries):  # one by one, to say which is wrong
        name = "query" if single else f"queries[{number}]"
        if not isinstance(query, str):
            raise BadRequest(f"{name} must be a text, got {query!r:.80}.")
        if len(query) > longest:
            raise BadRequest(f"{name} has {len(query):,} characters; at most {longest:,} are searched for.")
    return tuple(queries)


def write_results(results: Sequence[Sequence[Hit]], *, scores: bool) -> bytes:
    """Return the body of an answer, in ASCII.

    Raises:
        ValueError: A score is not finite.
    """
    return b"".join(join_rows([write_row(hits, scores=scores) for hits in results]))


def write_row(hits: Sequence[Hit], *, scores: bool) -> bytes:
    """Return the part of an answer that belongs to one query.

    Raises:
        ValueError: A score is not finite.
    """
    documents = [write_document(hit.passage) for hit in hits]
    if scores:
        # float: a NumPy scalar cannot be written as JSON.
        numbers = [_ENCODER.encode(float(hit.score)) for hit in hits]
        pairs = zip(documents, numbers, strict=True)
        documents = [f'{{"document":{document},"score":{number}}}' for document, number in pairs]
    return f"[{','.join(documents)}]".encode()


def write_document(passage: Passage) -> str:
    """Return the JSON of a passage, in ASCII."""
    identifier, title, text = passage
    # The title is one line, whatever it contains: Search-R1's and verl's clients split at the first line break.
    return _ENCODER.encode({"id": identifier, "title": title, "contents": f'"{" ".join(title.split())}"\n{text}'})


def join_rows(rows: Sequence[bytes]) -> list[bytes]:
    """Return the pieces of the answer with those rows, one per query."""
    if not rows:
        return [b'{"result":[]}']
    pieces = [b'{"result":[', rows[0]]
    for row in rows[1:]:
        pieces += (b",", row)
    return [*pieces, b"]}"]


def read_results(body: bytes, queries: int, k: int) -> list[list[Hit]]:
    """Parse the answer to a request of that many queries, with `k` passages each. Everything in it is checked.

    Servers of other projects are understood, too:

    - The list is named `result` or `results`, or is the whole answer.
    - A query may have more passages than asked for; the first `k` count.
    - A passage is `{"document": ..., "score": ...}` or the document alone. A document has `title` and `text`, `title`
      and `content` (MedRAG), `text` alone, or `contents`; or it is a text, in the form of `contents` or of Search-R1's
      reranker, `(Title: "Dune") Dune is ...`.
    - Where a passage of a query has no score, all of the query's get 1, 1/2, 1/3 ..., which preserve their order.
    - An id that is a whole number becomes its digits; without one, it is a hash of the title and the text.

    Raises:
        ValueError: The message says what is wrong, and continues the words "the answer".
    """
    try:
        content = parse_json(body, max_bytes=len(body))  # whoever received it has limited its length
    except ParseError as error:
        raise ValueError(f"cannot be read ({error!s:.200}): {body[:200]!r}") from error
    rows = content
    if isinstance(content, dict):
        # Some servers tell a failure in an answer with status 200, beside an empty result.
        if content.get("error") or content.get("status") == "error" or content.get("success") is False:
            raise ValueError(f"tells of a failure: {body[:200]!r}")
        rows = content["result"] if "result" in content else content.get("results")
    if not isinstance(rows, list):
        raise ValueError(f"has no list named result: {body[:200]!r}")
    if len(rows) != queries:
        raise ValueError(f"has {len(rows)} results for {queries} queries")
    return [_hits(row, k) for row in rows]


def _hits(row: object, k: int) -> list[Hit]:
    if not isinstance(row, list):
        raise ValueError(f"has a result that is not a list: {row!r:.200}")
    row = row[:k]
    scores = [score for item in row if (score := _score(item)) is not None]
    if len(scores) < len(row):
        scores = [1.0 / rank for rank in range(1, len(row) + 1)]
    hits = [Hit(_passage(item), score) for item, score in zip(row, scores, strict=True)]
    # Fusion and truncation to k rely on the order.
    for better, worse in itertools.pairwise(hits):
        if worse.score > better.score:
            raise ValueError(f"is not best first: score {worse.score} comes after {better.score}")
    return hits


def _score(item: object) -> float | None:
    score = item.get("score") if isinstance(item, dict) else None
    if score is None:
        return None
    try:
        if type(score) in (int, float, str) and math.isfinite(number := float(score)):  # type: true is an int
            return number
    except ValueError:
        pass
    raise ValueError(f"has a score that is not a finite number: {score!r:.80}")


def _passage(item: object) -> Passage:
    if isinstance(item, dict) and "document" in item and item.get("type") == "error":
        # Search-R1's server for web search sends the failures of its search engine as passages.
        raise ValueError(f"has an error in place of a passage: {item!r:.200}")
    document = item.get("document", item) if isinstance(item, dict) else item
    if isinstance(document, str):
        match = _TITLED_TEXT.fullmatch(document)
        title, text = (match[1] or match[2] or "", match[3]) if match else _split_contents(document)
        identifier = None
    elif isinstance(document, dict):
        title, text = _title_and_text(document)
        identifier = document.get("id", document.get("_id"))
    else:
        raise ValueError(f"has a document that is neither an object nor a text: {document!r:.200}")
    if len(title) > _MAX_TITLE or len(text) > _MAX_TEXT:
        raise ValueError(
            f"has a passage with {len(title):,} characters of title and {len(text):,} of text; at most "
            f"{_MAX_TITLE:,} and {_MAX_TEXT:,} are read"
        )
    if identifier is None:  # Search-R1's server sends none for passages that its Lucene index stores
        identifier = hashlib.blake2b(f"{title}\0{text}".encode(), digest_size=8).hexdigest()
    if type(identifier) not in (int, str):
        raise ValueError(f"has an id that is neither a text nor a whole number: {identifier!r:.80}")
    return Passage(str(identifier), title, text)


def _title_and_text(document: dict[str, Any]) -> tuple[str, str]:
    title = document.get("title")
    if not isinstance(title, str | None):
        raise ValueError(f"has a title that is not a text: {title!r:.200}")
    # MedRAG's `contents` has the title and the text on one line, so `content` is tried first.
    for name in ("text", "content"):
        if isinstance(text := document.get(name), str) and (title is not None or "contents" not in document):
            return title or "", text
    contents = document.get("contents")
    if not isinstance(contents, str):
        raise ValueError(f"has a document without title and text and without contents: {document!r:.200}")
    heading, rest = _split_contents(contents)
    if title is None:
        return heading, rest
    # A first line that is not a title belongs to the text.
    is_title = _QUOTED_TITLE.match(contents) or heading.split() == title.split()
    return title, rest if is_title else contents


def _split_contents(contents: str) -> tuple[str, str]:
    """Return the title and the text. Contents of a single line are a text, as where a corpus has no titles."""
    if match := _QUOTED_TITLE.match(contents):
        return match[1], contents[match.end() :]
    heading, newline, rest = contents.partition("\n")
    return (heading, rest) if newline else ("", contents)

"""The Search-R1 wire format of `POST /retrieve`, read and written, for the server and for the client.

    {"queries": ["who wrote Dune?"], "topk": 3, "return_scores": true}          Search-R1, verl
    {"query": "who wrote Dune?", "topk": 3, "return_scores": true}              SkyRL
    {"result": [[{"document": {"id": "7", "title": "Dune", "contents": "\\"Dune\\"\\nDune is ..."}, "score": 9.1}]]}
    {"result": [[{"id": "7", "title": "Dune", "contents": "\\"Dune\\"\\nDune is ..."}]]}     without return_scores

There is one list per query, in the order of the queries; a single `query` is a list of one. The source of the format is
`search_r1/search/retrieval_server.py` of Search-R1 (arXiv:2503.09516) and its corpus: `contents` is the title in
double quotes on the first line, and then the text. Its clients take the first line for the title. Ours takes the title
from `title`, which may contain line breaks, and the text from the rest of `contents`, so a passage arrives unchanged.
"""

# This format and no other, because the trainers that people use (Search-R1, verl, SkyRL) speak it already. Parsed by
# hand: the checks say which field is wrong and what was sent, at a fraction of a schema library's time.

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError, check_option
from raggym_env.protocols import Hit

__all__ = [
    "FINGERPRINT_HEADER",
    "TOKEN_ENV",
    "BadRequest",
    "Limits",
    "SearchRequest",
    "read_request",
    "read_results",
    "write_results",
]

FINGERPRINT_HEADER = "x-raggym-fingerprint"
"""Header of every answer with the retriever's fingerprint, by which a client notices that the index has changed."""

TOKEN_ENV = "RAGGYM_RETRIEVER_TOKEN"  # noqa: S105  # the name of a variable, not a token
"""Environment variable with the token, for the server and for the client."""


@dataclass(frozen=True)
class Limits:
    """Maximum number of requests, and maximum size and duration of each.

    Raises:
        OptionError: A limit is not above 0.
    """

    requests: int = 1024
    """Requests at the same time. Further ones are answered with 503, without reading them."""
    body: int = 4 * 2**20
    """Bytes of a body. A longer one is answered with 413."""
    queries: int = 4096
    """Queries in one request: Search-R1 sends those of a whole training batch."""
    query_length: int = 16_384
    """Characters of a query."""
    topk: int = 1000
    """Passages per query."""
    body_seconds: float = 10.0
    """Seconds that a client may take to send a body. A slower one is answered with 408."""
    search_seconds: float = 60.0
    """Seconds that a request may wait for its results. A longer wait is answered with 504."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_option(f"{name} of a server's limits", value, value > 0, "above 0")


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """The content of a request, checked."""

    queries: tuple[str, ...]
    k: int
    scores: bool
    """True if the answer has to contain scores."""


class BadRequest(RetrievalError):
    """A request body that is refused. `status` is the HTTP status: 400 if it is not a JSON object, else 422."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def read_request(body: bytes, limits: Limits, default_k: int) -> SearchRequest:
    """Parse and check the body of a request. Unknown fields are ignored, as by Search-R1's server.

    Blank queries and an empty list of queries are valid: Search-R1 and verl send both. A `topk` that is absent or null
    is `default_k`.

    Raises:
        BadRequest: A field is wrong, or over its limit. The message names it, and says what was sent.
    """
    content = _object(body)
    k = default_k if content.get("topk") is None else content["topk"]
    if type(k) is not int or not 1 <= k <= limits.topk:  # type: true is an int, too
        raise BadRequest(f"topk must be a whole number from 1 to {limits.topk}, got {k!r:.80}.")
    scores = content.get("return_scores")
    if not isinstance(scores, bool | None):
        raise BadRequest(f"return_scores must be true or false, got {scores!r:.80}.")
    return SearchRequest(_queries(content, limits), k, bool(scores))


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: {error}.", 400) from error
    except RecursionError as error:
        raise BadRequest("The body is JSON that is nested too deeply.", 400) from error
    except ValueError as error:  # also a number of more digits than Python converts
        raise BadRequest(f"The body is not JSON: {error!s:.200}.", 400) from error
    if not isinstance(content, dict):
        raise BadRequest(f"The body must be a JSON object, got {content!r:.80}.", 400)
    return content


def _queries(content: dict[str, Any], limits: Limits) -> tuple[str, ...]:
    single = "query" in content
    if single == ("queries" in content):
        raise BadRequest(f"Send either queries, a list of texts, or query, one text; got {sorted(content)!s:.200}.")
    queries = [content["query"]] if single else content["queries"]
    if not isinstance(queries, list):
        raise BadRequest(f"queries must be a list of texts, got {queries!r:.80}. Send one text as query.")
    if len(queries) > limits.queries:
        raise BadRequest(f"{len(queries):,} queries in one request; at most {limits.queries:,} are answered.")
    for number, query in enumerate(queries):
        name, longest = "query" if single else f"queries[{number}]", limits.query_length
        if not isinstance(query, str):
            raise BadRequest(f"{name} must be a text, got {query!r:.80}.")
        if len(query) > longest:
            raise BadRequest(f"{name} has {len(query):,} characters; at most {longest:,} are searched for.")
        try:
            query.encode()
        except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
            raise BadRequest(f"{name} is not valid Unicode: {error}.") from error
    return tuple(queries)


def write_results(results: Sequence[Sequence[Hit]], *, scores: bool) -> bytes:
    """Return the body of an answer, in ASCII.

    Raises:
        ValueError: A score is not finite.
    """
    rows = [
        [{"document": _document(passage), "score": score} if scores else _document(passage) for passage, score in hits]
        for hits in results
    ]
    return json.dumps({"result": rows}, allow_nan=False, separators=(",", ":")).encode()


def _document(passage: Passage) -> dict[str, str]:
    identifier, title, text = passage
    # The title is one line, whatever it contains: Search-R1's and verl's clients split at the first line break.
    return {"id": identifier, "title": title, "contents": f'"{" ".join(title.split())}"\n{text}'}


def read_results(body: bytes, queries: int, k: int) -> list[list[Hit]]:
    """Parse the answer to a request of that many queries, with `k` passages each. Everything in it is checked.

    Passages without scores get 1, 1/2, 1/3 ..., which preserve their order. The id of a passage without one is a hash
    of its title and text. An id that is a whole number becomes its digits.

    Raises:
        ValueError: The message says what is wrong, and continues the words "the answer".
    """
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {body[:200]!r}") from error
    rows = content.get("result") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"has no list named result: {body[:200]!r}")
    if len(rows) != queries:
        raise ValueError(f"has {len(rows)} results for {queries} queries")
    return [_hits(row, k) for row in rows]


def _hits(row: object, k: int) -> list[Hit]:
    if not isinstance(row, list):
        raise ValueError(f"has a result that is not a list: {row!r:.200}")
    if len(row) > k:
        raise ValueError(f"has {len(row)} passages instead of at most {k}")
    hits = [_hit(item, rank) for rank, item in enumerate(row, start=1)]
    # Fusion and truncation to k rely on the order.
    for better, worse in itertools.pairwise(hits):
        if worse.score > better.score:
            raise ValueError(f"is not best first: score {worse.score} comes after {better.score}")
    return hits


def _hit(item: object, rank: int) -> Hit:
    if not isinstance(item, dict):
        raise ValueError(f"has a passage that is not an object: {item!r:.200}")
    document: Any = item.get("document", item)
    score: Any = item.get("score") if "document" in item else 1.0 / rank
    if not isinstance(document, dict):
        raise ValueError(f"has a document that is not an object: {document!r:.200}")
    # Compared, since math.isfinite raises for a whole number that is too large for a float. `type`: true is an int.
    if type(score) not in (int, float) or not abs(score) <= sys.float_info.max:
        raise ValueError(f"has a score that is not a finite number: {score!r:.80}")
    title, text = _title_and_text(document)
    identifier = document.get("id")
    if identifier is None:  # Search-R1's server sends none for passages that its Lucene index stores
        content = f"{title}\0{text}".encode("utf-8", "surrogatepass")
        identifier = hashlib.blake2b(content, digest_size=8).hexdigest()
    if type(identifier) not in (int, str):
        raise ValueError(f"has an id that is neither a text nor a whole number: {identifier!r:.80}")
    return Hit(Passage(str(identifier), title, text), float(score))


def _title_and_text(document: dict[str, Any]) -> tuple[str, str]:
    title, text, contents = (document.get(name) for name in ("title", "text", "contents"))
    if isinstance(title, str) and isinstance(text, str):
        return title, text
    if not isinstance(contents, str):
        raise ValueError(f"has a document without title and text and without contents: {document!r:.200}")
    heading, newline, rest = contents.partition("\n")
    if not newline:  # a single line is a text, as where a corpus has no titles
        heading, rest = "", contents
    elif len(heading) >= 2 and heading[0] == heading[-1] == '"':
        heading = heading[1:-1]
    return title if isinstance(title, str) else heading, rest

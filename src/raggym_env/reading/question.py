"""What a question asks for: the type of its answer, the things it names, the things it compares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from raggym_env.reading.text import COUNTRIES, STOP, entities, key, stem, terms, words

__all__ = ["Asked", "analyse"]

_AUXILIARY = frozenset(
    (
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "will",
        "would",
        "should",
    )
)
_PLACES = "city|town|county|state|village|location|continent|region|province|island"
_PEOPLE = "actor|actress|singer|author|director|player|writer|president|politician|man|woman|king|queen|composer|person"
_KINDS = {
    "nation": r"\b(?:nationality|what country|which country|citizenship)\b",
    "year": r"\b(?:what|which) year\b",
    "date": r"\b(?:when|what date|which date|date of|birthday|what day|which day)\b",
    "number": r"\b(?:how (?:many|much|old|tall|long|far|large|high|big)|what (?:number|percentage)|"
    r"population|elevation|capacity|(?:area|height|length) of)\b",
    "place": rf"\b(?:where|place of|(?:what|which) (?:\w+ )?(?:{_PLACES}))\b",
    "person": rf"\b(?:who|whom|whose)\b|\b(?:what|which) (?:\w+ ){{0,2}}(?:{_PEOPLE})\b",
    "definition": r"\b(?:what (?:kind|type|sort|genre|form)|(?:profession|occupation|genre)s?)\b",
}
_TYPES = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _KINDS.items()}
_HEAD = re.compile(
    r"\b(?:which|what)\s+((?:[\w'-]+\s+){0,3}?[\w'-]+)"
    r"(?=\s+(?:is|are|was|were|did|does|do|has|had|have|that|who|which|by|of|in|with|from|on|for|can|will|would)\b|[,?])",
    re.IGNORECASE,
)
_LESS = re.compile(
    r"\b(?:first|earlier|earliest|older|oldest|before|fewer|smaller|less|shorter|lower|smallest|fewest|lowest)\b"
)
_MORE = re.compile(
    r"\b(?:later|latest|younger|youngest|newer|newest|recent|recently|last|more|larger|largest|longer|higher|bigger|"
    r"greater|most|taller|highest|longest|after)\b"
)
_TIME = re.compile(
    r"\b(?:first|earlier|earliest|older|oldest|before|later|latest|younger|youngest|newer|newest|recent|recently|last|"
    r"born|died|founded|released|after|established|formed|published|began|started)\b"
)
# What a question calls one thing and an encyclopedia another, as stems.
_SYNONYMS = {
    "spous": ("marri", "wife", "husba"), "wife": ("marri",), "husba": ("marri",), "fathe": ("son", "daugh"),
    "mothe": ("son", "daugh"), "child": ("fathe", "mothe", "son", "daugh"), "birth": ("born",), "born": ("birth",),
    "die": ("died", "death"), "died": ("death",), "death": ("died",), "found": ("estab",),
    "autho": ("wrote", "writt", "novel"), "write": ("wrote", "writt"), "wrote": ("writt", "autho"),
    "perfo": ("singe", "recor", "song"), "compo": ("music",), "locat": ("situa",), "maker": ("manuf", "produ"),
    "grand": ("son", "daugh", "fathe"), "sibli": ("broth", "siste"), "headq": ("based",),
    "schoo": ("educa", "gradu"), "gradu": ("educa", "unive", "studi"), "star": ("starr",), "occup": ("profe",),
}  # fmt: skip
_AGENTS = re.compile(
    r"\b(director|composer|performer|author|writer|founder|creator|producer|singer|artist|editor|owner|publisher|"
    r"developer|designer|architect|screenwriter|songwriter|manufacturer|inventor)s?\b"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, analysed."""

    text: str
    kind: str
    """The answer's type: "verdict" (yes or no), "choice", or a type of `_TYPES`, or "entity"."""
    terms: frozenset[str]
    relation: frozenset[str]
    """Terms that are part of no name in the question, with their synonyms: what is asked about the names."""
    names: tuple[str, ...]
    choices: tuple[str, str] | tuple[()]
    """The two things compared, for "verdict" and "choice"."""
    agents: frozenset[str]
    """Terms of the nouns by which one name is reached from another ("the director of the film ...")."""
    role: str
    """"birth" or "death" where that is asked about, else ""."""
    head: str
    """Term of the noun after which or what ("which film": "film"), or ""."""
    order: int
    """-1 if the smaller or earlier of two is asked for, 1 if the larger or later, 0 if neither."""
    timed: bool
    """Whether the order is one of time."""
    key: str


# Characters of a question that are read, as some patterns take time that grows with the square of it.
_LONGEST = 10_000


@lru_cache(maxsize=4_096)
def analyse(text: str) -> Asked:
    """Read a question. Cached, as every turn of an episode asks it again."""
    whole, text = text, text[:_LONGEST]
    names = _names(text)
    choices = _choices(text)
    kind = _kind(text, choices)
    if kind == "verdict":
        choices = _pair(text, names)
    in_names = {term for name in (*names, *choices) for term in terms(name)}
    asked = terms(text)
    relation = {term for term in asked if term not in in_names}
    relation |= {other for term in relation for other in _SYNONYMS.get(term, ())}
    lower = text.lower()
    return Asked(
        text=whole,
        kind=kind,
        terms=frozenset(asked),
        relation=frozenset(relation),
        names=names,
        choices=choices,
        agents=_agents(relation, lower),
        role=_role(lower),
        head=_head(text),
        order=_order(lower, choices),
        timed=bool(_TIME.search(lower)),
        key=f" {key(text + ' .')} ",
    )


def _names(text: str) -> tuple[str, ...]:
    quoted = [match.strip(" ,.") for match in re.findall(r"[\"“]([^\"”]{2,})[\"”]", text)]
    spans = [_with_parenthesis(text, start, name) for start, name in entities(text)]
    spans = [name for name in dict.fromkeys(spans) if not all(word.lower() in STOP for word in words(name))]
    others = dict.fromkeys((*quoted, *spans))
    return tuple(dict.fromkeys(quoted + [name for name in spans if not any(name in other != name for other in others)]))


def _with_parenthesis(text: str, start: int, name: str) -> str:
    match = re.compile(r" ?\([^)]*\)").match(text, start + len(name))
    return name + match[0] if match else name


_OPENING = re.compile(r"^\W*(?:\w+ )?(?:what|which|who|whom|whose|when|where|how)\b", re.IGNORECASE)
_RELATIVE = re.compile(r"(?<=\w )(?:who|whom|whose|where|when)\b")


def _asking(text: str) -> str:
    """The part of a question that asks, without relative pronouns: "what" and an opening word always ask."""
    if what := re.search(r"\bwhat\b", text, re.IGNORECASE):
        return _RELATIVE.sub("", text[what.start() :])
    if opening := _OPENING.match(text):
        return opening[0] + _RELATIVE.sub("", text[opening.end() :])
    last = list(re.finditer(r"\b(?:which|who|whom|whose|when|where|how)\b", text))
    return text[last[-1].start() :] if last else text


def _agents(relation: set[str], lower: str) -> frozenset[str]:
    return frozenset(stem(word) for word in _AGENTS.findall(lower)) & relation


def _kind(text: str, choices: tuple[str, ...]) -> str:
    if choices:
        return "choice"
    first = words(text)[:1]
    if first and first[0].lower() in _AUXILIARY:
        return "verdict"
    asking = _asking(text)
    found = [(match.start(), kind) for kind, pattern in _TYPES.items() if (match := pattern.search(asking))]
    return min(found)[1] if found else "entity"


def _role(lower: str) -> str:
    if re.search(r"\b(?:die|died|dies|death|lived longer)\b", lower):
        return "death"
    return (
        "birth"
        if re.search(r"\b(?:born|birth|birthday|birthplace|birthdate|older|younger|oldest|youngest)\b", lower)
        else ""
    )


def _order(lower: str, choices: tuple[str, ...]) -> int:
    """The last such word outside the names compared decides: "the first governor who was born later"."""
    for name in choices:
        lower = lower.replace(name.lower(), " ")
    cues = [(m.start(), sign) for sign, pattern in ((-1, _LESS), (1, _MORE)) for m in pattern.finditer(lower)]
    return max(cues)[1] if cues else 0


def _head(text: str) -> str:
    match = _HEAD.search(text)
    return stem(match[1].split()[-1]) if match else ""


_OR = re.compile(r"^(?P<before>.*\S),?\s+or\s+(?P<after>.+?)\s*\??\s*$")
_BETWEEN = re.compile(r"\bbetween\s+(?P<a>.+?)\s+and\s+(?P<b>[^,?]+?)(?:,|\s+(?:which|who|what)\b|\?|$)", re.IGNORECASE)
_EITHER = re.compile(r"^(?P<a>[^,?]+?)\s+or\s+(?P<b>[^,?]+?),?\s+(?:which|who|what)\b", re.IGNORECASE)


def _choices(text: str) -> tuple[str, str] | tuple[()]:
    """The two sides of "..., A or B?", "between A and B" or "A or B, which ...", if the question has them."""
    if match := _OR.match(text):
        left, right = _last_name(match["before"]), _name_alone(match["after"])
        if left and right[:1].isupper() and len(words(right)) <= 12:
            return left, right
    for pattern in (_BETWEEN, _EITHER):
        if (match := pattern.search(text)) and match["a"].strip(' "“')[:1].isupper():
            return _name_alone(match["a"]), _name_alone(match["b"])
    return ()


def _last_name(text: str) -> str:
    """What stands after the last comma or colon, or else the last capitalised span."""
    text = text.rstrip(" ,")
    parts = re.split(r"[,?]\s+|--", text) if re.search(r"[,?]\s|--", text) else re.split(r":\s+", text)
    tail = _name_alone(re.sub(r"^(?:between|either|is it)\s+", "", parts[-1].strip()))
    if tail[:1].isupper() and tail != text.strip():
        return tail
    spans = [(start, name) for start, name in entities(text)]
    return text[spans[-1][0] :].strip(' "“”') if spans else ""


def _name_alone(text: str) -> str:
    """A name without the words before it ("the film ...") and the clause after it."""
    bare = re.sub(r"^the\s+(?:(?:[a-z]+\s+){0,3}(?=[\"“A-Z]))?", "", text.strip(' ,"“”'))
    return re.split(r",\s+(?=[a-z])", bare)[0].strip(' ,"“”')


def _without_nation(name: str) -> str:
    """ "Neil Jordan American" is a name and the adjective that is asked about."""
    head, _, last = name.rpartition(" ")
    return head if head and last in COUNTRIES else name


def _pair(text: str, names: tuple[str, ...]) -> tuple[str, str] | tuple[()]:
    """The two names of "Are A and B ...?". A name ends at a comma: "Kalatu, Rudan" counts by its first part."""
    names = tuple(_without_nation(name) for name in names)
    for left in range(len(names) - 1):
        for right in range(left + 1, len(names)):
            between = text[text.find(names[left]) + len(names[left]) : text.find(names[right])]
            if re.search(r"\band\b|\bas\b|\bwith\b|\bto\b", between):
                return names[left], names[right]
    return (names[0], names[1]) if len(names) > 1 else ()

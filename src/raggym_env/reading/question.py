"""Questions parsed by rules: the type of the answer, the names, and what is compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from raggym_env.reading.text import COUNTRIES, STOP, composed, entities, key, stem, terms, words

__all__ = ["ParsedQuestion", "parse_question"]

# A question that starts with one of these wants yes or no.
_AUXILIARY = frozenset(
    ("is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "can", "could", "will", "would", "should")
)
_PLACES = "city|town|county|state|village|location|continent|region|province|island"
_PEOPLE = "actor|actress|singer|author|director|player|writer|president|politician|man|woman|king|queen|composer|person"
# The pattern that matches first in the question decides its type.
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
# The noun after "which" or "what", up to four words long: "which [American film] was ...".
_HEAD = re.compile(
    r"\b(?:which|what)\s+((?:[\w'-]+\s+){0,3}?[\w'-]+)"
    r"(?=\s+(?:is|are|was|were|did|does|do|has|had|have|that|who|which|by|of|in|with|from|on|for|can|will|would)\b|[,?])",
    re.IGNORECASE,
)
# Words by which a question asks for the smaller or earlier of two, and for the larger or later.
_LESS = re.compile(
    r"\b(?:first|earlier|earliest|older|oldest|before|fewer|smaller|less|shorter|lower|smallest|fewest|lowest)\b"
)
_MORE = re.compile(
    r"\b(?:later|latest|younger|youngest|newer|newest|recent|recently|last|more|larger|largest|longer|higher|bigger|"
    r"greater|most|taller|highest|longest|after)\b"
)
# A question with words for both is about the death: "When did the man who was born in Delft die?"
_ROLES = {
    "death": re.compile(r"\b(?:die|died|dies|death|lived longer)\b"),
    "birth": re.compile(r"\b(?:born|birth|birthday|birthplace|birthdate|older|younger|oldest|youngest)\b"),
}
_TIME = re.compile(
    r"\b(?:first|earlier|earliest|older|oldest|before|later|latest|younger|youngest|newer|newest|recent|recently|last|"
    r"born|died|founded|released|after|established|formed|published|began|started)\b"
)
# Term of a question -> terms that say the same in an encyclopedia: "spouse" is "married" there, "die" is "death".
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
class ParsedQuestion:
    """A question and what its words say about its answer."""

    text: str
    kind: str
    """Type of the answer: "verdict" (yes or no), "choice" (one of two), a key of `_TYPES`, or "entity"."""
    terms: frozenset[str]
    relation: frozenset[str]
    """Terms outside of names, with their synonyms: what the question asks about its names."""
    names: tuple[str, ...]
    choices: tuple[str, str] | tuple[()]
    """The two names compared, for "verdict" and "choice"."""
    agents: frozenset[str]
    """Terms of nouns that lead from one name to another ("the director of the film ...")."""
    role: str
    """"birth" or "death" if the question is about that event, else ""."""
    head: str
    """Term of the noun after "which" or "what" ("which film": "film"), or ""."""
    order: int
    """-1 if the smaller or earlier of two is the answer, 1 if the larger or later, 0 if neither."""
    timed: bool
    """True if the order is one of time."""
    key: str
    """The question's key between spaces."""


# Characters of a question that are parsed, as the time of some patterns grows with the square of the length.
_LONGEST = 10_000


# Cached, as the same question is parsed at every step of its episodes.
@lru_cache(maxsize=4_096)
def parse_question(text: str) -> ParsedQuestion:
    """Parse a question, of which the first 10,000 characters count."""
    whole, text = text, composed(text[:_LONGEST])
    lower = text.lower()
    names = _names(text)
    choices = _choices(text)
    kind = _kind(text, choices)
    if kind == "verdict":
        choices = _pair(text, names)
    in_names = {term for name in (*names, *choices) for term in terms(name)}
    all_terms = terms(text)
    relation = {term for term in all_terms if term not in in_names}
    relation |= {synonym for term in relation for synonym in _SYNONYMS.get(term, ())}
    head = _HEAD.search(text)
    return ParsedQuestion(
        text=whole,
        kind=kind,
        terms=frozenset(all_terms),
        relation=frozenset(relation),
        names=names,
        choices=choices,
        # A director in the title of a film leads nowhere: only words outside of names count.
        agents=frozenset(stem(word) for word in _AGENTS.findall(lower)) & relation,
        role=next((role for role, pattern in _ROLES.items() if pattern.search(lower)), ""),
        head=stem(head[1].split()[-1]) if head else "",
        order=_order(lower, choices),
        timed=bool(_TIME.search(lower)),
        key=f" {key(text + ' .')} ",
    )


_QUOTED = re.compile(r"[\"“]([^\"”]{2,})[\"”]")
_PARENTHESIS = re.compile(r" ?\([^)]*\)")


def _names(text: str) -> tuple[str, ...]:
    """Return quoted names, then capitalized ones that are part of no other, each once."""
    quoted = [match.strip(" ,.") for match in _QUOTED.findall(text)]
    capitalized = []
    for start, name in entities(text):
        # The parenthesis after a name belongs to the title of its page: "Maya (1999 Film)".
        parenthesis = _PARENTHESIS.match(text, start + len(name))
        capitalized.append(name + parenthesis[0] if parenthesis else name)
    capitalized = [name for name in dict.fromkeys(capitalized) if not all(word.lower() in STOP for word in words(name))]
    longer = dict.fromkeys((*quoted, *capitalized))
    return tuple(dict.fromkeys(quoted + [n for n in capitalized if not any(n in other != n for other in longer)]))


_OPENING = re.compile(r"^\W*(?:\w+ )?(?:what|which|who|whom|whose|when|where|how)\b", re.IGNORECASE)
_RELATIVE = re.compile(r"(?<=\w )(?:who|whom|whose|where|when)\b")


def _interrogative_part(text: str) -> str:
    """Return the part of a question that says what it asks, without relative pronouns ("the man who ...")."""
    # "what" is never a relative pronoun, nor is a question word that opens the sentence. Otherwise take the last one.
    if what := re.search(r"\bwhat\b", text, re.IGNORECASE):
        return _RELATIVE.sub("", text[what.start() :])
    if opening := _OPENING.match(text):
        return opening[0] + _RELATIVE.sub("", text[opening.end() :])
    last = list(re.finditer(r"\b(?:which|who|whom|whose|when|where|how)\b", text))
    return text[last[-1].start() :] if last else text


def _kind(text: str, choices: tuple[str, ...]) -> str:
    if choices:
        return "choice"
    first = words(text)[:1]
    if first and first[0].lower() in _AUXILIARY:
        return "verdict"
    part = _interrogative_part(text)
    cues = [(match.start(), kind) for kind, pattern in _TYPES.items() if (match := pattern.search(part))]
    return min(cues)[1] if cues else "entity"


def _order(lower: str, choices: tuple[str, ...]) -> int:
    # Comparatives in the names compared say nothing ("The Last Days").
    for name in choices:
        lower = lower.replace(name.lower(), " ")
    cues = [(m.start(), sign) for sign, pattern in ((-1, _LESS), (1, _MORE)) for m in pattern.finditer(lower)]
    # The last one decides: "the first governor who was born later".
    return max(cues)[1] if cues else 0


_OR = re.compile(r"^(?P<before>.*\S),?\s+or\s+(?P<after>.+?)\s*\??\s*$")
_BETWEEN = re.compile(r"\bbetween\s+(?P<a>.+?)\s+and\s+(?P<b>[^,?]+?)(?:,|\s+(?:which|who|what)\b|\?|$)", re.IGNORECASE)
_EITHER = re.compile(r"^(?P<a>[^,?]+?)\s+or\s+(?P<b>[^,?]+?),?\s+(?:which|who|what)\b", re.IGNORECASE)


def _choices(text: str) -> tuple[str, str] | tuple[()]:
    """Return A and B of "..., A or B?", "between A and B" or "A or B, which ...", () for other questions."""
    if match := _OR.match(text):
        left, right = _last_name(match["before"]), _name_alone(match["after"])
        if left and right[:1].isupper() and len(words(right)) <= 12:
            return left, right
    for pattern in (_BETWEEN, _EITHER):
        if (match := pattern.search(text)) and match["a"].strip(' "“')[:1].isupper():
            return _name_alone(match["a"]), _name_alone(match["b"])
    return ()


def _last_name(text: str) -> str:
    """Return what follows the last comma or colon, or else the last capitalized name and the rest."""
    text = text.rstrip(" ,")
    parts = re.split(r"[,?]\s+|--", text) if re.search(r"[,?]\s|--", text) else re.split(r":\s+", text)
    tail = _name_alone(re.sub(r"^(?:between|either|is it)\s+", "", parts[-1].strip()))
    if tail[:1].isupper() and tail != text.strip():
        return tail
    spans = entities(text)
    return text[spans[-1][0] :].strip(' "“”') if spans else ""


def _name_alone(text: str) -> str:
    """Return a name without the words before it ("the film ...") and the clause after it."""
    bare = re.sub(r"^the\s+(?:(?:[a-z]+\s+){0,3}(?=[\"“A-Z]))?", "", text.strip(' ,"“”'))
    return re.split(r",\s+(?=[a-z])", bare)[0].strip(' ,"“”')


def _pair(text: str, names: tuple[str, ...]) -> tuple[str, str] | tuple[()]:
    """Return A and B of "Are A and B ...?". Names end at commas: of "Kalatu, Rudan" the first part counts."""
    bare = []
    for name in names:
        # "Are Neil Jordan and Jim McBride American?" asks for the nationality that `entities` takes for a last name.
        head, _, last = name.rpartition(" ")
        bare.append(head if head and last in COUNTRIES else name)
    for left in range(len(bare) - 1):
        for right in range(left + 1, len(bare)):
            between = text[text.find(bare[left]) + len(bare[left]) : text.find(bare[right])]
            if re.search(r"\band\b|\bas\b|\bwith\b|\bto\b", between):
                return bare[left], bare[right]
    return (bare[0], bare[1]) if len(bare) > 1 else ()

"""The kinds of entities in the world, and the relations between them: one row per relation.

People, works, companies, houses, schools and events are numbered in order of time, so that "somebody born forty
years earlier" has a smaller number, and every fact of an entity follows from the seed and its number alone. The
calendar only looks like ours: this world has had films and railways for as long as it has had novels.

The relations are data rather than code, so that passages, questions, comparisons and tests all read the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PATTERN", "RULES", "TRADES", "Rule"]

# The kinds of forty successive entities, which repeat. Mostly people and works: most questions start from them.
_KINDS = ("person", "work", "place", "company", "house", "event", "nature", "school", "region")
PATTERN = tuple(kind for kind, share in zip(_KINDS, (16, 9, 5, 2, 2, 2, 2, 1, 1), strict=True) for _ in range(share))

# A person's number modulo 5 is the trade: letters, film, music, science, public life. Makers are drawn from the trade
# that fits: novels are written by people of letters, companies founded by people of public life.
TRADES = (
    ("novelist", "poet", "essayist", "critic", "translator"),
    ("film director", "screenwriter", "actor", "cinematographer"),
    ("composer", "conductor", "violinist", "pianist", "organist"),
    ("engineer", "botanist", "astronomer", "geologist", "chemist", "cartographer", "architect"),
    ("politician", "general", "merchant", "explorer", "lawyer", "diplomat", "judge"),
)


@dataclass(frozen=True)
class Rule:
    """The rule by which the value of a relation is drawn."""

    name: str
    """Name of the relation."""
    draw: str
    """The kind of draw:

    - `near`: an entity at about the same place in the shuffled numbering of its kind
    - `parallel`: the entity at the same relative place in its own numbering, so that neighbours share it
    - `next`: an entity of the same kind, `low` or a few more numbers later
    - `before`: an entity that is earlier by `low` to `high` of the whole of time
    - `maker`: a person of the same time and of the trade `trade`
    - `date`, `year`: `low` to `high` years after the maker's birth, or those years themselves if there is no maker
    - `number`: a number from `low` to `high`, distributed evenly over the orders of magnitude
    - `life`: drawn together with the person's other dates and relatives, by `SynthWorld`
    """
    target: str = ""
    """Kind of the value; empty for a literal."""
    low: float = 0
    high: float = 0
    trade: int | None = None
    """Index into `TRADES`; None if it depends on the kind of work."""


# A maker is 25 to 44 years old: grown up, and alive, as nobody in this world dies before 50.
_FOUNDED = (
    Rule("founder", "maker", "person", trade=4),
    Rule("founded", "year", low=25, high=44),
    Rule("seat", "near", "place"),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "person": (
        Rule("occupation", "life"),
        Rule("born", "life"),
        Rule("died", "life"),
        Rule("father", "life", "person"),
        Rule("mother", "life", "person"),
        Rule("spouse", "life", "person"),
        Rule("birthplace", "near", "place"),
        Rule("deathplace", "near", "place", low=12),  # beyond the reach of the birthplace's draw
        # Shares of the 275 years of births. The founder is older by at least 33 or 22 years, so that the school and the
        # company exist when the person is grown up.
        Rule("school", "before", "school", 0.12, 0.4),
        Rule("employer", "before", "company", 0.08, 0.3),
        Rule("peer", "next", "person", low=3),  # spouses are 1 apart and namesakes 2
    ),
    "work": (
        Rule("creator", "maker", "person"),  # the trade depends on the kind of work
        Rule("published", "date", low=25, high=44),
        Rule("publisher", "before", "house", 0.08, 0.3),
        Rule("setting", "near", "place"),
        Rule("source", "before", "work", 0.1, 0.4),  # only novels are adapted
        Rule("peer", "next", "work", low=1),
    ),
    "place": (
        Rule("region", "parallel", "region"),
        Rule("founded", "year", low=880, high=1600),  # towns are older than everybody born in them
        Rule("population", "number", low=2_000, high=90_000),
        Rule("landmark", "near", "nature"),
        Rule("statue", "near", "person"),  # of any time: a statue may be younger than its town by centuries
        Rule("peer", "next", "place", low=1),
    ),
    "company": (*_FOUNDED, Rule("staff", "number", low=40, high=9_000), Rule("peer", "next", "company", low=1)),
    "house": (*_FOUNDED, Rule("peer", "next", "house", low=1)),
    "school": (*_FOUNDED, Rule("students", "number", low=90, high=6_000), Rule("peer", "next", "school", low=1)),
    "event": (
        Rule("organiser", "maker", "person", trade=4),
        Rule("date", "date", low=25, high=44),
        Rule("venue", "near", "place"),
        Rule("sponsor", "before", "company", 0.08, 0.3),
        Rule("participants", "number", low=60, high=40_000),
        Rule("peer", "next", "event", low=1),
    ),
    "nature": (
        Rule("region", "parallel", "region"),
        Rule("surveyor", "maker", "person", trade=3),
        Rule("surveyed", "year", low=25, high=44),
        Rule("elevation", "number", low=120, high=4_800),  # metres above the sea
        Rule("peer", "next", "nature", low=1),
    ),
    "region": (
        Rule("governor", "maker", "person", trade=4),
        Rule("established", "year", low=25, high=44),
        Rule("capital", "parallel", "place"),  # the reverse of a place's region, so it lies in its own region
        Rule("area", "number", low=200, high=30_000),  # square kilometres
        Rule("peer", "next", "region", low=1),
    ),
}

"""What exists in the world and how its facts hang together: one row per relation.

People, works, companies, houses, schools and events are numbered in order of time, so that "somebody born forty
years earlier" is a smaller number, and every fact of a thing follows from the seed and its number alone. The
calendar only looks like ours: this world has had films and railways for as long as it has had novels.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PATTERN", "RULES", "TRADES", "Rule"]

# Forty consecutive numbers hold this many things of each kind.
_SHARES = {
    "person": 16,
    "work": 9,
    "place": 5,
    "company": 2,
    "house": 2,
    "event": 2,
    "nature": 2,
    "school": 1,
    "region": 1,
}
PATTERN = tuple(kind for kind, share in _SHARES.items() for _ in range(share))

# A person's number modulo 5 is the trade: letters, film, music, science, public life.
TRADES = (
    ("novelist", "poet", "essayist", "critic", "translator"),
    ("film director", "screenwriter", "actor", "cinematographer"),
    ("composer", "conductor", "violinist", "pianist", "organist"),
    ("engineer", "botanist", "astronomer", "geologist", "chemist", "cartographer", "architect"),
    ("politician", "general", "merchant", "explorer", "lawyer", "diplomat", "judge"),
)


@dataclass(frozen=True)
class Rule:
    """How the value of one relation is drawn.

    `how` is one of: `near` (a thing at about the same place in its own numbering, shuffled), `parallel` (the thing
    at the same place, so neighbours share it), `next` (one of the same kind, `low` or a few more numbers on),
    `before` (a thing from `low` to `high` of all time earlier), `maker` (a person of the same time and of trade
    `trade`), `date` or `year` (an age of the maker, or a plain range of years where there is no maker), `number`
    (a range), and `own`: computed by the world, for people.
    """

    name: str
    how: str
    target: str = ""
    low: float = 0
    high: float = 0
    trade: int | None = None


_FOUNDED = (
    Rule("founder", "maker", "person", trade=4),
    Rule("founded", "year", low=25, high=44),
    Rule("seat", "near", "place"),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "person": (
        Rule("occupation", "own"),
        Rule("born", "own"),
        Rule("died", "own"),
        Rule("father", "own", "person"),
        Rule("mother", "own", "person"),
        Rule("spouse", "own", "person"),
        Rule("birthplace", "near", "place"),
        Rule("deathplace", "near", "place", low=12),
        Rule("school", "before", "school", 0.12, 0.4),
        Rule("employer", "before", "company", 0.08, 0.3),
        Rule("peer", "next", "person", low=3),  # neither a spouse nor a namesake
    ),
    "work": (
        Rule("creator", "maker", "person"),
        Rule("published", "date", low=25, high=44),
        Rule("publisher", "before", "house", 0.08, 0.3),
        Rule("setting", "near", "place"),
        Rule("source", "before", "work", 0.1, 0.4),
        Rule("peer", "next", "work", low=1),
    ),
    "place": (
        Rule("region", "parallel", "region"),
        Rule("founded", "year", low=880, high=1600),
        Rule("population", "number", low=2_000, high=90_000),
        Rule("landmark", "near", "nature"),
        Rule("statue", "near", "person"),
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
        Rule("elevation", "number", low=120, high=4_800),
        Rule("peer", "next", "nature", low=1),
    ),
    "region": (
        Rule("governor", "maker", "person", trade=4),
        Rule("established", "year", low=25, high=44),
        Rule("capital", "parallel", "place"),
        Rule("area", "number", low=200, high=30_000),
        Rule("peer", "next", "region", low=1),
    ),
}

"""The world: what each thing is called, what is true of it, and the passage that says so.

Nothing is stored but tables of name parts, whose size grows far slower than the world: every name, fact and
passage is computed from the seed and a number in a few dozen microseconds, so a million passages stream in
constant memory, and questions can be asked about any of them without reading the others.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator

from raggym_env.core import Passage
from raggym_env.data.synth.names import (
    FORMS,
    WORK_FORMS,
    Permutation,
    coin_words,
    first_names,
    work_titles,
)
from raggym_env.data.synth.passages import LAYOUTS
from raggym_env.data.synth.schema import PATTERN, RULES, TRADES, Rule
from raggym_env.data.synth.values import PRONOUNS, Dice, Literal, Page, Ref, Value, date, with_article
from raggym_env.errors import DataError

__all__ = ["GENERATOR", "SynthWorld"]

GENERATOR = 1
"""Version of the generator. Raised by every change that alters a passage or a question."""

_SMALLEST, _LARGEST = 200, 1_000_000
_FIRST_BIRTH, _BIRTH_YEARS = 1650, 275
_MAX_SENTENCES = 6
_NEAR = 12  # how far things that are near each other lie apart: what makes shared birthplaces findable


class SynthWorld:
    """A fictional encyclopedia and endless multi-hop questions over it.

    Args:
        passages: Size of the encyclopedia, 200 to 1,000,000. A world is not a part of a larger one.
        seed: Any integer. Worlds of different seeds have nothing in common but their style.

    Raises:
        DataError: `passages` is out of range, or one of the two is no whole number.
    """

    def __init__(self, passages: int = 5000, seed: int = 0) -> None:
        if not isinstance(seed, int):
            raise DataError(f"The seed of a synthetic world is a whole number, got {seed!r}.")
        if not isinstance(passages, int) or not _SMALLEST <= passages <= _LARGEST:
            raise DataError(
                f"A synthetic world has {_SMALLEST:,} to {_LARGEST:,} passages, got {passages!r}. "
                "Change `passages`, in a card under dataset.options."
            )
        self.seed = seed
        self._size = passages
        key = f"raggym-synth:{GENERATOR}:{passages}:{seed}"
        self.fingerprint = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        """Changes with the size, the seed and the version of the generator, and with nothing else."""
        self.counts = {kind: sum(_count(passages, slot) for slot in _slots(kind)) for kind in RULES}
        self._name_the_world(random.Random(key))

    def __len__(self) -> int:
        return self._size

    def passages(self) -> Iterator[Passage]:
        """All passages, always in the same order, computed one at a time; ids are "synth-0" and so on."""
        for number in range(self._size):
            page = self.page(self.ref(self._order(number)))
            yield Passage(f"synth-{number}", page.title, " ".join(page.sentences))

    # -- names ---------------------------------------------------------------------------------------------------

    def _name_the_world(self, rng: random.Random) -> None:
        counts, taken = self.counts, set[str]()
        self._order = Permutation(self._size, rng)
        stems = max(40, *(math.ceil(3 * counts[kind] / len(forms)) for kind, forms in FORMS.items()))
        self._stems = coin_words(rng, stems, taken)
        people = counts["person"] // 2 + 1
        given = min(500, max(24, 2 * math.isqrt(people)))
        self._given = [first_names(rng, given, feminine, taken) for feminine in (False, True)]
        self._surnames = coin_words(rng, max(40, math.ceil(5 * people / given)), taken)
        self._work_parts = work_titles(rng, counts["work"])
        self._numbers = {kind: Permutation(stems * len(forms), rng) for kind, forms in FORMS.items()}
        # Husbands and wives are numbered alike, so men and women are named apart: no name gives away the other.
        self._people = [Permutation(given * len(self._surnames), rng) for _ in self._given]
        self._numbers["work"] = Permutation(math.prod(map(len, self._work_parts)), rng)
        self._shuffled = {kind: Permutation(count, rng) for kind, count in counts.items()}

    def ref(self, number: int) -> Ref:
        """The thing at a number below `len(self)`."""
        block, slot = divmod(number, len(PATTERN))
        kind = PATTERN[slot]
        first = PATTERN.index(kind)
        return Ref(kind, block * PATTERN.count(kind) + slot - first)

    def name(self, ref: Ref) -> str:
        """What it is called; a namesake is called the same."""
        kind, index = ref
        if kind == "person":
            base = self._namesake(ref)
            surname, given = divmod(self._people[base & 1](base >> 1), len(self._given[0]))
            return f"{self._given[base & 1][given]} {self._surnames[surname]}"
        if kind == "work":
            adjectives, nouns, tails = self._work_parts
            rest, adjective = divmod(self._numbers[kind](self._namesake(ref)), len(adjectives))
            tail, noun = divmod(rest, len(nouns))
            return f"The {adjectives[adjective]} {nouns[noun]}{tails[tail]}"
        stem, form = divmod(self._numbers[kind](index), len(FORMS[kind]))
        return FORMS[kind][form][0].format(self._stems[stem])

    def _namesake(self, ref: Ref) -> int:
        """The number of the thing it is named like: nearly always its own."""
        if ref.kind == "person":
            return ref.number - 2 if ref.number % 22 >= 20 else ref.number
        return ref.number - 1 if ref.number % 11 == 10 else ref.number

    def shares_name(self, ref: Ref) -> bool:
        """Whether another thing has its name and, unlike it, a title with a noun in brackets."""
        if ref.kind == "person":
            return ref.number % 22 in (18, 19) and ref.number + 2 < self.counts["person"]
        return ref.kind == "work" and ref.number % 11 == 9 and ref.number + 1 < self.counts["work"]

    def title(self, ref: Ref) -> str:
        """The title of its passage, unique in the world."""
        name = self.name(ref)
        if ref.kind in ("person", "work") and self._namesake(ref) != ref.number:
            return f"{name} ({self.noun(ref)})"
        return name

    def label(self, ref: Ref) -> str:
        """How passages mention it: its title, after its noun where the title alone could mean a namesake."""
        return f"the {self.noun(ref)} {self.name(ref)}" if self.shares_name(ref) else self.title(ref)

    def noun(self, ref: Ref) -> str:
        """What it is, in a word or two: "glacier", "film", a person's occupation."""
        kind, index = ref
        if kind == "person":
            trade = TRADES[index % 5]
            return trade[(index // 5 * 7 + self.seed) % len(trade)]
        if kind == "work":
            return WORK_FORMS[index % 5][1]["noun"]
        return FORMS[kind][self._numbers[kind](index) % len(FORMS[kind])][1]

    def words(self, ref: Ref) -> dict[str, str]:
        """The words that templates use for a subject."""
        noun = self.noun(ref)
        if ref.kind == "person":
            return {"noun": noun, **PRONOUNS[ref.number & 1]}
        words = {"noun": noun, "an_noun": with_article(noun)}
        return {**words, **WORK_FORMS[ref.number % 5][1]} if ref.kind == "work" else words

    # -- facts ---------------------------------------------------------------------------------------------------

    def facts(self, ref: Ref) -> dict[str, Value]:
        """Every relation of a thing that has a value."""
        return self._facts(ref, self._dice(ref))

    def _dice(self, ref: Ref) -> Dice:
        return Dice(f"{self.fingerprint}{ref.kind}{ref.number}".encode())

    def _facts(self, ref: Ref, dice: Dice) -> dict[str, Value]:
        facts: dict[str, Value] = {}
        for rule in RULES[ref.kind]:
            if rule.how != "own" and (value := _DRAW[rule.how](self, ref, rule, dice)):
                facts[rule.name] = value
        if ref.kind == "person":
            facts.update(self._own(ref, dice))
        return facts

    def born(self, person: int) -> int:
        """A person's year of birth: later for higher numbers, the same within a pair."""
        pairs = (self.counts["person"] + 1) // 2
        return _FIRST_BIRTH + _BIRTH_YEARS * (person >> 1) // pairs

    def _own(self, ref: Ref, dice: Dice) -> dict[str, Value]:
        year, style = self.born(ref.number), dice.roll(2)
        noun = self.noun(ref)
        facts: dict[str, Value] = {
            "occupation": Literal(noun, 0),
            "born": date(year, style, dice),
            "died": date(year + 50 + dice.roll(42), style, dice),
        }
        pair = ref.number >> 1
        # Every other pair is a couple. One of the two passages says so: were it both, a search for one partner
        # would find the other.
        if pair % 2 == 0 and (pair // 2 ^ ref.number) & 1 and (ref.number ^ 1) < self.counts["person"]:
            facts["spouse"] = Ref("person", ref.number ^ 1)
        years = 22 + dice.roll(13)
        parents = (pair - math.ceil(years * self.counts["person"] / 2 / _BIRTH_YEARS)) & ~1
        if parents >= 0:
            facts |= {"father": Ref("person", 2 * parents), "mother": Ref("person", 2 * parents + 1)}
        return facts

    def maker(self, ref: Ref) -> int | None:
        """The person who made, founded or led a thing, and whose life dates it; None where nobody did."""
        for rule in RULES[ref.kind]:
            if rule.how == "maker":
                trade = WORK_FORMS[ref.number % 5][0] if rule.trade is None else rule.trade
                person = (2 * ref.number + 1) * self.counts["person"] // (2 * self.counts[ref.kind])
                person -= (person - trade) % 5
                return person if person >= 0 else person + 5
        return None

    # -- passages ------------------------------------------------------------------------------------------------

    def page(self, ref: Ref) -> Page:
        """The passage about a thing: three to six sentences."""
        dice = self._dice(ref)
        facts = self._facts(ref, dice)
        name = self.name(ref)
        fields = {"name": name, "short": name.rpartition(" ")[2], **self.words(ref)}
        for relation, value in facts.items():
            fields[relation] = value.text if isinstance(value, Literal) else self.label(value)
        if ref.kind == "person":
            fields["an_occupation"] = with_article(fields["occupation"])
        lead, *others, aside = LAYOUTS[ref.kind]
        for last in range(len(others) - 1, 0, -1):
            other = dice.roll(last + 1)
            others[last], others[other] = others[other], others[last]
        sentences: list[str] = []
        stated: dict[str, int] = {}
        for relations, wordings in (lead, *others, aside):
            wording = wordings[dice.roll(len(wordings))]
            if len(sentences) == _MAX_SENTENCES or not all(relation in facts for relation in relations):
                continue
            stated.update(dict.fromkeys(relations, len(sentences)))
            text = wording.format_map(fields)
            sentences.append(text[0].upper() + text[1:])
        return Page(self.title(ref), sentences, stated)


def _slots(kind: str) -> list[int]:
    return [slot for slot, other in enumerate(PATTERN) if other == kind]


def _count(size: int, slot: int) -> int:
    return (size - slot + len(PATTERN) - 1) // len(PATTERN)


# -- how values are drawn: one function per `Rule.how` ----------------------------------------------------------


def _near(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    count = world.counts[rule.target]
    index = ref.number * count // world.counts[ref.kind] + int(rule.low) + dice.roll(_NEAR)
    return Ref(rule.target, world._shuffled[rule.target](index % count))


def _parallel(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    # Rounding up towards the more numerous kind and down towards the rarer makes a capital lie in its own region.
    count, own = world.counts[rule.target], world.counts[ref.kind]
    return Ref(rule.target, -(-ref.number * count // own) if count > own else ref.number * count // own)


def _next(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    count = world.counts[ref.kind]
    step = int(rule.low) + dice.roll(min(20, count // 3))
    return Ref(ref.kind, ref.number + step if ref.number + step < count else ref.number - step)


def _before(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    ago = rule.low + (rule.high - rule.low) * dice.roll(1000) / 1000
    index = int((ref.number / world.counts[ref.kind] - ago) * world.counts[rule.target]) - 1
    if rule.target == "work":
        index = -1 if ref.number % 5 == 0 else index - index % 5  # novels are what the other works are adapted from
    return Ref(rule.target, index) if index >= 0 else None


def _maker(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    person = world.maker(ref)
    return None if person is None else Ref("person", person)


def _year_of(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> int:
    maker = world.maker(ref)
    start = 0 if maker is None else world.born(maker)
    return start + int(rule.low) + dice.roll(int(rule.high - rule.low) + 1)


def _year(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    year = _year_of(world, ref, rule, dice)
    return Literal(str(year), year)


def _full_date(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    return date(_year_of(world, ref, rule, dice), dice.roll(2), dice)


def _number(world: SynthWorld, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
    number = int(rule.low * (rule.high / rule.low) ** (dice.roll(100_000) / 100_000))
    return Literal(f"{number:,}", number)


_DRAW = {
    "near": _near,
    "parallel": _parallel,
    "next": _next,
    "before": _before,
    "maker": _maker,
    "year": _year,
    "date": _full_date,
    "number": _number,
}

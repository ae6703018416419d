"""The synthetic world: the name of each entity, its facts, and the passage that states them.

Only tables of name parts are stored, and they grow far more slowly than the world. Every name, fact and passage is
computed from the seed and a number in a few dozen microseconds, so a million passages stream in constant memory, and a
question about an entity needs no other passages. The tables are our own because libraries of fake data (Faker, mimesis)
give single values, which do not form chains, and change them between versions.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterator

from raggym_env.core import Passage
from raggym_env.data.synth.names import FORMS, WORK_FORMS, Permutation, coin_words, first_names, work_titles
from raggym_env.data.synth.passages import LAYOUTS
from raggym_env.data.synth.schema import PATTERN, RULES, TRADES, Rule
from raggym_env.data.synth.values import PRONOUNS, Dice, Literal, Page, Ref, Value, date, with_article
from raggym_env.errors import DataError

__all__ = ["GENERATOR", "SynthWorld"]

GENERATOR = 1
"""Version of the generator. Increased by every change that alters a passage or a question."""

_SMALLEST, _LARGEST = 200, 1_000_000  # a smaller world runs out of questions, a larger one of titles
_FIRST_BIRTH, _BIRTH_YEARS = 1650, 275  # people are born from 1650 to 1924
_MAX_SENTENCES = 6
_NEAR = 12  # entities in reach of a draw `near`: so few that some birthplaces are shared


class SynthWorld:
    """A fictional encyclopedia. `generate_tasks` asks questions about it.

    Args:
        passages: Size of the encyclopedia, 200 to 1,000,000. A small world is not a part of a larger one.
        seed: Any integer. Worlds of different seeds share nothing but their style.

    Raises:
        DataError: `passages` is out of range, or one of the two is not an integer.
    """

    def __init__(self, passages: int = 5000, seed: int = 0) -> None:
        if not isinstance(seed, int):
            raise DataError(f"The seed of a synthetic world is an integer, got {seed!r}.")
        if not isinstance(passages, int) or not _SMALLEST <= passages <= _LARGEST:
            raise DataError(
                f"A synthetic world has {_SMALLEST:,} to {_LARGEST:,} passages, got {passages!r}. "
                "Change `passages`, in a card under dataset.options."
            )
        self.seed = seed
        self._size = passages
        key = f"raggym-synth:{GENERATOR}:{passages}:{seed}"
        self.fingerprint = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        """Hash that depends on the size, the seed and the version of the generator, and on nothing else."""
        # Every 40 passages have the kinds of `PATTERN`; the last block may be incomplete.
        kinds = Counter(PATTERN[number % len(PATTERN)] for number in range(passages % len(PATTERN)))
        self.counts = {kind: passages // len(PATTERN) * PATTERN.count(kind) + kinds[kind] for kind in RULES}
        """Number of entities of each kind."""
        self._draw_names(random.Random(key))

    def __len__(self) -> int:
        return self._size

    def passages(self) -> Iterator[Passage]:
        """Yield all passages, computed one at a time, always in the same order. Ids are "synth-0", "synth-1", ..."""
        # Shuffled, or a passage's neighbours would tell its kind and time.
        for number in range(self._size):
            page = self.page(self.ref(self._order(number)))
            yield Passage(f"synth-{number}", page.title, " ".join(page.sentences))

    # -- names ---------------------------------------------------------------------------------------------------

    def _draw_names(self, rng: random.Random) -> None:
        """Draw the parts of all names. The order of the draws is part of the generator's version."""
        counts, taken = self.counts, set[str]()
        self._order = Permutation(self._size, rng)
        # Three times as many as the most numerous kind needs, so that most combinations of stem and form do not exist.
        stems = max(40, *(math.ceil(3 * counts[kind] / len(forms)) for kind, forms in FORMS.items()))
        self._stems = coin_words(rng, stems, taken)
        people = counts["person"] // 2 + 1  # of one gender
        first_name_count = min(500, max(24, 2 * math.isqrt(people)))
        self._first_names = [first_names(rng, first_name_count, feminine, taken) for feminine in (False, True)]
        self._surnames = coin_words(rng, max(40, math.ceil(5 * people / first_name_count)), taken)
        self._work_parts = work_titles(rng, counts["work"])
        self._numbers = {kind: Permutation(stems * len(forms), rng) for kind, forms in FORMS.items()}
        # Spouses have neighbouring numbers. As men and women are named by different permutations, one spouse's name
        # does not tell the other's.
        self._people = [Permutation(first_name_count * len(self._surnames), rng) for _ in self._first_names]
        self._numbers["work"] = Permutation(math.prod(map(len, self._work_parts)), rng)
        self._shuffled = {kind: Permutation(count, rng) for kind, count in counts.items()}

    def ref(self, number: int) -> Ref:
        """Return the entity at a number below `len(self)`."""
        block, slot = divmod(number, len(PATTERN))
        kind = PATTERN[slot]
        return Ref(kind, block * PATTERN.count(kind) + slot - PATTERN.index(kind))

    def name(self, ref: Ref) -> str:
        """Return the entity's name. Namesakes have the same name."""
        kind, index = ref
        if kind == "person":
            base = self._namesake(ref)
            surname, first_name = divmod(self._people[base & 1](base >> 1), len(self._first_names[0]))
            return f"{self._first_names[base & 1][first_name]} {self._surnames[surname]}"
        if kind == "work":
            adjectives, nouns, tails = self._work_parts
            rest, adjective = divmod(self._numbers[kind](self._namesake(ref)), len(adjectives))
            tail, noun = divmod(rest, len(nouns))
            return f"The {adjectives[adjective]} {nouns[noun]}{tails[tail]}"
        stem, form = divmod(self._numbers[kind](index), len(FORMS[kind]))
        return FORMS[kind][form][0].format(self._stems[stem])

    def _namesake(self, ref: Ref) -> int:
        """Return the number of the entity that it is named after: nearly always its own."""
        # One person and one work in eleven are namesakes: of a person of the same gender, of a work of another form.
        if ref.kind == "person":
            return ref.number - 2 if ref.number % 22 >= 20 else ref.number
        return ref.number - 1 if ref.number % 11 == 10 else ref.number

    def shares_name(self, ref: Ref) -> bool:
        """Return True if another entity is named after this one and has a title with a noun in brackets."""
        if ref.kind == "person":
            return ref.number % 22 in (18, 19) and ref.number + 2 < self.counts["person"]
        return ref.kind == "work" and ref.number % 11 == 9 and ref.number + 1 < self.counts["work"]

    def title(self, ref: Ref) -> str:
        """Return the title of the entity's passage, which is unique in the world."""
        name = self.name(ref)
        if ref.kind in ("person", "work") and self._namesake(ref) != ref.number:
            return f"{name} ({self.noun(ref)})"
        return name

    def label(self, ref: Ref) -> str:
        """Return the entity's mention in passages: its title, with its noun if the title could mean a namesake."""
        return f"the {self.noun(ref)} {self.name(ref)}" if self.shares_name(ref) else self.title(ref)

    def noun(self, ref: Ref) -> str:
        """Return a common noun for the entity: "glacier", "film", a person's occupation."""
        kind, index = ref
        if kind == "person":
            trade = TRADES[index % 5]
            # Note: in a trade of seven occupations, 7 leaves only the one that the seed chooses. Another factor would
            # be a new version of the generator.
            return trade[(index // 5 * 7 + self.seed) % len(trade)]
        if kind == "work":
            return WORK_FORMS[index % 5][1]["noun"]
        return FORMS[kind][self._numbers[kind](index) % len(FORMS[kind])][1]

    def words(self, ref: Ref) -> dict[str, str]:
        """Return the words for a subject that wordings of passages and questions use, by field."""
        noun = self.noun(ref)
        if ref.kind == "person":
            return {"noun": noun, **PRONOUNS[ref.number & 1]}
        words = {"noun": noun, "an_noun": with_article(noun)}
        return {**words, **WORK_FORMS[ref.number % 5][1]} if ref.kind == "work" else words

    # -- facts ---------------------------------------------------------------------------------------------------

    def facts(self, ref: Ref) -> dict[str, Value]:
        """Return the entity's relations that have a value."""
        return self._facts(ref, self._dice(ref))

    def _dice(self, ref: Ref) -> Dice:
        return Dice(f"{self.fingerprint}{ref.kind}{ref.number}".encode())

    def _facts(self, ref: Ref, dice: Dice) -> dict[str, Value]:
        # `page` continues with the same dice, so facts are always drawn first and in the order of the rules.
        facts: dict[str, Value] = {}
        for rule in RULES[ref.kind]:
            if rule.draw != "life" and (value := self._draw(ref, rule, dice)):
                facts[rule.name] = value
        if ref.kind == "person":
            facts.update(self._life(ref, dice))
        return facts

    def _draw(self, ref: Ref, rule: Rule, dice: Dice) -> Value | None:
        """Draw a value as `Rule.draw` describes; None if the rule gives the entity none."""
        kind, number = ref
        total, count = self.counts[kind], self.counts.get(rule.target, 0)
        match rule.draw:
            case "near":
                index = number * count // total + int(rule.low) + dice.roll(_NEAR)
                return Ref(rule.target, self._shuffled[rule.target](index % count))
            case "parallel":
                # Rounding up towards the more numerous kind and down towards the rarer one makes the two directions
                # agree: a capital lies in its own region.
                return Ref(rule.target, -(-number * count // total) if count > total else number * count // total)
            case "next":
                step = int(rule.low) + dice.roll(min(20, count // 3))
                return Ref(kind, number + step if number + step < count else number - step)
            case "before":
                share = rule.low + (rule.high - rule.low) * dice.roll(1000) / 1000
                index = int((number / total - share) * count) - 1
                if rule.target == "work":  # every fifth is a novel; only novels are adapted, and into anything else
                    index = -1 if number % 5 == 0 else index - index % 5
                return Ref(rule.target, index) if index >= 0 else None
            case "maker":
                person = self.maker(ref)
                return None if person is None else Ref("person", person)
            case "number":
                value = int(rule.low * (rule.high / rule.low) ** (dice.roll(100_000) / 100_000))
                return Literal(f"{value:,}", value)
            case _:  # "date" or "year"
                person = self.maker(ref)
                year = 0 if person is None else self.born(person)
                year += int(rule.low) + dice.roll(int(rule.high - rule.low) + 1)
                return date(year, dice.roll(2), dice) if rule.draw == "date" else Literal(str(year), year)

    def born(self, person: int) -> int:
        """Return a person's year of birth: later for higher numbers, the same for both of a pair."""
        return _FIRST_BIRTH + _BIRTH_YEARS * (person >> 1) // ((self.counts["person"] + 1) // 2)

    def _life(self, ref: Ref, dice: Dice) -> dict[str, Value]:
        """Draw a person's occupation, dates and relatives, which must agree with one another."""
        year, style = self.born(ref.number), dice.roll(2)
        noun = self.noun(ref)
        facts: dict[str, Value] = {
            "occupation": Literal(noun, 0),
            "born": date(year, style, dice),
            "died": date(year + 50 + dice.roll(42), style, dice),
        }
        pair = ref.number >> 1
        # Every other pair is a couple. Only one of the two passages says so: otherwise a search for either spouse would
        # find the passages of both.
        if pair % 2 == 0 and (pair // 2 ^ ref.number) & 1 and (ref.number ^ 1) < self.counts["person"]:
            facts["spouse"] = Ref("person", ref.number ^ 1)
        # Parents are a couple that is 22 to 34 years older. Rounded down to an even pair, as odd pairs are no couples.
        years = 22 + dice.roll(13)
        parents = (pair - math.ceil(years * self.counts["person"] / 2 / _BIRTH_YEARS)) & ~1
        if parents >= 0:
            facts |= {"father": Ref("person", 2 * parents), "mother": Ref("person", 2 * parents + 1)}
        return facts

    def maker(self, ref: Ref) -> int | None:
        """Return the person who created, founded or led the entity, whose life dates it; None if nobody did."""
        for rule in RULES[ref.kind]:
            if rule.draw == "maker":
                trade = WORK_FORMS[ref.number % 5][0] if rule.trade is None else rule.trade
                # The person at the middle of the entity's share of all people, then the last one before of the trade.
                person = (2 * ref.number + 1) * self.counts["person"] // (2 * self.counts[ref.kind])
                person -= (person - trade) % 5
                return person if person >= 0 else person + 5
        return None

    # -- passages ------------------------------------------------------------------------------------------------

    def page(self, ref: Ref) -> Page:
        """Return the passage about an entity: three to six sentences."""
        dice = self._dice(ref)
        facts = self._facts(ref, dice)
        name = self.name(ref)
        fields = {"name": name, "short": name.rpartition(" ")[2], **self.words(ref)}
        for relation, value in facts.items():
            fields[relation] = value.text if isinstance(value, Literal) else self.label(value)
        if ref.kind == "person":
            fields["an_occupation"] = with_article(fields["occupation"])
        lead, *others, aside = LAYOUTS[ref.kind]
        # A Fisher-Yates shuffle, as `random.shuffle` cannot draw from `Dice`.
        for last in range(len(others) - 1, 0, -1):
            other = dice.roll(last + 1)
            others[last], others[other] = others[other], others[last]
        sentences: list[str] = []
        stated: dict[str, int] = {}
        for relations, wordings in (lead, *others, aside):
            wording = wordings[dice.roll(len(wordings))]  # rolled even for a sentence that is left out
            if len(sentences) == _MAX_SENTENCES or not all(relation in facts for relation in relations):
                continue
            stated.update(dict.fromkeys(relations, len(sentences)))
            text = wording.format_map(fields)
            sentences.append(text[0].upper() + text[1:])
        return Page(self.title(ref), sentences, stated)

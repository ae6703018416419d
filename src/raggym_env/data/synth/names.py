"""Names of fictional entities. A bijection from numbers to titles makes titles unique without storing any."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

__all__ = ["FORMS", "WORK_FORMS", "Permutation", "coin_words", "first_names", "work_titles"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Parts of made-up words. They sound like names of Northern Europe, but few of the words exist: a language model cannot
# know an answer by heart. Plain vowels are repeated, so that they are more frequent than diphthongs and accents.
_ONSETS = _words("b br c d dr f fl g gr h j k kl l m n p pr r s sk st t tr v w y z th sh vr bl")
_VOWELS = _words(f"{'a e i o u ' * 5} ai ea ei ou ia é ö å ø á ü")
_CODAS = _words("n r l k m sk rn th v x nd lt rt ck g d t rv mb sh")
_MIDDLES = _words("l r n m v d t rd ld nt st rk lm sv nn rr ll")
# Masculine, then feminine.
_ENDINGS = (_words("an ek or ald imir ost ern ul"), _words("a ela ia ira ine ave isa unne"))

# For each kind, the forms of a name, made of a stem, and the common noun for each. No ending that is joined to the stem
# ends with another, so that stem and form can be read back from a title and no two pairs of them give the same title.
_FORMS = {
    "place": """
        {}ford: river port, {}bridge: town, {}holm: town, {}wick: market town, {}stead: market town, {}haven: seaport,
        {}minster: city, {}gate: town, Port {}: seaport, {} Bay: seaport, Upper {}: hill town, Lower {}: river port,
        {} Cross: town, {} Falls: town, New {}: city, Castle {}: town
    """,
    "nature": """
        Lake {}: lake, Mount {}: mountain, {} Glacier: glacier, {} Pass: mountain pass, {} Tarn: lake,
        {} Plateau: plateau
    """,
    "region": """
        Duchy of {}: duchy, {} County: county, Principality of {}: principality, {} Province: province,
        Margraviate of {}: margraviate, {} Territory: territory
    """,
    "company": """
        {} Brewery: brewery, {} Shipyard: shipyard, {} Railway: railway company, {} Bank: bank, {} Mills: textile firm,
        {} Foundry: foundry, {} Glassworks: glassworks, {} Trading Company: trading firm,
        {} Mining Company: mining firm, {} Telegraph: telegraph company
    """,
    "house": """
        House of {}: production house, {} Brothers: production house, {} Arts: production house,
        {} and Daughters: production house, {} Repertory: production house, {} Media: production house,
        {} Guild: production house, Studio {}: production house
    """,
    "school": """
        {} Academy: academy, {} College: college, {} Polytechnic: polytechnic, {} Conservatory: conservatory,
        University of {}: university, {} Seminary: seminary
    """,
    "event": """
        {} Uprising: uprising, {} Expedition: expedition, {} Regatta: regatta, {} Strike: strike,
        Congress of {}: congress, {} Exhibition: exhibition, March of {}: protest march, {} Air Race: air race
    """,
}
FORMS = {
    kind: tuple((form, noun) for form, _, noun in (row.strip().partition(": ") for row in text.split(",")))
    for kind, text in _FORMS.items()
}

_ADJECTIVES = _words("""
    Silver Crimson Hollow Quiet Burning Frozen Golden Broken Hidden Drifting Scarlet Wandering Bitter Gilded Sunken
    Pale Restless Velvet Iron Amber Crooked Distant Faithful Hungry Ivory Jagged Last Mournful Nameless Obedient
    Painted Ragged Salted Tender Unwritten Vanished Weary Winter Ashen Barefoot Copper Double Emerald Feathered
    Glass Humble Idle Jealous Lonely Marble Narrow Ochre Patient Rusted Secret Thirteenth Upright Violet Wooden
    Yellow Blind Clever Dusty Eager Forgotten Gentle Honest Invisible Stolen Tangled Silent Second Stubborn Paper
""")
_NOUNS = _words("""
    Orchard Lantern Harbour Compass Mirror Sparrow Staircase Garden Kingdom Letter Clock Ferry Widow Crown Winter
    Bell Key Shadow Violin Wolf Tailor Bridge Candle Daughter Emperor Falcon Ghost Hunter Island Jury Kite
    Lighthouse Mask Needle Oath Pilgrim Quarry River Ship Tower Umbrella Valley Window Anchor Banquet Carousel
    Desert Engine Feast Gallery Horizon Inn Jewel Knot Labyrinth Meadow Notebook Oracle Parade Quilt Raven Sailor
    Throne Uncle Voyage Wedding Acrobat Beekeeper Cathedral Duel Envoy Fiddler Glove Hourglass Infant Juggler Locket
    Magpie Nightwatch Organist Puppet Ransom Sermon Teacher Usurper Vineyard Weaver Almanac Baker Cellar
""")

# Titles end in one of the first few of these, in a larger world in one of more of them.
_ENDS = """
    at Dusk, of Winter, in Exile, Revisited, by Moonlight, and After, for Two, Below, Without End, from the North,
    in Five Parts, of Ashes, at Sea, Returns, and the Sea, under Snow, of Thorns, in Spring, Remembered, on Sunday,
    of Smoke, beyond the Hills, in Disguise, at Midnight, of the Plains, without a Name, in Blue, of Salt,
    at the Gate, in the Attic, of Brass, by the Wall, at Noon, of Clay, against Time, on Trial, in Harvest, of Wax,
    of Straw, in Ruins, Unmasked
"""
_TAILS = ("", *(f" {tail.strip()}" for tail in _ENDS.split(",")))

# Kinds of work: the trade of the creator (an index into `schema.TRADES`), and the words for creating it.
WORK_FORMS: tuple[tuple[int, dict[str, str]], ...] = (
    (0, {"noun": "novel", "role": "author", "made": "wrote", "done": "written"}),
    (1, {"noun": "film", "role": "director", "made": "directed", "done": "directed"}),
    (2, {"noun": "opera", "role": "composer", "made": "composed", "done": "composed"}),
    (0, {"noun": "play", "role": "playwright", "made": "wrote", "done": "written"}),
    (2, {"noun": "song cycle", "role": "composer", "made": "composed", "done": "composed"}),
)


class Permutation:
    """A bijection of `range(size)` onto itself. It is affine, so that it takes neither memory nor time."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self.size = size
        self.shift = rng.randrange(size)
        # Near the golden ratio, neighbouring numbers land far apart. A factor coprime to the size makes it a bijection.
        factor = int(size * rng.uniform(0.55, 0.65)) | 1
        while math.gcd(factor, size) != 1:
            factor += 2
        self.factor = factor

    def __call__(self, number: int) -> int:
        return (number * self.factor + self.shift) % self.size


def coin_words(rng: random.Random, count: int, taken: set[str]) -> list[str]:
    """Return `count` new capitalised words of two or three syllables, all different, and add them to `taken`."""

    def draw() -> str:
        # Larger worlds need more words than there are of two syllables.
        long = rng.random() < 0.2 + count / 20_000
        middle = rng.choice(_VOWELS) + rng.choice(_MIDDLES) if long else ""
        start = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES)
        return start + middle + rng.choice("aeio") + rng.choice(_CODAS)

    return _distinct(draw, count, taken)


def first_names(rng: random.Random, count: int, feminine: bool, taken: set[str]) -> list[str]:
    """Return `count` new first names, all different, and add them to `taken`. The ending tells the gender."""

    def draw() -> str:
        return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES) + rng.choice(_ENDINGS[feminine])

    return _distinct(draw, count, taken)


def _distinct(draw: Callable[[], str], count: int, taken: set[str]) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        word = draw().capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def work_titles(rng: random.Random, count: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return adjectives, nouns and tails of titles, enough of them for `count` different titles.

    Not many more than needed, so that in a world of any size each title has others that resemble it.
    """
    length = math.isqrt(count) + 6
    adjectives, nouns = (tuple(rng.sample(words, min(length, len(words)))) for words in (_ADJECTIVES, _NOUNS))
    # A fifth more than needed, and at least a dozen, so that titles of a small world vary, too.
    tails = max(12, math.ceil(1.2 * count / (len(adjectives) * len(nouns))))
    return adjectives, nouns, _TAILS[:tails]

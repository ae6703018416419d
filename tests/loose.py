"""A Hypothesis strategy for random sequences of words, names, numbers and punctuation, to test text processing."""

from hypothesis import strategies as st

# Besides plain words: possessives, digits that are not ASCII, letters whose lower case is longer, a lone surrogate.
_WORDS = st.sampled_from(
    ["Red", "Harbour", "Ilse", "Brandt", "van", "film", "of", "the", "is", "was", "an", "It's", "two", "ten", "May",
     "1962", "12", "$5", "1,200", "million", "%", "x", "x's’s", "x_two", "¹²", "٣", "É", "ΑΣ", "İ", "\ud800"]
)  # fmt: skip
_GAPS = st.sampled_from([" ", " ", " ", ", ", ". ", "! ", " (", ") ", "'s ", "'", "-", ""])
LOOSE = st.lists(st.tuples(_WORDS, _GAPS), max_size=25).map(lambda pairs: "".join(word + gap for word, gap in pairs))

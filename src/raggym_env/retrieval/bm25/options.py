"""The options of `bm25` and `rank-bm25`."""

from __future__ import annotations

from dataclasses import dataclass

from raggym_env.errors import check_option
from raggym_env.retrieval.bm25.analysis import Analyzer

__all__ = ["K1", "TITLE_WEIGHT", "B", "BM25Options", "check_parameters"]

# Lucene's k1 and b, with the title three times: of the 18 combinations that `benchmarks/retrieval.py --sweep` tries,
# the question being the only query, they have the best mean recall@5 over both corpora. Recall@5 for 903 questions of
# 2Wiki and 3,745 of HotpotQA:
#
#     k1   b     stemmer  title   2Wiki   HotpotQA   mean
#     1.2  0.75  english  3       0.660   0.753      0.707    the defaults
#     0.9  0.40  english  3       0.670   0.739      0.705
#     1.5  0.75  english  3       0.658   0.750      0.704
#     1.2  0.75  none     3       0.663   0.742      0.703
#     1.2  0.75  english  2       0.658   0.747      0.703
#     1.2  0.75  english  1       0.646   0.729      0.688
#     0.9  0.40  english  2       0.667   0.734      0.701
#
# They are also the best on the first 1,000 questions of HotpotQA, its training split. 2Wiki prefers k1=0.9, b=0.4.
K1, B, TITLE_WEIGHT = 1.2, 0.75, 3


@dataclass(eq=False, kw_only=True)
class BM25Options:
    """How passages and queries become terms, and how these are weighted.

    Raises:
        OptionError: A parameter is out of its range.
        UnknownName: There is no such stemmer or list of stop words.
    """

    k1: float = K1
    """Saturation of the term frequency, in [0, 1000]."""
    b: float = B
    """Normalization by passage length, in [0, 1]."""
    stemmer: str = "english"
    """"english" or "none"."""
    stop_words: str = "english"
    """"english" or "none"."""
    title_weight: int = TITLE_WEIGHT
    """How often a passage's title is repeated before its text, at least 0."""

    def __post_init__(self) -> None:
        check_parameters(self.k1, self.b, self.title_weight)
        self.analyzer = Analyzer(self.stemmer, self.stop_words)


def check_parameters(k1: float, b: float, title_weight: int) -> None:
    """Check the parameters of BM25.

    Raises:
        OptionError: One of them is out of its range.
    """
    # Up to k1 = 1000 no term's score can underflow to zero in float32. So a sum of zero means: no term of the query.
    for name, value, high in (("k1", k1, 1000), ("b", b, 1)):
        valid = isinstance(value, int | float) and 0 <= value <= high  # false for nan
        check_option(name, value, valid, f"a number in [0, {high}]")
    # A title is repeated that often: a larger number would fill the memory.
    valid = isinstance(title_weight, int) and 0 <= title_weight <= 1_000
    check_option("title_weight", title_weight, valid, "a whole number, at least 0 and at most 1000")

import random

import pytest

from raggym_env.data.synth.names import FORMS, Permutation, coin_words, first_names, work_titles


@pytest.mark.parametrize("size", [1, 2, 7, 200, 1001])
def test_a_permutation_takes_every_value_once(size):
    permutation = Permutation(size, random.Random(size))

    assert sorted(map(permutation, range(size))) == list(range(size))


def test_coined_words_never_repeat_one_that_is_taken():
    taken = set()

    words = coin_words(random.Random(0), 500, taken) + first_names(random.Random(1), 300, True, taken)

    assert len(set(words)) == 800 == len(taken)


def test_no_joined_ending_ends_with_another():
    endings = [form[2:] for form, _ in FORMS["place"] if form.startswith("{}") and " " not in form]

    assert not any(one != other and one.endswith(other) for one in endings for other in endings)


@pytest.mark.parametrize("count", [45, 1125, 225_000])
def test_there_are_more_titles_than_works(count):
    adjectives, nouns, tails = work_titles(random.Random(0), count)

    assert len(adjectives) * len(nouns) * len(tails) > count
    assert all(len(set(words)) == len(words) for words in (adjectives, nouns, tails))

"""The bounded dictionary."""

import copy
import pickle

import pytest

from raggym_env.storage.lru import LRU


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])  # noqa: S301
def test_a_copy_keeps_the_size_and_the_order_of_use_and_is_independent(duplicate):
    cache = LRU[str, int](2)
    cache["a"], cache["b"] = 1, 2
    cache.use("a")

    twin = duplicate(cache)
    twin["c"] = 3

    assert list(twin.items()) == [("a", 1), ("c", 3)]
    assert list(cache.items()) == [("b", 2), ("a", 1)]

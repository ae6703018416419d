import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.llm.hf.batching import MIN_PREFIX, common_prefix, groups, runs, uniforms

HEAD = tuple(range(MIN_PREFIX))


def test_prompts_with_a_common_start_are_grouped_and_the_others_share_nothing():
    shared, alone = groups([(*HEAD, 1), (99,), (*HEAD, 2, 3), (98, 97)])

    assert (shared.prefix, shared.members) == (MIN_PREFIX, (2, 0))
    assert (alone.prefix, alone.members) == (0, (3, 1))


def test_a_prefix_leaves_every_prompt_a_token_to_compute():
    assert common_prefix([(1, 2, 3), (1, 2)]) == 1
    assert common_prefix([(5,)]) == 0


def test_a_short_common_start_is_not_computed_separately():
    assert [group.prefix for group in groups([(1, 2, 3), (1, 2, 4)])] == [0]


@given(st.lists(st.integers(1, 300), max_size=30), st.integers(1, 500))
def test_batches_cover_all_rows_in_order_and_exceed_the_budget_only_with_one_row(sizes, budget):
    sizes = sorted(sizes, reverse=True)
    for cuts in (list(runs(sizes, budget)), list(runs(sizes, budget, max_padding=1 / 8))):
        assert [size for cut in cuts for size in sizes[cut]] == sizes
        assert all(len(sizes[cut]) == 1 or len(sizes[cut]) * max(sizes[cut]) <= budget for cut in cuts)


def test_prompts_of_very_different_lengths_are_not_padded_to_each_other():
    assert [cut.stop - cut.start for cut in runs([1000, 990, 100], 10**6, max_padding=1 / 8)] == [2, 1]


def test_draws_depend_on_seed_prompt_and_number_only():
    draws = uniforms(1, (5, 6), 0, 8)

    assert np.array_equal(draws[:4], uniforms(1, (5, 6), 0, 4))
    for others in (uniforms(2, (5, 6), 0, 8), uniforms(1, (5, 7), 0, 8), uniforms(1, (5, 6), 1, 8)):
        assert not np.array_equal(draws, others)

"""The published results, against what the paper prints."""

from __future__ import annotations

import pytest

from raggym_env.cards import env_card
from raggym_env.errors import DataError
from raggym_env.evaluation.published import averages, read_published
from raggym_env.storage.paths import card_names

WIKI = ("RAGGym-HotpotQA-Wiki-v0", "RAGGym-2WikiMultihopQA-Wiki-v0", "RAGGym-Bamboogle-Wiki-v0")
ALL = (*WIKI, "RAGGym-MedQA-MedText-v0")
AGENTS = ("Direct", "CoT", "RAG", "ReAct", "Search-o1", "Re2Search")
LLAMA, QWEN = "Llama-3.1-8B-Instruct", "Qwen2.5-7B-Instruct"

# As printed in arXiv:2502.13957v2, in percent: the averages of table 2 (EM, F1), one row per agent.
TABLE_2 = {
    "zero-shot": [(29.16, 33.08), (40.00, 46.09), (39.89, 46.51), (38.49, 44.96), (45.06, 51.82), (47.65, 54.90)],
    "SFT": [(33.61, 38.92), (41.47, 47.82), (44.02, 50.89), (41.90, 48.43), (47.81, 55.19), (48.98, 56.50)],
    "DPO": [(30.09, 35.32), (41.66, 47.73), (43.05, 49.91), (44.72, 51.61), (49.73, 58.21), (51.65, 58.82)],
    "PPO": [(28.28, 32.08), (40.35, 45.94), (41.63, 41.44), (43.28, 50.43), (47.86, 54.91), (50.28, 58.04)],
}
# Those of table 3: EM, cover EM, F1.
TABLE_3 = {
    ("ReAct, zero-shot", LLAMA): (30.57, 37.73, 39.16),
    ("Search-o1, zero-shot", LLAMA): (38.03, 46.13, 47.04),
    ("R1-Searcher", LLAMA): (44.00, 47.50, 54.78),
    ("Re2Search++ (DPO + critic, best of 10)", LLAMA): (50.20, 60.50, 61.14),
    ("ReAct, zero-shot", QWEN): (36.60, 41.00, 45.27),
    ("Search-o1, zero-shot", QWEN): (40.17, 45.87, 50.28),
    ("Search-R1", QWEN): (43.20, 46.27, 53.02),
    ("R1-Searcher", QWEN): (46.80, 52.23, 56.33),
    ("Re2Search++", QWEN): (48.11, 54.37, 58.11),
}
MISPRINTS = {
    ("RAG, PPO", LLAMA, "f1"): 48.04,
    ("ReAct, zero-shot", LLAMA, "em"): 30.53,
    ("Search-o1, zero-shot", QWEN, "em"): 40.13,
}


def differing(printed, environments, metrics):
    """What the rows give where it is not what the paper prints, in percent."""
    computed = {(row.policy, row.model): row for row in averages(read_published(), environments)}
    return {
        (*agent, metric): round(100 * computed[agent].means[metric], 2)
        for agent, means in printed.items()
        for metric, mean in zip(metrics, means, strict=True)
        if abs(100 * computed[agent].means[metric] - mean) > 0.0051  # half a digit, and the halves of either rounding
    }


def test_averages_of_the_rows_are_the_paper_s_but_for_its_three_misprints():
    table_2 = {
        (f"{agent}, {method}", LLAMA): means
        for method, rows in TABLE_2.items()
        for agent, means in zip(AGENTS, rows, strict=True)
    }
    assert len(table_2) == 24
    both = differing(table_2, ALL, ("em", "f1")) | differing(TABLE_3, WIKI, ("em", "cover_em", "f1"))
    assert both == MISPRINTS


def test_every_row_stands_once_at_a_shipped_card_with_its_metric_its_k_and_a_model():
    rows = read_published()
    assert len({(row.environment, row.policy, row.model) for row in rows}) == len(rows) == 140
    for row in rows:
        assert row.environment in card_names("envs")
        card = env_card(row.environment)
        assert card.episode.metric in row.means
        assert row.k in (None, card.retrieval.k)
        assert row.model in (LLAMA, QWEN)
        hub = [source.corpus for source in card.dataset.sources_of("test") if source.corpus.startswith("hub:")]
        assert not row.corpus or not hub or any(row.corpus in name for name in hub)


def test_an_average_is_over_the_environments_of_a_row_or_over_those_named():
    rows = [row for row in read_published() if row.policy == "Re2Search, zero-shot"]
    (over_all,), (over_wiki,) = averages(rows), averages(rows, WIKI)
    assert (over_all.environments, over_wiki.environments) == (ALL, WIKI)
    assert over_wiki.means["em"] == pytest.approx((0.34 + 0.415 + 0.448) / 3)
    assert averages(rows[:2], WIKI) == []
    assert "cover_em" not in over_all.means


@pytest.mark.parametrize(
    "line", ["em = 1.5", "em = true", "em = 'x'", "k = 0", "k = 3.5", "k = true", "model = 3", "policy = 3"]
)
def test_a_row_with_a_wrong_value_is_one_typed_error_that_names_the_key(tmp_path, line):
    lines = {"environment": "'E'", "policy": "'p'", "source": "'s'"}
    key, _, value = line.partition(" = ")
    text = "".join(f"{name} = {text}\n" for name, text in {**lines, key: value}.items())
    (tmp_path / "p.toml").write_text(f"[[result]]\n{text}")
    with pytest.raises(DataError, match=rf"p\.toml is not a file of published results: result\.0\.{key}: "):
        read_published(tmp_path / "p.toml")

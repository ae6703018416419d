"""The paper's setting: its cards and agents, on small stand-ins for its corpora."""

from __future__ import annotations

import json
import re

import pytest

from raggym_env import policies
from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override
from raggym_env.core import Answer, Search
from raggym_env.mdp.rollout import rollout
from raggym_env.protocols import Completion
from raggym_env.testing import ScriptedRetriever

CARDS = [
    "RAGGym-HotpotQA-Wiki-v0",
    "RAGGym-2WikiMultihopQA-Wiki-v0",
    "RAGGym-Bamboogle-Wiki-v0",
    "RAGGym-MedQA-MedText-v0",
    "RAGGym-MedQA-Textbooks-v0",
]
QUESTIONS = {
    "hotpotqa": '[{"_id": "q", "question": "Who?", "answer": "Ant", "supporting_facts": [["Ant", 0]], "context": []}]',
    "2wikimultihopqa": '[{"_id": "q", "question": "Who?", "answer": "Ant", "supporting_facts": [["Ant", 0]]}]',
    "bamboogle": "Question\tAnswer\tAnswer 2\nWho?\tAnt\t\n",
    "medqa": '{"question": "Who?", "answer": "Ant", "options": {"A": "Ant", "B": "Bee"}, "answer_idx": "A"}\n',
}
# In the paper: searches that are run at most (its table 5, and its code).
SEARCHES = {"direct": 0, "cot": 0, "rag": 1, "react": 8, "search_o1": 8, "re2search": 9, "research": 9}
# As long as MedRAG's longest, and none equal to another.
LONG = " ".join(f"word{number}" for number in range(140))


class Searcher:
    """Writes a search as long as the prompt lets it, then an answer; or, if stubborn, a search all the same."""

    def __init__(self, stubborn=False):
        self.stubborn = stubborn
        self.prompts = []

    def generate(self, prompts, params):
        return [[Completion(self._reply(prompt), "stop")] for prompt in prompts]

    def _reply(self, prompt):
        text = prompt[-1]["content"]
        if not re.search(r'\{"(search|answer)"', text):
            return "A note: {}.".format(re.findall(r'query="(.*?)"', text)[-1])
        self.prompts.append(prompt)
        if self.stubborn or "Searches left" in text:
            return json.dumps({"search": f"query {len(self.prompts)}", "draft": f"draft {len(self.prompts)}"})
        return '{"answer": "Ant"}'


class Numbered(ScriptedRetriever):
    """Returns passages that no other search returns."""

    def search(self, queries, k):
        rows = super().search(queries, k)
        return [
            [self._named(hit, f"{query} page {place}.") for place, hit in enumerate(row)]
            for query, row in zip(queries, rows, strict=True)
        ]

    def _named(self, hit, title):
        return hit._replace(passage=hit.passage._replace(title=title, text=LONG))


@pytest.fixture(params=CARDS)
def paper(request, tmp_path, monkeypatch):
    """A card's decision process over files of one's own, its retriever, and the card's metric."""
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    dataset = env_card(request.param).dataset
    source = dataset.sources_of("test")[0]
    folder = tmp_path / dataset.folder
    folder.mkdir()
    (folder / source.questions).write_text(QUESTIONS[dataset.folder])
    (folder / source.corpus).write_text('{"id": "1", "title": "Ant", "content": "An ant.", "contents": "Ant. An ant."}')
    retriever = Numbered({}, default=[f"p{number}" for number in range(40)])
    return load_mdp(request.param, "test", retriever=retriever, process_reward="none"), retriever


def play(agent, paper, model, **options):
    mdp, retriever = paper
    policy = policies.make(agent, llm=model, **options)
    (episode,) = rollout(policy, mdp.tasks, mdp.dynamics, mdp.reward)
    assert episode.error is None
    return episode, retriever.queries


@pytest.mark.parametrize("agent", SEARCHES)
def test_an_agent_runs_the_paper_s_number_of_searches_and_then_gives_one_forced_answer(agent, paper):
    model = Searcher()
    episode, queries = play(agent, paper, model)
    assert len(queries) == len(set(queries)) == SEARCHES[agent]
    assert (episode.stop, episode.answer) == ("answer", "Ant")
    assert [type(step.action) for step in episode.steps] == [Search] * SEARCHES[agent] + [Answer]
    if SEARCHES[agent] > 1:
        shown = [
            re.findall(r"Searches left: (\d+)|(No search is left)", prompt[-1]["content"]) for prompt in model.prompts
        ]
        lefts = [str(left) for left in range(SEARCHES[agent], 0, -1)]
        assert shown == [*([(left, "")] for left in lefts), [("", "No search is left")]]


@pytest.mark.parametrize("agent", ["rag", "react"])
def test_all_32_passages_of_all_searches_are_shown(agent, paper):
    model = Searcher()
    _, queries = play(agent, paper, model)
    last = model.prompts[-1][-1]["content"]
    assert all(f"{query} page {place}.:" in last for query in queries for place in range(32))
    assert "left out" not in last
    assert f"page {32}." not in last


@pytest.mark.parametrize("agent", ["search_o1", "re2search", "research"])
def test_a_note_on_every_search_is_shown_in_place_of_its_passages(agent, paper):
    model = Searcher()
    _, queries = play(agent, paper, model)
    last = model.prompts[-1][-1]["content"]
    assert all(f"A note: {query}." in last for query in queries)
    assert "page 0." not in last


@pytest.mark.parametrize("agent", ["react", "search_o1", "re2search", "research"])
def test_a_search_in_place_of_the_forced_answer_is_not_run_and_its_draft_is_the_answer(agent, paper):
    episode, queries = play(agent, paper, Searcher(stubborn=True))
    assert len(queries) == SEARCHES[agent]
    assert (episode.stop, episode.answer) == ("answer", f"draft {SEARCHES[agent] + 1}")


@pytest.mark.parametrize("agent", SEARCHES)
def test_zero_shot_shows_no_worked_example_and_changes_nothing_else(agent, paper):
    plain, zero_shot = Searcher(), Searcher()
    play(agent, paper, plain)
    play(agent, paper, zero_shot, examples=False)
    for with_examples, without in zip(plain.prompts, zero_shot.prompts, strict=True):
        assert [message["role"] for message in without] == ["system", "user"]
        assert len(with_examples) > 2
        assert [with_examples[0], with_examples[-1]] == without


def test_the_cards_leave_the_last_draft_alone_and_take_it_by_a_key(paper):
    mdp, _ = paper
    assert not mdp.dynamics.answer_with_last_draft
    assert "answer_with_last_draft" not in mdp.card.model_dump()["episode"], "records of runs stay as they were"
    changed = override(mdp.card, {"episode.answer_with_last_draft": True})
    assert changed.episode.answer_with_last_draft
    assert load_mdp(changed, "test", retriever=Numbered({}), process_reward="none").dynamics.answer_with_last_draft

"""The RAG-Gym authors' released models on the cards of the paper's setting: in miniature, on small stand-ins."""

from __future__ import annotations

import json
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from raggym_env import policies  # noqa: E402
from raggym_env.build import check_policy, load_mdp  # noqa: E402
from raggym_env.cards import env_card, override, policy_card  # noqa: E402
from raggym_env.core import Answer, Passage, Question, Search, State, Turn  # noqa: E402
from raggym_env.llm import make  # noqa: E402
from raggym_env.mdp.rollout import rollout  # noqa: E402
from raggym_env.protocols import Completion, Sampling  # noqa: E402
from raggym_env.testing import ScriptedRetriever  # noqa: E402
from released import AGENTS, BASE, adapter_on_the_hub, base_on_the_hub  # noqa: E402
from test_paper import QUESTIONS, SEARCHES  # noqa: E402

DATA = {"HotpotQA": "RAGGym-HotpotQA-Wiki-v0", "MedQA": "RAGGym-MedQA-MedText-v0"}
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
KINDS = ("SFT", "DPO", "PRM")
KEYS = re.compile(r'"(predicted_answer|generated_query)"')


class Released:
    """Replies in the form of the released models: in sections, with their keys; it searches as often as it may."""

    def __init__(self):
        self.prompts = []

    def generate(self, prompts, params):
        return [[self._reply(prompt, number) for number in range(params.n)] for prompt in prompts]

    def _reply(self, prompt, number):
        text = prompt[-1]["content"]
        if not KEYS.search(text):
            return Completion(f"A note on {text.split('### Follow-up Query')[1].split()[0]}.\nNothing more.", "stop")
        if number == 0:
            self.prompts.append(prompt)
        keys = KEYS.findall(text)
        query = f"query{len(self.prompts)}" if "generated_query" in keys else None
        members = {"generated_query": query} if query else {"predicted_answer": "A"}
        if "Unverified" in text:
            members = {"predicted_answer": "A", "generated_query": query}
        # The last comma is theirs: their form has it.
        lines = ",\n    ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
        output = f"```json\n{{\n    {lines},\n}}\n```"
        return Completion(
            f"### Step-by-step Reasoning\nSample {number}: who?\n\n### Structured Output\n{output}", "stop"
        )


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The hub's cache with the base model and all 36 released models, on a machine without a network."""
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("hub")
    base = base_on_the_hub(cache)
    names = [f"RAG-Gym/{agent}-{data}-{kind}" for agent in AGENTS.values() for data in DATA for kind in KINDS]
    for seed, name in enumerate(names):
        adapter_on_the_hub(cache, name, base, seed=seed)
    return cache


@pytest.fixture
def offline(hub, monkeypatch):
    """Use that cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(params=DATA)
def paper(request, tmp_path, monkeypatch):
    """A data set's name, and the decision process of its card over files of one's own."""
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    dataset = env_card(DATA[request.param]).dataset
    source = dataset.sources_of("test")[0]
    folder = tmp_path / dataset.folder
    folder.mkdir()
    (folder / source.questions).write_text(QUESTIONS[dataset.folder])
    (folder / source.corpus).write_text('{"id": "1", "title": "Ant", "content": "An ant.", "contents": "Ant. An ant."}')
    retriever = ScriptedRetriever({}, default=[f"p{number}" for number in range(40)])
    mdp = load_mdp(DATA[request.param], "test", retriever=retriever, process_reward="none")
    return request.param, mdp, retriever


def play(paper, policy):
    _, mdp, retriever = paper
    (episode,) = rollout(policy, mdp.tasks, mdp.dynamics, mdp.reward)
    return episode, retriever.queries


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@PEFT_WARNS
@pytest.mark.parametrize("agent", AGENTS)
def test_each_released_critic_chooses_among_the_replies_of_its_agent(agent, paper):
    data, _, _ = paper
    model = Released()
    critic = {"path": f"RAG-Gym/{AGENTS[agent]}-{data}-PRM", "device": "cpu", "dtype": "float32"}
    card = override(
        policy_card(f"{agent}_released"),
        {"search.best_of": 3, "search.critic": "released", "search.critic_options": critic},
    )
    episode, queries = play(paper, policies.make(card, llm=model))
    assert episode.error is None
    assert (episode.stop, episode.answer) == ("answer", "A")
    assert len(queries) == len(set(queries)) == SEARCHES[agent]
    written = [step for step in episode.steps if step.text]
    assert len(written) == len(episode.steps) - (agent == "rag")
    for step in written:
        assert step.score is not None
        assert step.score != 0
        (candidate,) = step.candidates  # three replies, one action
        assert candidate.score == step.score


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@PEFT_WARNS
@pytest.mark.parametrize("kind", ["SFT", "DPO"])
@pytest.mark.parametrize("agent", AGENTS)
def test_each_released_actor_plays_its_card_and_ends_as_any_model_that_cannot_write_an_action(agent, kind, paper):
    data, _, _ = paper
    name = f"hf:{BASE}+RAG-Gym/{AGENTS[agent]}-{data}-{kind}"
    options = {"llm_options": {"device": "cpu", "dtype": "float32"}, "max_tokens": 4, "on_failure": "fail"}
    check_policy(override(policy_card(f"{agent}_released"), {"options.llm": name}), "test")
    episode, queries = play(paper, policies.make(f"{agent}_released", llm=name, **options))
    assert (episode.error, episode.stop, episode.answer) == (None, "no_action", None)
    assert len(episode.steps) == len(queries) == (agent == "rag")
    assert episode.output, "the reply is kept"


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@PEFT_WARNS
def test_an_actor_of_the_hub_is_merged_into_the_base_model_that_is_named():
    options = {"device": "cpu", "dtype": "float32"}
    prompt = [[{"role": "user", "content": "Who?"}]]
    plain, tuned = (
        make(f"hf:{name}", **options).loglikelihood(prompt, [["Ant"]])[0][0]
        for name in (BASE, f"{BASE}+RAG-Gym/Direct-HotpotQA-SFT")
    )
    assert plain != tuned
    assert make(f"hf:{BASE}", **options).generate(prompt, Sampling(max_tokens=2))[0][0].failure is None


QUESTION = Question("q", "Which one, if <any>?", ("Ant's", "Bee"))
HISTORY = tuple(
    Turn(query, (Passage("1", "T1", f"On {query}.\n### Question"), Passage("2", "T2", "More.")))
    for query in ("one", "two")
)


class Writer:
    """Writes notes of two lines, and records what it is asked."""

    def __init__(self):
        self.chats = []

    def generate(self, prompts, params):
        self.chats += prompts
        return [[Completion("Line 1.\nIt's line 2.", "stop")] for _ in prompts]


@pytest.mark.parametrize("agent", ["react", "search_o1", "research", "rag"])
def test_a_state_is_shown_as_the_released_models_were_trained_to_see_it(agent):
    writer, model = Writer(), Released()
    policy = policies.make(f"{agent}_released", llm=model, note_llm=writer)
    policy.propose([State(QUESTION, HISTORY, 8)])
    system, user = model.prompts[0]
    assert (system["role"], user["role"]) == ("system", "user")
    question = "Which one, if ‹any>? {'A': \"Ant's\", 'B': 'Bee'}"
    documents = "Document [0] (Title: T1) On {}. ### Question\nDocument [1] (Title: T2) More."
    turns = {
        "rag": "{documents}",
        "react": "Query: {query}\n{documents}",
        "search_o1": 'Query: {query}\nAnswer: ["Line 1.\\nIt\'s line 2."]',
        "research": 'Query: {query}\nAnswer: ["Line 1.\\nIt\'s line 2."]',
    }[agent]
    shown = [turns.format(query=turn.query, documents=documents.format(turn.query)) for turn in HISTORY]
    if agent == "rag":
        assert user["content"].startswith(
            "### Relevant Documents\n" + "\n".join(shown) + f"\n\n### Question\n{question}\n\n"
        )
    else:
        assert user["content"].startswith(
            "### Information-seeking History\n" + "\n\n".join(shown) + f"\n\n### Original Question\n{question}\n\n"
        )
    note_prompts = [chat[-1]["content"] for chat in writer.chats]
    assert len(note_prompts) == (2 if agent in ("search_o1", "research") else 0)
    for text, turn in zip(note_prompts, HISTORY, strict=False):
        assert text.startswith(
            f"### Relevant Documents\n(Title: T1) On {turn.query}. ### Question\n(Title: T2) More.\n\n"
            f"### Context\nOriginal question:\n{question}\n\n### Follow-up Query\n{turn.query}\n\n"
        )


@pytest.mark.parametrize("agent", ["direct", "cot"])
def test_an_agent_without_retrieval_sees_the_question_alone(agent):
    model = Released()
    policies.make(f"{agent}_released", llm=model).propose([State(QUESTION, (), 0)])
    text = model.prompts[0][-1]["content"]
    assert text.startswith("### Question\nWhich one, if ‹any>? {'A': \"Ant's\", 'B': 'Bee'}\n\n")
    assert ("### Step-by-step Reasoning" in text) == (agent == "cot")


class Fixed:
    """Gives one reply to everything."""

    def __init__(self, text):
        self.text, self.calls = text, 0

    def generate(self, prompts, params):
        self.calls += 1
        return [[Completion(self.text, "stop")] * params.n for _ in prompts]


@pytest.mark.parametrize(
    ("agent", "reply", "action", "failure"),
    [
        ("direct", '{\n"predicted_answer": "Ant"\n}', Answer("Ant"), None),
        ("cot", '```json\n{"predicted_answer": 1.50}\n```', Answer("1.50"), None),
        ("cot", '{"predicted_answer": "Ant", "confidence": [1]}', Answer("Ant"), None),
        ("cot", '{"answer": "Ant"}', None, "no_action"),
        ("cot", '{"predicted_answer": ["Ant"]}', None, "not_text"),
        ("cot", '{"predicted_answer": {"a": "Ant"}}', None, "not_text"),
        ("cot", '{"predicted_answer": true}', None, "not_text"),
        ("cot", '{"predicted_answer": null}', None, "no_action"),
        ("cot", '{"predicted_answer": ""}', None, "blank"),
        ("cot", '{"predicted_answer": "Ant"', None, "broken"),
        ("cot", "It is an ant.", None, "no_action"),
        ("react", '{"generated_query": "ant",}', Search("ant"), None),
        ("react", '{"predicted_answer": "Ant"}', Answer("Ant"), None),
        ("react", '{"generated_query": "ant", "predicted_answer": null}', Search("ant"), None),
        ("react", '{"generated_query": null, "predicted_answer": "Ant"}', Answer("Ant"), None),
        ("react", '{"generated_query": "ant", "predicted_answer": "Ant"}', Search("ant", "Ant"), None),
        ("react", '{"generated_query": ["ant"]}', None, "not_text"),
        ("react", '{"search": "ant", "draft": "Ant"}', None, "no_action"),
        ("research", '{"predicted_answer": "Ant", "generated_query": "ant"}', Search("ant", "Ant"), None),
        ("research", '{"predicted_answer": "Ant", "generated_query": "None"}', Answer("Ant"), None),
        ("research", '{"predicted_answer": "Ant", "generated_query": None}', Answer("Ant"), None),
        ("research", '{"predicted_answer": "Ant", "generated_query": ""}', Answer("Ant"), None),
        ("research", '{"predicted_answer": "None", "generated_query": "none"}', Answer("None"), None),
        ("research", '{"generated_query": "ant"}', None, "no_draft"),
        ("research", '{"predicted_answer": ["Ant"], "generated_query": "ant"}', None, "not_text"),
        ("research", '{"generated_query": "None"}', None, "no_action"),
    ],
)
def test_a_reply_in_the_released_keys_is_an_action_or_ends_as_that_of_any_prompt_agent(agent, reply, action, failure):
    model = Fixed(f"### Structured Output\n{reply}")
    ((proposal,),) = policies.make(f"{agent}_released", llm=model).propose([State(QUESTION, (), 2)])
    assert proposal.action == action
    assert (proposal.failure or "None").partition(":")[0] == str(failure)
    assert model.calls == (1 if failure is None else 2), "it is asked again once"
    if failure in ("no_action", "blank"):
        assert '"answer"' not in proposal.failure


def test_with_no_search_left_the_answer_so_far_counts():
    reply = '{"predicted_answer": "Ant", "generated_query": "ant"}'
    ((proposal,),) = policies.make("research_released", llm=Fixed(reply)).propose([State(QUESTION, (), 0)])
    assert proposal.action == Search("ant", "Ant"), "the environment grades the draft of a search beyond its budget"
    searched = State(QUESTION, HISTORY * 5, 3)
    ((proposal,),) = policies.make("research_released", llm=Fixed(reply)).propose([searched])
    assert proposal.action == Answer("Ant")


@pytest.mark.slow
def test_the_adapters_of_the_hub_are_laid_out_as_the_released_ones(hub):
    (folder,) = (hub / "models--RAG-Gym--ReSearch-MedQA-PRM" / "snapshots").iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["base_model_name_or_path"]) == ("LORA", "SEQ_CLS", BASE)
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "config.json" not in names

import json

import pytest

from raggym_env.cards import override, policy_card
from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import CardError, PolicyError, UnknownName
from raggym_env.mdp.records import Candidate
from raggym_env.policies.prompt.parse import parse
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.trajectories import TrajectoryStep
from towns import write_towns

START = State(Question("q", "Where was Ada Berg born?"), (), 2)
SEARCHED = State(START.question, (Turn("Ada Berg", (Passage("1", "Ada Berg", "Born in Oslo."),)),), 1)
SPENT = State(START.question, SEARCHED.history, 0)
PILL = State(Question("p", "Which drug?", ("aspirin", "ibuprofen")), (), 1)


def make_step(state, action):
    return TrajectoryStep(state, (Candidate(action, 0.0),), action)


def reply_of(agent, state, action):
    step = make_step(state, action)
    return Renderer(agent).reply(step, step.candidates[0])


@pytest.mark.parametrize(
    ("agent", "state", "action", "reply"),
    [
        ("react", START, Search("Ada Berg"), '{"search": "Ada Berg"}'),
        ("react", START, Search("Ada Berg", draft="Oslo"), '{"search": "Ada Berg"}'),
        ("re2search", START, Search("Ada Berg", draft="Oslo"), '{"search": "Ada Berg", "draft": "Oslo"}'),
        ("react", SEARCHED, Answer("Zoë said “no”"), '{"answer": "Zoë said “no”"}'),
        ("react", SEARCHED, Answer('a "b" \\ c'), '{"answer": "a \\"b\\" \\\\ c"}'),
        ("react", PILL, Answer("ibuprofen"), '{"answer": "B"}'),
        ("cot", PILL, Answer("(A) aspirin"), '{"answer": "A"}'),
        ("rag", SEARCHED, Answer("Oslo"), '{"answer": "Oslo"}'),
        ("react", START, Search("Ada\n Berg"), '{"search": "Ada Berg"}'),
    ],
)
def test_an_action_is_written_as_the_parser_reads_it(agent, state, action, reply):
    assert reply_of(agent, state, action) == reply
    parsed = parse(reply)
    assert (parsed.answer, parsed.search, parsed.draft) == tuple(
        json.loads(reply).get(key) for key in ("answer", "search", "draft")
    )


@pytest.mark.parametrize(
    ("agent", "action", "reply"),
    [
        ("react_released", Search("Ada Berg"), '{"generated_query": "Ada Berg"}'),
        ("react_released", Answer("Oslo"), '{"predicted_answer": "Oslo"}'),
        (
            "research_released",
            Search("Ada Berg", draft="Oslo"),
            '{"generated_query": "Ada Berg", "predicted_answer": "Oslo"}',
        ),
    ],
)
def test_an_action_is_written_in_the_keys_of_the_agent(agent, action, reply):
    assert reply_of(agent, START, action) == reply


@pytest.mark.parametrize(
    ("agent", "state", "action"),
    [
        ("re2search", START, Search("Ada Berg")),  # its searches carry a draft
        ("react", SPENT, Search("Oslo", draft="Oslo")),  # without the draft it is no action any more
        ("cot", START, Search("Ada Berg")),  # it does not search
        ("cot", SEARCHED, Answer("Oslo")),  # it never sees passages
        ("rag", START, Answer("Oslo")),  # it is not asked before it has searched
        ("react", START, Search("<answer>Oslo</answer>")),
        ("react", START, Answer("…")),
        ("react", START, Answer("x" * 3000)),
    ],
)
def test_an_action_that_the_agent_cannot_take_or_write_has_no_reply(agent, state, action):
    assert reply_of(agent, state, action) is None


def test_prompts_and_replies_know_the_agent_s_own_limit_on_searches():
    limited = Renderer(override(policy_card("react"), {"options.max_searches": 1}))
    assert SEARCHED.searches_left == 1, "the environment would allow another search"
    assert "No search is left" in limited.prompt(make_step(SEARCHED, Answer("Oslo")))[-1]["content"]
    assert "Searches left: 1" in limited.prompt(make_step(START, Answer("Oslo")))[-1]["content"]
    step = make_step(SEARCHED, Search("Ada Berg", draft="Oslo"))
    assert limited.reply(step, step.candidates[0]) is None


def test_the_prompt_is_the_agents_own():
    messages = Renderer("react").prompt(make_step(SEARCHED, Answer("Oslo")))
    assert messages[0]["role"] == "system"
    assert messages[-1]["role"] == "user"
    for part in ("Where was Ada Berg born?", "Born in Oslo.", "Searches left: 1"):
        assert part in messages[-1]["content"]
    assert "No search is left" in Renderer("react").prompt(make_step(SPENT, Answer("Oslo")))[-1]["content"]


def test_an_agent_that_reads_notes_needs_recorded_prompts():
    renderer = Renderer("search_o1")
    assert "Ada Berg born" in renderer.prompt(make_step(START, Answer("Oslo")))[-1]["content"]
    with pytest.raises(PolicyError, match="reads notes"):
        renderer.prompt(make_step(SEARCHED, Answer("Oslo")))


def test_only_a_prompt_agent_can_be_trained_on_prompts():
    with pytest.raises(CardError, match="'lexical' is not a prompt agent"):
        Renderer("lexical")
    with pytest.raises(UnknownName, match="Did you mean 'react'"):
        Renderer("reakt")


THOUGHT = 'I do not know it.\n{"search": "Town1 river"}'
REPLIES = {"nothing usable": '{"answer": "River1"}', "lie?": [THOUGHT, "It is River1.", '{"answer": "River1"}']}


@pytest.fixture(scope="module")
def by_react(tmp_path_factory):
    """Steps collected with a model that searches, answers, or writes an unreadable reply and has to repeat it."""
    folder = tmp_path_factory.mktemp("react")
    script = folder / "replies.json"
    script.write_text(json.dumps({"cannot be used": REPLIES["nothing usable"], "lie?": REPLIES["lie?"]}))
    settings = {"policy.options.llm": f"scripted:{script}", "episode.max_searches": 2}
    towns = write_towns(folder / "towns")
    collection = collect(
        towns, "react", critic="evidence", n=3, limit=2, keep="all", settings=settings, out=folder / "run"
    )
    return [step for trajectory in collection.trajectories() for step in trajectory.steps]


def test_data_of_the_agent_itself_keeps_the_recorded_prompts_and_outputs(by_react):
    renderer = Renderer("react")
    for step in by_react:
        assert list(step.messages[: len(renderer.prompt(step))]) == renderer.prompt(step)
        replies = [renderer.reply(step, candidate) for candidate in step.candidates]
        assert replies == [candidate.text for candidate in step.candidates]
    assert THOUGHT in {renderer.reply(step, candidate) for step in by_react for candidate in step.candidates}


def test_the_request_to_repeat_a_reply_is_not_part_of_a_prompt(by_react):
    recorded = by_react[0].messages
    retry = (*recorded, {"role": "assistant", "content": "It is."}, {"role": "user", "content": "That cannot be used."})
    assert Renderer("react").prompt(by_react[0]._replace(messages=retry)) == list(recorded)


def test_data_of_another_agent_gets_new_prompts_and_replies(by_react):
    renderer = Renderer("cot")
    first = next(step for step in by_react if not step.state.history)
    answers = [candidate for candidate in first.candidates if isinstance(candidate.action, Answer)]
    assert renderer.prompt(first) != list(first.messages)
    assert [renderer.reply(first, candidate) for candidate in answers] == ['{"answer": "River1"}']


def test_an_output_that_does_not_parse_to_the_action_is_not_its_reply(by_react):
    odd = by_react[0].candidates[0]._replace(text="I do not know.", action=Search("Town1"))
    assert Renderer("react").reply(by_react[0], odd) == '{"search": "Town1"}'


def test_an_output_that_no_tokenizer_can_encode_has_no_reply(by_react):
    odd = by_react[0].candidates[0]._replace(text='\ud800\n{"search": "Town1"}', action=Search("Town1"))
    assert Renderer("react").reply(by_react[0], odd) is None


def test_what_a_model_invented_after_its_search_is_not_trained_on(by_react):
    text = 'Who?\n{"search": "Town1"}\n<passages query="Town1">\nx\n</passages>\n{"answer": "River1"}'
    invented = by_react[0].candidates[0]._replace(text=text, action=Search("Town1"))
    assert Renderer("react").reply(by_react[0], invented) == 'Who?\n{"search": "Town1"}'

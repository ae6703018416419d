import json

import pytest

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import CardError, PolicyError, UnknownName
from raggym_env.policies.prompt.parse import parse
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.prompts import Render
from raggym_env.training.process_data.trajectories import Choice, Labelled
from towns import write_towns

ASKED = State(Question("q", "Where was Ada Berg born?"), (), 2)
SEARCHED = State(ASKED.question, (Turn("Ada Berg", (Passage("1", "Ada Berg", "Born in Oslo."),)),), 1)
SPENT = State(ASKED.question, SEARCHED.history, 0)
PILL = State(Question("p", "Which drug?", ("aspirin", "ibuprofen")), (), 1)


def choice(state, *actions, messages=(), text=""):
    return Choice(state, tuple(Labelled(action, 0.0, text) for action in actions), actions[0], messages)


def said(agent, state, action, **recorded):
    one = choice(state, action, **recorded)
    return Render(agent).reply(one, one.candidates[0])


@pytest.mark.parametrize(
    ("agent", "state", "action", "reply"),
    [
        ("react", ASKED, Search("Ada Berg"), '{"search": "Ada Berg"}'),
        ("react", ASKED, Search("Ada Berg", draft="Oslo"), '{"search": "Ada Berg"}'),
        ("re2search", ASKED, Search("Ada Berg", draft="Oslo"), '{"search": "Ada Berg", "draft": "Oslo"}'),
        ("react", SEARCHED, Answer("Zoë said “no”"), '{"answer": "Zoë said “no”"}'),
        ("react", SEARCHED, Answer('a "b" \\ c'), '{"answer": "a \\"b\\" \\\\ c"}'),
        ("react", PILL, Answer("ibuprofen"), '{"answer": "B"}'),
        ("cot", PILL, Answer("(A) aspirin"), '{"answer": "A"}'),
        ("rag", SEARCHED, Answer("Oslo"), '{"answer": "Oslo"}'),
        ("react", ASKED, Search("Ada\n Berg"), '{"search": "Ada Berg"}'),
    ],
)
def test_an_action_is_written_as_the_parser_reads_it(agent, state, action, reply):
    assert said(agent, state, action) == reply
    parsed = parse(reply)
    assert (parsed.answer, parsed.search, parsed.draft) == tuple(
        json.loads(reply).get(key) for key in ("answer", "search", "draft")
    )


@pytest.mark.parametrize(
    ("agent", "state", "action"),
    [
        ("re2search", ASKED, Search("Ada Berg")),  # its searches carry a draft
        ("react", SPENT, Search("Oslo", draft="Oslo")),  # without the draft it is no action any more
        ("cot", ASKED, Search("Ada Berg")),  # it does not search
        ("cot", SEARCHED, Answer("Oslo")),  # it never sees passages
        ("rag", ASKED, Answer("Oslo")),  # it is not asked before it has searched
        ("react", ASKED, Search("<answer>Oslo</answer>")),
        ("react", ASKED, Answer("…")),
        ("react", ASKED, Answer("x" * 3000)),
    ],
)
def test_what_an_agent_cannot_do_or_say_is_left_out(agent, state, action):
    assert said(agent, state, action) is None


def test_the_prompt_is_what_the_agent_would_be_asked():
    messages = Render("react").prompt(choice(SEARCHED, Answer("Oslo")))
    assert messages[0]["role"] == "system"
    assert messages[-1]["role"] == "user"
    for part in ("Where was Ada Berg born?", "Born in Oslo.", "Searches left: 1"):
        assert part in messages[-1]["content"]
    assert "No search is left" in Render("react").prompt(choice(SPENT, Answer("Oslo")))[-1]["content"]


def test_an_agent_that_reads_notes_needs_recorded_prompts():
    render = Render("search_o1")
    assert "Ada Berg born" in render.prompt(choice(ASKED, Answer("Oslo")))[-1]["content"]
    with pytest.raises(PolicyError, match="reads notes"):
        render.prompt(choice(SEARCHED, Answer("Oslo")))


def test_only_a_prompt_agent_can_be_trained_on_prompts():
    with pytest.raises(CardError, match="'lexical' is no prompt agent"):
        Render("lexical")
    with pytest.raises(UnknownName, match="Did you mean 'react'"):
        Render("reakt")


THOUGHT = 'I do not know it.\n{"search": "Town1 river"}'
REPLIES = {"nothing usable": '{"answer": "River1"}', "lie?": [THOUGHT, "It is River1.", '{"answer": "River1"}']}


@pytest.fixture(scope="module")
def by_react(tmp_path_factory):
    """Collected with a model that searches, says something unreadable (and is asked again) or answers."""
    folder = tmp_path_factory.mktemp("react")
    script = folder / "replies.json"
    script.write_text(json.dumps({"cannot be used": REPLIES["nothing usable"], "lie?": REPLIES["lie?"]}))
    settings = {"policy.options.llm": f"scripted:{script}", "episode.max_searches": 2}
    towns = write_towns(folder / "towns")
    found = collect(towns, "react", critic="evidence", n=3, limit=2, keep="all", settings=settings, out=folder / "run")
    return [choice for trajectory in found.trajectories() for choice in trajectory.choices]


def test_of_its_own_data_an_agent_gets_the_recorded_prompts_and_outputs(by_react):
    render = Render("react")
    for one in by_react:
        assert list(one.messages[: len(render.prompt(one))]) == render.prompt(one)
        assert [render.reply(one, each) for each in one.candidates] == [each.text for each in one.candidates]
    assert THOUGHT in {render.reply(one, each) for one in by_react for each in one.candidates}


def test_the_request_to_try_again_is_no_part_of_a_prompt(by_react):
    asked = by_react[0].messages
    again = (*asked, {"role": "assistant", "content": "It is."}, {"role": "user", "content": "That cannot be used."})
    assert Render("react").prompt(by_react[0]._replace(messages=again)) == list(asked)


def test_of_another_agents_data_prompts_and_replies_are_made_anew(by_react):
    render = Render("cot")
    first = next(one for one in by_react if not one.state.history)
    answers = [each for each in first.candidates if isinstance(each.action, Answer)]
    assert render.prompt(first) != list(first.messages)
    assert [render.reply(first, each) for each in answers] == ['{"answer": "River1"}']


def test_an_output_that_does_not_say_the_action_is_not_shown_as_its_reply(by_react):
    odd = by_react[0].candidates[0]._replace(text="I do not know.", action=Search("Town1"))
    assert Render("react").reply(by_react[0], odd) == '{"search": "Town1"}'


def test_an_output_that_no_tokenizer_can_hold_is_left_out(by_react):
    odd = by_react[0].candidates[0]._replace(text='\ud800\n{"search": "Town1"}', action=Search("Town1"))
    assert Render("react").reply(by_react[0], odd) is None

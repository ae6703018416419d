"""A class of the user's own, of ten lines, works in every place that takes a shipped name."""

import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

import raggym_env
from raggym_env import llm, policies, retrieval, rewards
from raggym_env.build import load_mdp
from raggym_env.cards import env_card, policy_card
from raggym_env.cli import app
from raggym_env.core import Answer, Passage, Question, Search, State
from raggym_env.errors import CardError, DataError, OptionError, PolicyError, RetrievalError, RewardError, UnknownName
from raggym_env.evaluation import evaluate
from raggym_env.protocols import BasePolicy, propose, score, search
from raggym_env.registry import LLMS, POLICIES, PROCESS_REWARDS, RETRIEVERS, Registry, _resolved
from raggym_env.runs.run import Run
from towns import write_towns

SOURCE = """
from raggym_env import Answer, Passage, Search
from raggym_env.protocols import BasePolicy, Completion


class MyPolicy(BasePolicy):
    def __init__(self, answer="River3"):
        self.answer = answer

    def propose(self, states, n):
        return [Answer(self.answer) if state.history else Search(state.question.text) for state in states]


class MyRetriever:
    def __init__(self, corpus, reverse=False):
        self.passages = list(corpus)[::-1] if reverse else list(corpus)

    def search(self, queries, k):
        return [[{"id": p.id, "title": p.title, "text": p.text} for p in self.passages[:k]] for query in queries]


class MyReward:
    def __init__(self, bonus=0.25):
        self.bonus = bonus

    def score(self, states, actions):
        return [[self.bonus * isinstance(action, Answer) for action in row] for row in actions]


class MyLLM:
    def __init__(self, model="default"):
        self.model = model

    def generate(self, prompts, params):
        return [[Completion('{"answer": "River3"}')] * params.n for prompt in prompts]


class Broken:
    def __init__(self, *args):
        self.value = [][0]
"""
ENV = """
title = "Towns"
dataset = {format = "jsonl", splits = {test = [{questions = "questions.jsonl", corpus = "corpus.jsonl"}]}}
"""


@pytest.fixture
def towns(tmp_path, monkeypatch):
    """A folder with the towns and the module `my_plugins`, which is the current folder and not on `sys.path`."""
    write_towns(tmp_path)
    (tmp_path / "my_plugins.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)
    yield tmp_path
    sys.modules.pop("my_plugins", None)


# For each seam: the lines of a card that name the class (of an environment or a policy), the options of `raggym eval`
# that do, and what shows in the run that it worked.
SEAMS = {
    "policy": ("policy", 'policy = "my_plugins:MyPolicy"', ["--policy", "my_plugins:MyPolicy"]),
    "retriever": (
        "env",
        'retrieval.name = "my_plugins:MyRetriever"',
        ["--set", "retrieval.name=my_plugins:MyRetriever"],
    ),
    "process reward": (
        "env",
        'reward.process_reward = "my_plugins:MyReward"',
        ["--set", "reward.process_reward=my_plugins:MyReward"],
    ),
    "critic": (
        "policy",
        'policy = "lexical"\nsearch = {best_of = 2, critic = "my_plugins:MyReward"}',
        ["--policy", "lexical", "--best-of", "2", "--critic", "my_plugins:MyReward"],
    ),
    "llm": ("policy", None, ["--policy", "direct", "--llm", "my_plugins:MyLLM"]),
}


def works(seam, run):
    """True if the episodes of a run show that the user's class took part."""
    episodes = run.episodes()
    assert [episode.error for episode in episodes] == [None] * 3
    last = [episode.steps[-1] for episode in episodes]
    match seam:
        case "policy" | "llm":
            return {episode.answer for episode in episodes} == {"River3"}
        case "retriever":
            corpus = load_mdp("Towns-v0.toml").dataset.corpus
            return all(step.passages[0].id == corpus[0].id for episode in episodes for step in episode.steps[:1])
        case "process reward":
            return {step.process_reward for step in last} == {0.25}
        case "critic":
            return {step.score for step in last} == {0.25}
    return False


def write_cards(folder, seam):
    """An environment card and a policy card, one of which names the user's class."""
    kind, line, _ = SEAMS[seam]
    (folder / "Own-v0.toml").write_text(f"{line if kind == 'env' else ''}\n{ENV}")
    if seam == "llm":
        content = policy_card("direct").path.read_text()
        (folder / "own.toml").write_text(content.replace("[options]", '[options]\nllm = "my_plugins:MyLLM"', 1))
    else:
        (folder / "own.toml").write_text(line if kind == "policy" else 'policy = "lexical"')
    return str(folder / "Own-v0.toml"), str(folder / "own.toml")


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("way", ["trusted card", "command line", "python"])
def test_a_class_of_ten_lines_plugs_into_every_seam(towns, seam, way):
    *_, flags = SEAMS[seam]
    if way == "trusted card":
        run, _ = evaluate(*write_cards(towns, seam), limit=3, out="run", trust=True)
    elif way == "command line":
        policy = [] if "--policy" in flags else ["--policy", "lexical"]
        result = CliRunner().invoke(app, ["eval", "Towns-v0.toml", "--limit", "3", "--out", "run", *policy, *flags])
        assert result.exit_code == 0, result.output
        run = Run.read("run")
    else:
        settings = {}
        policy = "lexical"
        if seam == "policy":
            policy = "my_plugins:MyPolicy"
        elif seam == "llm":
            policy, settings = "direct", {"policy.options.llm": "my_plugins:MyLLM:tiny"}
        elif seam == "critic":
            settings = {"policy.search.best_of": 2, "policy.search.critic": "my_plugins:MyReward"}
        else:
            key = "retrieval.name" if seam == "retriever" else "reward.process_reward"
            settings = {key: f"my_plugins:{'MyRetriever' if seam == 'retriever' else 'MyReward'}"}
        run, _ = evaluate("Towns-v0.toml", policy, limit=3, out="run", settings=settings)
    assert works(seam, run)


@pytest.mark.parametrize("seam", SEAMS)
def test_a_card_from_a_stranger_that_names_code_is_refused_before_anything_is_imported(towns, seam):
    env, policy = write_cards(towns, seam)
    with pytest.raises(CardError, match=r"names code, 'my_plugins:My\w+'.*--trust-card"):
        evaluate(env, policy, limit=3, out="run")
    result = CliRunner().invoke(app, ["eval", env, "--policy", policy, "--out", "run"])
    assert (result.exit_code, "my_plugins" in sys.modules, (towns / "run").exists()) == (1, False, False)
    trusted = CliRunner().invoke(app, ["eval", env, "--policy", policy, "--limit", "3", "--out", "run", "--trust-card"])
    assert trusted.exit_code == 0, trusted.output


HOSTILE = {
    "policy": 'policy = "subprocess:Popen"\noptions = {args = ["touch", "pwned"]}',
    "llm": 'policy = "prompt"\noptions = {llm = "subprocess:Popen:touch"}',
    "critic": 'policy = "lexical"\nsearch = {best_of = 2, critic = "os:abort"}',
    "nested": 'policy = "lexical"\nsearch = {best_of = 2, critic = "judge", critic_options = {llm = "os:abort:x"}}',
    "retriever": f'retrieval = {{name = "subprocess:Popen", options = {{args = ["touch", "pwned"]}}}}\n{ENV}',
    "inner retriever": f'retrieval = {{name = "rrf", options = {{retrievers = [{{name = "os:abort"}}]}}}}\n{ENV}',
    "process reward": f'reward = {{process_reward = "subprocess:Popen"}}\n{ENV}',
}


@pytest.mark.parametrize("card", HOSTILE)
def test_no_key_of_a_strangers_card_runs_code(towns, card):
    path = towns / "Hostile-v0.toml"
    path.write_text(HOSTILE[card])
    load = env_card if "title" in HOSTILE[card] else policy_card
    with pytest.raises(CardError, match="names code"):
        load(path)
    if load is env_card:
        with pytest.raises(CardError, match="names code"):
            raggym_env.register_card(path)
        with pytest.raises(CardError, match="names code"):
            gym.make("RAGGym-Card-v0", card=str(path))
    assert not (towns / "pwned").exists()


def test_a_registered_card_keeps_the_users_trust(towns):
    env, _ = write_cards(towns, "retriever")
    assert raggym_env.register_card(env, trust=True) == "Own-v0"
    obs, _ = gym.make("Own-v0").reset(seed=0)
    assert obs["history"] == ()


@pytest.mark.parametrize("backend", sorted(LLMS))
def test_the_names_of_back_ends_are_never_modules(towns, backend):
    (towns / f"{backend}.py").write_text("raise SystemExit('imported')")
    for registry in (RETRIEVERS, PROCESS_REWARDS, POLICIES):
        with pytest.raises(UnknownName):
            registry.resolve(f"{backend}:Thing")


CORPUS = [Passage("1", "Paris", "The capital of France."), Passage("2", "Rome", "The capital of Italy.")]


def test_a_name_a_class_and_a_module_work_alike_in_all_four(towns):
    sys.path.insert(0, str(towns))
    try:
        import my_plugins
    finally:
        sys.path.remove(str(towns))
    makers = {
        "MyPolicy": lambda plugin: policies.make(plugin, answer="x").answer,
        "MyRetriever": lambda plugin: retrieval.make(plugin, CORPUS, reverse=True).passages[0].title,
        "MyReward": lambda plugin: rewards.make(plugin, bonus=0.5).bonus,
        "MyLLM": lambda plugin: llm.make(plugin, model="m").model,
    }
    results = {name: {make(getattr(my_plugins, name)), make(f"my_plugins:{name}")} for name, make in makers.items()}
    assert results == {"MyPolicy": {"x"}, "MyRetriever": {"Rome"}, "MyReward": {0.5}, "MyLLM": {"m"}}


MAKERS = {
    "policy": lambda plugin, **options: policies.make(plugin, **options),
    "retriever": lambda plugin, **options: retrieval.make(plugin, CORPUS, **options),
    "process reward": lambda plugin, **options: rewards.make(plugin, **options),
    "llm": lambda plugin, **options: llm.make(plugin, **options),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_bug_in_a_constructor_keeps_its_traceback(towns, make):
    with pytest.raises(IndexError) as raised:
        make("my_plugins:Broken")
    assert raised.traceback[-1].path.name == "my_plugins.py"


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_name_that_does_not_exist_is_one_error(towns, make):
    with pytest.raises(UnknownName, match="no_such_module"):
        make("no_such_module:Thing")
    with pytest.raises(UnknownName, match="in module my_plugins named 'Mine'"):
        make("my_plugins:Mine")


SHIPPED = {
    "policy": ("lexical", "temprature", "temperature"),
    "retriever": ("bm25", "stemer", "stemmer"),
    "process reward": ("mini", "serch_cost", "search_cost"),
    "llm": ("openai:m", "timout", "timeout"),
}


@pytest.mark.parametrize("seam", SHIPPED)
def test_an_option_that_does_not_exist_is_one_error_with_a_suggestion(seam):
    name, wrong, right = SHIPPED[seam]
    with pytest.raises(OptionError, match=rf"no option '{wrong}'\. Did you mean '{right}'\? Its options: "):
        MAKERS[seam](name, **{wrong: 1})


# -- options of the wrong type ----------------------------------------------------------------------------------------

TABLES = {"retriever": RETRIEVERS, "llm": LLMS, "process reward": PROCESS_REWARDS, "policy": POLICIES}
GIVEN = {"corpus", "tasks", "dynamics"}
"""Parameters that the library gives, not a card."""
MISFITS = {
    "an object": object(),
    "bytes": b"high",
    "a huge integer": 10**400,
    "a longer one": 10**5000,
    "a bool": True,
    "a text": "high",
    "a fraction": 2.5,
    "not a number": math.nan,
    "infinity": math.inf,
    "a list": [1],
    "a table": {"a": 1},
    "nothing": None,
    "a nested list": [[1]],
    "a set": {1},
}
FITTING = {
    int: {"nothing else"},
    float: {"a fraction"},
    bool: {"a bool"},
    str: {"a text"},
    Path: {"a text"},
    type(None): {"nothing"},
}


def simple(annotation):
    """The names of the misfits that fit after all; None where the annotation is not a simple one."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        members = [simple(argument) for argument in arguments]
        return None if None in members else set().union(*members)
    if annotation in FITTING:
        return FITTING[annotation]
    return set() if kind is Literal else None


SLOW_PLUGINS = {"hf", "model"}  # they import torch
EVERY_PLUGIN = [
    pytest.param(seam, name, marks=[pytest.mark.slow] * (name in SLOW_PLUGINS))
    for seam, table in TABLES.items()
    for name in table
]


@pytest.mark.parametrize(("seam", "name"), EVERY_PLUGIN)
def test_no_option_of_any_plugin_takes_a_value_of_another_type(seam, name):
    table = TABLES[seam]
    factory = table.resolve(name)
    for option, parameter in inspect.signature(factory).parameters.items():
        if option in GIVEN:
            continue
        refused = {misfit for misfit, value in MISFITS.items() if is_refused(table, name, option, value)}
        fitting = simple(_resolved(factory, parameter.annotation))
        if fitting is None:  # a list, a table or an object: every scalar but a text is refused
            assert refused >= {"a huge integer", "a fraction", "not a number", "a bool"}, option
        else:
            assert refused >= MISFITS.keys() - fitting - {key for key in MISFITS if MISFITS[key] is parameter.default}


def is_refused(table, name, option, value):
    try:
        table.check_types(name, {option: value})
    except OptionError as error:
        assert str(error).startswith(f"The {table.kind} {name!r}: {option} must be ")  # noqa: PT017
        assert len(str(error)) < 500  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize(
    ("make", "plugin", "options", "problem"),
    [
        ("retriever", "bm25", {"k1": "high"}, "k1 must be a finite number, got 'high'"),
        ("retriever", "bm25", {"title_weight": True}, "title_weight must be a whole number .*, got True"),
        ("retriever", "rank-bm25", {"title_weight": 10**12}, "title_weight must be a whole number.* at most 1000"),
        ("retriever", "rrf", {"retrievers": ["bm25", {"name": "bm25", "k1": "high"}]}, "k1 must be a finite number"),
        ("llm", "openai:m@http://127.0.0.1:9/v1", {"timeout": "x"}, "timeout must be a finite number"),
        ("llm", "openai:m@http://127.0.0.1:9/v1", {"omit": "temperature"}, "omit must be a list of items, each a text"),
        ("process reward", "random", {"seed": [1]}, r"seed must be a whole number .*, got \[1\]"),
        ("process reward", "judge", {"llm": 5}, "llm must be an object of the type LLM or a text, got 5"),
        ("process reward", "judge", {"llm": "hf:x", "mode": "worst"}, r"mode must be one of \('rank', 'rate'\)"),
        ("policy", "lexical", {"temperature": math.nan}, "temperature must be a finite number, got nan"),
        ("policy", "re2search", {"llm": "hf:x", "max_tokens": 2.5}, "max_tokens must be a whole number"),
        ("policy", "re2search", {"llm": "hf:x", "prompts": {"system": 1, "user": ""}}, "prompts must be a table"),
        ("policy", "lexical", {"seed": 10**5000}, "too long to show"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_error_before_anything_is_made(make, plugin, options, problem):
    with pytest.raises(OptionError, match=problem):
        MAKERS[make](plugin, **options)


class Typed:
    """A plug-in of a user, some of whose annotations say little."""

    def __init__(
        self,
        n: int = None,  # noqa: RUF013
        ratio: float = 0.5,
        pair: tuple[float, float] = (0, 1),
        *,
        names: list[str] = (),
        matrix: np.ndarray = None,
        later: "NoSuchName" = 0,  # noqa: F821
        either: "int | NoSuchName" = 0,  # noqa: F821
        bare=1,
        table: dict[str, int] | None = None,
        back: Callable[[int], int] = len,
    ) -> None:
        self.options = dict(locals())


@pytest.mark.parametrize(
    "options",
    [
        {"n": 3, "ratio": 1},
        {"n": np.int64(3), "ratio": np.float32(0.5), "names": ("a", "b")},
        {"n": None, "pair": [0, 0.5], "names": ["a"], "table": {"a": 1}, "back": abs},
        {"pair": np.array([0.0, 1.0]), "matrix": [[1]], "later": "x", "either": "x", "bare": object()},
    ],
)
def test_what_fits_and_what_has_no_simple_annotation_reaches_a_users_plugin_as_it_is(options):
    made = Registry("thing", {"typed": Typed}).make("typed", **options).options
    assert all(made[name] is value for name, value in options.items())


@pytest.mark.parametrize(
    "options",
    [
        *({"n": 3.0}, {"n": "3"}, {"ratio": "x"}, {"pair": [0]}, {"pair": "ab"}, {"names": "ab"}, {"names": [1]}),
        *({"table": {"a": "b"}}, {"table": [1]}, {"back": "len"}, {"names": {"a": 1}}, {"names": {"a"}}),
    ],
)
def test_what_does_not_fit_a_users_plugin_is_refused_by_its_annotations(options):
    with pytest.raises(OptionError, match=f"The thing 'typed': {next(iter(options))} must be "):
        Registry("thing", {"typed": Typed}).make("typed", **options)


SETTINGS = {
    "k": ["high", 2.5, True, 0, 10**400, [1], None],
    "max_searches": ["x", 2.5, True, -1, 10**400],
    "metric": ["best", 5, None],
    "outcome_weight": ["x", True, math.nan, math.inf, 10**400, [1]],
    "process_weight": ["x", True, math.nan],
    "split": [5, [1], {"a": 1}],
}


@pytest.mark.parametrize(("setting", "value"), [(name, value) for name, values in SETTINGS.items() for value in values])
def test_a_setting_of_an_environment_of_the_wrong_type_is_one_error(setting, value):
    with pytest.raises((CardError, OptionError)) as error:
        gym.make("RAGGym-Synth-v0", **{setting: value})
    assert setting in str(error.value)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("env", "retrieval.options.k1", "high"),
        ("env", "retrieval.options", 5),
        ("env", "reward.options.search_cost", "x"),
        ("env", "dataset.options.passages", 2.5),
        ("env", "retrieval.options.corpus", "x"),
        ("env", "reward.options.split", "train"),
        ("env", "reward.options.tasks", []),
        ("env", "dataset.sources", [{"questions": ["q"] * 5_000, "corpus": ["c"] * 5_000}]),
        ("env", "dataset.sources", [{"questions": "q"}] * 5_000),
        ("env", "dataset.splits.test", "first 99999999999999999999"),
        ("policy", "options.seed", [1]),
        ("policy", "options.temperature", True),
        ("policy", "search.best_of", "3"),
        ("policy", "search.best_of", True),
        ("policy", "search.critic_options", "x"),
        ("policy", "search", {"best_of": 2, "critic": "random", "critic_options": {"dynamics": 1}}),
        ("policy", "search", {"best_of": 2, "critic": "rollout", "critic_options": {"policy_options": {"policy": 1}}}),
        ("policy", "search", {"best_of": 2, "critic": "random", "critic_options": {"seed": 0.5}}),
        ("policy", "search", {"best_of": 2, "critic": "rollout", "critic_options": {"policy_options": 5}}),
        ("policy", "search", {"best_of": 2, "critic": "rollout", "critic_options": {"policy": 5}}),
        ("policy", "search.tree", {"width": 2.5}),
        ("policy", "price", {"prompt": math.nan, "completion": 1}),
    ],
)
def test_a_wrong_type_anywhere_in_a_card_is_one_error_before_work_starts(kind, key, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = "train" if "rollout" in str(value) else "test"
    settings = {key if kind == "env" else f"policy.{key}": value}
    with pytest.raises((CardError, OptionError, DataError)):
        evaluate("RAGGym-Synth-v0", "lexical", split=split, limit=1, settings=settings)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("options", [{"seed": "x"}, {"limit": 2.5}, {"limit": True}, {"limit": "x"}, {"split": 5}])
def test_an_argument_of_a_run_of_the_wrong_type_is_one_error(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=next(iter(options))):
        evaluate("RAGGym-Synth-v0", "lexical", **options)


def test_a_critic_that_cannot_score_is_one_error():
    with pytest.raises(OptionError, match="critic must be a name, a class or have a score method, got 5"):
        policies.make("lexical", best_of=2, critic=5)


def test_an_entry_can_be_added_to_a_registry():
    registry = Registry("thing", {"list": "builtins:list"})
    registry["mine"] = dict
    assert (registry.make("mine", a=1), registry.make("list")) == ({"a": 1}, [])


# -- the forms that a user would write first -----------------------------------------------------------------------

STATE = State(Question("q", "Who?"), (), 2)


class Returns:
    """A plug-in of every kind that returns a value, whatever it is given."""

    def __init__(self, value):
        self.value = value

    def propose(self, states, n):
        return self.value

    def search(self, queries, k):
        return self.value

    def score(self, states, actions):
        return self.value


@pytest.mark.parametrize("value", [[[Search("a")]], [Search("a")], [(0, "a")], [[(0, "a")]], ([Search("a")],)])
def test_bare_actions_are_proposals(value):
    assert [row[0].action for row in propose(Returns(value), [STATE])] == [Search("a")]


def test_a_state_without_proposals_has_one_failure():
    class Silent:
        def propose(self, states, n):
            return [[] for _ in states]

    (row,) = propose(Silent(), [STATE], 3)
    assert [(proposal.action, proposal.failure) for proposal in row] == [(None, "the policy proposed nothing")]


@pytest.mark.parametrize("value", [None, [], Search("a"), [["a"]], [[None]], [[(2, "a")]], "ab", {0: []}])
def test_what_is_no_proposal_is_one_error_that_shows_the_right_form(value):
    with pytest.raises(PolicyError, match=r"Returns\.propose must return .* def propose\(self, states, n\)"):
        propose(Returns(value), [STATE])


@pytest.mark.parametrize("item", [CORPUS[0], {"id": "1", "title": "Paris", "text": "The capital of France."}])
def test_passages_and_dictionaries_are_hits(item):
    (row,) = search(Returns([[item, CORPUS[1]]]), ["q"], 2)
    assert [(hit.passage, hit.score) for hit in row] == [(CORPUS[0], 1.0), (CORPUS[1], 0.5)]


@pytest.mark.parametrize("value", [None, [], CORPUS[:1], [["Paris"]], [[{"title": "x"}]], [[{"id": 1, "text": "x"}]]])
def test_what_is_no_hit_is_one_error_that_shows_the_right_form(value):
    with pytest.raises(RetrievalError, match=r"Returns\.search must return .* def search\(self, queries, k\)"):
        search(Returns(value), ["q"], 2)


@pytest.mark.parametrize("value", [[[0.5, 1]], [(0.5, 1.0)], ([0.5, 1.0],)])
def test_lists_of_numbers_are_scores(value):
    (row,) = score(Returns(value), [STATE], [[Search("a"), Answer("b")]])
    assert (row.tolist(), str(row.dtype)) == ([0.5, 1.0], "float32")


@pytest.mark.parametrize("value", [None, [], [0.5, 1.0], [[0.5]], [["a", "b"]], [[0.5, float("nan")]], 3])
def test_what_is_no_score_is_one_error_that_shows_the_right_form(value):
    with pytest.raises(RewardError, match=r"Returns\.score must return .* def score\(self, states, actions\)"):
        score(Returns(value), [STATE], [[Search("a"), Answer("b")]])


def test_a_policy_whose_first_call_fails_leaves_no_folder_that_refuses_its_mended_version(towns):
    class Mine(BasePolicy):
        def propose(self, states, n=1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate("Towns-v0.toml", Mine(), limit=2, out="run")
    Mine.propose = lambda self, states, n=1: [Answer("River3") for state in states]
    assert evaluate("Towns-v0.toml", Mine(), limit=2, out="run")[1].complete

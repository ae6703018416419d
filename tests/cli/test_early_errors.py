"""What can be checked without data is refused before any data is loaded."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from raggym_env import build
from raggym_env.cli import app
from towns import write_towns


@pytest.fixture
def raggym(tmp_path, monkeypatch):
    """Runs a command in a place where loading data is a bug, and returns its message."""
    card = write_towns(tmp_path / "towns")
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    def load(*_, **__):
        raise AssertionError("data was loaded")

    monkeypatch.setattr(build.data, "load", load)

    def run(command, *options):
        result = CliRunner().invoke(app, [command, str(card), *options])
        assert result.exit_code == 1, result.exception
        assert isinstance(result.exception, SystemExit), result.exception
        return " ".join(result.stderr.split())

    return run


CASES = [
    ("--policy react --llm openai:m@notaurl", "A server's model is named like openai:m@http://notaurl"),
    ("--policy react --llm openai:gpt-4o", "needs a key: set OPENAI_API_KEY"),
    ("--policy react --llm nothing", "A model is named like hf:NAME or openai:MODEL@URL"),
    ("--policy react --llm scripted:gone.json", "The script gone.json cannot be read"),
    ("--policy react", "needs a language model: add --llm hf:smollm2"),
    ("--policy react --llm openai:m@http://x/v1 --set policy.options.max_tokens=0", "max_tokens must be at least 1"),
    ("--policy react --llm openai:m@http://x/v1 --set policy.options.llm_options.foo=1", "has no option 'foo'"),
    ("--policy lexical --set policy.options.foo=1", "The policy 'lexical' has no option 'foo'"),
    ("--policy lexical --llm hf:smollm2", "uses no language model: leave out the option llm (--llm)"),
    ("--policy own.TwoHop", "Did you mean 'own:TwoHop'?"),
    ("--policy folder/own.py:TwoHop", "Did you mean 'own:TwoHop'?"),
    ("--policy lexical --set retrieval.name=own.Words", "Did you mean 'own:Words'?"),
    ("--policy lexical --set retrieval.options.foo=1", "The retriever 'bm25' has no option 'foo'"),
    ("--policy lexical --set reward.process_reward=evidence", "is for splits named train... only"),
    ("--policy lexical --split nowhere", "No split of Towns-v0 named 'nowhere'"),
]
EVAL_ONLY = [
    ("--policy lexical --best-of 4", "best_of needs a critic that chooses: add one, such as --critic mini"),
    ("--policy lexical --tree 2x2", "tree needs a critic that chooses: add one, such as --critic mini"),
    ("--policy lexical --critic mini", "a critic chooses among candidates: add best_of = 8 (--best-of 8)"),
    ("--policy lexical --best-of 4 --critic evidence", "is for splits named train... only, not for 'test'"),
    ("--policy lexical --best-of 4 --critic judge", "missing a required argument: 'llm'"),
    ("--policy lexical --best-of 4 --critic none", "'none' scores nothing, so it cannot choose one"),
    ("--policy lexical --out towns", "towns exists and is not a run folder"),
]


@pytest.mark.parametrize(("options", "message"), [*CASES, *EVAL_ONLY])
def test_eval_refuses_before_it_loads_data(raggym, options, message):
    assert message in raggym("eval", *options.split())


@pytest.mark.parametrize(("options", "message"), [case for case in CASES if "split" not in case[0]][:11])
def test_collect_refuses_before_it_loads_data(raggym, options, message):
    assert message in raggym("collect", *options.split())


def test_a_wrong_critic_shows_no_raw_table(raggym):
    assert "{" not in raggym("eval", "--policy", "lexical", "--critic", "mini")

from dataclasses import dataclass, replace
from typing import Any

import pytest

from raggym_env import errors
from raggym_env.core import Answer, Search
from raggym_env.errors import DataNotFound, LLMError, RunError
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.runs.plan import RunSpec
from raggym_env.runs.ray.worker import Player, Reply
from towns import write_towns

ERRORS = [name for name in errors.__all__ if isinstance(getattr(errors, name), type)]


@dataclass
class Spec:
    """Stands for a `RunSpec`: loading it calls a function."""

    load: Any


@pytest.fixture
def spec(tmp_path):
    return RunSpec.of(write_towns(tmp_path / "towns"), "lexical")


def test_a_worker_replies_when_as_many_as_run_side_by_side_have_ended_and_at_the_end(spec):
    player = Player(spec, spec.load().config, in_flight=3)
    assert player.play([]) == Reply([])
    replies = [player.play([f"q{i}" for i in range(7)]), player.play([]), player.play(["q9"]), player.play([])]
    assert [len(reply.records) for reply in replies] == [3, 3, 2, 0]
    assert {record["id"] for reply in replies for record in reply.records} == {*(f"q{i}" for i in range(7)), "q9"}


def test_a_worker_with_other_data_or_another_version_says_what_differs(spec):
    reply = Player(spec, {**spec.load().config, "version": "0.0.1"}, 4).play([])
    with pytest.raises(RunError, match=r"another run than this process: version is '.+' there and '0\.0\.1' here"):
        reply.check()


def raising(error):
    raise error


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_of_a_worker_is_raised_with_its_own_message(name):
    kind = getattr(errors, name)
    error = (OSError if issubclass(kind, OSError) else kind).__new__(kind)
    error.args = ("what happened",)
    with pytest.raises(kind, match=r"^what happened$") as raised:
        Player(Spec(lambda: raising(error)), {}, 4).play([]).check()
    assert type(raised.value) is kind


def test_an_error_whose_class_only_the_worker_knows_is_raised_as_what_it_is_a_kind_of():
    class Odd(DataNotFound):
        pass

    with pytest.raises(DataNotFound, match="no file") as raised:
        Player(Spec(lambda: raising(Odd("no file"))), {}, 4).play([]).check()
    assert type(raised.value) is DataNotFound


def test_a_full_or_forbidden_disk_is_an_error_that_names_the_machine():
    with pytest.raises(RunError, match=r"On the worker's machine .+: PermissionError\(13"):
        Player(Spec(lambda: raising(PermissionError(13, "denied"))), {}, 4).play([]).check()


def test_a_bug_is_no_error_of_the_run():
    with pytest.raises(ZeroDivisionError):
        Player(Spec(lambda: 1 / 0), {}, 4).play([])


class Stops(BasePolicy):
    """Searches once; then its model fails. One question it answers at once."""

    def propose(self, states, n=1):
        if any(state.history for state in states):
            raise LLMError("no model")
        return [[Proposal(Answer("x") if state.question.id == "q0" else Search("x"))] for state in states]


def test_what_ended_before_an_error_is_kept(spec):
    reply = Player(Spec(lambda: replace(spec.load(), make_policy=Stops)), spec.load().config, in_flight=4).play(
        ["q0", "q1"]
    )
    assert [record["id"] for record in reply.records] == ["q0"]
    with pytest.raises(LLMError, match="no model"):
        reply.check()

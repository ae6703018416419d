"""Runs a policy on the dynamics and returns episode records. The library's only episode loop."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from raggym_env.core import Action, Answer, State, StopReason, Task, Usage
from raggym_env.errors import InvalidAction, LLMError, PolicyError, RAGGymError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.records import Candidate, Episode, Step
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Policy, Proposal, propose

__all__ = ["complete", "rollout", "rollout_batches"]


@dataclass(slots=True)
class _Running:
    """An episode in flight: the mutable form of an `Episode`."""

    task: Task
    state: State
    steps: list[Step] = field(default_factory=list)
    error: str | None = None
    output: str = ""
    failure: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    usage: Usage = field(default_factory=Usage)
    started: float = field(default_factory=time.perf_counter)

    @property
    def over(self) -> bool:
        return self.error is not None or self.state.stop is not None

    def fail(self, error: RAGGymError) -> None:
        self.error = f"{type(error).__name__}: {error}"

    def record(self) -> Episode:
        about: dict[str, Any] = {"output": self.output, "failure": self.failure, "usage": self.usage}
        about["messages"] = self.messages
        seconds = time.perf_counter() - self.started
        return Episode.of(self.state, tuple(self.steps), error=self.error, seconds=seconds, **about)


def rollout(
    policy: Policy, tasks: Iterable[Task], dynamics: Dynamics, reward: StepReward | None = None, *, in_flight: int = 32
) -> Iterator[Episode]:
    """Run the policy on every task, many at a time, and yield each episode as it ends.

    If a search, a reward or a server fails, its episode is yielded with the error and without a score, and the
    others continue. Only errors of this library are recorded; a bug raises. An output of the policy that is not an
    action ends its episode: `StopReason.NO_ACTION`, with nothing to grade; or, with
    `Dynamics.answer_with_last_draft`, with the last draft as the answer, if there is one.

    Args:
        policy: Proposes one action per state.
        tasks: Read lazily; may be endless.
        dynamics: The transition.
        reward: Rewards the steps; by default the exact match of the answer.
        in_flight: Episodes that run side by side, at least 1. Policies, searches and rewards see batches of up to
            this size. Results do not depend on it unless the policy's do.

    Raises:
        OptionError: `in_flight` is less than 1.
        LLMError: The policy's or the reward's language model cannot be used at all.
    """
    for batch in rollout_batches(policy, tasks, dynamics, reward, in_flight=in_flight):
        yield from batch


def rollout_batches(
    policy: Policy, tasks: Iterable[Task], dynamics: Dynamics, reward: StepReward | None = None, *, in_flight: int = 32
) -> Iterator[list[Episode]]:
    """As `rollout`, but yield the episodes that ended at the same step together."""
    check_option("in_flight", in_flight, in_flight >= 1, "at least 1")
    starting = (_Running(task, dynamics.start(task.question)) for task in tasks)
    for ended in _run(starting, policy, dynamics, reward or StepReward(), in_flight):
        if ended:
            yield [episode.record() for episode in ended]


def complete(
    policy: Policy, tasks: Sequence[Task], states: Sequence[State], dynamics: Dynamics, reward: StepReward | None = None
) -> list[Episode]:
    """Run the policy from given states to the end, all side by side. Failures are recorded as by `rollout`.

    The `n` states belong to the questions of the `n` tasks, which may repeat. States that have ended stay as they are.

    Returns:
        `n` episodes, in the order of the states. Their steps are those taken here, not those before the states.

    Raises:
        LLMError: The policy's or the reward's language model cannot be used at all.
    """
    episodes = [_Running(task, state) for task, state in zip(tasks, states, strict=True)]
    starting = iter([episode for episode in episodes if not episode.over])
    for _ in _run(starting, policy, dynamics, reward or StepReward(), max(1, len(episodes))):
        pass
    return [episode.record() for episode in episodes]


def _run(
    waiting: Iterator[_Running], policy: Policy, dynamics: Dynamics, reward: StepReward, in_flight: int
) -> Iterator[list[_Running]]:
    """Run episodes, at most `in_flight` at a time, and yield after each step those that ended."""
    running: list[_Running] = []
    while True:
        # Fill the places of ended episodes at every step: batches stay full until the tasks run out.
        running += islice(waiting, in_flight - len(running))
        if not running:
            return
        try:
            _apply(_choose(running, policy), dynamics, reward)
        except RAGGymError:
            raise
        except Exception as error:  # a bug, of a plug-in most likely
            error.add_note(_place(error, running))
            raise
        yield [episode for episode in running if episode.over]
        running = [episode for episode in running if not episode.over]


def _place(error: Exception, running: Sequence[_Running]) -> str:
    """Return in which question a bug showed: that of the innermost state that the plug-in's own code had in hand."""
    ids = [episode.task.id for episode in running]
    question = ids[0] if len(ids) == 1 else None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # A state in our own code may be left over from a loop that has ended.
        if not frame.f_globals.get("__name__", "").startswith("raggym_env."):
            states = (value for value in frame.f_locals.values() if isinstance(value, State))
            question = next((state.question.id for state in states if state.question.id in ids), question)
    if question is None:
        return f"In one of {len(ids)} questions side by side. With --in-flight 1 (in_flight=1) it is named."
    return f"In the question {question!r}."


class _Choice(NamedTuple):
    """The policy's choice in an episode."""

    episode: _Running
    proposal: Proposal
    action: Action


def _choose(running: Sequence[_Running], policy: Policy) -> list[_Choice]:
    """Return the policy's choice in each episode that continues; the others end or fail.

    If the policy fails on the whole batch, it is called for each episode alone, so that only the culprits fail.
    """
    try:
        rows = propose(policy, [episode.state for episode in running])
    except LLMError:
        raise  # no episode can work without the model: better to stop than to fail them all
    except RAGGymError as error:
        if len(running) == 1:
            running[0].fail(error)
            return []
        return [choice for episode in running for choice in _choose([episode], policy)]
    choices = []
    for episode, proposals in zip(running, rows, strict=True):
        proposal = proposals[0]
        episode.usage += proposal.usage  # also of an output that turns out not to be an action
        try:
            choices.append(_Choice(episode, proposal, proposal.chosen()))
        except (PolicyError, InvalidAction) as error:
            if proposal.outage:
                # Not the policy's fault: without a score, and tried again when the run is resumed.
                episode.fail(error)
            else:
                episode.output = proposal.text or str(error)
                episode.failure = proposal.failure or str(error)
                episode.messages = proposal.messages
                if episode.state.draft is not None:
                    choices.append(_Choice(episode, proposal, Answer(episode.state.draft)))
                else:
                    episode.state = replace(episode.state, stop=StopReason.NO_ACTION)
    return choices


def _apply(choices: Sequence[_Choice], dynamics: Dynamics, reward: StepReward) -> None:
    """Take the chosen step in each episode. If the batch fails, each episode is stepped alone, as in `_choose`."""
    if not choices:
        return
    states = [choice.episode.state for choice in choices]
    actions = [choice.action for choice in choices]
    try:
        after = dynamics.transition(states, actions)
        rewards = reward.score([choice.episode.task for choice in choices], states, actions, after)
    except LLMError:
        raise  # no episode can be rewarded without the model
    except RAGGymError as error:
        if len(choices) == 1:
            choices[0].episode.fail(error)
            return
        for choice in choices:
            _apply([choice], dynamics, reward)
        return
    # From here on nothing can fail, so no episode is left half-stepped.
    for (episode, proposal, action), state, (_, outcome, process_reward) in zip(choices, after, rewards, strict=True):
        candidates = tuple(Candidate(option.action, option.score, option.text) for option in proposal.candidates)
        about = {"text": proposal.text, "score": proposal.score, "messages": proposal.messages, "usage": proposal.usage}
        step = Step.of(episode.state, action, state, outcome, process_reward, candidates=candidates, **about)
        episode.steps.append(step)
        episode.state = state

"""The four things a user can plug in: a retriever, a language model, a process reward and a policy.

Each is a protocol that any object with the right methods satisfies; inheriting is never needed. All methods are
batch first: what can run together is given together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload, runtime_checkable

from raggym_env.core import Action, Answer, Obs, Passage, Search, State, Usage, as_action
from raggym_env.errors import InvalidAction, PolicyError, RetrievalError, RewardError, check_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LLM",
    "BasePolicy",
    "Completion",
    "Hit",
    "Messages",
    "Policy",
    "ProcessReward",
    "Proposal",
    "ReplyCritic",
    "Retriever",
    "Sampling",
    "Scorer",
    "distinct",
    "propose",
    "score",
    "score_replies",
    "search",
    "total_usage",
]


class Hit(NamedTuple):
    """One retrieved passage. Scores are comparable within one query of one retriever only; higher is better."""

    passage: Passage
    score: float


@runtime_checkable
class Retriever(Protocol):
    """Finds passages for queries; knows nothing of episodes, prompts or rewards."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the `k` best passages for each query.

        Args:
            queries: `n` query strings; an empty sequence gives an empty list.
            k: Passages per query, at least 1. Fewer are returned if fewer match.

        Returns:
            `n` lists in query order, best first; equal scores keep corpus order. The result for a query does
            not depend on the other queries of the batch.

        Raises:
            RetrievalError: The back end failed. No partial result is returned.
        """
        ...


Messages = Sequence[Mapping[str, str]]
"""A chat: `{"role": "system" | "user" | "assistant", "content": text}`, oldest first."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. The defaults give one completion by greedy decoding."""

    n: int = 1
    """Completions per prompt, at least 1."""
    temperature: float = 0.0
    """0 is greedy decoding; the `n` completions are then equal."""
    top_p: float = 1.0
    """Share of the probability mass that is sampled from, in (0, 1]."""
    max_tokens: int = 512
    """Tokens per completion, at least 1."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion. They are not part of it."""
    seed: int = 0
    """Sampling depends on the seed, the prompt and the completion's number only, if the model takes a seed."""

    def __post_init__(self) -> None:
        check_option("n", self.n, self.n >= 1, "at least 1")
        check_option("temperature", self.temperature, self.temperature >= 0, "0 or more")
        check_option("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        check_option("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, or the reason that there is none."""

    text: str
    finish: str = "stop"
    """"stop" (the model ended, or produced a stop string) or "length" (`max_tokens` was reached)."""
    usage: Usage = field(default_factory=Usage)
    """The cost. The usages of a prompt's `n` completions add up to the prompt's cost, so a prompt that is computed
    once counts its tokens once."""
    failure: str | None = None
    """The reason that there is no completion after all retries; `text` is then empty."""
    outage: bool = False
    """True if the same prompt may succeed later, because the server did not answer. False if it cannot: the prompt is
    too long, or was refused."""
    reasoning: str = ""
    """The reasoning that a server returned apart from the text; "" if it did not."""


@runtime_checkable
class LLM(Protocol):
    """A chat model."""

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Complete every prompt `params.n` times.

        Returns:
            One list of `params.n` completions per prompt, in order. A prompt that failed after all retries has
            completions with a `failure`; the others are not affected.

        Raises:
            LLMError: The model cannot be used at all (no such model, no key), so no prompt could work.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """A language model that scores given continuations by their likelihood."""

    def loglikelihood(
        self, prompts: Sequence[Messages], continuations: Sequence[Sequence[str]], *, per_token: bool = False
    ) -> list[NDArray[np.float32]]:
        """Return the sum of the log-probabilities (nats) of each continuation's tokens after its prompt.

        Args:
            prompts: `n` prompts.
            continuations: `n` sequences of texts; their lengths may differ and may be 0.
            per_token: Return the mean over the tokens in place of the sum. An empty continuation has 0.

        Returns:
            `n` float32 arrays, the i-th of shape `(len(continuations[i]),)`, each value 0 or less.

        Raises:
            LLMError: A prompt cannot be scored.
        """
        ...


@runtime_checkable
class ProcessReward(Protocol):
    """Scores candidate actions in a state (a process reward model, or critic); proposes nothing."""

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Score every candidate of every state; higher is better.

        Args:
            states: `n` running states.
            actions: `n` sequences of candidates, one per state; their lengths may differ and may be 0.

        Returns:
            `n` float32 arrays, the i-th of shape `(len(actions[i]),)`. Scores are comparable within one state; each
            implementation says whether they are comparable across states.

        Raises:
            RewardError: A score could not be computed. A failure is never a zero.
        """
        ...


@dataclass(frozen=True, slots=True)
class Proposal:
    """One action that a policy proposes, with its origin and cost."""

    action: Action | None
    """None if the policy's output could not be parsed as an action; `failure` then says why."""
    text: str = ""
    """The raw output the action was parsed from; empty for policies that write none."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that produced it, as chat messages; empty for policies that use none."""
    usage: Usage = field(default_factory=Usage)
    score: float | None = None
    """The policy's own ranking or a critic's score; None if it was not ranked."""
    candidates: tuple[Proposal, ...] = ()
    """The proposals among which it was chosen, best first; empty if there was only one."""
    failure: str | None = None
    """The reason that there is no action."""
    outage: bool = False
    """True if a dependency of the policy, such as a server, failed. The episode then has no score and may be run again,
    while an output that cannot be parsed is the policy's own failure and scores 0."""

    def chosen(self) -> Action:
        """Return the action, checked.

        Raises:
            PolicyError: There is no action.
            InvalidAction: It is blank, or not an action at all.
        """
        if self.action is None:
            output = f"; the policy's output was {self.text!r:.500}" if self.text else ""
            raise PolicyError(f"{self.failure or 'no action'}{output}")
        return as_action(self.action)


@runtime_checkable
class Policy(Protocol):
    """Maps states to proposed actions. Never sees a gold answer."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Propose `n` actions per state, best guess first.

        Args:
            states: Running states; an empty sequence gives an empty list.
            n: Proposals per state, at least 1. With `n=1`, the policy's own choice. Fewer, but at least one, may be
                returned if the policy has no more distinct actions; sampled duplicates are allowed.

        Returns:
            One list per state, in order. A failure of one state (an output that cannot be parsed, a request that
            failed) is a proposal with `action=None` and a `failure`; an exception means that all states failed.
        """
        ...

    def act(self, obs: Obs | State) -> Action:
        """Return the policy's own choice in a state or an observation.

        Raises:
            PolicyError: The policy's output could not be parsed as an action.
        """
        ...


@runtime_checkable
class ReplyCritic(Protocol):
    """A critic that reads more than states and actions: the prompt and the reply that each candidate came from."""

    def score_replies(
        self, states: Sequence[State], proposals: Sequence[Sequence[Proposal]]
    ) -> list[NDArray[np.float32]]:
        """Score every proposal of every state, as `ProcessReward.score` does actions. All proposals have actions, and
        those with equal actions are scored apart.

        Raises:
            RewardError: A score could not be computed, e.g. of a proposal that no model wrote.
        """
        ...


class BasePolicy:
    """Base class that adds `act` to a class with `propose`. Inheriting it is optional."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        raise NotImplementedError

    @overload
    def act(self, obs: Obs | State) -> Action: ...
    @overload
    def act(self, obs: Mapping[str, Any]) -> Action | tuple[Action, ...]: ...
    def act(self, obs: Obs | State | Mapping[str, Any]) -> Action | tuple[Action, ...]:
        """Return the policy's own choice; for a vector environment's observation, one choice per environment.

        Raises:
            PolicyError: An output of the policy could not be parsed as an action.
        """
        # A vector environment batches texts as a tuple, one for each episode.
        if isinstance(obs, State) or isinstance(obs["question"], str):
            state = obs if isinstance(obs, State) else State.from_obs(obs)
            return propose(self, [state])[0][0].chosen()
        columns = [obs[name] for name in ("question", "options", "history", "searches_left")]
        states = [
            State.from_obs({"question": question, "options": options, "history": history, "searches_left": left})
            for question, options, history, left in zip(*columns, strict=True)
        ]
        return tuple(row[0].chosen() for row in propose(self, states))


def distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Return the proposals that are actions, in order, and of equal actions the first."""
    # The first of equal actions is the policy's preferred one, with the text and usage that it came with.
    unique: dict[object, Proposal] = {}
    for proposal in proposals:
        if proposal.action is not None:
            unique.setdefault(proposal.action, proposal)
    return list(unique.values())


def total_usage(proposals: Sequence[Proposal]) -> Usage:
    """Return the total cost of the proposals."""
    return sum((proposal.usage for proposal in proposals), Usage())


# -- calling plug-ins ---------------------------------------------------------------------------------------------
# Every caller goes through these four functions. They accept the forms that a user would write first, and turn any
# other into one error that shows the right form.


def propose(policy: Policy, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
    """Call `policy.propose` and return lists of proposals, at least one for each state.

    A bare action counts as a proposal, and a single action in place of a state's list as a list of one. A blank action
    is an output that is not an action, and a state without proposals has failed: a proposal that says so.

    Raises:
        PolicyError: The policy returned another number of lists, or an item that is neither a proposal nor an action.
    """
    rows = policy.propose(states, n)
    if not isinstance(rows, list | tuple) or len(rows) != len(states):
        raise PolicyError(_wrong_number(policy, "propose", "states", len(states), _PROPOSE, rows))
    return [_proposals(policy, row) for row in rows]


def _proposals(policy: Policy, row: Any) -> list[Proposal]:
    # `(0, query)` is an action, although it is a tuple as a row of two proposals may be.
    if not isinstance(row, list | tuple) or (len(row) == 2 and isinstance(row[1], str)):
        row = [row]
    return [_proposal(policy, item) for item in row] or [Proposal(None, failure="the policy proposed nothing")]


def _check_parts(policy: Policy, item: Proposal) -> None:
    # The types that every caller computes with: costs add up, actions hash.
    hashable = getattr(type(item.action), "__hash__", None) is not None
    if not hashable or type(item.usage) is not Usage or not all(type(option) is Proposal for option in item.candidates):
        expected = "proposals with an action, a Usage and candidates that are proposals"
        raise PolicyError(_wrong_form(policy, "propose", expected, _PROPOSE, item))


def _proposal(policy: Policy, item: Any) -> Proposal:
    if isinstance(item, Proposal):
        _check_parts(policy, item)
    proposal = item if isinstance(item, Proposal) else Proposal(item)
    # A text of another type is named where the episode is recorded.
    from raggym_env.text.replies import stored  # its patterns take long to compile

    if isinstance(proposal.text, str) and (text := stored(proposal.text)) is not proposal.text:
        proposal = replace(proposal, text=text)
    if proposal.action is None and item is not None:
        return proposal
    try:
        action = as_action(proposal.action)
    except InvalidAction as error:
        if isinstance(proposal.action, Search | Answer):  # a blank one, which a policy that reads a model may return
            return replace(proposal, action=None, failure=proposal.failure or str(error))
        expected = "actions or proposals, one list for each state"
        raise PolicyError(_wrong_form(policy, "propose", expected, _PROPOSE, item)) from error
    return proposal if action is proposal.action else replace(proposal, action=action)


def search(retriever: Retriever, queries: Sequence[str], k: int) -> list[list[Hit]]:
    """Call `retriever.search` and return lists of hits.

    Passages, and dictionaries with `id`, `text` and optionally `title` and `score`, count as hits.

    A passage without a score gets 1 / rank, so that the order is unique.

    Raises:
        RetrievalError: The search failed, or the retriever returned something else.
    """
    results = retriever.search(queries, k)
    if not isinstance(results, list | tuple) or len(results) != len(queries):
        raise RetrievalError(_wrong_number(retriever, "search", "queries", len(queries), _SEARCH, results))
    # Checked once per list, not per hit: this runs at every search of every step.
    for row in results:
        if type(row) not in (list, tuple) or (row and type(row[0]) is not Hit):
            break
    else:
        # What the library's own retrievers return, and others that share one tuple.
        return [row if type(row) is list else [*row] for row in results]
    return [[_hit(retriever, item, rank) for rank, item in enumerate(_hits(retriever, row), 1)] for row in results]


def _hits(retriever: Retriever, row: Any) -> Any:
    if not isinstance(row, list | tuple) or isinstance(row, Passage | Hit):
        raise RetrievalError(_wrong_form(retriever, "search", "one list of hits for each query", _SEARCH, row))
    return row


def _hit(retriever: Retriever, item: Any, rank: int) -> Hit:
    match item:
        case Hit():
            return item
        case Passage():
            return Hit(item, 1.0 / rank)
        case {"id": str(name), "text": str(text)} if isinstance(score := item.get("score", 1.0 / rank), int | float):
            return Hit(Passage(name, str(item.get("title") or ""), text), float(score))
    raise RetrievalError(_wrong_form(retriever, "search", "hits, passages or dictionaries", _SEARCH, item))


def score(
    process_reward: ProcessReward, states: Sequence[State], actions: Sequence[Sequence[Action]]
) -> list[NDArray[np.float32]]:
    """Call `process_reward.score` and return one float32 array per state. Lists of numbers count as arrays.

    Raises:
        RewardError: The reward failed, returned something else, or gave a score that is not finite.
    """
    return _checked_scores(process_reward, process_reward.score(states, actions), actions, "score", _SCORE)


def score_replies(
    critic: ReplyCritic, states: Sequence[State], proposals: Sequence[Sequence[Proposal]]
) -> list[NDArray[np.float32]]:
    """Call `critic.score_replies` and return one float32 array per state. Lists and errors as for `score`."""
    scores = critic.score_replies(states, proposals)
    return _checked_scores(critic, scores, proposals, "score_replies", _SCORE_REPLIES)


def _checked_scores(
    plugin: object, scores: Any, candidates: Sequence[Sequence[object]], method: str, example: str
) -> list[NDArray[np.float32]]:
    import numpy as np  # not at the top: commands that compute nothing start without it

    try:
        # The contract is float32. NumPy also accepts tensors on the CPU, which many would return.
        rows = [np.asarray(row, np.float32) for row in scores]
    except (TypeError, ValueError) as error:
        form = _wrong_form(plugin, method, "one list of numbers for each state", example, scores)
        raise RewardError(form) from error
    if [row.shape for row in rows] != [(len(row),) for row in candidates]:
        expected = f"one score for each of {[len(row) for row in candidates]!r:.80} actions"
        raise RewardError(_wrong_form(plugin, method, expected, example, scores))
    if not all(np.isfinite(row).all() for row in rows):
        raise RewardError(_wrong_form(plugin, method, "finite scores", example, scores))
    return rows


_PROPOSE = "def propose(self, states, n): return [[Search(query)] for state in states]"
_SEARCH = "def search(self, queries, k): return [[Passage(id, title, text)] for query in queries]"
_SCORE = "def score(self, states, actions): return [[0.0 for action in row] for row in actions]"
_SCORE_REPLIES = "def score_replies(self, states, proposals): return [[0.0 for proposal in row] for row in proposals]"


def _wrong_number(plugin: object, method: str, inputs: str, count: int, example: str, given: Any) -> str:
    returned = f"{len(given)} lists" if isinstance(given, list | tuple) else type(given).__name__
    return _wrong_form(
        plugin, method, f"one list for each of the {inputs}", example, f"{returned} for {count} {inputs}"
    )


def _wrong_form(plugin: object, method: str, expected: str, example: str, given: object) -> str:
    shown = given if isinstance(given, str) else repr(given)
    return (
        f"{type(plugin).__name__}.{method} must return {expected}, got {shown:.200}. The simplest right form: {example}"
    )

"""The specification of a run, a policy on a split of an environment, and the plan that is loaded from it."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raggym_env import build, policies
from raggym_env.build import MDP, load_mdp
from raggym_env.cards import EnvCard, PolicyCard, PriceCard, env_card, override, policy_card
from raggym_env.core import Task
from raggym_env.errors import DataError, OptionError, RunError, check_option
from raggym_env.mdp.records import Episode
from raggym_env.mdp.rollout import rollout_batches
from raggym_env.protocols import Policy
from raggym_env.registry import POLICIES, PROCESS_REWARDS, names_code
from raggym_env.storage.work_folder import installed_version

__all__ = ["Plan", "RunSpec", "card_identity", "first_tasks"]

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The arguments of a run, before any data is read. Ray workers get the spec and load the same plan from it."""

    card: EnvCard
    policy: PolicyCard | Policy
    """A card, or an object with a `propose` method. An object is named by its `name` or its class, and its run can be
    resumed only if it has a `fingerprint`: a string that changes with everything that changes what it does."""
    split: str = "test"
    limit: int | None = None
    """Take the first `limit` questions only; None takes all."""
    seed: int = 0
    """Seed of the policy."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the cards by dotted key: `retrieval.k`, `policy.options.x`."""
    shuffle_seed: int | None = None
    """With a `limit`: take that many questions at random, by this seed, in place of the first ones."""
    concurrency: int | None = None
    """Requests that go to an API at the same time, unless the card says how many. Not part of the run's config."""
    record_prompts: bool = False
    """Whether the records have the prompts. Not part of the run's config, since no episode depends on it."""

    @classmethod
    def of(
        cls, card: str | Path | EnvCard, policy: str | Path | PolicyCard | Policy, *, trust: bool = False, **rest: Any
    ) -> RunSpec:
        """Return the spec with its cards loaded. `trust` says whether cards at paths may use the user's authority.

        The cards hold the trust, so that whatever loads the plan, such as a Ray worker, has it too.

        Raises:
            TypeError: The policy is neither a card nor an object with `propose`.
            UnknownName, CardError: As for `env_card` and `policy_card`.
        """
        if isinstance(policy, str | Path):
            policy = policy_card(policy, trust=trust)
        elif isinstance(policy, type) or not (isinstance(policy, PolicyCard) or hasattr(policy, "propose")):
            raise TypeError(f"policy must be a name, a path, a card or an object with propose, got {policy!r:.100}.")
        return cls(card=env_card(card, trust=trust), policy=policy, **rest)

    def load(self) -> Plan:
        """Load the data and open the index. The policy, which may load a model, is made where the episodes run.

        Raises:
            RunError: Settings would change the card of a policy that is an object.
            OptionError: The seed or an option of the policy is of the wrong type.
            RAGGymError: As for `load_mdp`.
        """
        check_option("seed", self.seed, type(self.seed) is int, "a whole number")
        policy_changes, card_changes = {}, {}
        for key, value in self.settings.items():
            if key.startswith("policy."):
                policy_changes[key.removeprefix("policy.")] = value
            else:
                card_changes[key] = value
        card = override(self.card, card_changes)
        if isinstance(self.policy, PolicyCard):  # before the data is loaded, which may take minutes
            policy = override(self.policy, policy_changes)
            if policy.policy == "prompt" and not policy.options.get("llm"):
                raise OptionError(
                    f"The policy {policy.name!r} needs a language model: add --llm hf:smollm2, a small one that "
                    "`raggym models get smollm2` gets, or --llm openai:MODEL@URL. In Python: "
                    'settings={"policy.options.llm": "hf:smollm2"}.'
                )
            POLICIES.check_types(policy.policy, policy.options)
            policies.check_split(policy.policy, self.split)
            if policy.search.critic not in (None, "none"):  # "none" cannot choose, which making the policy says
                PROCESS_REWARDS.resolve(policy.search.critic)
        mdp = load_mdp(card, self.split)
        make_policy, identity, price = self._policy(policy_changes, mdp)
        tasks = first_tasks(mdp.tasks, self.limit, self.shuffle_seed)
        # A limit that leaves nothing out is none: the same run with and without it.
        is_sample = len(tasks) < len(mdp.tasks)
        # Everything that changes an episode. Paths are not part of it: the same run on another machine is the same run.
        config = {
            "environment": card_identity(card),
            "policy": identity,
            "split": mdp.split,
            "limit": self.limit if is_sample else None,
            "seed": self.seed,
            "dataset": mdp.dataset.fingerprint,
            "corpus": mdp.dataset.corpus.fingerprint,
            "retriever": getattr(mdp.dynamics.retriever, "fingerprint", None),
            # A new version may propose or score differently.
            "version": installed_version("raggym-env"),
        }
        if is_sample and self.shuffle_seed is not None:
            config["shuffle_seed"] = self.shuffle_seed
        if code := _code_fingerprints([config["environment"], identity]):
            config["code"] = code
        return Plan(self, mdp, make_policy, tasks, config, price)

    def _policy(self, changes: Mapping[str, Any], mdp: MDP) -> tuple[Callable[[], Policy], Json, PriceCard | None]:
        """Return the function that makes the policy, the policy's identity, and its model's price."""
        if isinstance(self.policy, PolicyCard):
            card = override(self.policy, changes)
            paced = _with_concurrency(card, self.concurrency)
            return lambda: build.make_policy(paced, mdp, self.seed), card_identity(card), card.price
        if changes:
            raise RunError(f"Settings {sorted(changes)} change a policy's card, but a policy object was given.")
        policy, kind = self.policy, type(self.policy)
        # Code has no version of its own; without a fingerprint such a run is never resumed.
        identity = {
            "name": getattr(policy, "name", kind.__name__),
            "policy": f"{kind.__module__}.{kind.__qualname__}",
            "fingerprint": getattr(policy, "fingerprint", None),
        }
        # A function, like that of a card: the policy is made where the episodes run.
        return lambda: policy, identity, None


@dataclass(frozen=True)
class Plan:
    """A loaded run: everything that its episodes need, and what identifies it."""

    spec: RunSpec
    mdp: MDP
    make_policy: Callable[[], Policy]
    tasks: Sequence[Task]
    config: Json
    """Two runs with the same config are the same run."""
    price: PriceCard | None = None

    def episodes(self, policy: Policy, tasks: Iterable[Task], in_flight: int) -> Iterator[Json]:
        """Run episodes on some of the tasks and yield the record of each as it ends."""
        for batch in self.batches(policy, tasks, in_flight):
            yield from batch

    def batches(self, policy: Policy, tasks: Iterable[Task], in_flight: int) -> Iterator[list[Json]]:
        """As `episodes`, but yield the records of episodes that ended at the same step together."""
        by_id = {task.id: task for task in self.tasks}
        for batch in rollout_batches(policy, tasks, self.mdp.dynamics, self.mdp.reward, in_flight=in_flight):
            yield [self._readable(episode, by_id[episode.id]) for episode in batch]

    def _readable(self, episode: Episode, task: Task) -> Json:
        """Return the record; if it could not be read again, that of a failed episode, which says why."""
        record = self.record(episode, task)
        try:
            Episode.from_json(record)
        except DataError as error:
            problem = f"PolicyError: a plug-in returned a value that cannot be recorded: {error}"
            record = self.record(Episode(task.id, task.question.text, (), None, None, error=problem), task)
        return record

    def record(self, episode: Episode, task: Task) -> Json:
        """Return the record of an ended episode. Process data overrides it to record more."""
        return episode.to_json(prompts=self.spec.record_prompts)


def card_identity(card: EnvCard | PolicyCard) -> Json:
    """Return the card without its path, which differs between machines, and its price, which may be set later."""
    content: Json = card.model_dump(mode="json", exclude={"path", "price"})
    return content


def _code_fingerprints(value: Any) -> Json:
    """Return the fingerprint of each class that a card names as "module:Class", by that name.

    It is the class's own `fingerprint` or else a hash of its module's file. So a run whose class was edited is not
    resumed with half of its answers from before.
    """
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return {name: digest for item in inner for name, digest in _code_fingerprints(item).items()}
    if not isinstance(value, str) or not names_code(value):
        return {}
    module = sys.modules.get(value.partition(":")[0])
    # Only what is imported was taken for code: a prompt may look like a name, too.
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return {}
    own = getattr(getattr(module, value.partition(":")[2], None), "fingerprint", None)
    return {value: own if isinstance(own, str) else hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()}


def _with_concurrency(card: PolicyCard, concurrency: int | None) -> PolicyCard:
    """Return the card with that many requests at the same time to the API of its model and of its critic's."""
    if concurrency is None:
        return card
    tables = {"options": card.options, "search.critic_options": card.search.critic_options}
    changes = {
        f"{key}.llm_options": {"concurrency": concurrency, **options.get("llm_options", {})}
        for key, options in tables.items()
        if str(options.get("llm")).startswith("openai:")
    }
    return override(card, changes) if changes else card


def first_tasks(tasks: Sequence[Task], limit: int | None, shuffle_seed: int | None = None) -> Sequence[Task]:
    """Return the first `limit` tasks, or all; with a seed, as many at random, in the split's order.

    A greater limit takes the tasks of a smaller one, and more.

    Raises:
        OptionError: The limit is not a whole number from 1 on, or the seed no whole number.
    """
    seed_is_valid = shuffle_seed is None or (type(shuffle_seed) is int and abs(shuffle_seed) < 1 << 63)
    check_option("shuffle_seed", shuffle_seed, seed_is_valid, "a whole number of at most 63 bits, or None")
    check_option("limit", limit, limit is None or (type(limit) is int and limit >= 1), "at least 1 or None")
    if limit is None or limit >= len(tasks):
        return tasks
    if shuffle_seed is None:
        return tasks[:limit]
    order = list(range(len(tasks)))
    random.Random(f"sample {shuffle_seed}").shuffle(order)
    return [tasks[place] for place in sorted(order[:limit])]

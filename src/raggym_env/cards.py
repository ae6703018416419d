"""Cards: the TOML files in `envs/` and `policies/` that define environments and policies.

A card's name is its file's name without `.toml`. The cards that ship with the library lie at the top of the
repository and, in an installed wheel, in `raggym_env/_cards/`. A user's own card is named by its path.

A card may come from a stranger. Without the user's trust (`--trust-card`, `trust=True`) it may not name code
("module:Class"), and none of its files may lie outside its data folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from raggym_env.errors import CardError, UnknownName
from raggym_env.registry import names_code
from raggym_env.storage.paths import CardKind, card_file, card_names

__all__ = ["DatasetCard", "EnvCard", "PolicyCard", "Source", "SourceCard", "env_card", "override", "policy_card"]


# Names that become part of a path: no separators, and no leading dot.
_SAFE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
_SAFE_PATH = r"^([A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*)?$"


class _Card(BaseModel):
    # Extra keys are refused, as a misspelled key would otherwise have no effect. Frozen, as a run records its cards.
    model_config = {"extra": "forbid", "frozen": True}


class Source(NamedTuple):
    """A place that a split can be read from: a questions file, a corpus and the rows to take; see `SplitSourceCard`."""

    questions: str
    corpus: str = "contexts"
    rows: str = "all"


def _inside_folder(name: str) -> str:
    path = PureWindowsPath(name)  # understands both separators and drive letters, on every system
    if not name.startswith("hub:") and (path.anchor or ".." in path.parts):
        raise ValueError("a file must lie in the data set's folder; put a link to it there")
    return name


_Names = Annotated[
    tuple[Annotated[str, AfterValidator(_inside_folder)], ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
# Counts start at 1: "first 0" would be a split without questions.
_Rows = Annotated[str, Field(pattern=r"^(all|(first|last|after) [1-9][0-9]*)$")]


class SourceCard(_Card):
    """Files that a split can be read from. Both keys take a name or a list of names.

    Every pair of one questions file and one corpus is a source: the first corpus with each of the questions files in
    turn, then the next corpus.
    """

    questions: _Names
    """Questions file in the data set's folder (also found with `.gz` appended), or a data set on the Hugging Face
    hub, `hub:OWNER/NAME[:CONFIG]:SPLIT`. For `format = "synth"`: the name of a stream of generated questions."""
    corpus: _Names = ("contexts",)
    """Corpus file in the data set's folder (also found with `.gz` appended) or data set on the hub, in a form that
    `raggym_env.data.read_passages` reads. "contexts" means the paragraphs that the questions file itself holds."""


class SplitSourceCard(SourceCard):
    """Files that one split can be read from, and the rows to take from them."""

    rows: _Rows = "all"
    """Questions to take, in the file's order: "all", "first N", "last N", or "after N", which is all but the first N.
    The first or last N of a file with fewer questions are all of them."""


_SplitCard = Annotated[
    Annotated[_Rows, Tag("rows")] | Annotated[tuple[SplitSourceCard, ...], Tag("sources")],
    # Without a discriminator, a mistake in one form would be reported for both forms.
    Discriminator(lambda value: "rows" if isinstance(value, str) else "sources"),
]


class DatasetCard(_Card):
    """Where an environment's questions and passages come from."""

    format: Literal["hotpotqa", "2wikimultihopqa", "bamboogle", "medqa", "jsonl", "synth"]
    """Format of the questions files: that of a published data set, "jsonl" (FlashRAG's: `id`, `question`,
    `golden_answers` and optionally `options`, `supporting_facts` and `metadata`), or "synth", which generates a
    fictional world and needs no files."""
    folder: Annotated[str, Field(pattern=_SAFE_PATH)] = ""
    """The data set's folder, below `$RAGGYM_DATA` or the cache. For a card that does not ship with the library, the
    card's own folder is searched first, then this folder below it."""
    default_split: str = "test"
    """Split that is used when none is named."""
    sources: tuple[SourceCard, ...] = ()
    """Files shared by the splits that give only their rows. Sources are tried in order; a split is read from the
    first source whose files are all available."""
    splits: dict[Annotated[str, Field(pattern=_SAFE_NAME)], _SplitCard]
    """The splits by name. A split is either the rows it takes from `sources`, such as "first 1000", or a list of
    sources of its own, each with its `rows`."""
    options: dict[str, Any] = {}
    """For `format = "synth"`: `passages`, the size of the world, and its `seed`, both integers."""

    def sources_of(self, split: str) -> tuple[Source, ...]:
        """Return a split's sources in the order in which they are tried."""
        card = self.splits[split]
        files: Iterable[tuple[SourceCard, str]]
        if isinstance(card, str):
            files = ((source, card) for source in self.sources)
        else:
            files = ((source, source.rows) for source in card)
        return tuple(
            Source(questions, corpus, rows)
            for source, rows in files
            for corpus in source.corpus
            for questions in source.questions
        )

    @model_validator(mode="after")
    def _splits_exist(self) -> Self:
        if self.default_split not in self.splits:
            raise ValueError(f"default_split {self.default_split!r} is not one of the splits {sorted(self.splits)}")
        if empty := [name for name in self.splits if not self.sources_of(name)]:
            raise ValueError(f"split {empty[0]!r} has no source: list its files, or those of all splits in `sources`")
        return self


class RetrievalCard(_Card):
    """The search engine of an environment."""

    name: str = "bm25"
    """A name in `raggym_env.registry.RETRIEVERS`, or "module:Class" in a trusted card."""
    # Strict: otherwise pydantic would read true as 1.
    k: Annotated[int, Field(ge=1, strict=True)] = 5
    """Passages per search."""
    options: dict[str, Any] = {}
    """Keyword arguments of the retriever, e.g. `k1` and `b` of BM25."""


class EpisodeCard(_Card):
    """The limits of an episode and the metric of its answer."""

    # The upper bound keeps the observation space, Discrete(max_searches + 1), within 64-bit integers.
    max_searches: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 8
    """Searches per episode. One more than this truncates it."""
    metric: Literal["em", "f1", "cover_em", "accuracy"] = "em"
    """Scores an answer in [0, 1]; see `raggym_env.mdp.metrics`."""


class RewardCard(_Card):
    """The reward of a step: `outcome_weight * outcome + process_weight * process_reward`."""

    process_reward: str = "none"
    """A name in `raggym_env.registry.PROCESS_REWARDS`, or "module:Class" in a trusted card."""
    options: dict[str, Any] = {}
    """Keyword arguments of the process reward."""
    # Weights are finite: a reward of NaN would ruin a training run without an error.
    outcome_weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Weight of the outcome reward: the score of an answer by `episode.metric`, and 0 for a search."""
    process_weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Weight of the process reward, which every action gets."""


class _FileCard(_Card):
    """A whole file. Its name and path are not written in it."""

    name: Annotated[str, Field(pattern=_SAFE_NAME)]
    """The file's name without `.toml`."""
    path: Path
    """The file's path."""


class EnvCard(_FileCard):
    """An environment."""

    title: str
    """One line that `raggym envs` shows."""
    description: str = ""
    """One or two sentences about the questions, with their source."""
    licence: str = ""
    """Licence of the questions and passages, which are not part of the library."""
    dataset: DatasetCard
    retrieval: RetrievalCard = RetrievalCard()
    episode: EpisodeCard = EpisodeCard()
    reward: RewardCard = RewardCard()


class TreeCard(_Card):
    """Beam search over states; see `raggym_env.policies.tree`."""

    width: Annotated[int, Field(ge=1)] = 3
    """Paths that are kept at each depth."""
    depth: Annotated[int, Field(ge=1)] = 2
    """Actions that a path looks ahead."""
    n: Annotated[int, Field(ge=1)] = 4
    """Candidates per state."""


class SearchCard(_Card):
    """Search at inference over the policy's proposals: best-of-n, voting, tree search, or none of them."""

    best_of: Annotated[int | None, Field(ge=1)] = None
    """Candidates per state, among which the critic chooses."""
    vote: Annotated[int | None, Field(ge=1)] = None
    """Samples per state that vote by their answers."""
    tree: TreeCard | None = None
    """Beam search over states, guided by the critic."""
    critic: str | None = None
    """A name in `raggym_env.registry.PROCESS_REWARDS`, or "module:Class" in a trusted card."""
    critic_options: dict[str, Any] = {}
    """Keyword arguments of the critic."""

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        chosen = [name for name in ("best_of", "vote", "tree") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"choose one of best_of, vote and tree, not {' and '.join(chosen)}")
        # Without a search there is one proposal, and votes choose by answers alone: the critic would have no effect.
        if self.critic is not None and chosen in ([], ["vote"]):
            raise ValueError("a critic needs best_of or tree to choose with")
        return self


class PriceCard(_Card):
    """The price of a language model, in US dollars per million tokens."""

    prompt: Annotated[float, Field(ge=0)]
    """Price of the tokens that the model reads."""
    completion: Annotated[float, Field(ge=0)]
    """Price of the tokens that the model writes."""
    cached: Annotated[float | None, Field(ge=0)] = None
    """Price of prompt tokens that were not computed again; by default that of `prompt`."""


class PolicyCard(_FileCard):
    """A policy."""

    policy: str
    """The policy's class: a name in `raggym_env.registry.POLICIES`, or "module:Class" in a trusted card."""
    description: str = ""
    """One or two sentences about how the policy chooses its actions."""
    options: dict[str, Any] = {}
    """Keyword arguments of that class."""
    search: SearchCard = SearchCard()
    """Search at inference over the policy's proposals; by default none."""
    price: PriceCard | None = None
    """Price of the policy's language model, if it has one."""


def env_card(card: str | Path | EnvCard, *, trust: bool = False) -> EnvCard:
    """Load an environment card by name or path; return a card as it is.

    Args:
        card: Name, path or card.
        trust: Whether a card at a path may name code, "module:Class". Importing a module runs it, so a card from
            somebody else must not.

    Raises:
        UnknownName: No card has that name.
        CardError: No file has that path, it is not TOML, it does not fit the schema, or it names code and is not
            trusted.
    """
    return card if isinstance(card, EnvCard) else _load(card, "envs", EnvCard, trust)


def policy_card(card: str | Path | PolicyCard, *, trust: bool = False) -> PolicyCard:
    """Load a policy card by name or path; return a card as it is. Arguments and errors as for `env_card`.

    A class named as "module:Class" is a card with nothing else in it.
    """
    if isinstance(card, PolicyCard):
        return card
    if isinstance(card, str) and names_code(card):
        # The user wrote the name, so it needs no `trust`: that is for names in somebody else's card.
        return PolicyCard(name=card.rpartition(":")[2].rpartition(".")[2], path=Path(), policy=card)
    return _load(card, "policies", PolicyCard, trust)


C = TypeVar("C", EnvCard, PolicyCard)


def _load(card: str | Path, kind: CardKind, model: type[C], trust: bool) -> C:
    path = Path(card)
    if path.suffix != ".toml":
        path = card_file(kind, str(card))
        if not path.is_file():
            raise UnknownName("environment card" if kind == "envs" else "policy card", str(card), card_names(kind))
    elif not path.is_file():
        raise CardError(f"No card at {path}. Pass the path of a TOML file, or a name: {card_names(kind)}.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is not valid TOML: {error}") from error
    if reserved := content.keys() & {"name", "path"}:
        raise CardError(f"{path}: a card is named by its file; remove {sorted(reserved)}.")
    loaded = _validated({**content, "name": path.stem, "path": path.resolve()}, model, path)
    # Checked here, where a card enters, and before anything is imported: what the user changes afterwards is theirs.
    if not trust and (plugin := next(filter(names_code, _plugin_names(loaded)), None)):
        raise CardError(
            f"{path} names code, {plugin!r}, and loading it would run that module. If you trust the card, pass "
            "--trust-card, or trust=True in Python."
        )
    return loaded


def _plugin_names(card: EnvCard | PolicyCard) -> Iterator[str]:
    """Yield every string of a card that may name a plug-in. Any option may: models and inner retrievers are options."""
    if isinstance(card, EnvCard):
        return _texts([card.retrieval.model_dump(), card.reward.model_dump()])
    # Prompts are text for a model, and may well look like "Question:x".
    options = {key: value for key, value in card.options.items() if key not in ("prompts", "examples")}
    return _texts([card.policy, options, card.search.model_dump()])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def override(card: C, changes: Mapping[str, Any]) -> C:
    """Return the card with some values replaced, validated again.

    Another retriever or process reward starts without options.

    Args:
        card: An environment or policy card.
        changes: Values by dotted key, e.g. `{"retrieval.k": 10, "retrieval.options.k1": 1.2}`.

    Raises:
        CardError: A key or a value does not fit the card's schema.
    """
    # Not `model_copy(update=...)`, which validates nothing.
    content = card.model_dump()
    # The options of a retriever or reward mean nothing to another one.
    for part, field in (("retrieval", "name"), ("reward", "process_reward")):
        if part in content and content[part][field] != changes.get(f"{part}.{field}", content[part][field]):
            content[part]["options"] = {}
    for key, value in changes.items():
        *parents, last = key.split(".")
        # They decide where data is looked for and what a run folder is called.
        if key in ("name", "path"):
            raise CardError(f"{card.name}: the {key} of a card is that of its file; it cannot be set.")
        table = content
        for parent in parents:
            if not isinstance(table.get(parent), dict):
                raise CardError(f"{card.name} has no setting {key!r}: {parent!r} is not one of its tables.")
            table = table[parent]
        table[last] = value
    return _validated(content, type(card), f"{card.name} with {dict(changes)}")


def _validated(content: Mapping[str, Any], model: type[C], what: object) -> C:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # Pydantic's own text spans several lines for each problem and links to its documentation.
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'card'}: {problem['msg']} (given: {problem['input']!r:.80})"
            for problem in error.errors()
        )
        raise CardError(f"{what}: {problems}") from error

"""Cards: the TOML files in `envs/` and `policies/` that define environments and policies.

A card's name is its file's name without `.toml`. The cards that ship with the library lie at the top of the
repository and, in an installed wheel, in `raggym_env/_cards/`. A user's own card is named by its path.

A card may come from a stranger, and authority comes from the user. So a card that does not ship with the library is
refused, before anything that it names is imported, opened or sent, if it

- names code, "module:Class";
- names a URL, or a model at one (`openai:MODEL@URL`): prompts and keys would go there;
- has an option that decides which key, token, header or further field is sent, or where an index is written
  (`key_env`, `token_env`, `extra_body`, `store`, ...: see `_GRANTS`), or that would trust another card;
- names a file or a folder that does not resolve below the card's folder or the data folders.

This holds for options of options too. With the user's trust (`--trust-card`, `trust=True`) a card may do all of it, and
what the user sets afterwards (on the command line, with `--set`, in Python) is the user's own. Names of data files are
relative in every card.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from raggym_env.errors import CardError, UnknownName, shown
from raggym_env.registry import LLMS, class_hint, names_code
from raggym_env.storage.parsing import parse_toml, read_file
from raggym_env.storage.paths import CardKind, card_file, card_names, data_folders, is_shipped

__all__ = ["DatasetCard", "EnvCard", "PolicyCard", "PriceCard", "SearchCard", "Source", "SourceCard", "TreeCard"]
__all__ += ["check_authority", "env_card", "override", "policy_card", "recorded_card"]


# Names that become part of a path: no separators, and no leading dot.
_SAFE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
_SAFE_PATH = r"^([A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*)?$"

_MAX_BYTES = 1 << 20

# A card's options whose last word is one of these decide what goes where with the user's authority.
_GRANTS = re.compile(
    r"(^|_)(env|key|token|secret|password|auth|url|uri|host|endpoint|prox(y|ies)|headers?|cookies?|body|store)$|^trust"
)
# Texts for a model. They may well look like "Question:x", and no plug-in is named in them.
_PROSE = ("prompts", "examples")
# Options whose texts are names of plug-ins or cards, never paths: a folder that is called "bm25" does not matter.
_PLUGIN_KEYS = ("name", "policy", "process_reward", "critic", "retriever", "retrievers")

# Files of a source, and sources; every split may have as many, and all pairs of its files are tried.
_MOST = 16

# Strict: otherwise pydantic would read true as 1. The bound is far above what can be used and far below what overflows.
_Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
# Finite: a reward of NaN would ruin a training run without an error.
_Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Card(BaseModel):
    # Extra keys are refused, as a misspelled key would otherwise have no effect. Frozen, as a run records its cards.
    model_config = {"extra": "forbid", "frozen": True}


class Source(NamedTuple):
    """A place that a split can be read from: a questions file, a corpus and the rows to take; see `SplitSourceCard`."""

    questions: str
    corpus: str = "contexts"
    rows: str = "all"


_HUB_PART = r"[^\s/\\:.~]+(\.[^\s/\\:.~]+)*"  # no dots but single ones inside a name
_HUB_NAME = re.compile(rf"hub:{_HUB_PART}(/{_HUB_PART})?(:{_HUB_PART}){{1,2}}")


def _inside_folder(name: str) -> str:
    if name.startswith("hub:"):
        if not _HUB_NAME.fullmatch(name):
            raise ValueError("a data set on the hub is named hub:OWNER/NAME[:CONFIG]:SPLIT")
    elif _has_other_root(name):
        raise ValueError("a file must lie in the data set's folder; put a link to it into $RAGGYM_DATA")
    return name


def _has_other_root(name: str) -> bool:
    """True if a path is absolute, of the home folder or of a drive, or leads upwards, on any system."""
    path = PureWindowsPath(name)  # understands both separators and drive letters
    # By its parts: "./~" is the home folder too.
    return bool(path.anchor) or ".." in path.parts or "".join(path.parts[:1]).startswith("~") or "\0" in name


_Names = Annotated[
    tuple[Annotated[str, AfterValidator(_inside_folder)], ...],
    Field(min_length=1, max_length=_MOST),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
# Counts start at 1: "first 0" would be a split without questions.
_Rows = Annotated[str, Field(pattern=r"^(all|(first|last|after) [1-9][0-9]{0,8}|listed [a-z0-9_]+)$")]


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
    The first or last N of a file with fewer questions are all of them. "listed NAME" takes the rows of a list that
    ships with the library, in the list's order, such as "listed medqa_train", the training questions of the RAG-Gym
    paper; a file with another number of questions than the one they were drawn from is refused."""


_SplitCard = Annotated[
    Annotated[_Rows, Tag("rows")] | Annotated[tuple[SplitSourceCard, ...], Field(max_length=_MOST), Tag("sources")],
    # Without a discriminator, a mistake in one form would be reported for both forms.
    Discriminator(lambda value: "rows" if isinstance(value, str) else "sources"),
]


class DatasetCard(_Card):
    """Where an environment's questions and passages come from."""

    format: Literal["hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "medqa", "browsecomp", "jsonl", "synth"]
    """Format of the questions files: that of a published data set, "jsonl" (FlashRAG's: `id`, `question`,
    `golden_answers` and optionally `options`, `supporting_facts` and `metadata`), or "synth", which generates a
    fictional world and needs no files."""
    folder: Annotated[str, Field(pattern=_SAFE_PATH)] = ""
    """The data set's folder, below `$RAGGYM_DATA` or the cache. For a card that does not ship with the library, the
    card's own folder is searched first, then this folder below it."""
    default_split: str = "test"
    """Split that is used when none is named."""
    sources: Annotated[tuple[SourceCard, ...], Field(max_length=_MOST)] = ()
    """Files shared by the splits that give only their rows. Sources are tried in order; a split is read from the
    first source whose files are all available."""
    splits: Annotated[dict[Annotated[str, Field(pattern=_SAFE_NAME)], _SplitCard], Field(max_length=4 * _MOST)]
    """The splits by name. A split is either the rows it takes from `sources`, such as "first 1000", or a list of
    sources of its own, each with its `rows`."""
    options: dict[str, Any] = {}
    """For `format = "synth"`: `passages`, the size of the world, and its `seed`, both integers."""

    @property
    def files(self) -> frozenset[tuple[str, str, str]]:
        """The folder, questions file and corpus of every source of every split."""
        sources = (source for split in self.splits for source in self.sources_of(split))
        return frozenset((self.folder, source.questions, source.corpus) for source in sources)

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
    k: _Count = 5
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
    answer_with_last_draft: Annotated[bool, Field(strict=True)] = False
    """Whether the last draft of an episode is its answer where it ends without one: at a search beyond the budget that
    carries no draft, or at a policy's output that is no action."""

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        # The record of a run without it stays what it was before the key existed.
        if not self.answer_with_last_draft:
            content.pop("answer_with_last_draft", None)
        return content


def _without_context(options: dict[str, Any]) -> dict[str, Any]:
    if reserved := options.keys() & {"process_reward", "tasks", "dynamics", "split"}:
        raise ValueError(f"{sorted(reserved)} are given by the environment and are no options")
    return options


_RewardOptions = Annotated[dict[str, Any], AfterValidator(_without_context)]


class RewardCard(_Card):
    """The reward of a step: `outcome_weight * outcome + process_weight * process_reward`."""

    process_reward: str = "none"
    """A name in `raggym_env.registry.PROCESS_REWARDS`, or "module:Class" in a trusted card."""
    options: _RewardOptions = {}
    """Keyword arguments of the process reward."""
    outcome_weight: _Number = 1.0
    """Weight of the outcome reward: the score of an answer by `episode.metric`, and 0 for a search."""
    process_weight: _Number = 1.0
    """Weight of the process reward, which every action gets."""


class _FileCard(_Card):
    """A whole file. Its name and path are not written in it."""

    name: Annotated[str, Field(pattern=_SAFE_NAME)]
    """The file's name without `.toml`."""
    path: Path
    """The file's path. A relative one stands for no file: then there is no folder in which data may lie."""
    trusted: Annotated[bool, Field(exclude=True)] = False
    """Whether the user trusts the card. Not part of its content."""


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

    width: _Count = 3
    """Paths that are kept at each depth."""
    depth: _Count = 2
    """Actions that a path looks ahead."""
    n: _Count = 4
    """Candidates per state."""


class SearchCard(_Card):
    """Search at inference over the policy's proposals: best-of-n, voting, tree search, or none of them."""

    best_of: _Count | None = None
    """Candidates per state, among which the critic chooses."""
    vote: _Count | None = None
    """Samples per state that vote by their answers."""
    tree: TreeCard | None = None
    """Beam search over states, guided by the critic."""
    critic: str | None = None
    """A name in `raggym_env.registry.PROCESS_REWARDS`, or "module:Class" in a trusted card."""
    critic_options: _RewardOptions = {}
    """Keyword arguments of the critic."""

    @field_validator("critic")
    @classmethod
    def _scores(cls, critic: str | None) -> str | None:
        if critic == "none":
            raise ValueError("a critic scores the candidates, and 'none' scores nothing, so it cannot choose one")
        return critic

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        chosen = [name for name in ("best_of", "vote", "tree") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"choose one of best_of, vote and tree, not {' and '.join(chosen)}")
        # Without a search there is one proposal, and votes choose by answers alone: the critic would have no effect.
        if self.critic is not None and chosen in ([], ["vote"]):
            raise ValueError(
                "a critic chooses among candidates: add best_of = 8 (--best-of 8) or a tree (--tree 3x2), or leave out "
                f"the critic {self.critic!r}"
            )
        return self


class PriceCard(_Card):
    """The price of a language model, in US dollars per million tokens."""

    prompt: Annotated[_Number, Field(ge=0)]
    """Price of the tokens that the model reads."""
    completion: Annotated[_Number, Field(ge=0)]
    """Price of the tokens that the model writes."""
    cached: Annotated[_Number, Field(ge=0)] | None = None
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
    """Load an environment card by name or path; return a card as it is, or trusted if `trust` says so.

    Args:
        card: Name, path or card.
        trust: Whether a card at a path may use the user's authority, e.g. name code or URLs; see the module. Pass it
            for cards that you have read only.

    Raises:
        UnknownName: No card has that name.
        CardError: No file has that path, it is not TOML, it does not fit the schema, or it uses authority and is not
            trusted.
    """
    return _with_trust(card, trust) if isinstance(card, EnvCard) else _load(card, "envs", EnvCard, trust)


def policy_card(card: str | Path | PolicyCard, *, trust: bool = False) -> PolicyCard:
    """Load a policy card by name or path. Arguments and errors as for `env_card`.

    A class named as "module:Class" is a card with nothing else in it.
    """
    if isinstance(card, PolicyCard):
        return _with_trust(card, trust)
    if isinstance(card, str) and names_code(card):
        # The user wrote the name, so it needs no `trust`: that is for names in somebody else's card.
        return PolicyCard(name=card.rpartition(":")[2].rpartition(".")[2], path=Path(), policy=card)
    return _load(card, "policies", PolicyCard, trust)


def recorded_card(content: Mapping[str, Any], path: str) -> EnvCard:
    """Return the environment card that a run folder records. It is not trusted, and `check_authority` is up to whoever
    makes something of it.

    A record may name any path. So the folder of that path is searched for the data only if the card that lies there
    names the same files; otherwise the data is looked for in the user's data folders.

    Args:
        content: The card as it was recorded, without its path.
        path: The recorded path of its file.

    Raises:
        CardError: The content does not fit the schema.
    """
    card = _validated({**content, "path": Path(path), "trusted": False}, EnvCard, "the recorded environment")
    # A UNC path would send the user's name to a server.
    if card.path.is_absolute() and not PureWindowsPath(path).drive.startswith("\\\\"):
        try:
            if card.dataset.files <= _read(card.path, EnvCard).dataset.files:
                return card
        except CardError:
            pass
    shipped = card.name in card_names("envs")
    return card.model_copy(update={"path": card_file("envs", card.name).resolve() if shipped else Path(card.name)})


C = TypeVar("C", EnvCard, PolicyCard)


def _load(card: str | Path, kind: CardKind, model: type[C], trust: bool) -> C:
    path = Path(card)
    if path.suffix != ".toml":
        if str(card) not in card_names(kind):
            subject, hint = ("environment card", "") if kind == "envs" else ("policy card", class_hint(str(card)))
            raise UnknownName(subject, str(card), card_names(kind), hint)
        path = card_file(kind, str(card))
    elif not path.is_file():
        raise CardError(f"No card at {path}. Pass the path of a TOML file, or a name: {card_names(kind)}.")
    loaded = _with_trust(_read(path, model), trust)
    if not trust and not is_shipped(loaded.path):
        check_authority(loaded)
    return loaded


def _with_trust(card: C, trust: bool) -> C:
    return card.model_copy(update={"trusted": True}) if trust else card


def _read(path: Path, model: type[C]) -> C:
    try:
        content = parse_toml(read_file(path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a ParseError, or a path with a null character
        raise CardError(f"{path} cannot be read: {error}") from error
    if reserved := content.keys() & {"name", "path", "trusted"}:
        raise CardError(f"{path}: a card is named by its file and trusted by its user; remove {sorted(reserved)}.")
    return _validated({**content, "name": path.stem, "path": path.resolve()}, model, path)


def check_authority(card: EnvCard | PolicyCard) -> None:
    """Raise `CardError` if a card uses the user's authority; see the module.

    `env_card` and `policy_card` call this, before anything that the card names is imported.
    """
    if isinstance(card, EnvCard):
        parts = {"retrieval": card.retrieval.model_dump(), "reward": card.reward.model_dump()}
    else:
        parts = card.model_dump(include={"policy", "options", "search"})
    for key, name, value in _leaves(parts, "", ""):
        if problem := _authority(name, value, card.path.parent):
            raise CardError(
                f"{card.path}: {key} {problem}, {shown(value)}. That is for the user to decide: pass --trust-card "
                "(trust=True in Python) if you have read and trust the card, or remove the key and give the value "
                "yourself, with --set or in Python."
            )


def _leaves(value: Any, key: str, name: str) -> Iterator[tuple[str, str, Any]]:
    """Yield every value below a value that may name or decide something: its dotted key, its name, and itself."""
    # The value itself as well: a whole table may be what a key grants.
    yield key, name, value
    if isinstance(value, Mapping):
        for inner_name, inner in value.items():
            if inner_name not in _PROSE:
                yield from _leaves(inner, f"{key}.{inner_name}" if key else inner_name, inner_name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{index}]", name)


def _authority(name: str, value: Any, folder: Path) -> str | None:
    """Return the authority that an option of a card uses; None if it uses none."""
    # `store = false` and `store = true`, the cache, name no place.
    if _GRANTS.search(name) and not (name == "store" and isinstance(value, bool)):
        return "decides what is sent or written where"
    if not isinstance(value, str):
        return None
    if names_code(value):
        return "names code"
    if "://" in value or "@" in value:
        return "names a server"
    if name in _PLUGIN_KEYS and Path(value).suffix != ".toml":
        return None
    backend, _, model = value.partition(":")
    path = model if backend in LLMS else value
    # `hf:MODEL+ADAPTER` are two paths, unless there is one of that name.
    for part in {path, *path.split("+")}:
        if _leads_out(part, folder):
            return "names a path outside the card's folder"
    return None


def _leads_out(name: str, folder: Path) -> bool:
    """True if a text, read as a path, does not resolve below the card's folder or the data folders.

    Names of models have the form of relative paths: where nothing has that path, it is a name.
    """
    if _has_other_root(name) and not (Path(name).is_absolute() and ".." not in Path(name).parts):
        return True
    # What lies in the card's folder must not lead out by a link; plug-ins read relative paths from the current folder.
    places = [folder / name] if folder.is_absolute() else []
    try:
        roots = [root.resolve() for root in (folder, *data_folders()) if root.is_absolute()]
        places += [Path(name)] if os.path.lexists(name) else []
        return not all(any(place.resolve().is_relative_to(root) for root in roots) for place in places)
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a loop of links, a null character
        return True


def override(card: C, changes: Mapping[str, Any]) -> C:
    """Return the card with some values replaced, validated again.

    Another retriever or process reward starts without options.

    Args:
        card: An environment or policy card.
        changes: Values by dotted key, e.g. `{"retrieval.k": 10, "retrieval.options.k1": 1.2}`. Below a table of
            options, tables that are missing are made: `{"options.llm_options.timeout": 60}`.

    Raises:
        CardError: A key or a value does not fit the card's schema.
    """
    # Not `model_copy(update=...)`, which validates nothing.
    content = {**card.model_dump(), "trusted": card.trusted}
    # The options of a retriever or reward mean nothing to another one.
    for part, field in (("retrieval", "name"), ("reward", "process_reward")):
        if part in content and content[part][field] != changes.get(f"{part}.{field}", content[part][field]):
            content[part]["options"] = {}
    for key, value in changes.items():
        *parents, last = key.split(".")
        # They decide where data is looked for, what a run folder is called and what a card may do.
        if key in ("name", "path", "trusted"):
            raise CardError(f"{card.name}: {key} is not a setting of a card; it cannot be set.")
        table, is_free = content, False
        for parent in parents:
            if is_free:
                table.setdefault(parent, {})
            is_free = is_free or parent.endswith("options")
            # A table that the card leaves out, such as `price` or `search.tree`.
            if parent in table and table[parent] is None:
                table[parent] = {}
            if not isinstance(table.get(parent), dict):
                tables = sorted(name for name, inner in table.items() if isinstance(inner, dict | None))
                raise CardError(
                    f"{card.name} has no setting {key!r}: {parent!r} is not one of its tables. Known here: "
                    f"{', '.join(tables) or 'none'}."
                )
            table = table[parent]
        table[last] = value
    settings = ", ".join(f"{key}={shown(value)}" for key, value in changes.items())
    return _validated(content, type(card), f"{card.name} with {settings:.1000}")


def _validated(content: Mapping[str, Any], model: type[C], what: object) -> C:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # Pydantic's own text spans several lines for each problem and links to its documentation.
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'card'}: {_text_of(problem)}"
            f"{_known_keys(model, problem['loc']) if problem['type'] == 'extra_forbidden' else ''}"
            for problem in error.errors()
        )
        raise CardError(f"{what}: {problems}") from error


def _text_of(problem: Any) -> str:
    """Return what Pydantic says of a value, and the value; a text of ours about a whole table says what it is about."""
    text = str(problem["msg"]).removeprefix("Value error, ")
    is_ours = problem["type"] == "value_error" and isinstance(problem["input"], Mapping)
    return text if is_ours else f"{text} (given: {shown(problem['input'], 80)})"


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Return a hint for an unknown key at a place of a card: the closest key of its table, and all of them."""
    table: type[BaseModel] | None = model
    for part in place[:-1]:
        field = table.model_fields.get(str(part)) if table is not None else None
        if field is not None:  # otherwise a place in a list, or the name of a split
            table = _inner_model(field.annotation)
    hidden = _FileCard.model_fields.keys() if table is model else ()
    names = sorted(table.model_fields.keys() - hidden) if table is not None else []
    close = difflib.get_close_matches(str(place[-1]), names, n=1)
    hint = f". Did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known keys: {', '.join(names)}" if names else ""


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside a type, the innermost of a list or a choice; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_model(part) for part in getattr(annotation, "__args__", ()))
    return next((part for part in inner if part is not None), None)

"""The environment ids, one per card. Cards, data and retrievers are imported when an environment is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from raggym_env.errors import CardError
from raggym_env.storage.paths import card_names

if TYPE_CHECKING:
    from gymnasium.vector import AutoresetMode

    from raggym_env.cards import EnvCard
    from raggym_env.envs.env import RAGEnv
    from raggym_env.envs.vector import RAGVectorEnv

__all__ = ["make_env", "make_vector_env", "register_card", "register_cards", "register_cards_with_gymnasium"]


_ENTRY_POINT = "raggym_env.envs.registration:make_env"


def make_env(card: str | Path | EnvCard, *, render_mode: str | None = None, **settings: Any) -> RAGEnv:
    """Make the environment of a card; what `gym.make(id, **settings)` calls.

    Args:
        card: Name, path or card.
        render_mode: "ansi", "human" or None.
        settings: `split`, `retriever`, `process_reward`, `trust` and the other arguments of
            `raggym_env.build.load_mdp`.
    """
    from raggym_env.build import load_mdp
    from raggym_env.envs.env import RAGEnv

    mdp = load_mdp(card, **settings)
    return RAGEnv(mdp.tasks, mdp.dynamics, mdp.reward, render_mode=render_mode)


def make_vector_env(
    card: str | Path | EnvCard, *, num_envs: int = 1, autoreset_mode: str | AutoresetMode = "NextStep", **settings: Any
) -> RAGVectorEnv:
    """Make the vector environment of a card; what `gym.make_vec(id, num_envs, **settings)` calls."""
    from raggym_env.build import load_mdp
    from raggym_env.envs.vector import RAGVectorEnv

    mdp = load_mdp(card, **settings)
    return RAGVectorEnv(mdp.tasks, mdp.dynamics, mdp.reward, num_envs=num_envs, autoreset_mode=autoreset_mode)


def register_card(path: str | Path, *, trust: bool = False) -> str:
    """Register the environment of a user's own card.

    Args:
        path: A card; its file name without `.toml` becomes the id, e.g. `MyDocs-v0.toml`.
        trust: Whether the card may use your authority: name code, URLs, keys and files elsewhere; see
            `raggym_env.cards`. The environments that are made of it inherit the trust.

    Returns:
        The id for `gym.make`.

    Raises:
        CardError: The file is not a card, its name is not an environment id, or it uses authority and is not
            trusted.
    """
    import gymnasium as gym

    from raggym_env.cards import env_card

    card = env_card(Path(path).with_suffix(".toml"), trust=trust)
    try:
        _register(card.name, {"card": str(card.path), **({"trust": True} if trust else {})})
    except gym.error.Error as error:
        raise CardError(
            f"{card.path}: its name is not an environment id ({error}). Name it like MyDocs-v0.toml."
        ) from error
    return card.name


def register_cards() -> None:
    """Register one id per shipped card, and `RAGGym-Card-v0`, which takes any card: `gym.make(..., card=path)`."""
    for name in card_names("envs"):
        _register(name, {"card": name})
    _register("RAGGym-Card-v0", {})


def register_cards_with_gymnasium() -> None:
    """Register the cards now if Gymnasium has been imported, else as soon as it is: it takes longer than all else."""
    if "gymnasium" in sys.modules:
        register_cards()
    else:
        sys.meta_path.insert(0, _Registration())


class _Registration:
    """Finds Gymnasium as the other finders do, and registers the cards once it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    register_cards()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(env_id: str, settings: dict[str, Any]) -> None:
    import gymnasium as gym

    spec = gym.registry.get(env_id)
    if spec is not None and spec.entry_point != _ENTRY_POINT:
        raise CardError(f"{env_id} is already registered by another package. Rename the card.")
    gym.registry.pop(env_id, None)  # registering a card again replaces it without Gymnasium's warning
    gym.register(
        id=env_id,
        # A string, so that registering imports nothing.
        entry_point=_ENTRY_POINT,
        vector_entry_point="raggym_env.envs.registration:make_vector_env",
        kwargs=settings,
    )

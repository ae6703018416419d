"""Three tasks and a scripted retriever, for tests of everything that runs episodes."""

from __future__ import annotations

from raggym_env.core import Fact, Question, Task
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.testing import ScriptedRetriever

FILM = Task(
    Question("film", "Where was the director of the film Dawn born?"),
    ("Oslo",),
    supporting=(Fact("Dawn", 0), Fact("Ada Berg", 1)),
)
BOTH = Task(Question("both", "Are Dawn and Dusk both films?"), ("yes",), supporting=(Fact("Dawn"), Fact("Dusk")))
PILL = Task(Question("pill", "Which drug?", ("aspirin", "ibuprofen")), ("ibuprofen",), correct=1)

RESULTS = {"Dawn": ["Dawn", "Dawn (song)"], "Dusk": ["Dusk"], "Ada Berg": ["Ada Berg", "Oslo"], "nothing": []}


def dynamics(max_searches: int = 2, **options: object) -> tuple[Dynamics, ScriptedRetriever]:
    retriever = ScriptedRetriever(RESULTS, default=["Unrelated"], **options)  # type: ignore[arg-type]
    return Dynamics(retriever, k=2, max_searches=max_searches), retriever

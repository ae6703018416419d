"""Rules that the source of the package keeps."""

import ast
import importlib
from pathlib import Path

import pytest

import raggym_env

ROOT = Path(raggym_env.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

# A part imports from parts on lower floors, and from parts on its own floor if that closes no circle.
FLOORS = {
    1: ("errors",),
    2: ("core", "network", "storage"),
    3: ("protocols", "cards", "card_keys", "registry", "text", "reading", "models"),
    4: ("mdp", "data", "retrieval", "llm"),
    5: ("rewards",),
    6: ("policies",),
    7: ("build",),
    8: ("envs", "runs"),
    9: ("evaluation",),
    10: ("training", "integrations", "testing"),
    11: ("cli",),
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_untrusted_is_ever_evaluated_unpickled_or_run_in_a_shell(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert not (isinstance(node.func, ast.Name) and name in {"eval", "exec", "compile"})
            assert name not in {"system", "popen", "literal_eval"}
            risky = {keyword.arg for keyword in node.keywords if getattr(keyword.value, "value", None) is True}
            assert not risky & {"shell", "trust_remote_code", "allow_pickle"}
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def test_every_part_stands_on_a_floor():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in SOURCES}
    assert parts - {"__init__", "__main__"} <= FLOOR.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_imports_from_a_higher_floor(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    above = {name for name in map(part_of, imports(path)) if FLOOR.get(name, 0) > FLOOR.get(part, 99)}
    assert above == set()


def test_imports_close_no_circle():
    edges = {module_name(path): imports(path) for path in SOURCES}
    finished, active = set(), []

    def visit(module):
        assert module not in active, f"circle: {' -> '.join([*active[active.index(module) :], module])}"
        if module in finished:
            return
        active.append(module)
        for target in edges[module]:
            visit(target)
        finished.add(active.pop())

    for module in edges:
        visit(module)


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def part_of(module):
    return module.split(".")[1]


MODULES = frozenset(map(module_name, SOURCES))


def imports(path):
    """The modules of the package that a file imports, in whatever way, those for type checking included.

    The package's root does not count: it re-exports.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    targets = {closest(name) for name in found if name.split(".")[0] == "raggym_env"}
    return targets - {"raggym_env", module_name(path)}


def closest(name):
    """The module that a dotted name is, or is defined in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


# The names that each package promises. A package that is not listed exports nothing: its modules are imported by path.
PUBLIC = {
    "raggym_env": """Action Answer Evidence Fact Obs Passage Question RAGGymError Search State StopReason Task Turn
        register_card""",
    "raggym_env.cli": "app",
    "raggym_env.data": """Corpus Dataset TaskSet load load_tasks prepare_corpus read_passages read_tasks
        tasks_fingerprint write_corpus""",
    "raggym_env.data.synth": "GENERATOR SynthWorld generate_tasks",
    "raggym_env.envs": """CandidateActions Candidates RAGEnv RAGVectorEnv RecordEpisodes TaggedText make_env
        make_vector_env register_card""",
    "raggym_env.errors": """CardError DataError DataNotFound IndexMismatch InvalidAction InvalidReset LLMError
        MalformedData MissingExtra OptionError PolicyError RAGGymError RetrievalError RewardError RunError UnknownName
        check_option shown""",
    "raggym_env.evaluation": """Comparison Estimate Judged Leaderboard Prediction Run Scores Workers bootstrap
        build_leaderboard compare evaluate judge_answers report_page score_record score_records write_report""",
    "raggym_env.evaluation.report": "report_page write_report",
    "raggym_env.llm": "LLM LLMS Completion Messages Sampling Scorer make",
    "raggym_env.policies": "BasePolicy POLICIES Policy Proposal check_split make",
    "raggym_env.policies.prompt": "COMPONENTS Components PromptAgent",
    "raggym_env.protocols": """LLM BasePolicy Completion Hit Messages Policy ProcessReward Proposal ReplyCritic
        Retriever Sampling Scorer distinct propose score score_replies search total_usage""",
    "raggym_env.registry": "LLMS POLICIES PROCESS_REWARDS RETRIEVERS Factory Registry class_hint names_code",
    "raggym_env.retrieval": "RETRIEVERS Hit Retriever make",
    "raggym_env.retrieval.server": """Batching Limits ServerOptions bind check_installed is_local running running_app
        serve serve_app serve_processes url_of""",
    "raggym_env.rewards": "PROCESS_REWARDS ProcessReward make",
    "raggym_env.testing": """ScriptedLLM ScriptedPolicy ScriptedRetriever check_llm check_policy check_process_reward
        check_retriever""",
    "raggym_env.training": """Collection EpisodeConfig EvalSpec MiniConfig PairConfig Recipe Renderer ReplyConfig
        StepRewardConfig TrainingConfig WeightedCollection collect export relabel train_dpo train_episodes train_grpo
        train_mini train_prm train_sft""",
}
PACKAGES = sorted(module_name(path) for path in SOURCES if path.name == "__init__.py")
SLOW = {"raggym_env.training"}  # its exports load torch


@pytest.mark.parametrize(
    "package", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted({*PUBLIC, *PACKAGES})]
)
def test_the_exported_names_of_a_package_are_those_that_are_promised(package):
    module = importlib.import_module(package)
    assert sorted(getattr(module, "__all__", ())) == sorted(PUBLIC.get(package, "").split())
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def test_every_module_says_what_it_exports():
    silent = []
    for path in SOURCES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
        if "__all__" not in {getattr(target, "id", "") for target in targets} and any(
            not isinstance(node, ast.Expr) for node in body
        ):
            silent.append(path.relative_to(ROOT).as_posix())
    assert silent == ["__main__.py"]

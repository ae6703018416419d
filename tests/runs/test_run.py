import contextlib
import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

from raggym_env.core import Answer, Usage
from raggym_env.errors import CardError, DataError, MalformedData, OptionError, RAGGymError, RewardError, RunError
from raggym_env.evaluation import Run, build_leaderboard, evaluate
from raggym_env.protocols import Proposal
from towns import Reader, write_jsonl, write_towns


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


def contents(run):
    """The episodes as a set, without the wall time, which is never the same."""
    return {json.dumps({k: v for k, v in record.items() if k != "seconds"}, sort_keys=True) for record in run.records()}


def test_a_run_folder_says_what_was_run_and_holds_every_episode(towns, tmp_path):
    run, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    record = json.loads((run.path / "run.json").read_text())
    assert (record["format"], record["status"]) == (1, "complete")
    assert record["config"]["policy"]["name"] == "reader"
    assert record["packages"]["gymnasium"]
    assert (scores.complete, scores.metrics["em"].mean, scores.metrics["recall"].mean) == (True, 1.0, 1.0)
    assert len(run.records()) == 12


def test_a_finished_run_is_not_run_again(towns, tmp_path):
    first, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    before = first.episodes_file.read_bytes()
    _, again = evaluate(towns, Reader(fails={"q0"}), out=tmp_path / "run")
    assert first.episodes_file.read_bytes() == before
    assert again == scores


def test_failed_episodes_are_tried_again_and_nothing_is_counted_twice(towns, tmp_path):
    run, scores = evaluate(towns, Reader(fails={"q3", "q5"}), out=tmp_path / "run")
    assert (scores.scored, scores.failed) == (10, 2)
    assert json.loads((run.path / "run.json").read_text())["status"] == "incomplete"
    run, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    assert (scores.scored, scores.failed, scores.metrics["em"].mean) == (12, 0, 1.0)
    assert len(run.records()) == 14


def test_progress_counts_what_was_done_before(towns, tmp_path):
    evaluate(towns, Reader(fails={"q3"}), out=tmp_path / "run")
    seen = []
    evaluate(
        towns,
        Reader(),
        out=tmp_path / "run",
        progress=lambda done, total, record: seen.append((done, total, record["id"])),
    )
    assert seen == [(12, 12, "q3")]


def test_limit_takes_the_first_questions(towns, tmp_path):
    run, scores = evaluate(towns, Reader(), limit=5, out=tmp_path / "run")
    assert scores.questions == 5
    assert {record["id"] for record in run.records()} == {f"q{i}" for i in range(5)}
    with pytest.raises(ValueError, match="limit must be at least 1"):
        evaluate(towns, Reader(), limit=0)


def test_another_run_in_the_same_folder_is_refused_with_what_differs(towns, tmp_path):
    evaluate(towns, Reader(), limit=5, out=tmp_path / "run")
    with pytest.raises(RunError, match="limit is 5 there and 6 here") as error:
        evaluate(towns, Reader(), limit=6, out=tmp_path / "run", settings={"retrieval.k": 3})
    assert "environment.retrieval.k is 5 there and 3 here" in str(error.value)


def test_changed_questions_are_another_run(towns, tmp_path):
    evaluate(towns, Reader(), out=tmp_path / "run")
    rows = [json.loads(line) for line in (towns.parent / "questions.jsonl").read_text().splitlines()]
    write_jsonl(towns.parent / "questions.jsonl", [*rows[1:], {**rows[0], "golden_answers": ["Other"]}])
    with pytest.raises(RunError, match="dataset is"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_a_folder_that_holds_something_else_is_left_alone(towns, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "episodes.jsonl").write_text("precious")
    with pytest.raises(RunError, match="is not a run folder"):
        evaluate(towns, Reader(), out=tmp_path / "mine")
    assert (tmp_path / "mine" / "episodes.jsonl").read_text() == "precious"


@pytest.mark.parametrize("content", [None, "{", '{"format": 99}'])
def test_reading_what_is_no_run_says_so(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json"):
        Run.read(tmp_path)


def test_a_damaged_episode_is_named_not_dropped(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    lines = run.episodes_file.read_text().splitlines(keepends=True)
    run.episodes_file.write_text("".join([lines[0], "garbage\n", *lines[1:]]))
    with pytest.raises(MalformedData, match=r"episodes\.jsonl, line 2"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_two_processes_cannot_write_to_one_run(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    # A lock through another file handle excludes as one of another process does.
    with FileLock(run.path / ".lock"), pytest.raises(RunError, match="Another process is writing"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_settings_change_the_card_and_the_policy(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run", settings={"episode.max_searches": 1, "retrieval.k": 2})
    assert run.card.episode.max_searches == 1
    with pytest.raises(CardError, match=r"retrieval\.kk"):
        evaluate(towns, Reader(), settings={"retrieval.kk": 2})
    with pytest.raises(RunError, match="policy object"):
        evaluate(towns, Reader(), settings={"policy.options.x": 2})


def test_the_default_folder_is_named_after_the_run(towns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = evaluate(towns, "random")
    again, _ = evaluate(towns, "random")
    other, _ = evaluate(towns, "random", seed=1)
    assert run.path == again.path != other.path
    assert run.path.name.startswith("Towns-v0_test_random_")


class Anonymous(Reader):
    fingerprint = None


def test_a_policy_object_without_a_fingerprint_runs_but_is_never_mixed_with_another(towns, tmp_path):
    _, scores = evaluate(towns, Anonymous(fails={"q1"}), out=tmp_path / "run")
    assert scores.failed == 1
    with pytest.raises(RunError, match="no `fingerprint`"):
        evaluate(towns, Anonymous(), out=tmp_path / "run")


def test_a_policy_object_with_another_fingerprint_is_another_run(towns, tmp_path):
    evaluate(towns, Reader(), out=tmp_path / "run")
    other = Reader()
    other.fingerprint = "other weights"
    with pytest.raises(RunError, match=r"policy\.fingerprint is 'reader' there and 'other weights' here"):
        evaluate(towns, other, out=tmp_path / "run")


def test_an_object_with_propose_is_a_policy_and_a_class_is_not(towns, tmp_path):
    class OnlyPropose:
        def propose(self, states, n=1):
            return [[Proposal(Answer("x"))] for _ in states]

    assert evaluate(towns, OnlyPropose(), out=tmp_path / "run")[1].complete
    with pytest.raises(TypeError, match="object with propose"):
        evaluate(towns, OnlyPropose, out=tmp_path / "other")


def test_a_folder_with_other_files_is_not_written_to(towns, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not a run folder"):
        evaluate(towns, Reader(), out=tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 3}, "id"),
        ({"answer": 5}, "answer"),
        ({"steps": None}, "steps"),
        ({"steps": [{}]}, r"steps\[0\].search"),
        ({"steps": [{"search": "x", "passages": [["only one"]]}]}, r"steps\[0\].passages\[0\]"),
        ({"usage": {"calls": 1}}, "usage.prompt_tokens"),
    ],
)
def test_a_tampered_record_is_named_by_line_and_field(towns, tmp_path, change, field):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    records = run.records()
    write_jsonl(run.episodes_file, [records[0], {**records[1], **change}])
    with pytest.raises(MalformedData, match=f"line 2: field '{field}'"):
        run.records()


def test_a_run_json_without_its_config_is_refused(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    content = json.loads((run.path / "run.json").read_text())
    del content["config"]["limit"]
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="changed by hand"):
        Run.read(run.path)


def test_the_name_of_a_card_cannot_be_set_so_a_run_stays_below_its_folder(towns):
    for key in ("name", "policy.name", "path"):
        with pytest.raises(CardError, match="cannot be set"):
            evaluate(towns, "random", settings={key: "../../escaped"})


def test_a_record_is_whole_or_an_error(tmp_path):
    """A disk that fills up in the middle of a line must not be passed over in silence."""
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal, sys; from pathlib import Path; from raggym_env.mdp.records import append_record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "append_record(Path(sys.argv[1]), {'text': 'x' * 5000})"
    )
    assert resource
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "e.jsonl"], capture_output=True, text=True)
    assert "OSError" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lexical", "single_search", "random"])
def test_episodes_do_not_depend_on_the_hash_seed_or_the_number_in_flight(tmp_path, policy):
    outcomes = set()
    for hash_seed, in_flight in (("1", "32"), ("2", "5"), ("3", "32")):
        out = tmp_path / f"{hash_seed}"
        command = [*eval_command("RAGGym-Synth-v0", out), "--limit", "60", "--in-flight", in_flight]
        command[command.index("lexical")] = policy
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        outcomes.add(tuple(sorted(contents(Run.read(out)))))
    assert len(outcomes) == 1


def test_a_price_learnt_later_prices_the_finished_run(towns, tmp_path):
    evaluate(towns, "random", out=tmp_path / "run")
    price = {"policy.price": {"prompt": 1.0, "completion": 2.0}}
    run, scores = evaluate(towns, "random", out=tmp_path / "run", settings=price)
    assert scores.cost == 0.0
    assert Run.read(run.path).price.completion == 2.0


@pytest.mark.parametrize("key", ["dataset", "corpus", "retriever", "version", "split", "seed", "policy", "environment"])
def test_whatever_changes_a_run_is_part_of_what_it_is(towns, tmp_path, key):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    content = json.loads((run.path / "run.json").read_text())
    content["config"][key] = {} if isinstance(content["config"][key], dict) else "other"
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=key):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_the_process_reward_of_the_card_is_recorded(towns, tmp_path):
    settings = {"reward.process_reward": "random", "reward.options": {"seed": 5}}
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run", settings=settings)
    assert 0 < run.records()[0]["steps"][0]["process_reward"] < 1


def test_evidence_is_refused_on_the_test_split_through_the_card(towns):
    with pytest.raises(RewardError, match="splits named train"):
        evaluate(towns, Reader(), settings={"reward.process_reward": "evidence"})
    with pytest.raises(RewardError, match="splits named train"):
        evaluate(towns, "lexical", settings={"policy.search": {"best_of": 2, "critic": "evidence"}})


def test_a_policy_name_cannot_lead_out_of_the_runs_folder(towns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = Reader()
    policy.name = "../../escaped"
    run, _ = evaluate(towns, policy)
    assert run.path.resolve().parent == (tmp_path / "runs").resolve()


def eval_command(card, out):
    command = ["-m", "raggym_env", "eval", str(card), "--policy", "lexical", "--out", str(out), "--in-flight", "4"]
    return [sys.executable, *command]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_an_evaluation_killed_ten_times_at_random_moments_ends_with_the_same_episodes_and_scores(tmp_path):
    card = write_towns(tmp_path / "towns", questions=1500)
    subprocess.run(eval_command(card, tmp_path / "undisturbed"), check=True, capture_output=True)
    rng = random.Random(0)
    episodes = tmp_path / "killed" / "episodes.jsonl"
    for kill in range(10):
        process = subprocess.Popen(
            eval_command(card, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The first before there is anything, the others in the middle of the work.
        target = lines(episodes) + rng.randrange(1, 100) if kill else 0
        while lines(episodes) < target and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 0 < lines(episodes) < 1500
    subprocess.run(eval_command(card, tmp_path / "killed"), check=True, capture_output=True)
    killed, undisturbed = Run.read(tmp_path / "killed"), Run.read(tmp_path / "undisturbed")
    assert len(killed.records()) == len(undisturbed.records()) == 1500
    assert contents(killed) == contents(undisturbed)
    scores = [json.loads((run.path / "run.json").read_text())["scores"] for run in (killed, undisturbed)]
    assert scores[0] == scores[1]


# -- after a power cut, and folders that somebody has edited --------------------------------------------------------


@pytest.mark.parametrize("tail", [b"\n", b"\0" * 3000, b'{"id": "q7", "question\0\0\0', b"\n\n", b'{"id": "q7"'])
def test_a_power_cut_costs_nothing_but_the_episode_that_was_being_written(towns, tmp_path, tail):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    lines = run.episodes_file.read_bytes().splitlines(keepends=True)
    run.episodes_file.write_bytes(b"".join(lines[:7]) + tail)
    played = []
    _, scores = evaluate(towns, Reader(), out=tmp_path / "run", progress=lambda *row: played.append(row[2]["id"]))
    assert played == [json.loads(line)["id"] for line in lines[7:]]
    assert run.episodes_file.read_bytes().splitlines(keepends=True)[:7] == lines[:7]
    assert scores.complete


def test_damaged_lines_are_all_named_and_the_printed_command_saves_the_others(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "a 'quoted' folder")
    lines = run.episodes_file.read_bytes().splitlines(keepends=True)
    damaged = {2: b"garbage\n", 5: lines[5].replace(b'"steps"', b'"stops"'), 6: b'{"id": NaN}\n', 9: b"\xff\n"}
    run.episodes_file.write_bytes(b"".join(damaged.get(index, line) for index, line in enumerate(lines)))
    for use in (run.records, run.episodes, lambda: evaluate(towns, Reader(), out=run.path)):
        with pytest.raises(MalformedData, match=r"line 3: not JSON.*sed -i\.bak '3d;6d;7d;10d;'") as error:
            use()
    command = str(error.value).split("`")[1]
    subprocess.run(shlex.split(command), check=True)  # as a shell would split it
    assert len(run.episodes()) == 8
    _, scores = evaluate(towns, Reader(), out=run.path)
    assert (scores.complete, len(run.episodes())) == (True, 12)
    assert (run.path / "episodes.jsonl.bak").exists()


def test_of_several_records_of_a_question_the_last_one_counts_and_those_of_other_questions_do_not(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    records = run.records()
    failed = {**records[0], "error": "RetrievalError: down", "stop": None, "answer": None}
    other = {**records[1], "id": "not a question"}
    write_jsonl(run.episodes_file, [*records, other, failed, {**records[2], "answer": "wrong"}])
    played = []
    _, scores = evaluate(towns, Reader(), out=tmp_path / "run", progress=lambda *row: played.append(row))
    assert [(done, total, record["id"]) for done, total, record in played] == [(12, 12, records[0]["id"])]
    assert (scores.scored, scores.metrics["em"].mean) == (12, pytest.approx(11 / 12))


@pytest.mark.parametrize("name", ["run.json", "episodes.jsonl", ".lock"])
@pytest.mark.parametrize("dangling", [False, True], ids=["", "dangling"])
def test_a_link_in_a_run_folder_is_refused_and_its_target_untouched(towns, tmp_path, name, dangling):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    target = tmp_path / "target"
    (run.path / name).rename(target)
    before = target.read_bytes()
    if dangling:
        target.unlink()
    (run.path / name).symlink_to(target)
    with pytest.raises(RAGGymError, match=r"symbolic link|is not a run folder"):
        evaluate(towns, Reader(), out=run.path)
    assert (None if dangling else before) == (target.read_bytes() if target.exists() else None)


def test_a_link_with_the_name_of_the_partial_file_is_not_followed(towns, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / "run.json.partial").symlink_to(tmp_path / "precious")
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "precious"
    assert Run.read(run.path).config == run.config


def test_a_pipe_instead_of_the_episodes_does_not_block(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    run.episodes_file.unlink()
    os.mkfifo(run.episodes_file)
    for use in (run.episodes, run.records, lambda: evaluate(towns, Reader(), out=run.path)):
        with pytest.raises(DataError, match="not a regular file"):
            use()


TREE = {"policy.search": {"tree": {"depth": 1}, "critic": "random"}}
WRONG = [None, True, -1, 1.5, 10**30, "x", "\ud800", [], [[]], {}, {"name": 3}, "../../etc/passwd"]


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_run_json_with_anything_wrong_anywhere_is_read_or_one_typed_error(towns, tmp_path, wrong):
    run, _ = evaluate(towns, "lexical", limit=3, out=tmp_path / "run", settings=TREE)
    file = run.path / "run.json"
    content = json.loads(file.read_text())
    for path in list(places(content)):
        changed = json.loads(json.dumps(content))
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        if path:
            parent[path[-1]] = wrong
        file.write_text(json.dumps(changed if path else wrong))
        with contextlib.suppress(RAGGymError):
            build_leaderboard([run.path]).to_markdown()
        with contextlib.suppress(RAGGymError):
            Run.read(run.path).records()


@pytest.mark.parametrize("setting", [10**30, {"deep": json.loads("[" * 70 + "]" * 70)}])
def test_settings_that_could_not_be_read_back_stop_a_run_before_it_starts(towns, tmp_path, setting):
    with pytest.raises(OptionError, match="settings of a run are written as JSON"):
        evaluate(
            towns, "random", out=tmp_path / "run", settings={"policy.price": None, "reward.options": {"x": setting}}
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("name", 5), ("fingerprint", object()), ("fingerprint", {1, 2})])
def test_a_policy_object_whose_name_or_fingerprint_is_no_text_is_refused_before_it_starts(towns, tmp_path, name, value):
    policy = Reader()
    setattr(policy, name, value)
    with pytest.raises(OptionError, match="settings of a run"):
        evaluate(towns, policy, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_setting_with_half_of_a_surrogate_pair_is_resumed(towns, tmp_path):
    settings = {"policy.description": "half \ud800"}
    evaluate(towns, "random", out=tmp_path / "run", settings=settings)
    assert evaluate(towns, "random", out=tmp_path / "run", settings=settings)[1].complete


class Odd(Reader):
    """Adds something to its proposals for the question q1."""

    def __init__(self, **change):
        super().__init__()
        self.change = change

    def _proposal(self, state):
        proposal = super()._proposal(state)
        return replace(proposal, **self.change) if state.question.id == "q1" else proposal


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"usage": Usage(seconds=math.nan)}, "usage.seconds"),
        ({"usage": Usage(prompt_tokens=-3)}, "usage.prompt_tokens"),
        ({"usage": Usage(completion_tokens=10**30)}, "usage.completion_tokens"),
        ({"usage": Usage(calls=0.5)}, "usage.calls"),
        ({"text": 5}, "text"),
        ({"score": "high"}, "score"),
        ({"candidates": (Proposal(Answer(5)),)}, "candidates"),
        ({"candidates": (Answer("x"),)}, "candidates that are proposals"),
        ({"usage": None}, "a Usage"),
        ({"action": {"search": "x"}}, "with an action"),
    ],
)
def test_what_a_plug_in_must_not_return_fails_its_own_episode_only_and_says_why(towns, tmp_path, change, field):
    run, scores = evaluate(towns, Odd(**change), out=tmp_path / "run")
    assert (scores.scored, scores.failed) == (11, 1)
    (error,) = [record["error"] for record in run.records() if record["error"]]
    assert error.startswith("PolicyError: ")
    assert field in error
    assert evaluate(towns, Odd(), out=tmp_path / "run")[1].complete


def test_numbers_of_numpy_and_scores_that_are_not_finite_are_recorded(towns, tmp_path):
    usage = Usage(calls=np.int64(1), prompt_tokens=np.int32(5), seconds=np.float32(0.5))
    run, scores = evaluate(towns, Odd(usage=usage, score=math.nan), out=tmp_path / "run")
    assert (scores.complete, scores.usage.prompt_tokens) == (True, 10)  # of two steps
    assert len(run.records()) == 12


def interrupted(*arguments):
    if arguments[0] == 5:
        raise KeyboardInterrupt


def test_an_interruption_names_the_folder_and_keeps_every_record(towns, tmp_path):
    with pytest.raises(KeyboardInterrupt) as error:
        evaluate(towns, Reader(), out=tmp_path / "run", progress=interrupted, in_flight=4)
    assert error.value.__notes__ == [f"Run folder: {tmp_path / 'run'}"]
    run = Run.read(tmp_path / "run")
    assert len(run.records()) == 8  # those that ended together with the fifth are kept, too
    assert evaluate(towns, Reader(), out=tmp_path / "run")[1].complete


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "collect", "eval --ray local --workers 1"])
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_command_in_order_and_the_command_resumes(tmp_path, command, number, code):
    if "ray" in command:
        pytest.importorskip("ray")
    card = write_towns(tmp_path / "towns", questions=2000)
    # A job in the background is born deaf to SIGINT.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from raggym_env.cli import app; app()"
    )
    name, *flags = command.split()
    arguments = [name, str(card), "--policy", "lexical", "--out", str(tmp_path / "run"), "--in-flight", "4", *flags]
    arguments += ["--n", "2"] if name == "collect" else []
    process = subprocess.Popen([sys.executable, "-c", start, *arguments], stderr=subprocess.PIPE, text=True)
    episodes = tmp_path / "run" / "episodes.jsonl"
    while lines(episodes) < 20 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, number))
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == code, stderr
    assert "the same command resumes. Run folder:" in stderr
    assert "Traceback" not in stderr
    assert episodes.read_bytes().endswith(b"\n")
    assert 20 <= len(Run.read(tmp_path / "run").records()) < 2000


def test_a_class_that_was_edited_is_another_run_unless_its_fingerprint_says_the_same(tmp_path, monkeypatch):
    towns = write_towns(tmp_path / "towns")
    source = "from towns import Reader\n\n\nclass Mine(Reader):\n    fingerprint = None\n"
    module = tmp_path / "edited_policy.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    run, _ = evaluate(towns, "edited_policy:Mine", out=tmp_path / "run", limit=3)
    assert list(run.config["code"]) == ["edited_policy:Mine"]
    evaluate(towns, "edited_policy:Mine", out=tmp_path / "run", limit=3)
    module.write_text(source + "    edited = True\n")
    with pytest.raises(RunError, match=r"code\.edited_policy:Mine is"):
        evaluate(towns, "edited_policy:Mine", out=tmp_path / "run", limit=3)
    # The class's own word counts instead.
    monkeypatch.setattr(sys.modules["edited_policy"].Mine, "fingerprint", "v1")
    run, _ = evaluate(towns, "edited_policy:Mine", out=tmp_path / "other", limit=3)
    assert run.config["code"] == {"edited_policy:Mine": "v1"}


def test_runs_without_own_code_are_recorded_as_before(tmp_path):
    run, _ = evaluate(write_towns(tmp_path / "towns"), "lexical", out=tmp_path / "run", limit=2)
    assert "code" not in run.config

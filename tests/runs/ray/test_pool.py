import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deadly import Deadly
from raggym_env.cli import app
from raggym_env.errors import MissingExtra, RunError, UnknownName
from raggym_env.evaluation import Run, evaluate
from raggym_env.policies import POLICIES
from raggym_env.runs.ray import pool
from raggym_env.runs.ray.cluster import _private
from raggym_env.runs.ray.pool import Workers
from raggym_env.runs.ray.worker import Player
from raggym_env.training.process_data.collect import collect
from towns import Reader, write_towns

pytestmark = pytest.mark.slow

ONE, TWO = Workers("auto", 1), Workers("auto", 2)  # of the Ray that `cluster` starts


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One Ray for the tests of this file, whose processes know a policy of ours."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        for name, value in _private().items():
            patch.setenv(name, value)
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            runtime_env={"worker_process_setup_hook": "deadly.register"},
            _temp_dir=logs,
        )
        signal.signal(signal.SIGTERM, handler)  # Ray's own would outlive these tests in the process that runs them
        yield ray
        ray.shutdown()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray ends its processes, but does not wait for them
            gc.collect()


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns", questions=150)


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Writes the card of a policy that dies on some questions."""
    monkeypatch.setitem(POLICIES, "deadly", Deadly)

    def card(*on):
        path = tmp_path / "deadly.toml"
        path.write_text(f'policy = "deadly"\n[options]\non = {json.dumps(on)}\n')
        return path

    return card


def contents(run):
    """The episodes in order of their ids, without the wall time, which is never the same."""
    records = [{key: value for key, value in record.items() if key != "seconds"} for record in run.records()]
    return sorted(records, key=lambda record: record["id"])


def worker_pids(ancestor):
    """The processes of Ray workers below a process."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    below = {str(ancestor)}
    for _ in range(3):
        below |= {pid for pid, parent, _ in rows if parent in below}
    return [int(pid) for pid, _, name in rows if pid in below and name.startswith(f"ray::{Player.__name__}")]


def test_workers_killed_in_the_middle_change_nothing_in_the_records(cluster, towns, tmp_path, caplog):
    alone, scores = evaluate(towns, "lexical", out=tmp_path / "alone")
    killed = []

    def kill(done, total, record):
        if done in (20, 80):
            killed.append(worker_pids(os.getpid())[0 if done == 20 else -1])
            os.kill(killed[-1], signal.SIGKILL)

    spread, again = evaluate(towns, "lexical", out=tmp_path / "run", in_flight=4, workers=TWO, progress=kill)
    assert len(set(killed)) == caplog.text.count("A Ray worker died") == 2
    assert contents(spread) == contents(alone)
    assert (again, spread.config) == (scores, alone.config)


def test_trajectories_are_the_same_on_workers(cluster, towns, tmp_path):
    how = {"critic": "evidence", "n": 3, "explore": 0.3, "limit": 30}
    alone = collect(towns, "lexical", **how, out=tmp_path / "alone")
    spread = collect(towns, "lexical", **how, out=tmp_path / "run", in_flight=4, workers=TWO)
    assert contents(spread.run) == contents(alone.run)
    assert list(spread.trajectories()) == list(alone.trajectories())
    assert spread.run.config == alone.run.config


def raggym(*arguments):
    return [sys.executable, "-m", "raggym_env", *map(str, arguments)]


def test_a_run_whose_driver_was_killed_goes_on_on_other_workers_and_ends_without_any(cluster, towns, tmp_path):
    out = tmp_path / "run"
    words = ["eval", towns, "--policy", "lexical", "--out", out, "--in-flight", 2]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short:
        driver = subprocess.Popen(
            raggym(*words, "--ray", "local", "--workers", 2),
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": short},
        )
        while driver.poll() is None and lines(out / "episodes.jsonl") < 10:
            time.sleep(0.005)
        driver.send_signal(signal.SIGSTOP)  # so that the run does not end while its workers are looked up
        workers = worker_pids(driver.pid)
        driver.kill()
        said = driver.communicate()[1]
    assert driver.returncode == -signal.SIGKILL, said
    assert 10 <= lines(out / "episodes.jsonl") < 150

    class Enough(Exception):
        pass

    def stop(done, total, record):
        if done == 100:
            raise Enough

    with pytest.raises(Enough):
        evaluate(towns, "lexical", out=out, in_flight=2, workers=TWO, progress=stop)
    ended, _ = evaluate(towns, "lexical", out=out)
    assert contents(ended) == contents(evaluate(towns, "lexical", out=tmp_path / "alone")[0])
    assert workers
    deadline = time.monotonic() + 300  # Ray's own processes have to notice first that the driver is gone
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_question_that_kills_every_worker_gets_a_failed_record_and_the_others_end(cluster, towns, tmp_path, deadly):
    spread, scores = evaluate(towns, deadly("q7"), limit=20, out=tmp_path / "run", in_flight=2, workers=ONE)
    failed = [record for record in spread.records() if record["error"]]
    assert [(record["id"], record["answer"]) for record in failed] == [("q7", None)]
    assert "3 workers died while they ran this question" in failed[0]["error"]
    assert (len(spread.records()), scores.scored, scores.failed) == (20, 19, 1)


def test_workers_that_only_die_end_the_run_with_one_error(cluster, towns, tmp_path, deadly, monkeypatch):
    monkeypatch.setattr(pool, "_DEATHS_IN_A_ROW", 2)
    card = deadly(*(f"q{i}" for i in range(150)))
    with pytest.raises(RunError, match="Workers died 2 times and no episode ended in between"):
        evaluate(towns, card, out=tmp_path / "run", workers=ONE)


def test_what_a_worker_raises_is_the_error_of_the_run_and_nothing_was_begun(cluster, towns, tmp_path, monkeypatch):
    monkeypatch.setitem(POLICIES, "reader", Reader)
    (tmp_path / "reader.toml").write_text('policy = "reader"\n')
    with pytest.raises(UnknownName, match=r"^No policy named 'reader'\. Known: deadly, gold, lexical"):
        evaluate(towns, tmp_path / "reader.toml", out=tmp_path / "run", workers=ONE)
    assert evaluate(towns, "lexical", limit=4, out=tmp_path / "run", workers=ONE)[1].complete


def test_workers_that_find_no_room_are_one_error(cluster, towns, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_START_SECONDS", 0.5)
    with pytest.raises(RunError, match=r"Ray started no worker in .* 1 CPU and 8 GPUs; there are 2 CPUs and 0 GPUs"):
        evaluate(towns, "lexical", out=tmp_path / "run", workers=Workers("auto", 1, gpus=8))


def test_a_finished_run_starts_no_workers(towns, tmp_path):
    evaluate(towns, "lexical", limit=2, out=tmp_path / "run")
    assert evaluate(towns, "lexical", limit=2, out=tmp_path / "run", workers=Workers("127.0.0.1:1"))[1].complete


def test_a_policy_object_is_refused(towns):
    with pytest.raises(RunError, match="name a policy or a card"):
        evaluate(towns, Reader(), workers=ONE)


@pytest.mark.parametrize("options", [{"number": 0}, {"gpus": -1.0}, {"gpus": float("nan")}])
def test_impossible_workers_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Workers(**options)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nowhere", "host:port", "ray://"])
def test_an_address_where_no_ray_is_is_one_error_at_once(towns, tmp_path, address):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    since = time.monotonic()
    with pytest.raises(RunError, match="No Ray cluster can be joined at"):
        evaluate(towns, "lexical", out=tmp_path / "run", workers=Workers(address.format(port=port)))
    assert time.monotonic() - since < 15


def test_a_process_that_is_connected_to_a_ray_cannot_start_another(cluster, towns, tmp_path):
    with pytest.raises(RunError, match="connected to the Ray at"):
        evaluate(towns, "lexical", out=tmp_path / "run", workers=Workers("local"))


def test_without_ray_the_extra_is_named(towns, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--ray needs an optional dependency: pip install .*\[ray\]"):
        evaluate(towns, "lexical", out=tmp_path / "run", workers=Workers("local"))


@pytest.mark.parametrize("option", [["--workers", "2"], ["--worker-gpus", "1"]])
@pytest.mark.parametrize("command", [["eval"], ["collect", "--critic", "random"]])
def test_options_of_ray_without_ray_are_refused(towns, command, option):
    done = CliRunner().invoke(app, [*command, str(towns), "--policy", "lexical", *option])
    assert (done.exit_code, "add --ray local" in done.stderr) == (1, True)


def test_ray_is_imported_only_where_it_is_asked_for(towns, tmp_path):
    code = (
        "import sys; from raggym_env.cli import app\n"
        f"app(['eval', {str(towns)!r}, '--policy', 'lexical', '--limit', '2', '--out', {str(tmp_path / 'run')!r}],"
        " standalone_mode=False)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'ray']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(Run.read(tmp_path / "run").records()) == 2

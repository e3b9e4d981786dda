"""Running a sweep: order, failures, stopping, resuming; with stand-ins for training processes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest

from epochal.cli.main import main
from epochal.data.corpus import open_corpus
from epochal.errors import OptionError, RecipeError, RunError, TrainingStopped
from epochal.recipe import identity, load_recipe
from epochal.results import note
from epochal.runs import RunFolder
from epochal.sweeps.designs import CorpusFacts, design_runs
from epochal.sweeps.file import sweep_from_tree
from epochal.sweeps.launch import Launch
from epochal.sweeps.monitor import RunMonitor, early_stop_reason
from epochal.sweeps.options import SweepOptions
from epochal.sweeps.record import (
    FinishedRuns,
    RunReason,
    RunState,
    State,
    SweepFolder,
    recipe_hash,
)
from epochal.sweeps.slots import Slot, make_slots, warn_idle_gpus
from epochal.sweeps.sweep import plan_states, sweep, write_recipes
from tiny_runs import overrides

# A run's process in small: it leaves what a training leaves, and does as its name says.
STAND_IN = """
import json, signal, sys, time, tomllib
from pathlib import Path
recipe = tomllib.loads(Path(sys.argv[1]).read_text())
run = Path(recipe["run_dir"]); run.mkdir(parents=True, exist_ok=True)
known = json.loads((run.parent / "identities.json").read_text())
def info(status):
    (run / "run.json").write_text(json.dumps({"status": status, "family": recipe["family"],
        "identity": known[run.name], "best": {"step": 1, "nll_nats_per_token": 4.0}}))
def stop(number, frame):
    info("stopped"); sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
info("running")
with (run.parent / "order.txt").open("a") as file: file.write(run.name + "\\n")
print("hello from", run.name, flush=True)
lr = recipe["train"]["lr"]
if lr == 0.666 and not (run.parent / "fixed").exists():
    print("something broke", flush=True); sys.exit(3)
if lr == 0.5:
    for number in range(100):
        time.sleep(0.05)
        if (run / "STOP").exists(): info("stopped"); sys.exit(75)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "eval", "step": number + 1, "epochs": 1.0,
                "nll_nats_per_token": 4.0 + 0.1 * number}) + "\\n")
if lr == 0.25:
    time.sleep(30)
info("finished")
"""


class StandIn(Slot):
    def train_command(self, recipe_file, evaluate):
        return [sys.executable, "-c", STAND_IN, str(recipe_file)]


class Quiet:
    def __init__(self):
        self.events = []

    def event(self, text):
        self.events.append(text)

    def show(self, states, monitors):
        pass


@pytest.fixture
def world(tiny_corpus, tmp_path):
    """(tree → launch) for sweeps of stand-ins in one folder."""

    def make(tree, retry=False, slots=2, **options):
        settings = sweep_from_tree(tree | {"base": base(tiny_corpus)}, "test")
        facts = CorpusFacts.of(settings)
        runs = design_runs(settings, facts)
        folder = SweepFolder(tmp_path / "sweep")
        known = {run.name: whole_identity(run.recipe) for run in runs}
        folder.path.mkdir(exist_ok=True)
        (folder.path / "identities.json").write_text(json.dumps(known))
        states = plan_states(runs, facts, folder, 1, retry=retry, places=[tmp_path])
        write_recipes(runs, states, folder)
        monitors = {
            run.name: RunMonitor(folder.run_dir(run.name) / "metrics.jsonl", "ar", 100)
            for run in runs
        }
        return Launch(
            name="test",
            folder=folder,
            states=states,
            monitors=monitors,
            slots=[StandIn(number) for number in range(slots)],
            screen=Quiet(),
            evaluate=False,
            **options,
        )

    return make


def whole_identity(recipe):
    """As training writes it: settings and corpus."""
    return identity(recipe) | open_corpus(recipe.data).identity()


def base(corpus):
    """The overrides of a tiny run as a tree."""
    tree = {}
    for dotted, value in overrides(corpus, "none").items():
        section, _, key = dotted.rpartition(".")
        if dotted != "run_dir":
            (tree.setdefault(section, {}) if section else tree)[key] = value
    return tree


def listed(**rates):
    """A sweep with one run per name, told apart by learning rate, which the stand-in obeys."""
    runs = [{"name": name, "train.lr": lr, "train.min_lr": 0.001} for name, lr in rates.items()]
    return {"sweep": {"design": "list"}, "runs": runs}


def states_of(launch):
    return {state.name: state.state for state in launch.states}


def test_all_runs_are_run_and_kept_in_the_record(world, tmp_path):
    launch = world(listed(a=0.01, b=0.02, c=0.03))
    launch.run()
    assert states_of(launch) == {"a": "finished", "b": "finished", "c": "finished"}
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["states"] == {"finished": 3}
    assert [run["nll"] for run in record["runs"]] == [4.0] * 3
    assert "hello from a" in (tmp_path / "sweep" / "logs" / "a.log").read_text()
    assert "3 of 3" in launch.screen.events[-1]


def test_a_failure_does_not_end_the_others_and_is_tried_again_on_request(world, tmp_path):
    tree = listed(a=0.01, bad=0.666, c=0.03)
    first = world(tree)
    first.run()
    assert states_of(first) == {"a": "finished", "bad": "failed", "c": "finished"}
    bad = first.states[1]
    assert (bad.exit_code, bad.attempts) == (3, 1)
    assert bad.reason == note(RunReason.TRAINING_FAILED, exit_code=3)
    assert first.folder.log_tail("bad")[-1] == "something broke"
    (tmp_path / "sweep" / "fixed").touch()
    again = world(tree)
    again.run()
    assert states_of(again)["bad"] == "failed"
    assert (tmp_path / "sweep" / "order.txt").read_text().count("bad") == 1
    retried = world(tree, retry=True)
    retried.run()
    assert states_of(retried)["bad"] == "finished"
    assert retried.states[1].attempts == 2


@pytest.mark.parametrize("asked_by", [signal.SIGINT, "STOP"])
def test_a_signal_or_file_stops_all_and_the_same_call_resumes(world, tmp_path, asked_by):
    tree = listed(slow=0.25, slower=0.25)
    tree["runs"][1]["seed"] = 7
    launch = world(tree)
    # A signal to this very process, as Ctrl-C sends it, once both are at work.
    started = tmp_path / "sweep" / "order.txt"

    def interrupt():
        while not started.exists() or len(started.read_text().split()) < 2:
            time.sleep(0.02)
        if asked_by == "STOP":
            (tmp_path / "sweep" / "STOP").touch()
        else:
            os.kill(os.getpid(), asked_by)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(TrainingStopped, match="2 of 2 runs to go") as ended:
        launch.run()
    thread.join()
    assert ended.value.exit_code == (75 if asked_by == "STOP" else 130)
    assert not (tmp_path / "sweep" / "STOP").exists()
    assert states_of(launch) == {"slow": "stopped", "slower": "stopped"}
    for name in ("slow", "slower"):
        assert RunFolder(tmp_path / "sweep" / name).read_info()["status"] == "stopped"
    assert set(states_of(world(tree)).values()) == {"waiting"}


def test_a_run_is_ended_early_and_the_record_has_the_reason(world):
    launch = world(listed(rising=0.5, a=0.01), early_stopping=True)
    launch.run()
    assert states_of(launch) == {"rising": State.ENDED_EARLY, "a": State.FINISHED}
    assert launch.states[0].reason.code == RunReason.VALIDATION_ROSE
    again = world(listed(rising=0.5, a=0.01), early_stopping=True)
    assert states_of(again)["rising"] == State.ENDED_EARLY


def test_branches_wait_for_their_trunk_and_fail_with_it(world, tmp_path):
    launch = world(listed(branch=0.01, trunk=0.02, lost=0.03, bad=0.666))
    launch.states[0].after = ["trunk"]
    launch.states[2].after = ["bad"]
    launch.run()
    assert states_of(launch) == {
        "branch": "finished",
        "trunk": "finished",
        "lost": "failed",
        "bad": "failed",
    }
    order = (tmp_path / "sweep" / "order.txt").read_text().split()
    assert order.index("trunk") < order.index("branch")
    assert "lost" not in order


def test_runs_may_be_left_out_while_the_sweep_goes_on(world):
    no_time = note(RunReason.NO_TIME)
    launch = world(
        listed(a=0.01, b=0.02), may_start=lambda state: no_time if state.name == "b" else None
    )
    launch.run()
    assert states_of(launch) == {"a": State.FINISHED, "b": State.LEFT_OUT}
    assert launch.states[1].reason == no_time


def test_a_run_that_another_process_holds_is_waited_for(world, tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.sweeps.launch.BUSY_SECONDS", 0.1)
    launch = world(listed(a=0.01, b=0.02))
    folder = RunFolder(tmp_path / "sweep" / "a")
    held = folder.lock()
    held.__enter__()
    threading.Timer(1.0, lambda: held.__exit__(None, None, None)).start()
    launch.run()
    assert states_of(launch) == {"a": "finished", "b": "finished"}
    assert sum("held by another" in event for event in launch.screen.events) == 1


def test_finished_runs_are_known_by_recipe_and_corpus(world, tiny_corpus, tmp_path):
    tree = listed(a=0.01)
    settings = sweep_from_tree(tree | {"base": base(tiny_corpus)}, "test")
    [run] = design_runs(settings)
    elsewhere = RunFolder(tmp_path / "old" / "run")
    info = {"status": "finished", "family": "ar", "best": {"step": 3, "nll_nats_per_token": 3.5}}
    what = whole_identity(run.recipe)
    elsewhere.write_info(info | {"identity": what | {"corpus.train": "another"}})
    assert FinishedRuns([tmp_path]).find(run.recipe) is None
    elsewhere.write_info(info | {"identity": what})
    assert FinishedRuns([tmp_path]).find(run.recipe) == elsewhere.path
    launch = world(tree)
    assert states_of(launch) == {"a": "finished"}
    assert (launch.states[0].nll, launch.states[0].run_dir) == (3.5, str(elsewhere.path))
    launch.run()
    assert not (tmp_path / "sweep" / "order.txt").exists()
    chosen = {"machine": {"device": "CPU, 2 threads", "precision": "bf16"}}
    elsewhere.write_info(info | {"identity": what} | chosen)
    assert states_of(world(tree)) == {"a": State.WAITING}  # the sweep's own runs are fp32


def test_too_many_unique_tokens_are_refused_before_anything_starts(tiny_corpus, tmp_path):
    tree = listed(fine=0.01, large=0.02) | {"base": base(tiny_corpus)}
    tree["runs"][1]["data.unique_tokens"] = 10**9
    with pytest.raises(RecipeError, match="the run large wants 1,000,000,000 unique tokens"):
        sweep(sweep_from_tree(tree, "t"), options=SweepOptions(out=tmp_path / "s"))
    assert not (tmp_path / "s" / "fine").exists()


def test_a_changed_sweep_in_the_same_folder_is_refused(world, tmp_path):
    world(listed(a=0.01)).run()
    folder = RunFolder(tmp_path / "sweep" / "a")
    folder.write_info(folder.read_info() | {"identity": {"train.lr": 0.9}})
    with pytest.raises(RunError, match=r"other settings.*`out`"):
        world(listed(a=0.01))


def test_what_is_done_about_faults_may_change_in_a_run_that_stopped_at_them(world, tmp_path):
    folder = RunFolder(tmp_path / "sweep" / "a")

    def planned(**answer):
        tree = listed(a=0.01)
        tree["runs"][0] |= {f"train.{key}": value for key, value in answer.items()}
        return world(tree)

    def ran(**answer):
        """A run of these settings is in the folder."""
        settings = load_recipe(planned(**answer).folder.recipe_file("a"))
        folder.write_info({"identity": identity(settings)})

    ran()
    planned(on_nan="skip")
    with pytest.raises(RunError, match=r"train\.on_spike"):
        planned(on_spike="skip")  # it has ignored spikes
    folder.info_file.unlink()
    ran(on_spike="stop")
    planned(on_spike="rewind", spike_factor=5.0)
    folder.info_file.unlink()
    ran(on_nan="skip")
    with pytest.raises(RunError, match=r"train\.on_nan"):
        planned()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 2, "runs": ["a"]}',
        '{"format": 2, "runs": [{"name": "a", "state": "finished"}]}',
        '{"format": 2, "runs": [{"name": "a", "family": "ar", "run_dir": "r", "identity": "h", '
        '"state": "happy"}]}',
        '{"format": 3, "runs": []}',
    ],
)
def test_a_damaged_record_or_one_of_another_version_is_named(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunError, match=r"sweep\.json (is damaged|has format 3).*delete it"):
        SweepFolder(tmp_path).read()


def test_a_record_of_version_0_1_is_read(world, tiny_corpus, tmp_path):
    """Its reasons are sentences, its hash is of the keys' old names; nothing is done again."""
    runs = {"a": ("failed", "its training ended with exit code 3"), "b": ("ended early", "turned")}
    [first, second] = design_runs(
        sweep_from_tree(listed(a=0.01, b=0.02) | {"base": base(tiny_corpus)}, "test")
    )
    known = {
        "a": recipe_hash(first.recipe, version_0_1=True),
        "b": recipe_hash(second.recipe, version_0_1=True),
    }
    entries = [
        {"name": name, "family": "ar", "run_dir": name, "identity": known[name], "steps": 3}
        | {"state": state, "why": why, "attempts": 2, "exit_code": 3, "nll": 4.5, "seconds": 1.5}
        | {"after": []}
        for name, (state, why) in runs.items()
    ]
    (tmp_path / "sweep").mkdir()
    record = {"format": 1, "sweep": "test", "states": {"failed": 1, "ended early": 1}}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(record | {"runs": entries}))
    launch = world(listed(a=0.01, b=0.02))
    assert states_of(launch) == {"a": State.FAILED, "b": State.ENDED_EARLY}
    assert launch.states[0].reason.values == {"text": "its training ended with exit code 3"}
    assert (launch.states[0].attempts, launch.states[0].seconds) == (2, 1.5)


def test_the_hash_of_version_0_1():
    """As version 0.1.0 computed it for this recipe."""
    recipe = load_recipe(
        None,
        {"data.corpus": "c", "model.size": "7M", "train.epochs": 3, "train.global_batch_size": 16}
        | {"train.grad_clip": 0.5, "model.tie_embeddings": True},
    )
    known = "49d1d84e4de73efe17cd5148a99d87539bfad7e5231d5deab6756bdd0d54fc52"
    assert recipe_hash(recipe, version_0_1=True) == known


def test_finished_runs_that_were_archived_are_not_taken(world, tiny_corpus, tmp_path):
    """`--restart` renames a folder to NAME.old-N; runs inside it count no longer."""
    tree = listed(a=0.01)
    [run] = design_runs(sweep_from_tree(tree | {"base": base(tiny_corpus)}, "test"))
    info = {"status": "finished", "family": "ar", "best": {"step": 3, "nll_nats_per_token": 3.5}}
    what = whole_identity(run.recipe)
    for place in ("pair.old-1/ar", "sweep.old-2/deep/er", ".hidden/run"):
        RunFolder(tmp_path / place).write_info(info | {"identity": what})
    assert FinishedRuns([tmp_path]).find(run.recipe) is None
    assert states_of(world(tree)) == {"a": State.WAITING}


@pytest.mark.parametrize(
    ("jobs", "cpus", "gpus", "environment", "threads", "devices"),
    [
        (2, 8, [], {}, "4", [None, None]),
        (3, 2, [], {}, "1", [None] * 3),
        (2, 8, [], {"OMP_NUM_THREADS": "2"}, "1", [None, None]),
        (2, 8, ["0", "1", "2", "3"], {}, "4", ["0,1", "2,3"]),
        (3, 9, ["0", "1"], {}, "3", ["0", "1", "0"]),
        (2, 8, ["0", "1", "2"], {}, "4", ["0", "1"]),
        (3, 9, list("01234567"), {}, "3", ["0,1", "2,3", "4,5"]),
    ],
)
def test_the_machine_is_divided(capsys, jobs, cpus, gpus, environment, threads, devices):
    slots = make_slots(jobs, cpus=cpus, gpus=gpus, environment=environment)
    used = {gpu for slot in devices for gpu in (slot or "").split(",") if gpu}
    unused = len(gpus) - len(used)
    warn_idle_gpus(slots, gpus)
    said = capsys.readouterr().err
    assert (f"leave {unused} GPU" in said) if unused else not said
    assert [slot.env["OMP_NUM_THREADS"] for slot in slots] == [threads] * jobs
    assert [slot.env.get("CUDA_VISIBLE_DEVICES") for slot in slots] == devices


def test_visible_gpus_are_respected_and_no_jobs_refused(tmp_path):
    slots = make_slots(1, cpus=1, environment={"CUDA_VISIBLE_DEVICES": "3, 5"})
    assert slots[0].env["CUDA_VISIBLE_DEVICES"] == "3,5"
    command = slots[0].train_command(tmp_path / "r.toml", evaluate=True)
    assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert Slot(0).train_command(tmp_path / "r.toml", True)[1:4] == ["-m", "epochal", "train"]
    with pytest.raises(OptionError, match="jobs"):
        make_slots(0)


def watch(tmp_path, name, points, family="ar", flops=1e15, steps=100):
    made = RunMonitor(tmp_path / name / "metrics.jsonl", family, steps, flops, 1000)
    made.path.parent.mkdir(parents=True)
    lines = [
        {"kind": "eval", "step": step, "epochs": 1.0, "nll_nats_per_token": nll}
        for step, nll in points
    ]
    made.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert made.read()
    return made


def test_metrics_are_read_as_they_grow(tmp_path):
    made = watch(tmp_path, "a", [(10, 5.0)])
    with made.path.open("a") as file:
        file.write('{"kind": "train", "step": 12, "epochs": 2.0, "loss": 4.5, "tokens_per')
    assert not made.read()
    with made.path.open("a") as file:
        file.write('_second": 9.0}\n{"kind": "eval", "step": 20, "epochs": 2, ')
        file.write('"nll_nats_per_token": 4.0}\n')
    assert made.read()
    assert (made.loss, made.speed, made.best, made.share) == (4.5, 9.0, 4.0, 0.2)
    made.path.write_text('{"kind": "eval", "step": 5, "epochs": 1, "nll_nats_per_token": 6.0}\n')
    assert made.read()
    assert made.curve == [(5, 6.0)]


def test_which_runs_are_ended_early(tmp_path):
    falling = watch(tmp_path, "falling", [(20, 5.0), (60, 4.0)])
    assert early_stop_reason(falling, [falling]) is None
    risen = watch(tmp_path, "risen", [(10, 4.0), (29, 4.5)])
    assert early_stop_reason(risen, []) is None  # not for long enough
    risen = watch(tmp_path, "risen2", [(10, 4.0), (30, 4.25)])
    assert early_stop_reason(risen, []).code == RunReason.VALIDATION_ROSE
    slight = watch(tmp_path, "slight", [(10, 4.0), (40, 4.15)])
    assert early_stop_reason(slight, []) is None
    behind = watch(tmp_path, "behind", [(20, 6.0), (60, 4.6)])
    reason = early_stop_reason(behind, [falling])
    assert (reason.code, reason.values["rival"]) == (RunReason.FAR_BEHIND, "falling")
    early = watch(tmp_path, "early", [(20, 9.0)])
    assert early_stop_reason(early, [falling]) is None
    for name, change in (("other", {"family": "mdm"}), ("large", {"flops": 2e15})):
        assert early_stop_reason(watch(tmp_path, name, [(60, 9.0)], **change), [falling]) is None


def test_states_round_trip(tmp_path):
    state = RunState(name="a", family="ar", run_dir="x", identity="h", after=["b"])
    state.reason = note(RunReason.FAR_BEHIND, nll=4.5, share=0.5, rival="b", rival_nll=3.5)
    SweepFolder(tmp_path).write("s", [state])
    assert SweepFolder(tmp_path).read() == {"a": state}


@pytest.mark.slow
def test_real_runs_from_the_command_line(tiny_corpus, tmp_path, capsys):
    """Ctrl-C in the middle, the same command again, a failure beside; exit codes as promised."""
    import tomlkit

    tree = {
        "sweep": {"design": "list"},
        "runs": [
            {"name": "ar"},
            {"name": "mdm", "family": "mdm"},
            {"name": "orphan", "train.schedule": "wsd", "train.decay": 0.5}
            | {"train.start_from": str(tmp_path / "none"), "train.start_step": 1},
        ],
        "base": base(tiny_corpus),
    }
    tree["base"]["train"] |= {"steps": 400}  # still training when the signal arrives
    tree["base"]["eval"] |= {"every": "100 steps"}
    tree["base"]["checkpoint"] |= {"every": "200 steps"}
    file = tmp_path / "three.toml"
    file.write_text(tomlkit.dumps(tree))
    words = ["sweep", str(file), "--jobs", "2", "--out", str(tmp_path / "runs" / "three")]

    def interrupt():
        while not (tmp_path / "runs" / "three" / "ar" / "run.json").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert "resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert "orphan failed" in told
    assert str(tmp_path / "none") in told.replace("\n", "")
    result = sweep(file, options=SweepOptions(out=tmp_path / "runs" / "three"))
    assert {run.name: run.state for run in result.runs} == {
        "ar": "finished",
        "mdm": "finished",
        "orphan": "failed",
    }
    evaluated = RunFolder(tmp_path / "runs" / "three" / "mdm").evaluation_file("best", "stratified")
    assert evaluated.exists()
    # Another sweep with one of the runs in it finds it.
    del tree["runs"][1:]
    (tmp_path / "one.toml").write_text(tomlkit.dumps(tree))
    other = sweep(tmp_path / "one.toml", options=SweepOptions(out=tmp_path / "runs" / "one"))
    assert other.runs[0].run_dir == str(tmp_path / "runs" / "three" / "ar")
    assert recipe_hash(design_runs(sweep_from_tree(tree, "x"))[0].recipe) == other.runs[0].identity


def test_the_time_left_is_that_of_the_speed_so_far(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("epochal.sweeps.monitor.time.monotonic", lambda: now[0])
    metrics = tmp_path / "metrics.jsonl"
    monitor = RunMonitor(metrics, "ar", 100)
    assert monitor.seconds_left is None
    for step, moment in ((10, 100.0), (40, 160.0)):
        now[0] = moment
        with metrics.open("a") as file:
            file.write(json.dumps({"kind": "train", "step": step, "epochs": 1.0, "loss": 2}) + "\n")
        monitor.read()
    assert monitor.seconds_left == pytest.approx(120.0)

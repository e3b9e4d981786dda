"""Jobs of a cluster: the script, the command on each node, preemption."""

from __future__ import annotations

import json
import signal
import sys
import time
import tomllib
from pathlib import Path

import click
import psutil
import pytest
from packaging.requirements import Requirement

from epochal.cli.options import options
from epochal.errors import OptionError, RecipeError, UserError
from epochal.recipe import load_recipe, recipe_toml
from epochal.runs import RunFolder
from epochal.sweeps.options import Resources, SubmitOptions
from epochal.sweeps.slurm import TrainTask, script, submit_tasks
from epochal.sweeps.submit import submit
from tiny_runs import overrides

submitit = pytest.importorskip("submitit")
DRY = SubmitOptions(dry_run=True)


def asked(*words):
    """The resources that a command line asks for."""
    command = click.command()(options(Resources)(lambda options: options))
    return command.main(words, standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90m", 90),
        ("4h", 240),
        ("1.5h", 90),
        ("2d", 2880),
        ("04:00:00", 240),
        ("1-12:00:00", 2160),
        ("1-00:30", 1470),
        ("90:30", 91),
    ],
)
def test_times_as_people_and_slurm_write_them(text, minutes):
    assert asked("--time", text).minutes == minutes


@pytest.mark.parametrize("text", ["soon", "-5", "", "00:30"])
def test_other_times_are_refused(text):
    with pytest.raises(click.BadParameter) as refused:
        asked("--time", text)
    assert refused.value.param.name == "minutes"


def task(nodes=1, gpus=0, run_dir="r"):
    return TrainTask("r/recipe.toml", str(run_dir), nodes, gpus, grace=30, evaluate=True)


def test_the_script_asks_for_what_was_wanted(tmp_path):
    asked = Resources(
        partition="gpu",
        minutes=240,
        nodes=2,
        gpus=8,
        cpus=32,
        memory_gb=200,
        parallel=3,
        setup=("module load cuda",),
        sbatch={"account": "mine"},
    )
    text = script(asked, "iso", tmp_path, [task(2, 8), task(2, 8)])
    for line in (
        "--job-name=iso",
        "--partition=gpu",
        "--time=240",
        "--nodes=2",
        "--gpus-per-node=8",
        "--ntasks-per-node=1",
        "--cpus-per-task=32",
        "--mem=200GB",
        "--signal=USR2@120",
        "--account=mine",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "#SBATCH --array=0-1%2" in text
    assert "\nmodule load cuda\n" in text
    assert "--rdzv-backend=static --node-rank=$NODE --master-addr=$FIRST_HOST" in text
    assert "-m epochal train r/recipe.toml" in text
    one = script(Resources(gpus=0), "a", tmp_path, [task()])
    assert "--array" not in one
    assert "gpus-per-node" not in one


class OnNode:
    job_id, node, hostnames = "17", 1, ["first", "second"]


def test_the_command_on_each_node():
    one = task(1, 1).command(OnNode())[1:]
    assert one == ["-m", "epochal", "train", "r/recipe.toml", "--comparable", "--eval"]
    one_node = task(1, 4).command(OnNode())
    assert "--standalone" in one_node
    assert "--nproc-per-node=4" in one_node
    two = task(2, 4).command(OnNode())
    assert "--node-rank=1" in two
    [port] = [word for word in two if word.startswith("--master-port")]
    assert "--master-addr=first" in two
    assert "--comparable" in two
    assert port in task(2, 4).command(OnNode())  # the same port on all nodes


def test_a_warning_reaches_only_processes_that_handle_it(tmp_path):
    """Slurm signals torchrun, too, which would kill its workers or die."""
    code = "import os, signal; [os.kill(os.getpid(), n) for n in (signal.SIGUSR1, signal.SIGUSR2)]"
    assert task(run_dir=str(tmp_path))._run([sys.executable, "-c", code]) == 0


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus": -1}, {"minutes": 1, "grace": 60}])
def test_resources_that_make_no_sense(wrong):
    with pytest.raises(OptionError, match=list(wrong)[-1]):
        Resources(**wrong)


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"srun.*dry run"):
        submit_tasks([task()], Resources(), "a", tmp_path)


@pytest.mark.parametrize("gpus", [1, 0])
def test_a_cluster_without_gpus_says_what_to_type(tmp_path, monkeypatch, gpus):
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'sbatch: error: Invalid generic resource (gres) specification' >&2\n"
            "exit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"cannot submit: .*Invalid generic resource") as caught:
        submit_tasks([task()], Resources(gpus=gpus), "a", tmp_path / "logs")
    assert ("gpus = 0 for processes on CPUs" in str(caught.value)) == (gpus > 0)


def test_a_dry_run_writes_nothing(tiny_corpus, tmp_path):
    values = overrides(tiny_corpus, tmp_path / "run")
    (tmp_path / "r.toml").write_text(recipe_toml(load_recipe(None, values)))
    made = submit(tmp_path / "r.toml", (), Resources(gpus=0), DRY)
    assert "#SBATCH --job-name=run" in made.script
    sweep_file = tmp_path / "s.toml"
    sweep_file.write_text(
        f'[sweep]\ndesign = "epochs"\nepochs = [1, 2]\n[base.data]\ncorpus = "{tiny_corpus}"\n'
        'sequence_length = 32\n[base.model]\nsize = "7M"\n[base.train]\nglobal_batch = 4\n'
    )
    made = submit(sweep_file, options=SubmitOptions(out=tmp_path / "sweep", dry_run=True))
    assert "#SBATCH --array=0-1%2" in made.script
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.toml", "s.toml"]


def test_what_cannot_run_is_refused_before_it_is_submitted(tiny_corpus, tmp_path):
    file = tmp_path / "r.toml"
    values = overrides(tiny_corpus, tmp_path / "run")
    file.write_text(recipe_toml(load_recipe(None, values)))
    asked = Resources(gpus=3)
    with pytest.raises(RecipeError, match=r"`parallel.tensor` = 2 does not divide the 3"):
        submit(file, {"parallel.tensor": 2}, asked, SubmitOptions(cluster="local"))
    with pytest.raises(RecipeError, match="no size '5X' on the ladder"):
        submit(file, {"model.size": "5X", "model.d_model": None}, options=DRY)
    sweep_file = tmp_path / "s.toml"
    sweep_file.write_text(
        f'[sweep]\ndesign = "ablation"\n[variants.cut]\nparallel.tensor = 2\n[base.data]\n'
        f'corpus = "{tiny_corpus}"\nsequence_length = 32\n[base.model]\nsize = "7M"\n'
        "[base.train]\nglobal_batch = 6\nsteps = 2\n"
    )
    with pytest.raises(RecipeError, match=r"the run ar-cut: `parallel.tensor` = 2 does not divide"):
        submit(sweep_file, (), asked, SubmitOptions(out=tmp_path / "sweep", dry_run=True))
    submit(
        sweep_file, options=SubmitOptions(out=tmp_path / "sweep", dry_run=True)
    )  # one process holds any mesh


@pytest.mark.parametrize("count", [1, 2])
def test_the_script_shown_is_the_script_submitted(tmp_path, monkeypatch, count):
    """Also memory, which is megabytes to sbatch unless its unit is given."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\n")
    (tools / "sbatch").write_text(f"#!/bin/sh\ncp $1 {tmp_path}/seen; echo 'Submitted batch job 7'")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    asked = Resources(gpus=0, memory_gb=200, partition="p", setup=("cd x",), sbatch={"qos": "q"})
    tasks = [task(run_dir=str(n)) for n in range(count)]
    assert submit_tasks(tasks, asked, "a", tmp_path / "logs") == (["7"], ["7_0", "7_1"])[count - 1]
    shown = script(asked, "a", tmp_path / "logs", tasks)
    submitted = (tmp_path / "seen").read_text().rstrip()
    assert submitted == shown.partition("\n\n# what the jobs")[0]
    assert "#SBATCH --mem=200GB\n" in submitted


def test_submitit_is_bounded_to_the_version_whose_parts_are_used():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    [bound] = map(Requirement, project["project"]["optional-dependencies"]["slurm"])
    assert submitit.__version__ in bound.specifier
    assert "1.6" not in bound.specifier


@pytest.mark.parametrize(
    ("resources", "options", "name"),
    [
        ({"nodes": 2}, {}, "nodes"),  # they would wait for each other for ever
        ({"partition": "p"}, {}, "partition"),
        ({"sbatch": {"a": "b"}}, {}, "sbatch"),
        ({}, {"dry_run": True}, "dry_run"),
    ],
)
def test_what_only_slurm_heeds_is_refused_without_it(resources, options, name):
    with pytest.raises(OptionError, match=name):
        submit("quickstart", (), Resources(**resources), SubmitOptions(cluster="local", **options))


def test_retry_is_for_a_sweep():
    with pytest.raises(OptionError, match="retry"):
        submit("quickstart", options=SubmitOptions(retry=True, dry_run=True))


@pytest.mark.slow
def test_a_preempted_job_saves_is_queued_again_and_resumes(tiny_corpus, tmp_path):
    """With submitit's local executor, which requeues as a cluster does."""
    run_dir = tmp_path / "run"
    values = overrides(tiny_corpus, run_dir, train__steps=500, eval__every="250 steps")
    (tmp_path / "r.toml").write_text(recipe_toml(load_recipe(None, values)))
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=10, signal_delay_s=60)
    job = executor.submit(TrainTask(str(tmp_path / "r.toml"), str(run_dir), 1, 0, 60, True))
    metrics = RunFolder(run_dir).metrics_file
    end = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:
        time.sleep(0.1)
    [process] = psutil.Process(job._process.pid).children()
    process.send_signal(signal.SIGUSR2)
    assert job.result() == str(run_dir)
    said = job.stdout() + job.stderr()
    assert "stopped: by the file" in said
    assert "resuming from step" in said
    info = RunFolder(run_dir).read_info()
    assert info["status"] == "finished"
    assert not RunFolder(run_dir).stop_file.exists()
    assert RunFolder(run_dir).evaluation_file("best", "exact").exists()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(steps)

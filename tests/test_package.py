"""What is declared is imported and the other way round; wheel and sdist are whole and run."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "epochal"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TREES = {p: ast.parse(p.read_text("utf-8")) for p in SOURCE.rglob("*.py")}
NEEDED_BY_OTHERS = {"lxml-html-clean"}
"""Declared though not imported: trafilatura imports it and does not say so."""


def named(requirements):
    """Names of distributions, as in `huggingface-hub`."""
    return {
        re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-") for line in requirements
    } - {"epochal"}


def third_party(tree):
    """Top-level packages that are imported anywhere in the file, also by name in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0] if node.args else None
            if name in ("import_module", "_library") and isinstance(first, ast.Constant):
                yield first.value


def test_what_is_declared_is_imported_and_what_is_imported_is_declared():
    names = {name for tree in TREES.values() for name in third_party(tree)}
    imported = {name.partition(".")[0].lower().replace("_", "-") for name in names}
    imported -= {name.replace("_", "-") for name in sys.stdlib_module_names} | {"epochal"}
    if "torch.utils.tensorboard" in names:
        imported.add("tensorboard")
    extras = PROJECT["optional-dependencies"]
    of_users = named(
        line for extra in set(extras) - {"dev", "docs"} for line in extras[extra]
    ) | named(PROJECT["dependencies"])
    assert imported == of_users - NEEDED_BY_OTHERS


def test_a_user_needs_no_more_than_the_dependencies_to_import_a_module():
    """What an extra brings is imported inside functions."""
    required = named(PROJECT["dependencies"])
    optional = {
        "downstream_tasks/harness_model.py",  # imported once lm-eval is known to be there
        "interop/modeling_epochal_mdm.py",  # goes with an exported model, for transformers
    }
    for path, tree in TREES.items():
        if path.relative_to(SOURCE).as_posix() in optional:
            continue
        at_once = {
            name.partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in third_party(node)
        }
        at_once -= set(sys.stdlib_module_names) | {"epochal"}
        assert {name.lower().replace("_", "-") for name in at_once} <= required, path


def run(*command, folder):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_of_the_sdist_has_everything_and_its_command_runs(tmp_path):
    """As an index would get them: the sdist, and the wheel made of it alone."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-d", tmp_path, "-t"]
    run(*build, "sdist", folder=REPOSITORY)
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "Makefile", "tests"):
        assert (unpacked / name).exists(), name
    run(*build, "wheel", folder=unpacked)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    ours = {f"epochal/{p.relative_to(SOURCE).as_posix()}" for p in SOURCE.rglob("*.*")}
    ours = {name for name in ours if not name.endswith((".pyc", "__pycache__"))}
    assert ours <= inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)

    # A new environment that sees the dependencies of this one, but not its editable Epochal.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "clean", folder=tmp_path)
    programs = tmp_path / "clean" / ("Scripts" if os.name == "nt" else "bin")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
    ]
    run(*pip, wheel, folder=tmp_path)
    packages = next((tmp_path / "clean").rglob("site-packages"))
    outer = next(p for p in sys.path if p.endswith("site-packages"))
    # After the new environment's own packages; addsitedir would read the editable one's path, too.
    (packages / "outer.pth").write_text(f"{outer}\n")
    (tmp_path / "text.txt").write_text("A text of a few words. " * 200)
    command = programs / "epochal"
    assert "built-in text" in run(command, "quickstart", "--help", folder=tmp_path)
    plan = run(command, "plan", "-U", "100M", "--flops", "1e20", "--json", folder=tmp_path)
    assert '"laws"' in plan or '"families"' in plan
    prepare = (
        "data",
        "prepare",
        "text.txt",
        "--tokenizer",
        "bytes",
        "--validation",
        "0",
        "--out",
        "corpus",
    )
    run(command, *prepare, folder=tmp_path)
    assert (tmp_path / "corpus" / "tokenizer.json").is_file()


FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-c "*) exec {python} -S -c "import sys; sys.version_info = {version}; $2" ;;
*) exit 1 ;;
esac
"""
"""A Python of some version whose pip reaches nothing."""


@pytest.mark.parametrize(
    ("version", "said"),
    [((3, 9), "Python 3.11 or newer is needed"), ((3, 11), "pip finds no package index")],
)
def test_an_old_python_and_a_missing_index_are_one_sentence(tmp_path, version, said):
    (tmp_path / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.format(python=sys.executable, version=version))
    python.chmod(0o755)
    made = subprocess.run(
        ["make", "--silent", "install", f"PYTHON={python}"],
        cwd=tmp_path,
        # Not a part of the make that may have started the tests.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode
    sentence, *rest = made.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert said in sentence
    assert all(line.startswith("make") for line in rest), rest
    assert not (tmp_path / ".venv" / ".installed").exists()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_is_made_from_the_repository_alone(name):
    """Copies what .dockerignore lets through, installs without leftovers, runs as a user; linted
    where hadolint is installed."""
    text = (REPOSITORY / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    words = [line.split() for line in lines]
    assert re.fullmatch(r"FROM python:\d\.\d+-slim", lines[0])
    assert "://" not in text
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {one for line in words if line[0] == "COPY" for one in line[1:-1]}
    assert copied == let_through
    assert all((REPOSITORY / one).exists() for one in copied)
    assert PROJECT["readme"] in copied
    assert set(PROJECT["license-files"]) <= copied
    runs = [line for line in lines if line.startswith("RUN")]
    assert all("--no-cache-dir" in line for line in runs if "pip install" in line)
    assert all("rm -rf /var/lib/apt/lists" in line for line in runs if "apt-get" in line)
    order = [line[0] for line in words]
    assert order.index("USER") > max(n for n, one in enumerate(order) if one == "RUN")
    assert 'ENTRYPOINT ["epochal"]' in lines
    if hadolint := shutil.which("hadolint"):
        subprocess.run([hadolint, str(REPOSITORY / name)], check=True)


def test_a_read_only_home_is_not_written_to_and_nothing_is_said(tmp_path):
    code = "import epochal, matplotlib, os; print(matplotlib.get_configdir())"
    nowhere = {"HOME": "/proc/nobody", "TMPDIR": str(tmp_path), "PYTHONPATH": str(SOURCE.parent)}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=nowhere
    )
    assert not made.stderr
    assert made.stdout.startswith(str(tmp_path))

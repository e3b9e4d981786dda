"""What docs/architecture.md promises of the source: the order of rooms, light rooms, sizes.

A room is a folder or a file directly under src/epochal. `LINES` is the page's diagram from the
bottom up: a room may import itself and rooms of lines below its own, nothing beside or above.
Imports inside functions count, and so do those for type checking only.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "epochal"

LINES = [
    {"errors", "_version"},
    {"sizes", "units", "rng", "files", "estimates", "progress", "results", "options"},
    {"families"},
    {"recipe"},
    {"runs"},
    {"data"},
    {"objectives", "models", "device", "scaling"},
    {"likelihood", "generation", "comparison"},
    {"training"},
    {"evaluation", "sweeps"},
    {"interop"},
    {"downstream_tasks", "memorisation", "diagnosis"},
    {"report"},
    {"studies"},
    {"cli"},
    {"__main__"},
]
LIGHT = {room for line in LINES[:6] for room in line} | {
    "comparison",
    "scaling",
    "sweeps",
    "report",
}
LONGEST_FILE, LONGEST_FUNCTION = 400, 80

FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))


def name_of(path):
    return path.relative_to(SOURCE).as_posix()


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree, statements=None):
    """Full names of what is imported: `from epochal import files` gives `epochal.files`.

    So does any import from a package whose file of that name exists.
    """
    for node in ast.walk(tree) if statements is None else statements:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                module, whole = node.module or "", f"{node.module}.{alias.name}"
                file = SOURCE.parent / whole.replace(".", "/")
                is_module = module == "epochal" or file.is_dir() or file.with_suffix(".py").exists()
                yield (whole if is_module else module), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant):
                yield str(first.value), node.lineno


def by_name(paths):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda p: p.relative_to(REPOSITORY).as_posix()
    )


def test_the_diagram_has_every_room():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    known = {room for line in LINES for room in line}
    assert rooms <= known, rooms - known
    assert not known - rooms


def test_the_page_shows_this_diagram():
    """docs/architecture.md, "Imports point down only": the same lines in the same order."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = page.split("Imports point down only", 1)[1].split("```")[1]
    lines = [set(re.findall(r"\w+", line)) for line in diagram.strip().splitlines()]
    assert lines == LINES[-2::-1]  # __main__, above, only starts cli


@by_name(FILES)
def test_imports_point_down_only(path):
    room = room_of(path)
    if room == "__init__":
        # What stands under `if TYPE_CHECKING` is not run, and its names are imported late.
        statements = [s for s in tree_of(path).body if not isinstance(s, ast.If)]
        at_once = imported(None, statements)
        names = {name for name, _ in at_once if name.startswith("epochal")}
        assert names <= {"epochal._version"}
        return
    below = {"__init__", room}
    for line in LINES:
        if room in line:
            break
        below |= line
    for name, number in imported(tree_of(path)):
        package, _, rest = name.partition(".")
        if package == "epochal":
            target = rest.partition(".")[0] or "__init__"
            assert target in below, f"{name_of(path)}:{number}: {room} must not import {target}"


def test_no_module_imports_itself_through_others():
    """No cycles among modules either, imports at the top of the file taken together."""
    modules = {name_of(p).removesuffix(".py").removesuffix("/__init__"): p for p in FILES}
    graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for target, _ in imported(None, tree_of(path).body):
            target = target.removeprefix("epochal.").replace(".", "/")
            if target in modules and target != name:
                graph[name].add(target)
    done, path_to = set(), []

    def visit(name):
        assert name not in path_to, " → ".join([*path_to[path_to.index(name) :], name])
        if name not in done:
            path_to.append(name)
            for target in sorted(graph[name]):
                visit(target)
            path_to.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


@by_name([path for path in FILES if room_of(path) in LIGHT])
def test_light_rooms_never_import_torch(path):
    heavy = {"torch", "safetensors"}
    found = [
        f"line {n}: {name}" for name, n in imported(tree_of(path)) if name.split(".")[0] in heavy
    ]
    assert not found


def test_light_rooms_do_not_bring_torch_in():
    """In a fresh process, all their modules together; the command line's, too."""
    light = [path for path in FILES if room_of(path) in LIGHT | {"cli"}]
    names = [
        name_of(p).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for p in light
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module('epochal.' + name)\n"
        "found = {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@by_name(FILES)
def test_files_and_functions_are_short(path):
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{length} lines"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name}: {lines} lines"


@by_name(FILES)
def test_everything_is_annotated(path):
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [
            a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")
        ]
        assert not bare, f"{node.name}: {bare}"
        assert node.returns is not None, f"{node.name} has no return annotation"


@by_name(FILES)
def test_what_is_public_has_a_docstring(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree) or not tree.body, "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@by_name([*FILES, *TESTS])
def test_no_leftovers(path):
    text = path.read_text(encoding="utf-8")
    # Put together here, so that this file does not find itself.
    for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "ImplementedError", "/ro" + "ot/"):
        assert word not in text
    assert not re.search(r"""["'( ]/(work|home|tmp/w|Users)/""", text), "a path of one machine"


@by_name([path for path in FILES if room_of(path) != "cli"])
def test_only_the_command_line_prints(path):
    """progress.py speaks on standard error; all else returns what it has to say."""
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            to = [ast.unparse(k.value) for k in node.keywords if k.arg == "file"]
            assert to == ["sys.stderr"], f"line {node.lineno}"


NOT_EVERYWHERE = {
    *("fork", "killpg", "setsid", "wait4", "getuid", "geteuid", "sched_getaffinity", "getloadavg"),
    *("SIGKILL", "SIGUSR1", "SIGUSR2", "fcntl", "pwd", "resource", "termios"),
}


@by_name([path for path in FILES if name_of(path) != "sweeps/fork_server.py"])
def test_what_windows_lacks_is_asked_for_first(path):
    """fork_server.py has one guard for all of it, `FORKS`."""
    nodes = list(ast.walk(tree_of(path)))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & NOT_EVERYWHERE
    used |= {name for name, _ in imported(tree_of(path))} & NOT_EVERYWHERE
    asked = {ast.unparse(n.args[1]).strip("'") for n in nodes if is_call_of(n, "hasattr")}
    # Who may send a signal to a group has SIGKILL, too.
    assert used <= asked | ({"SIGKILL"} if "killpg" in asked else set())


def is_call_of(node, name):
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


FAMILY_ROOMS = {"families", "objectives", "generation", "interop"}
"""Rooms that may know which families there are; all others take what is on the list."""
FAMILY_DATA = {"downstream_tasks/paper_tasks.py", "downstream_tasks/options.py"}
"""Files that name families as data: published results, and the earlier name of a mode."""


@by_name([p for p in FILES if room_of(p) not in FAMILY_ROOMS and name_of(p) not in FAMILY_DATA])
def test_no_family_is_known_by_name(path):
    """No `if family == "ar"`, and no field, argument or key of a family's name."""
    names = {"ar", "mdm"}
    found = []
    for node in ast.walk(tree_of(path)):
        known = {
            ast.Constant: lambda n: n.value,
            ast.Attribute: lambda n: n.attr,
            ast.arg: lambda n: n.arg,
            ast.keyword: lambda n: n.arg,
            ast.Name: lambda n: n.id,
        }.get(type(node))
        value = known(node) if known else None
        if isinstance(value, str) and value in names:
            found.append(f"line {getattr(node, 'lineno', 0)}: {value}")
    assert not found


@by_name([p for p in FILES if room_of(p) not in ("cli", "report")])
def test_only_the_command_line_and_the_report_write_english(path):
    """No field of a result holds sentences: reasons are codes (`results.Note`)."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    kind = ast.unparse(item.annotation)
                    bad = item.target.id in ("notes", "summary", "verdict", "reason", "words")
                    assert not (bad and "str" in kind.replace("struct", "")), (
                        f"line {item.lineno}: {node.name}.{item.target.id}: {kind}"
                    )


def test_every_reason_code_has_a_text():
    """And each text can be found: report/text/ knows all codes of all rooms."""
    from epochal.report.text import texts
    from epochal.results import NoteCode

    for path in FILES:
        if "NoteCode" in path.read_text(encoding="utf-8"):
            importlib.import_module(dotted(path))
    codes = {code for kind in subclasses(NoteCode) for code in kind if is_ours(kind)}
    assert codes == set(texts()), codes ^ set(texts())


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def is_ours(kind):
    return kind.__module__.startswith("epochal.")


def dotted(path):
    return (
        f"epochal.{name_of(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
    )


def test_no_public_function_takes_any_options():
    """Options are dataclasses; `**options` hides what there is."""
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                kwarg = node.args.kwarg
                # `note(code, **values)`, and what is handed on to matplotlib.
                assert kwarg is None or kwarg.arg in ("values", "style"), (
                    f"{name_of(path)}:{node.lineno}: {node.name}(**{kwarg.arg})"
                )

"""The built-in corpus: read from sources, never imported; always in the same order."""

from __future__ import annotations

import sys

import pytest

from epochal.data.builtin import builtin_documents, interpreter
from epochal.errors import DataError

LONG = "A docstring that is long enough to be kept, at last."


def library(
    folder, topics="topics = {'b': 'about b', 'a': 'about a', 'c': 'about a'}\n", **modules
):
    (folder / "pydoc_data").mkdir(parents=True)
    if topics is not None:
        (folder / "pydoc_data" / "topics.py").write_text(topics)
    for name, source in modules.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def test_it_is_there_and_of_the_expected_size():
    documents = builtin_documents()
    assert 400 < len(documents) < 1000
    assert 1_500_000 < sum(map(len, documents)) < 3_500_000
    assert len(set(documents)) == len(documents)
    assert min(map(len, documents)) > 40
    assert builtin_documents() is documents


def test_only_docstrings_long_enough_in_the_order_of_the_source(tmp_path):
    source = (
        f'"""Module. {LONG}"""\n'
        "raise SystemExit('never run')\n"
        f'def f():\n    """F. {LONG}\n\n        more\n    less\n    """\n'
        f'class C:\n    """C. {LONG}"""\n    async def g(self):\n        """G. {LONG}"""\n'
        "def short():\n    'too short to keep, 40 characters in all!'\n"
        "def none():\n    return 3\n"
    )
    [found] = {*builtin_documents(library(tmp_path, m=source))} - {"about a", "about b"}
    kept = (f"Module. {LONG}", f"F. {LONG}\n\n    more\nless", f"C. {LONG}", f"G. {LONG}")
    assert found == "\n\n".join(kept)


def test_modules_become_documents_and_repeated_docstrings_stay_once(tmp_path):
    one = f'"""One. {LONG}"""\ndef f():\n    """{LONG}"""\ndef g():\n    """{LONG}"""\n'
    two = f'"""Two. {LONG}"""\ndef f():\n    """{LONG}"""\n'
    documents = builtin_documents(
        library(
            tmp_path,
            aone=one,
            two=two,
            test__hidden=one.replace("One", "Test"),
            idlelib__hidden=one.replace("One", "Idle"),
            package__tests__x=one.replace("One", "Tests"),
            broken="def (:\n",
            package__inner=f'"""Inner. {LONG}"""',
            nothing="x = 1\n",
        )
    )
    expected = {
        "about a",
        "about b",
        f"One. {LONG}\n\n{LONG}",
        f"Two. {LONG}",
        f"Inner. {LONG}",
    }
    assert set(documents) == expected
    assert len(documents) == len(expected)


def test_the_order_does_not_depend_on_names(tmp_path):
    source = '"""Number {}. ' + LONG + '"""'
    names = [f"m{n}" for n in range(9)]
    forward = library(tmp_path / "f", **{n: source.format(n) for n in names})
    renamed = library(tmp_path / "r", **{f"z{n[::-1]}": source.format(n) for n in names})
    documents = builtin_documents(forward)
    assert documents == builtin_documents(renamed)
    assert list(documents) != sorted(documents)


@pytest.mark.parametrize("topics", [None, "x = 1\n", "topics = {}\n", "topics = ("])
def test_a_stripped_python(tmp_path, topics):
    folder = library(tmp_path, topics=topics, m=f'"""{LONG}"""')
    with pytest.raises(DataError, match=r"missing from .*`epochal quickstart --text FOLDER`"):
        builtin_documents(folder)


def test_no_library_at_all(tmp_path):
    with pytest.raises(DataError, match="the built-in corpus is not in this Python"):
        builtin_documents(tmp_path / "python311.zip")


def test_topics_of_newer_versions(tmp_path):
    folder = library(
        tmp_path, topics="topics: dict[str, str] = {'a': 'about a'}\n", m=f'"""{LONG}"""'
    )
    assert set(builtin_documents(folder)) == {"about a", LONG}


def test_a_docstring_that_is_no_unicode_and_a_file_that_is_gone_are_left_out(tmp_path):
    folder = library(tmp_path, m=f'"""{LONG} \\ud800"""\n')
    (folder / "gone.py").symlink_to("nowhere.py")
    assert set(builtin_documents(folder)) == {"about a", "about b"}


def test_the_interpreter_is_named():
    assert interpreter().endswith(".".join(map(str, sys.version_info[:3])))

"""The page about a corpus: its numbers as counted by hand, its text harmless."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.data.options import PrepareOptions
from epochal.data.portrait import portray, script
from epochal.data.prepare import prepare
from epochal.report.corpus import write_corpus_report

HARM = "<script>document.title = 'harm'</script><img src=x onerror=alert(1)>"
REPEATED = "All rights reserved, and whatever else is written below each of these pages. "
RUSSIAN = "Собака лает, караван идёт"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """English documents, one of them harmful, one in Russian, one that is not text."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    words = tuple("abcdefghijklmnop")
    documents = [" ".join(random.choice(words, 60)) for _ in range(40)]
    documents[:5] = [each + REPEATED for each in documents[:5]]
    documents += [HARM + documents[7], RUSSIAN, "\x02\x7f§¶" * 10, "hm"]
    (folder / "text.txt").write_text("\n\n".join(documents))
    options = PrepareOptions(documents="blank-line", validation=0, tokenizer="bytes")
    prepare(folder / "text.txt", folder / "corpus", options)
    return folder / "corpus", documents


def test_what_it_shows_is_counted(corpus):
    folder, documents = corpus
    found = portray(folder)
    text = Counter("".join(documents))
    scripts = {one.name: one.characters for one in found.scripts}
    assert scripts["Cyrillic"] == sum(n for c, n in text.items() if 0x400 <= ord(c) < 0x500)
    assert scripts["Latin"] == sum(n for c, n in text.items() if c.isascii() and c.isalpha())
    assert sum(scripts.values()) == found.characters == sum(text.values())
    assert script("漢") == "Cjk"
    counts = Counter(b for d in documents for b in d.encode()) + Counter([256] * len(documents))
    assert found.fit.frequencies == tuple(sorted(counts.values(), reverse=True))
    assert found.fit.unseen == 257 - len(counts)
    assert found.fit.rare == sum(n < 10 for n in counts.values())
    p = np.array(list(counts.values())) / sum(counts.values())
    assert found.fit.entropy == pytest.approx(-(p * np.log(p)).sum())
    odd = {(one.why, documents[one.document]) for one in found.odd}
    assert {("rare", documents[-3]), ("rare", RUSSIAN), ("shortest", "hm")} <= odd
    most = found.duplicates.most_repeated[0]
    assert (most.documents, most.text in REPEATED) == (5, True)


def test_the_page_stands_alone(corpus, tmp_path, capsys):
    folder, _ = corpus
    path = tmp_path / "page.html"
    with pytest.raises(SystemExit, match="0"):
        main(["data", "report", str(folder), "--out", str(path), "--samples", "44"])
    page = path.read_text()
    assert "harm" in page
    assert "<script>document.title" not in page
    assert "<img" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/", "")
    assert page.count("<figure") == 3
    assert write_corpus_report(folder, tmp_path / "b.html", samples=44).effective > 0
    assert (tmp_path / "b.html").read_text() == page
    for words in ([folder, "--out", tmp_path], [tmp_path / "nothing"]):
        with pytest.raises(SystemExit, match="2"):
            main(["data", "report", *map(str, words)])

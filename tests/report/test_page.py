"""The page: whole, self-contained, safe with hostile text, true to the records."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from epochal.cli.main import main
from epochal.errors import EpochalError, RunError
from epochal.report import write_report
from epochal.report.collect import NoVerdict
from epochal.report.text.comparison import verdict
from epochal.results import Note
from made_runs import UNIQUE_TOKENS, make_run

FALLING = [5.0, 4.4, 4.1, 3.9, 3.8, 3.75, 3.7, 3.66, 3.63, 3.6]
TURNING = [4.5, 3.9, 3.5, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8, 3.9]
VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = '<script>alert(1)</script> ]]> "quotes" & \x00\x1b[31m\x9b </style>'


class Page(HTMLParser):
    """What the tests ask of a page; also checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.links, self.words, self.open = Counter(), [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._take(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._take(tag, attributes)

    def _take(self, tag, attributes):
        self.tags[tag] += 1
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action", "srcset"):
                self.links.append(value)
            assert not name.startswith("on"), name

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(tmp_path, *places):
    made = write_report(places or [tmp_path], tmp_path / "page.html")
    source = made.path.read_text(encoding="utf-8")
    return made, source, Page(source)


@pytest.fixture
def both(tmp_path):
    make_run(tmp_path / "ar", "ar", TURNING)
    make_run(tmp_path / "mdm", "mdm", FALLING)
    return tmp_path


def test_it_loads_nothing_and_runs_its_own_script_only(both):
    _, source, page = report(both)
    assert not page.tags["link"] + page.tags["img"] + page.tags["iframe"]
    assert all(link.startswith(("#", "data:text/csv")) for link in page.links)
    own = (Path(write_report.__code__.co_filename).parent / "page.js").read_text()
    [script] = re.findall(r"<script>(.*?)</script>", source, flags=re.DOTALL)
    assert script == own
    # The browser runs this script and no other, whatever a run's texts hold.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"{policy}{checksum}'" in source
    assert "url(" not in re.sub(r"url\(#", "", source)
    assert "@import" not in source


def test_every_reference_inside_has_its_target_and_ids_are_unique(both):
    _, source, page = report(both)
    assert max(Counter(page.ids).values()) == 1
    wanted = {link[1:] for link in page.links if link[0] == "#"} | set(
        re.findall(r"url\(#([^)]+)\)", source)
    )
    assert wanted
    assert wanted <= set(page.ids)


def test_the_verdict_and_the_numbers_are_those_of_the_records(both):
    made, _, page = report(both)
    assert made.runs == ["ar", "mdm"]
    [found] = made.verdicts
    assert verdict(found) in page.text
    assert "3.300 ± 0.010" in page.text
    assert "3.600 ± 0.010" in page.text
    assert page.tags["figure"] == 2
    assert page.tags["svg"] == 2


def test_the_same_runs_give_the_same_bytes(both):
    first = report(both)[1]
    assert report(both)[1] == first


def test_hostile_text_stays_text(both):
    folder = both / 'x"><b onload=y>'
    run = make_run(folder, "mdm", FALLING)
    run.folder.write_samples([{"prompt": HOSTILE, "text": HOSTILE + " more", "seed": 0}])
    _, source, page = report(both)
    assert page.tags["script"] == 1  # ours
    assert "alert(1)" in page.text
    assert 'x"><b onload=y>' in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", source)


def test_of_one_run_there_is_a_page_without_a_verdict(tmp_path):
    make_run(tmp_path / "one", "mdm", FALLING)
    made, _, page = report(tmp_path)
    values = {"family": "mdm", "runs": 1, "unique_tokens": UNIQUE_TOKENS}
    assert made.verdicts == [Note(NoVerdict.ONE_FAMILY, values)]
    assert "No verdict on these 100,000 unique tokens" in page.text
    assert page.tags["figure"] == 2


def test_runs_on_different_tokens_get_no_common_verdict(both):
    make_run(both / "other", "mdm", FALLING, corpus="d")
    made, _, _ = report(both)
    assert len(made.verdicts) == 2
    assert made.verdicts[1].code is NoVerdict.ONE_FAMILY


def test_runs_that_are_not_evaluated_are_named_with_the_command(tmp_path):
    make_run(tmp_path / "ar", "ar", TURNING, evaluated=False)
    make_run(tmp_path / "mdm", "mdm", FALLING)
    made, _, page = report(tmp_path)
    assert made.verdicts == [Note(NoVerdict.NOT_EVALUATED, {"runs": [str(tmp_path / "ar")]})]
    assert f"epochal eval {tmp_path / 'ar'}" in page.text
    assert "(in training)" in page.text


def test_a_run_before_its_first_evaluation_is_shown_too(tmp_path):
    make_run(tmp_path / "ar", "ar", [], evaluated=False, status="running")
    _, _, page = report(tmp_path)
    assert page.tags["figure"] == 0
    assert "still running" in page.text


@pytest.mark.parametrize("status", ["running", "stopped", "diverged"])
def test_a_run_that_did_not_finish_is_marked(both, status):
    make_run(both / "third", "ar", TURNING, status=status)
    _, _, page = report(both)
    assert status in page.text
    assert page.tags["li"] > 0


def test_an_outdated_evaluation_is_named(both):
    make_run(both / "mdm2", "mdm", [*FALLING, 3.0])
    text = report(both)[2].text
    assert "mdm2 has a better checkpoint than the evaluated one" in text


def test_what_differs_in_the_recipes_is_a_table(both):
    text = report(both)[2].text
    assert "All other settings are the same." in text
    assert "family" in text


def test_forty_runs(tmp_path):
    for number in range(40):
        curve = [value + number / 50 for value in (TURNING if number % 2 else FALLING)]
        make_run(tmp_path / f"run-{number:02}", "ar" if number % 2 else "mdm", curve, seed=number)
    made, source, page = report(tmp_path)
    assert len(made.runs) == 40
    assert page.tags["details"] >= 40
    assert len(source) < 3_000_000


def test_a_run_named_twice_is_one_run(both):
    made, _, _ = report(both, both, both / "ar")
    assert made.runs == ["ar", "mdm"]


@pytest.mark.parametrize("place", ["missing", "."])
def test_a_place_without_runs_is_named(tmp_path, place):
    with pytest.raises(RunError, match="folder"):
        write_report([tmp_path / place], tmp_path / "page.html")


def test_a_damaged_record_is_named_and_leaves_the_old_page(both):
    made, source, _ = report(both)
    (both / "mdm" / "run.json").write_text('{"family": "mdm"}')
    with pytest.raises(RunError, match="mdm"):
        write_report([both], made.path)
    assert made.path.read_text(encoding="utf-8") == source


def test_a_page_that_cannot_be_written_is_named(both):
    (both / "file").write_text("")
    with pytest.raises(EpochalError, match="file"):
        write_report([both], both / "file" / "page.html")
    with pytest.raises(RunError, match="is a folder"):
        write_report([both], both)


def run_command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


def test_the_command(both, capsys):
    page = both / "out" / "page.html"
    assert run_command("report", both, "--out", page, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"] == ["ar", "mdm"]
    assert printed["verdicts"][0]["pairs"][0]["difference"] == pytest.approx(0.3)
    assert page.exists()
    assert run_command("report", both, "--out", page) == 0
    assert "AR learned more" in capsys.readouterr().out


def test_the_command_with_a_mistake(both, capsys):
    assert run_command("report", both / "nowhere") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert run_command("report") == 2


def test_a_run_that_can_go_on_is_advised(tmp_path):
    curve = [5.0, 4.7, 4.4, 4.2, 4.1, 4.0, 4.05, 4.2, 4.4, 4.6]
    make_run(tmp_path / "going", "ar", curve, status="running", evaluated=False)
    make_run(tmp_path / "done", "ar", curve)
    page = write_report([tmp_path], tmp_path / "page.html").path.read_text(encoding="utf-8")
    said = page.split('id="advice"')[1].split("</section>")[0]
    assert (
        "going: Validation has turned: it was lowest at epoch 6 and has risen by 0.600 nats" in said
    )
    assert "done:" not in said

"""The published board: it follows from the published runs, and these hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.audit import audit
from bench.leaderboard.boards import Boards, Sources
from bench.records.bundle import unpack
from bench.records.record import RunRecord
from scripts import publish_board
from tests.conftest import ROOT, runs_of
from tests.test_record import record

BUNDLE = publish_board.BUNDLE


def test_tables_and_readme_follow_from_the_published_runs_byte_for_byte() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "publish_board.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_published_runs_hold(tmp_path: Path) -> None:
    assert unpack(BUNDLE, tmp_path) > 0
    assert audit(tmp_path) == []


def block(*runs: RunRecord) -> str:
    """The README's block of these runs, whose predictions are gone."""
    return publish_board.block(Boards.of(Sources(runs_of(runs), runs_of([]), Path("nowhere"))))


def test_the_readme_shows_one_revision_of_a_task() -> None:
    scores = {"1": {"a": 80.0, "b": 70.0, "c": 60.0}, "2": {"d": 99.0, "e": 60.0}}
    runs = [
        record(settings_id="x", method=method, data_revision=revision, score=score)
        for revision, of_revision in scores.items()
        for method, score in of_revision.items()
    ]
    text = block(*runs)
    assert "3 rows" in text
    assert [line.split("|")[2].strip() for line in text.splitlines() if "`" in line and "|" in line] == [
        "`a`",
        "`b`",
        "`c`",
    ]


def test_the_readme_goes_on_with_the_tasks_that_several_methods_share() -> None:
    scores = {"a": (80.0, 70.0), "b": (90.0, 40.0)}
    runs = [
        record(settings_id="x", method=method, task=task, score=score)
        for method, of_method in scores.items()
        for task, score in zip(("glue/rte", "glue/sst2"), of_method, strict=True)
    ]
    alone = record(settings_id="x", method="c", task="glue/sst2", score=99.0)
    text = block(*runs, alone)
    assert "Over `glue/rte`, `glue/sst2`, the 2 methods that have all of them:" in text
    assert "| 1 | `a` | 75.0 | 1.5 | 73,728 |" in text
    assert "Friedman's test does not find that these methods differ" in text
    assert "Over" not in block(alone)


def test_the_readme_says_where_nothing_was_tested() -> None:
    text = block(record(settings_id="x"), record(settings_id="x", method="b", score=1.0))
    assert "1 of them could not be tested against the best" in text


@pytest.fixture(scope="module")
def published() -> publish_board.Published:
    return publish_board.Published.of(BUNDLE)


@pytest.mark.parametrize("name", ["glue.csv", "leaderboard.md", "extra.csv", "index.html", "README.md"])
def test_what_does_not_follow_is_named(
    name: str, published: publish_board.Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, readme = tmp_path / "results" / "published" / "leaderboard", tmp_path / "README.md"
    shutil.copytree(publish_board.BOARDS, board)
    shutil.copy(ROOT / "README.md", readme)
    monkeypatch.setattr(publish_board, "BOARDS", board)
    monkeypatch.setattr(publish_board, "README", readme)
    assert published.stale == []
    changed = readme if name == "README.md" else board / name
    text = changed.read_text() if changed.exists() else "6"
    changed.write_text(text.replace("6", "7"))
    assert published.stale == [changed]

"""The published board: it follows from the published runs, and these hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.audit import audit
from bench.bundle import unpack
from scripts import publish_board
from tests.conftest import ROOT

BUNDLE = publish_board.BUNDLE


def test_tables_and_readme_follow_from_the_published_runs_byte_for_byte() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "publish_board.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_published_runs_hold(tmp_path: Path) -> None:
    assert unpack(BUNDLE, tmp_path) > 0
    assert audit(tmp_path) == []


@pytest.mark.parametrize("name", ["glue.csv", "comparisons.csv", "leaderboard.md", "extra.csv", "README.md"])
def test_what_does_not_follow_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, readme = tmp_path / "results" / "published" / "leaderboard", tmp_path / "README.md"
    shutil.copytree(publish_board.BOARDS, board)
    shutil.copy(ROOT / "README.md", readme)
    monkeypatch.setattr(publish_board, "BOARDS", board)
    monkeypatch.setattr(publish_board, "README", readme)
    published = publish_board.Published.of(BUNDLE, pages=False)
    assert published.stale == []
    changed = readme if name == "README.md" else board / name
    text = changed.read_text() if changed.exists() else "6"
    changed.write_text(text.replace("6", "7"))
    assert published.stale == [changed]

"""What `scripts/compare.py` prints and how it ends; that it compares is shown on real runs in `test_exchange.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.test_index import put, seed


def test_where_no_pair_is_comparable_it_says_so_and_what_records_say_stays_as_it_is(tmp_path: Path) -> None:
    for number, method in enumerate(("lora", "dora")):
        put(tmp_path, seed(number, method=method, hardware={"device_name": "GPU [bold]:smile:[/bold]"}))
    command = [sys.executable, str(ROOT / "scripts/compare.py"), "lora", "dora", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "not comparable" in done.stdout
    assert "GPU [bold]:smile:[/bold]" in done.stdout

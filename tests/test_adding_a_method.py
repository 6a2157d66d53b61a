"""The method of docs/adding-a-method.md, taken from the page and run from outside this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunCommand, records

PAGE = ROOT / "docs" / "adding-a-method.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = ("gaining/gain.py", "gaining/gain_linear.py", "conf/method/gain.yaml")
"""Where another package would keep the page's first blocks of code."""
WIDTH, LAYERS = 64, 2


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The page's method as another package: nothing of it lies in this repository."""
    folder = tmp_path / "outside"
    for name, block in zip(FILES, BLOCK.findall(PAGE.read_text("utf-8")), strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            block.replace("methods.parts.gain_linear", "gaining.gain_linear").replace("methods.gain", "gaining.gain")
        )
    return folder


@pytest.mark.parametrize("how", [["method=gain"], ["-m", "method=gain,lora"], ["method=gain", "hardware.processes=2"]])
def test_a_method_of_another_package_runs_from_its_own_folder(
    how: list[str], outside: Path, sample: RunCommand, tmp_path: Path
) -> None:
    settings = ["training.max_steps=4", "measure=none", "measure.inference=true"]
    done = sample(f"hydra.searchpath=[file://{outside / 'conf'}]", *how, *settings, PYTHONPATH=str(outside))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {record.method: record for record in records(tmp_path).values()}
    assert found.keys() == ({"gain", "lora"} if "-m" in how else {"gain"})
    assert found["gain"].trainable_parameters == LAYERS * WIDTH
    assert found["gain"].inference_form == "merged"
    assert found["gain"].forms_differ is False
    assert any(override.startswith("hydra.searchpath=") for override in found["gain"].overrides)


def test_the_page_is_about_a_method_of_at_most_80_lines_with_its_yaml_and_its_row() -> None:
    *method, row = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(method) == len(FILES)
    assert sum(block.count("\n") for block in (*method, row)) < 80

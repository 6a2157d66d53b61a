"""Generate the built-in samples: `python scripts/make_samples.py [output_directory]`.

Rows are drawn with fixed seeds, so that a rerun writes the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from datasets import disable_progress_bars

from scripts.samples import commonsense, glue, gsm8k, superglue


def main() -> None:
    """Write every repository below the output directory."""
    parser = argparse.ArgumentParser(description="Generate the built-in samples.")
    parser.add_argument("output_directory", type=Path, nargs="?", default=ROOT / "tasks" / "samples")
    folder = parser.parse_args().output_directory
    disable_progress_bars()
    for benchmark in (glue, superglue, commonsense):
        benchmark.write(folder)
    gsm8k.write(folder / "openai" / "gsm8k")


if __name__ == "__main__":
    main()

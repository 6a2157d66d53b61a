"""Pretrain one of the tiny models that ship with the package.

    python scripts/pretrain_tiny.py tiny-llama [--output FOLDER] [--steps N]

Everything is drawn from fixed seeds on a fixed number of CPU threads: the same machine and torch version write the same
weights. A model takes up to half an hour.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

MODELS_DIRECTORY = Path(__file__).resolve().parents[1] / "bench" / "models"


def main() -> None:
    """Pretrain the chosen model and write weights, tokenizer or processor, and model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("tiny-llama", "tiny-vit"))
    parser.add_argument("--output", type=Path, help="folder to write to; default bench/models/MODEL")
    parser.add_argument("--steps", type=int, help="optimizer steps; default as for the shipped model")
    arguments = parser.parse_args()
    if arguments.model == "tiny-llama":
        from scripts.pretraining.decoder import pretrain
    else:
        from scripts.pretraining.vision import pretrain
    pretrain(arguments.output or MODELS_DIRECTORY / arguments.model, arguments.steps)


if __name__ == "__main__":
    main()

"""Where the hub keeps a split."""

from pathlib import Path

from datasets import Dataset


def write_split(rows: Dataset, repository: Path, config: str, split: str) -> None:
    """Write <repository>/<config>/<split>-00000-of-00001.parquet, with the features in the file's metadata."""
    (repository / config).mkdir(parents=True, exist_ok=True)
    rows.to_parquet(repository / config / f"{split}-00000-of-00001.parquet")

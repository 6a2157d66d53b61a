"""Images: decoded once, resized as the benchmark says, normalised as the backbone was pretrained."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench import cache
from bench.errors import DataError, SettingsError
from bench.settings import DataSettings
from tasks import images
from tasks.images import ImageFormat, ImageTask
from tasks.locating import resolve
from tasks.metrics.vtab import TEST_EXAMPLES
from tasks.sources import Source
from tasks.tfds_order import CUTS
from tasks.vtab import VtabTask
from tests.conftest import CONFIGURATION, task_named

FORMAT = ImageFormat(16, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(pixels: np.ndarray[Any, Any], mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG") if mode else Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, split: str, contents: list[bytes], **columns: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = pa.array([{"bytes": content, "path": None} for content in contents], STORED)
    pq.write_table(pa.table({"image": stored, **columns}), folder / f"{split}-00000-of-00001.parquet")


def random_image(side: int, channels: int | None = 3) -> np.ndarray[Any, Any]:
    shape = (side, side) if channels is None else (side, side, channels)
    return np.random.default_rng(side).integers(0, 256, shape, np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache")


@pytest.fixture
def flowers(tmp_path: Path) -> Source:
    """Three images of three modes, classes 0, 1, 2."""
    contents = [png(random_image(40)), png(random_image(40, None)), png(random_image(40), "RGBA")]
    folder = tmp_path / "dpdl-benchmark/oxford_flowers102/data"
    for split in ("train", "test"):
        write(folder, split, contents, label=[0, 1, 2])
    return resolve(DataSettings("mirror", str(tmp_path)), task_named("image/flowers102"))


def test_every_mode_becomes_three_channels_of_the_models_size(flowers: Source) -> None:
    examples = task_named("image/flowers102").encode(flowers, "train", FORMAT, None, None)
    batch = examples.batch(np.arange(3))
    assert batch.inputs["pixel_values"].shape == (3, 3, 16, 16)
    assert batch.inputs["pixel_values"].dtype == torch.uint8
    grey = batch.inputs["pixel_values"][1]
    assert torch.equal(grey[0], grey[1])
    assert batch.inputs["labels"].tolist() == [0, 1, 2]


def test_pixels_equal_those_of_transformers_own_processor(flowers: Source) -> None:
    from transformers import ViTImageProcessorPil

    examples = task_named("image/flowers102").encode(flowers, "train", FORMAT, None, None)
    found = examples.batch(np.arange(1)).on("cpu").inputs["pixel_values"]
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=FORMAT.mean, image_std=FORMAT.std)
    expected = processor(Image.fromarray(random_image(40)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_images_are_decoded_once(flowers: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    described = task_named("image/flowers102")
    first = described.encode(flowers, "train", FORMAT, None, None)
    monkeypatch.setattr(images, "resized", lambda *_: pytest.fail("decoded again"))
    second = described.encode(flowers, "train", FORMAT, None, None)
    assert np.array_equal(first.pixels, second.pixels)


def test_another_size_or_other_content_is_decoded_anew(flowers: Source) -> None:
    described = task_named("image/flowers102")
    small = described.encode(flowers, "train", FORMAT, None, None)
    large = described.encode(flowers, "train", ImageFormat(24, FORMAT.mean, FORMAT.std), None, None)
    assert (small.pixels.shape[1], large.pixels.shape[1]) == (16, 24)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "dpdl-benchmark/oxford_flowers102/data"
    for split in ("train", "test"):
        write(folder, split, [png(random_image(8)), b"no image"], label=[0, 1])
    described = task_named("image/flowers102")
    found = resolve(DataSettings("mirror", str(tmp_path)), described)
    with pytest.raises(DataError, match="Image 1 of the split 'train'"):
        described.encode(found, "train", FORMAT, None, None)
    assert not list((cache.FOLDER / "images").iterdir())


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "dpdl-benchmark/oxford_flowers102/data"
    for split in ("train", "test"):
        write(folder, split, [png(random_image(8))], label=[102])
    described = task_named("image/flowers102")
    with pytest.raises(DataError, match="label 102"):
        described.encode(resolve(DataSettings("mirror", str(tmp_path)), described), "train", FORMAT, None, None)


def test_accuracy_and_the_majority_share_show_a_collapse(flowers: Source) -> None:
    described: ImageTask = task_named("image/flowers102")
    examples = described.encode(flowers, "test", FORMAT, None, None)
    columns = described.predict(np.eye(3, 102, dtype=np.float32)[[0, 0, 0]], examples)
    scores = described.score({"test": columns}, {"test": examples})
    assert scores.metrics == pytest.approx({"accuracy": 1 / 3, "majority_share": 1 / 3})


VTAB = sorted(file.stem for file in (CONFIGURATION / "task/vtab").glob("*.yaml") if file.stem != "_base")


def test_all_nineteen_tasks_are_there() -> None:
    assert len(VTAB) == 19
    assert sum(task_named(f"vtab/{name}").classes for name in VTAB) == 940


@pytest.mark.parametrize("name", VTAB)
def test_every_sample_has_the_benchmarks_sizes_and_classes(name: str) -> None:
    described: VtabTask = task_named(f"vtab/{name}")
    sample = resolve(DataSettings("sample"), described)
    train = described.encode(sample, "train", FORMAT, None, None)
    test = described.encode(sample, "test", FORMAT, None, 300)
    assert len(train) == 1000
    assert len(test) == 300
    assert min(train.labels.min(), test.labels.min()) >= 0
    assert max(train.labels.max(), test.labels.max()) < described.classes
    assert len(np.unique(train.labels)) > min(described.classes, 100) // 2
    assert described.subset(sample).startswith("resampled ")


def lists(root: Path, described: VtabTask, test: int | None = None) -> Source:
    """A mirror with a copy of official lists: 800 + 200 images, and as many to test on as the benchmark has, or `test`.

    The label is the image's number modulo 10; the images to test on are 50, again and again.
    """
    folder, content = root / "vtab-1k" / described.dump, png(random_image(8))
    folder.mkdir(parents=True)
    for number in range(1050):
        (folder / f"{number}.png").write_bytes(content)
    tested = [1000 + number % 50 for number in range(TEST_EXAMPLES[described.name] if test is None else test)]
    for name, numbers in (("train800", range(800)), ("val200", range(800, 1000)), ("test", tested)):
        lines = [f"{number}.png {number % min(described.classes, 10)}\n" for number in numbers]
        (folder / f"{name}.txt").write_text("".join(lines))
    return resolve(DataSettings("mirror", str(root)), described)


@pytest.mark.parametrize("name", ["svhn", "cifar100", "clevr_count", "smallnorb_azimuth", "kitti"])
def test_a_copy_of_the_official_lists_comes_first(name: str, tmp_path: Path) -> None:
    described: VtabTask = task_named(f"vtab/{name}")
    found = lists(tmp_path, described)
    train = described.encode(found, "train", FORMAT, None, None)
    assert described.subset(found) == "official"
    assert train.labels.tolist() == [number % min(described.classes, 10) for number in range(1000)]
    assert len(described.encode(found, "test", FORMAT, None, 50)) == 50


@pytest.mark.parametrize("at_most", [None, 50])
def test_a_test_split_of_another_size_than_the_benchmarks_is_refused(at_most: int | None, tmp_path: Path) -> None:
    described: VtabTask = task_named("vtab/kitti")
    found = lists(tmp_path, described, test=710)
    with pytest.raises(DataError, match=r"VTAB's kitti is tested on 711 images; .*vtab-1k/kitti gives 710\."):
        described.encode(found, "test", FORMAT, None, at_most)


@pytest.mark.parametrize("changed", ["test.txt", "1007.png"])
def test_the_revision_of_lists_follows_them_and_the_images_that_they_name(changed: str, tmp_path: Path) -> None:
    described: VtabTask = task_named("vtab/kitti")
    first = lists(tmp_path, described)
    for name in ("LICENSE.txt", "1050.png"):
        (first.folder / name).write_bytes(b"neither a list nor listed")
    assert resolve(DataSettings("mirror", str(tmp_path)), described) == first
    (first.folder / changed).write_bytes((first.folder / changed).read_bytes() + b"\n")
    assert resolve(DataSettings("mirror", str(tmp_path)), described).revision != first.revision


def test_official_parquet_splits_of_two_tasks_share_no_pixels(tmp_path: Path) -> None:
    found = []
    for name, side in (("dsprites_location", 8), ("dsprites_orientation", 9)):
        described: VtabTask = task_named(f"vtab/{name}")
        for split in ("train800", "val200", "test"):
            write(tmp_path / "vtab-1k" / described.dump, split, [png(random_image(side))], label=[0])
        source = resolve(DataSettings("mirror", str(tmp_path)), described)
        found.append((source.revision, described.encode(source, "train", FORMAT, None, None).pixels))
    (first, pixels), (second, others) = found
    assert first != second
    assert not np.array_equal(pixels, others)


def test_two_image_columns_share_no_pixels(tmp_path: Path) -> None:
    left, right = ([{"bytes": png(random_image(side)), "path": None}] for side in (8, 9))
    stored = {"image_lt": pa.array(left, STORED), "image_rt": pa.array(right, STORED), "label": [0]}
    folder = tmp_path / "dpdl-benchmark/oxford_flowers102/data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(pa.table(stored), folder / f"{split}-00000-of-00001.parquet")
    pixels = []
    for column in ("image_lt", "image_rt"):
        described = task_named("image/flowers102", image_column=column)
        found = resolve(DataSettings("mirror", str(tmp_path)), described)
        pixels.append(described.encode(found, "train", FORMAT, None, None).pixels)
    assert not np.array_equal(*pixels)


def test_a_split_is_never_held_in_memory_as_a_whole(flowers: Source) -> None:
    described = task_named("image/flowers102")
    write(flowers.folder, "train", [png(random_image(40))] * 200, label=[0] * 200)
    described.encode(flowers, "test", FORMAT, None, None)  # imports what decoding needs
    tracemalloc.start()
    examples = described.encode(flowers, "train", ImageFormat(128, FORMAT.mean, FORMAT.std), None, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert examples.pixels.shape == (200, 128, 128, 3)
    assert peak < examples.pixels.nbytes / 2


def test_selection_trains_on_the_800_and_scores_the_200(tmp_path: Path) -> None:
    described: VtabTask = task_named("vtab/svhn", protocol="select")
    found = lists(tmp_path, described)
    assert described.reported_splits == ("val200",)
    assert len(described.encode(found, "train", FORMAT, None, None)) == 800
    assert described.encode(found, "val200", FORMAT, None, None).labels[0] == 0


def test_a_list_cannot_name_an_image_outside_its_folder(tmp_path: Path) -> None:
    described: VtabTask = task_named("vtab/svhn")
    found = lists(tmp_path, described)
    (found.folder / "val200.txt").write_text("../../etc/secret.png 1\n")
    with pytest.raises(DataError, match="no relative image path"):
        described.encode(found, "train", FORMAT, None, None)


def test_the_images_of_a_list_may_be_links(tmp_path: Path) -> None:
    described: VtabTask = task_named("vtab/svhn")
    found = lists(tmp_path, described)
    line = (found.folder / "val200.txt").read_text().splitlines()[0]
    image = found.folder / line.rpartition(" ")[0]
    image.symlink_to(image.rename(tmp_path / "store.png"))
    assert len(described.encode(found, "train", FORMAT, None, None)) == 1000


def test_a_png_that_breaks_off_is_refused_by_its_row(flowers: Source) -> None:
    content = bytearray(png(random_image(300)))
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second : second + 4] = b"\0\0\0\0"
    write(flowers.folder, "train", [png(random_image(4)), bytes(content)], label=[0, 0])
    with pytest.raises(DataError, match=r"Image 1 of the split 'train' .* cannot be read: broken PNG file"):
        task_named("image/flowers102").encode(flowers, "train", FORMAT, None, None)


def test_the_subset_is_rebuilt_where_rows_are_numbered_as_in_the_original_files(tmp_path: Path) -> None:
    folder, content = tmp_path / "uoft-cs/cifar100/cifar100", png(random_image(4))
    for split, rows in (("train", 50_000), ("test", 10_000)):
        write(folder, split, [content] * rows, fine_label=[row % 100 for row in range(rows)])
    described: VtabTask = task_named("vtab/cifar100", image_column="image")
    found = resolve(DataSettings("mirror", str(tmp_path)), described)
    train = described.encode(found, "train", FORMAT, None, None)
    assert described.subset(found) == "rebuilt"
    assert train.ids[:5].tolist() == [16399, 1680, 47917, 17307, 27051]
    assert train.ids[800:803].tolist() == [13431, 9237, 17462]
    assert train.labels[:3].tolist() == [99, 80, 17]
    assert len(described.encode(found, "test", FORMAT, None, None)) == CUTS["cifar100"].test.size


def test_resampled_subsets_are_disjoint_and_always_the_same() -> None:
    described: VtabTask = task_named("vtab/dsprites_orientation")
    sample = resolve(DataSettings("sample"), described)
    train, test = (described.encode(sample, split, FORMAT, None, None) for split in ("train", "test"))
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == 1800
    assert np.array_equal(train.ids, described.encode(sample, "train", FORMAT, None, None).ids)


@pytest.mark.real_data
def test_a_part_of_a_data_set_that_is_too_small_is_refused(real_data: Path) -> None:
    described = task_named("vtab/oxford_flowers102")
    found = resolve(DataSettings("mirror", str(real_data)), described)
    with pytest.raises(DataError, match="800 examples cannot be drawn from a pool of 728"):
        described.encode(found, "train", FORMAT, None, None)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "train", "test"), [("cifar10", 1000, 1000), ("flowers102", 728, 1000)])
def test_the_real_parts_load(name: str, train: int, test: int, real_data: Path) -> None:
    described = task_named(f"image/{name}")
    found = resolve(DataSettings("mirror", str(real_data)), described)
    assert len(described.encode(found, "train", FORMAT, None, None)) == train
    assert len(described.encode(found, "test", FORMAT, None, None)) == test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "finel"}, "Did you mean 'final'"),
        ({"label_rule": "clevr_counts"}, "Did you mean 'clevr_count'"),
        ({"classes": 11}, "has 10 classes"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        task_named("vtab/svhn", **changes)

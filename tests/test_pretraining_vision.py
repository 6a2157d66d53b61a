"""The shipped vision model is small, loads with any head, and is what its script writes from its seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from scripts.pretraining import shapes, vision

SHIPPED = Path(__file__).resolve().parents[1] / "bench" / "models" / "tiny-vit"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("tiny-vit") for _ in range(2)]
    for folder in folders:
        vision.pretrain(folder, steps=2)
    return folders


def test_shipped_weights_are_at_most_8_megabytes_of_bfloat16() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 8_000_000
    weights = load_file(SHIPPED / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in weights.values()) < 4_000_000


@pytest.mark.parametrize("classes", [2, 397])
def test_shipped_model_takes_a_head_of_any_size(classes: int) -> None:
    model = AutoModelForImageClassification.from_pretrained(SHIPPED, num_labels=classes, dtype=torch.float32)
    assert model(torch.zeros(3, 3, 64, 64)).logits.shape == (3, classes)


def test_shipped_backbone_holds_the_files_weights() -> None:
    model = AutoModelForImageClassification.from_pretrained(SHIPPED, dtype=torch.bfloat16)
    for name, tensor in load_file(SHIPPED / "model.safetensors").items():
        torch.testing.assert_close(model.get_parameter(name), tensor, rtol=0, atol=0)


def test_shipped_processor_hands_over_what_pretraining_saw() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    processed = AutoImageProcessor.from_pretrained(SHIPPED)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, vision.pixel_values(image[None]), rtol=0, atol=1e-5)


def test_shipped_card_names_the_recipe_of_the_script() -> None:
    card = (SHIPPED / "README.md").read_text()
    recipe = vision.Recipe()
    assert f"pretrain_tiny.py tiny-vit --steps {recipe.steps}`" in card
    assert f"| seed | {recipe.seed} |" in card


def test_pretraining_twice_gives_equal_weights(two_runs: list[Path]) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in two_runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pretraining_writes_all_that_is_shipped(two_runs: list[Path]) -> None:
    assert {file.name for file in two_runs[0].iterdir()} == {file.name for file in SHIPPED.iterdir()}
    for name in ("config.json", "preprocessor_config.json"):
        written, shipped = (json.loads((folder / name).read_text()) for folder in (two_runs[0], SHIPPED))
        assert written.pop("transformers_version", None) or name != "config.json"
        shipped.pop("transformers_version", None)
        assert written == shipped


def test_scenes_repeat_with_the_seed_and_label_every_scene_and_patch() -> None:
    batch, again = (shapes.scenes(8, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(batch.images, again.images)
    assert {name: labels.shape for name, labels in batch.scene.items()} == dict.fromkeys(shapes.SCENE_CLASSES, (8,))
    assert {name: labels.shape for name, labels in batch.patch.items()} == dict.fromkeys(shapes.PATCH_CLASSES, (8, 64))
    for labels, classes in ((batch.scene, shapes.SCENE_CLASSES), (batch.patch, shapes.PATCH_CLASSES)):
        for name, values in labels.items():
            assert 0 <= values.min() <= values.max() < classes[name]


def test_the_patch_at_the_largest_shapes_centre_carries_its_label() -> None:
    batch = shapes.scenes(200, np.random.default_rng(6))
    centre = 8 * batch.scene["row"] + batch.scene["column"]
    seen = batch.patch["shape"][np.arange(200), centre]
    assert (seen == batch.scene["shape"]).mean() > 0.9  # a half disc's centre may lie beside it


def test_labels_of_some_patches_are_those_of_all_patches_there() -> None:
    batch = shapes.scenes(3, np.random.default_rng(7))
    some = batch.at(np.array([[5, 63], [0, 1], [2, 2]]))
    np.testing.assert_array_equal(some.patch["colour"][0], batch.patch["colour"][0, [5, 63]])
    np.testing.assert_array_equal(some.geometry[2], batch.geometry[2, [2, 2]])


def test_patches_tell_a_shapes_turn_only_as_far_as_its_symmetry_defines_it() -> None:
    batch = shapes.scenes(200, np.random.default_rng(8))
    turns = np.hypot(batch.geometry[..., 5::2], batch.geometry[..., 6::2])  # one per harmonic 1, 2, 4
    defined = {"disc": [0, 0, 0], "square": [0, 0, 1], "pentagon": [0, 0, 0], "bar": [0, 1, 1], "arrow": [1, 1, 1]}
    for shape, expected in defined.items():
        covered = batch.patch["shape"] == shapes.SHAPES.index(shape)
        np.testing.assert_allclose(turns[covered], np.broadcast_to(expected, (covered.sum(), 3)), atol=1e-5)


def test_covered_patches_are_read_before_others_and_all_of_them_at_the_end() -> None:
    recipe = vision.Recipe(steps=20, batch_size=4, whole_share=0.1)
    read = list(vision._batches(recipe))
    assert [patches.shape[1] for _, patches in read] == [24] * 18 + [64] * 2
    for batch, patches in read[:18]:
        left = np.array([np.setdiff1d(np.arange(64), row) for row in patches])
        most_covered_left = np.take_along_axis(batch.geometry[..., 0], left, axis=1).max(axis=1)
        crowded = (batch.geometry[..., 0] >= 0.1).sum(axis=1) > 24
        assert (most_covered_left[~crowded] < 0.1).all()


def test_reading_all_patches_is_the_models_own_forward() -> None:
    batch = shapes.scenes(2, np.random.default_rng(9))
    model = AutoModelForImageClassification.from_pretrained(SHIPPED, dtype=torch.float32).vit.eval()
    hidden = vision._last_hidden_state(model, batch, np.tile(np.arange(64), (2, 1)))
    torch.testing.assert_close(hidden, model(vision.pixel_values(batch.images)).last_hidden_state)


def test_an_outline_reaches_a_squares_corners_and_the_middles_of_its_sides() -> None:
    square = shapes._OUTLINES[shapes.SHAPES.index("square")]
    corner, side = square.max(), square.min()
    assert corner == pytest.approx(1, abs=0.01)
    assert side == pytest.approx(np.sqrt(0.5), abs=0.01)


def test_the_rate_rises_over_the_warmup_and_falls_to_zero() -> None:
    recipe = vision.Recipe(steps=100, warmup_share=0.1)
    rates = [vision._rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)

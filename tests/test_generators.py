"""Generated images keep the factors, the label rules and the hub's columns of the data sets they stand in for."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.errors import DataError
from tasks.generators import clevr, dsprites, kitti, smallnorb, tables, textures

CLASSES = {  # section by section of the benchmark's task list
    "cifar100": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
    "patch_camelyon": 2,
    "eurosat": 10,
    "resisc45": 45,
    "diabetic_retinopathy": 5,
    "dmlab": 6,
    "cifar10": 10,
}
NAMES = {"cifar10": ["img", "label"], "cifar100": ["img", "fine_label"]}
STRUCTURED_ROWS = {
    "clevr": {"train": 1000, "test": 600},
    "kitti": {"train": 1000, "validation": 300, "test": 400},
    "dsprites": {"train": 1800},
    "smallnorb": {"train": 1000, "test": 1000},
}
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _decoded(cell: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(cell["bytes"]))


@pytest.fixture(scope="module")
def clevr_scenes() -> tuple[NDArray[np.uint8], list[list[clevr.SceneObject]]]:
    return clevr.scenes(2000, _rng())


class TestDsprites:
    def test_y_changes_fastest_and_shape_slowest(self) -> None:
        assert dsprites.factors(0) == (0, 0, 0, 0, 0)
        assert dsprites.factors(1) == (0, 0, 0, 0, 1)
        assert dsprites.factors(32) == (0, 0, 0, 1, 0)
        assert dsprites.factors(1024) == (0, 0, 1, 0, 0)
        assert dsprites.factors(40_960) == (0, 1, 0, 0, 0)
        assert dsprites.factors(245_760) == (1, 0, 0, 0, 0)
        assert dsprites.factors(737_279) == (2, 5, 39, 31, 31)

    def test_index_follows_the_formula_of_the_original_file(self) -> None:
        assert dsprites.index_of(1, 2, 3, 4, 5) == (((1 * 6 + 2) * 40 + 3) * 32 + 4) * 32 + 5

    def test_index_and_factors_are_inverse(self) -> None:
        indices = _rng().integers(0, dsprites.COUNT, 100)
        np.testing.assert_array_equal(dsprites.index_of(*dsprites.factors(indices)), indices)

    @pytest.mark.parametrize("index", [-1, 737_280])
    def test_an_index_outside_the_file_is_refused(self, index: int) -> None:
        with pytest.raises(ValueError, match=r"out of bounds|invalid"):
            dsprites.factors(index)

    def test_a_step_of_orientation_is_a_39th_of_a_turn(self) -> None:
        assert dsprites.angle(1) == pytest.approx(0.16111, abs=1e-5)
        assert dsprites.angle(39) == 0

    def test_orientations_0_and_39_are_one_image_and_1_is_another(self) -> None:
        first, second, last = (
            dsprites.sprites([dsprites.index_of(shape, 5, orientation, 7, 9) for shape in range(3)])
            for orientation in (0, 1, 39)
        )
        np.testing.assert_array_equal(first, last)
        assert (first != second).any(axis=(1, 2)).all()

    def test_the_largest_upright_square_covers_its_21_rows_and_columns_of_pixels(self) -> None:
        image = dsprites.sprites(dsprites.index_of(0, 5, 0, 4, 10))[0]
        expected = np.zeros((64, 64), np.uint8)
        expected[26 - 10 : 26 + 11, 20 - 10 : 20 + 11] = 1  # row 16 + y, column 16 + x
        np.testing.assert_array_equal(image, expected)

    def test_the_ellipse_is_28_wide_and_16_high_and_shrinks_with_scale(self) -> None:
        large, small = dsprites.sprites(dsprites.index_of(1, [5, 0], 0, 16, 16))
        assert (large.any(axis=0).sum(), large.any(axis=1).sum()) == (2 * 14 + 1, 2 * 8 + 1)
        assert (small.any(axis=0).sum(), small.any(axis=1).sum()) == (2 * 7 + 1, 2 * 4 + 1)

    def test_the_heart_alone_has_no_symmetry_under_half_a_turn(self) -> None:
        upright = dsprites.sprites(dsprites.index_of([0, 1, 2], 5, 0, 16, 16))
        turned = upright[:, ::-1, ::-1]
        centred = np.roll(turned, (1, 1), axis=(1, 2))  # the centre is pixel 32 of 0 .. 63
        assert [bool((a == b).all()) for a, b in zip(upright, centred, strict=True)] == [True, True, False]

    def test_no_sprite_touches_the_rim_at_any_corner_position(self) -> None:
        corners = itertools.product(range(3), [5], range(40), (0, 31), (0, 31))
        images = dsprites.sprites([dsprites.index_of(*factors) for factors in corners])
        rim = np.ones((64, 64), bool)
        rim[1:-1, 1:-1] = False
        assert not images[:, rim].any()

    def test_moving_one_step_moves_the_sprite_one_pixel(self) -> None:
        here, right, below = dsprites.sprites(dsprites.index_of(2, 3, 11, [8, 9, 8], [8, 8, 9]))
        np.testing.assert_array_equal(np.roll(here, 1, axis=1), right)
        np.testing.assert_array_equal(np.roll(here, 1, axis=0), below)


class TestClevr:
    def test_scenes_have_3_to_10_objects_about_equally_often(self, clevr_scenes: tuple) -> None:
        shares = np.bincount([len(objects) for objects in clevr_scenes[1]], minlength=11) / 2000
        assert not shares[:3].any()
        np.testing.assert_allclose(shares[3:], 1 / 8, atol=0.03)

    def test_each_of_the_six_distance_classes_holds_8_to_30_percent(self, clevr_scenes: tuple) -> None:
        nearest = np.array([min(drawn.pixel_coords[2] for drawn in objects) for objects in clevr_scenes[1]])
        classes = sum((nearest > threshold).astype(int) for threshold in (8.0, 8.5, 9.0, 9.5, 10.0))
        shares = np.bincount(classes, minlength=6) / len(nearest)
        assert shares.min() >= 0.08
        assert shares.max() <= 0.30

    def test_objects_keep_their_distance(self, clevr_scenes: tuple) -> None:
        away = np.array([-7.5, 6.5]) / np.hypot(7.5, 6.5)  # from the camera, laid on the plane
        right = np.array([6.5, 7.5]) / np.hypot(7.5, 6.5)
        for objects in clevr_scenes[1][:300]:
            for a, b in itertools.combinations(objects, 2):
                apart = np.subtract(a.coordinates[:2], b.coordinates[:2])
                assert np.hypot(*apart) - a.coordinates[2] - b.coordinates[2] >= 0.25 - 1e-9
                assert abs(apart @ away) >= 0.4 - 1e-9
                assert abs(apart @ right) >= 0.4 - 1e-9

    def test_objects_stand_on_the_plane_within_reach(self, clevr_scenes: tuple) -> None:
        for drawn in itertools.chain.from_iterable(clevr_scenes[1]):
            assert drawn.coordinates[2] == {"large": 0.7, "small": 0.35}[drawn.size]
            assert np.abs(drawn.coordinates[:2]).max() <= 3

    def test_an_object_at_the_origin_is_seen_in_the_middle_at_the_cameras_distance(self) -> None:
        column, row, depth = clevr._project(-clevr.CAMERA)
        assert (column, row) == pytest.approx((60, 40))
        assert depth == pytest.approx(1.015 * np.sqrt(7.5**2 + 6.5**2 + 5.3**2))

    def test_every_object_shows(self, clevr_scenes: tuple) -> None:
        for objects in clevr_scenes[1][:50]:
            _, visible_pixels = clevr._draw(objects, np.array([0.0, 0.0, 1.0]))
            assert visible_pixels.min() >= 25  # 200 of 320x240 pixels

    def test_scenes_repeat_with_the_seed(self, clevr_scenes: tuple) -> None:
        (images, objects), (again, same_objects), (other, _) = (clevr.scenes(20, _rng(seed)) for seed in (3, 3, 4))
        np.testing.assert_array_equal(images, again)
        assert objects == same_objects
        assert (images != other).any()


class TestSmallnorb:
    def test_factors_count_lighting_fastest_and_name_the_splits_instances(self) -> None:
        assert smallnorb.combinations("train") == smallnorb.combinations("test") == 24_300
        assert smallnorb.factors("train", 0) == (0, 4, 0, 0, 0)
        assert smallnorb.factors("test", 6) == (0, 0, 0, 1, 0)
        assert smallnorb.factors("test", 24_299) == (4, 5, 8, 17, 5)

    def test_train_and_test_share_no_instance(self) -> None:
        train, test = (set(smallnorb.factors(split, np.arange(24_300)).instance) for split in ("train", "test"))
        assert train == {4, 6, 7, 8, 9}
        assert test == {0, 1, 2, 3, 5}

    @pytest.mark.parametrize("category", range(5))
    def test_every_azimuth_looks_different(self, category: int) -> None:
        azimuths = np.arange(18)
        same = np.zeros(18, int)
        images = smallnorb.views(smallnorb.Factors(same + category, same + 4, same, azimuths, same)).astype(int)
        for a, b in itertools.combinations(azimuths, 2):
            assert (np.abs(images[a] - images[b]) > 20).sum() >= 30, f"azimuths {a} and {b} look alike"

    @pytest.mark.parametrize("factor", ["category", "instance", "elevation", "lighting"])
    def test_every_other_factor_changes_the_image(self, factor: str) -> None:
        one = smallnorb.Factors(*(np.array([value]) for value in (2, 4, 3, 5, 0)))
        other = one._replace(**{factor: getattr(one, factor) + 1})
        assert (smallnorb.views(one) != smallnorb.views(other)).any()

    def test_toys_stay_on_the_canvas(self) -> None:
        drawn = smallnorb.factors("train", np.arange(0, 24_300, 37))
        images = smallnorb.views(drawn)
        corner = images[:, :1, :1]
        for rim in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
            assert (rim == corner[:, 0]).all()


class TestTextures:
    def test_images_repeat_with_the_seed_and_differ_within_a_class(self) -> None:
        first, again = (textures.images([3, 3], 10, _rng(1)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first[0] != first[1]).any()
        assert first.shape == (2, 64, 64, 3)

    def test_classes_can_be_told_apart_by_their_mean_colours_better_than_by_chance(self) -> None:
        labels = np.arange(600) % 10
        colours = textures.images(labels, 10, _rng()).mean(axis=(1, 2))
        centres = np.stack([colours[:300][labels[:300] == label].mean(axis=0) for label in range(10)])
        nearest = np.linalg.norm(colours[300:, None] - centres, axis=-1).argmin(axis=1)
        assert 0.2 < (nearest == labels[300:]).mean() < 0.9

    def test_another_salt_makes_another_task(self) -> None:
        one, other = (textures.images([0], 10, _rng(), salt=salt) for salt in (1, 2))
        assert np.abs(one.astype(int) - other).mean() > 5

    def test_a_label_beyond_the_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="between 0 and 9"):
            textures.images([10], 10, _rng())


class TestKitti:
    def test_the_nearer_of_two_vehicles_is_drawn_larger(self) -> None:
        empty, far, near = (
            kitti._draw([kitti.StreetObject("Car", (0.0, 1.65, z))] if z else [], _rng(5)).astype(int)
            for z in (None, 30.0, 6.0)
        )
        assert 0 < (np.abs(far - empty) > 60).sum() < (np.abs(near - empty) > 60).sum()

    def test_what_is_not_to_be_cared_for_has_the_originals_location_and_no_pixels(self) -> None:
        region = kitti.StreetObject("DontCare", (-1000.0, -1000.0, -1000.0))
        np.testing.assert_array_equal(kitti._draw([region], _rng(5)), kitti._draw([], _rng(5)))


class TestTables:
    def test_the_sixteen_data_sets_of_vtab_and_cifar10_are_generated(self) -> None:
        assert set(tables.GENERATED_TASKS) == CLASSES.keys() | STRUCTURED_ROWS.keys()
        assert len(tables.GENERATED_TASKS) == 17

    @pytest.mark.parametrize("task", CLASSES)
    def test_image_and_label_tables_have_their_rows_and_classes(self, task: str) -> None:
        for split, rows in {"train": 1000, "validation": 300, "test": 500}.items():
            table = tables.table(task, split)
            image, label = NAMES.get(task, ["image", "label"])
            assert list(zip(table.column_names, table.schema.types, strict=True)) == [
                (image, IMAGE),
                (label, pa.int64()),
            ]
            assert table.num_rows == rows
            assert set(table[label].to_pylist()) <= set(range(CLASSES[task]))
            if split == "train":
                assert len(set(table[label].to_pylist())) == CLASSES[task]
        picture = _decoded(table[image][0].as_py())
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 64))

    @pytest.mark.parametrize(
        ("task", "split"), [(task, split) for task, rows in STRUCTURED_ROWS.items() for split in rows]
    )
    def test_structured_tables_have_their_rows_and_repeat(self, task: str, split: str) -> None:
        table = tables.table(task, split)
        assert table.num_rows == STRUCTURED_ROWS[task][split]
        assert table.equals(tables.table(task, split))

    def test_a_texture_table_repeats_and_splits_differ(self) -> None:
        table = tables.table("svhn", "validation")
        assert table.equals(tables.table("svhn", "validation"))
        assert set(table["image"].to_pylist()[0]) == {"bytes", "path"}
        images = [
            {cell["bytes"] for cell in tables.table("svhn", split)["image"].to_pylist()}
            for split in tables.ROWS["svhn"]
        ]
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(images, 2))

    def test_dsprites_rows_carry_the_factors_of_their_index(self) -> None:
        table = tables.table("dsprites", "train")
        indices = table["index"].to_numpy()
        assert len(set(indices)) == 1800
        for column, factor in zip(
            ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position"),
            dsprites.factors(indices),
            strict=True,
        ):
            np.testing.assert_array_equal(table[column].to_numpy(), factor)
        assert set(table["label_orientation"].to_pylist()) == set(range(40))
        picture = _decoded(table["image"][0].as_py())
        np.testing.assert_array_equal(np.asarray(picture), 255 * dsprites.sprites(indices[0])[0])

    def test_clevr_rows_list_a_depth_for_every_object(self) -> None:
        table = tables.table("clevr", "test")
        fields = {field.name: field.type for field in table.schema.field("objects").type}
        assert fields["pixel_coords"] == pa.list_(pa.list_(pa.float32()))
        for objects in table["objects"].to_pylist():
            assert {len(values) for values in objects.values()} == {len(objects["color"])}
            assert 3 <= len(objects["color"]) <= 10
            assert all(6 < depth < 16 for _, _, depth in objects["pixel_coords"])
        assert _decoded(table["image"][0].as_py()).size == (120, 80)

    def test_smallnorb_rows_store_azimuths_as_the_original_does(self) -> None:
        for split, instances in (("train", {4, 6, 7, 8, 9}), ("test", {0, 1, 2, 3, 5})):
            table = tables.table("smallnorb", split)
            values = {name: set(table[name].to_pylist()) for name in table.column_names[1:]}
            assert table.column_names[0] == "image_lt"
            assert values == {
                "category": set(range(5)),
                "instance": instances,
                "elevation": set(range(9)),
                "azimuth": set(range(0, 36, 2)),
                "lighting": set(range(6)),
            }

    def test_kitti_distance_classes_are_balanced(self) -> None:
        table = tables.table("kitti", "test")
        assert table.schema.field("objects").type == pa.list_(
            pa.struct({"type": pa.string(), "location": pa.list_(pa.float32())})
        )
        classes = []
        for objects in table["objects"].to_pylist():
            forward = [drawn["location"][2] for drawn in objects if drawn["type"] in ("Car", "Van", "Truck")]
            classes.append(3 if not forward else sum(min(forward) > threshold for threshold in (8, 20)))
        np.testing.assert_array_equal(np.bincount(classes), [100] * 4)
        assert table["label_distance"].to_pylist() == classes

    def test_an_unknown_name_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(DataError, match="'dsprites'"):
            tables.table("dspirtes", "train")
        with pytest.raises(DataError, match="no split 'validation'; it has train, test"):
            tables.table("clevr", "validation")

"""VTAB-1k's facts, averages, label rules and subsets against published and hand-worked values."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tasks import vtab_labels
from tasks.metrics.vtab import CLASSES, GROUPS, TASKS, TEST_EXAMPLES, averages
from tasks.tfds_order import CUTS, SUBSETS, official_subset, resampled_subset, tfds_order

# V-PETL's table, ViT-B/16: linear probing and LoRA
CELLS = {
    "cifar100": (63.4, 67.1), "caltech101": (85.0, 91.4), "dtd": (63.2, 69.4), "oxford_flowers102": (97.0, 98.8),
    "oxford_iiit_pet": (86.3, 90.4), "svhn": (36.6, 85.3), "sun397": (51.0, 54.0), "patch_camelyon": (78.5, 84.9),
    "eurosat": (87.5, 95.3), "resisc45": (68.6, 84.4), "diabetic_retinopathy": (74.0, 73.6),
    "clevr_count": (34.3, 82.9), "clevr_distance": (30.6, 69.2), "dmlab": (33.2, 49.8), "kitti": (55.4, 78.5),
    "dsprites_location": (12.5, 75.7), "dsprites_orientation": (20.0, 47.1), "smallnorb_azimuth": (9.6, 31.0),
    "smallnorb_elevation": (19.2, 44.0),
}  # fmt: skip


class TestFacts:
    def test_nineteen_tasks_in_three_groups(self) -> None:
        assert {group: len(tasks) for group, tasks in GROUPS.items()} == {
            "natural": 7,
            "specialized": 4,
            "structured": 8,
        }
        assert [task for tasks in GROUPS.values() for task in tasks] == list(TASKS)

    def test_classes_and_test_examples_add_up(self) -> None:
        assert sum(CLASSES.values()) == 940
        assert sum(TEST_EXAMPLES.values()) == 387_904


class TestAverages:
    @pytest.mark.parametrize(("column", "mean_19", "mean_groups"), [(0, 52.94, 57.64), (1, 72.25, 74.60)])
    def test_published_rows_give_both_published_means(self, column: int, mean_19: float, mean_groups: float) -> None:
        means = averages({task: cells[column] for task, cells in CELLS.items()})
        assert means["vtab_mean_19"] == pytest.approx(mean_19, abs=0.006)
        assert means["vtab_mean_groups"] == pytest.approx(mean_groups, abs=0.006)

    def test_group_means_by_hand(self) -> None:
        of_group = {"natural": 0.8, "specialized": 0.9, "structured": 0.6}
        means = averages({task: of_group[group] for group, tasks in GROUPS.items() for task in tasks})
        # (7 * 0.8 + 4 * 0.9 + 8 * 0.6) / 19 = 14 / 19
        assert means == pytest.approx({"vtab_mean_19": 14 / 19, "vtab_mean_groups": 2.3 / 3, **of_group})

    def test_a_mean_exists_only_where_all_its_tasks_do(self) -> None:
        means = averages({task: 0.5 for task in TASKS if task != "eurosat"})
        assert means == {
            "vtab_mean_19": None,
            "vtab_mean_groups": None,
            "natural": 0.5,
            "specialized": None,
            "structured": 0.5,
        }


class TestLabels:
    @pytest.mark.parametrize(("objects", "label"), [(3, 0), (4, 1), (10, 7)])
    def test_clevr_count(self, objects: int, label: int) -> None:
        assert vtab_labels.clevr_count(objects) == label

    @pytest.mark.parametrize(
        ("nearest", "label"),
        [(5.0, 0), (8.0, 0), (8.01, 1), (8.5, 1), (8.51, 2), (9.0, 2), (9.5, 3), (9.6, 4), (10.0, 4), (10.01, 5)],
    )
    def test_clevr_distance_is_that_of_the_nearest_object(self, nearest: float, label: int) -> None:
        assert vtab_labels.clevr_distance([12.5, nearest, 11.0]) == label
        assert vtab_labels.clevr_distance(np.array([nearest, 12.5, 13.0])) == label

    @pytest.mark.parametrize(
        ("metres", "label"), [(1, 0), (8.0, 0), (8.1, 1), (10, 1), (20.0, 1), (20.1, 2), (30, 2), (80, 2)]
    )
    @pytest.mark.parametrize("vehicle", ["Car", "Van", "Truck"])
    def test_kitti_distance_is_that_of_the_nearest_vehicle(self, vehicle: str, metres: float, label: int) -> None:
        types = ["Pedestrian", vehicle, "Car", "DontCare"]
        assert vtab_labels.kitti_distance(types, [0.5, metres, 90.0, -1000.0]) == label

    @pytest.mark.parametrize("types", [[], ["Tram"], ["Tram", "Cyclist", "Misc"]])
    def test_kitti_without_a_vehicle(self, types: list[str]) -> None:
        assert vtab_labels.kitti_distance(types, [5.0] * len(types)) == 3

    def test_dsprites_location_halves_the_position(self) -> None:
        labels = vtab_labels.dsprites_location(np.arange(32))
        assert list(labels[[0, 1, 2, 31]]) == [0, 0, 1, 15]
        assert list(np.bincount(labels)) == [2] * 16

    def test_dsprites_orientation_takes_three_and_two_in_turn(self) -> None:
        labels = vtab_labels.dsprites_orientation(np.arange(40))
        assert list(labels[:8]) == [0, 0, 0, 1, 1, 2, 2, 2]
        assert labels[39] == 15
        assert list(np.bincount(labels)) == [3, 2] * 8

    def test_smallnorb_azimuth_and_elevation(self) -> None:
        assert list(vtab_labels.smallnorb_azimuth(np.arange(0, 36, 2))) == list(range(18))
        assert list(vtab_labels.smallnorb_elevation(np.arange(9))) == list(range(9))

    def test_one_example_does_as_well(self) -> None:
        assert vtab_labels.dsprites_orientation(5) == 2
        assert vtab_labels.smallnorb_azimuth(34) == 17

    @pytest.mark.parametrize(
        "refused",
        [
            lambda: vtab_labels.clevr_count(2),
            lambda: vtab_labels.clevr_count(11),
            lambda: vtab_labels.clevr_distance([]),
            lambda: vtab_labels.clevr_distance([0.0, 9.0]),
            lambda: vtab_labels.kitti_distance(["Car"], []),
            lambda: vtab_labels.dsprites_location([31, 32]),
            lambda: vtab_labels.dsprites_orientation([-1]),
            lambda: vtab_labels.smallnorb_azimuth([0, 3]),
            lambda: vtab_labels.smallnorb_elevation([9]),
        ],
    )
    def test_what_the_data_cannot_hold_is_refused(self, refused: object) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            refused()  # type: ignore[operator]


class TestTfdsOrder:
    def test_keys_are_sorted_by_md5_of_split_and_key(self) -> None:
        keys = [f"Forest_Forest_{number}.jpg" for number in range(50)]
        by_hand = sorted(range(50), key=lambda row: int(hashlib.md5(f"train{keys[row]}".encode()).hexdigest(), 16))
        assert list(tfds_order(keys, "train")) == by_hand
        assert list(tfds_order(keys, "validation")) != by_hand

    @pytest.mark.parametrize(
        ("dataset", "first"),
        [
            ("cifar100", [16399, 1680, 47917, 17307, 27051, 48736, 26263, 1456]),
            ("svhn", [16399, 1680, 47917, 17307, 27051, 70594]),
            ("smallnorb", [16399, 1680, 17307, 1456, 19135, 12970]),
            ("dsprites", [16399, 634903, 206287, 470425, 352707]),
            ("patch_camelyon", [251464, 132287, 133786, 86259]),
        ],
    )
    def test_train800_starts_as_worked_out(self, dataset: str, first: list[int]) -> None:
        rows = official_subset(dataset, "train800")
        assert list(rows["train"][: len(first)]) == first
        assert len(rows["train"]) == 800

    @pytest.mark.parametrize(
        ("dataset", "split", "first"),
        [
            ("cifar100", "train", [13431, 9237, 17462]),
            ("svhn", "train", [21145, 64736, 23870]),
            ("smallnorb", "test", [23018, 16932, 19084, 9933, 24157]),
            ("dsprites", "train", [220697, 85843, 84902]),
            ("patch_camelyon", "validation", [3270, 10310, 20603]),
        ],
    )
    def test_val200_starts_as_worked_out(self, dataset: str, split: str, first: list[int]) -> None:
        rows = official_subset(dataset, "val200")
        assert list(rows) == [split]
        assert list(rows[split][: len(first)]) == first
        assert len(rows[split]) == 200

    @pytest.mark.parametrize("dataset", CUTS)
    def test_the_thousand_are_the_800_and_the_200_and_none_is_in_test(self, dataset: str) -> None:
        train, validation, both, test = (
            {(split, row) for split, rows in official_subset(dataset, subset).items() for row in rows.tolist()}
            for subset in SUBSETS
        )
        assert (len(train), len(validation)) == (800, 200)
        assert both == train | validation
        assert len(both) == 1000
        assert not both & test
        task = next(task for task in TASKS if task.startswith(dataset))
        assert len(test) == TEST_EXAMPLES[task]

    def test_train800val200_holds_the_800_first(self) -> None:
        rows = official_subset("svhn", "train800val200")["train"]
        assert rows[[0, 800]].tolist() == [16399, 21145]

    def test_the_largest_split_is_ordered_once(self) -> None:
        first, second = (official_subset("dsprites", "test")["train"] for _ in range(2))
        assert np.shares_memory(first, second)

    def test_a_subset_cannot_be_changed_for_the_next_caller(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            official_subset("svhn", "train800")["train"][0] = 0

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match="train800, val200"):
            official_subset("svhn", "train")
        with pytest.raises(KeyError, match="eurosat"):
            official_subset("eurosat", "train800")


class TestResampling:
    def test_it_is_repeatable_and_follows_the_seed(self) -> None:
        first, again, other = (
            resampled_subset(1880, 1880),
            resampled_subset(1880, 1880),
            resampled_subset(1880, 1880, 1),
        )
        assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
        assert not np.array_equal(first[0], other[0])

    @pytest.mark.parametrize("pools", [(2944, 736), (1020, 1020), (3680, None), (1000, None)])
    def test_800_and_200_different_rows_of_their_pools(self, pools: tuple[int, int | None]) -> None:
        train, validation = resampled_subset(*pools)
        assert (len(set(train.tolist())), len(set(validation.tolist()))) == (800, 200)
        assert max(train) < pools[0]
        assert max(validation) < (pools[1] or pools[0])

    def test_rows_of_one_pool_are_disjoint(self) -> None:
        train, validation = resampled_subset(1000)
        assert sorted([*train, *validation]) == list(range(1000))

    @pytest.mark.parametrize("pools", [(799, 200), (800, 199), (999, None)])
    def test_a_pool_that_is_too_small_is_refused(self, pools: tuple[int, int | None]) -> None:
        with pytest.raises(ValueError, match="cannot be drawn"):
            resampled_subset(*pools)

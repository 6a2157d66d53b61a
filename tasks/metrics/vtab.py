"""VTAB-1k: its 19 tasks in three groups, and the two averages in use.

Source: Zhai et al. 2019, arXiv:1910.04867, and its code, google-research/task_adaptation. The metric of every task is
plain accuracy on its whole test split.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.metrics.averages import mean_or_none

# group, classes, test examples
TASKS = {
    "caltech101": ("natural", 102, 6084),
    "cifar100": ("natural", 100, 10000),
    "dtd": ("natural", 47, 1880),
    "oxford_flowers102": ("natural", 102, 6149),
    "oxford_iiit_pet": ("natural", 37, 3669),
    "svhn": ("natural", 10, 26032),
    "sun397": ("natural", 397, 21750),
    "patch_camelyon": ("specialized", 2, 32768),
    "eurosat": ("specialized", 10, 5400),
    "resisc45": ("specialized", 45, 6300),
    "diabetic_retinopathy": ("specialized", 5, 42670),
    "clevr_count": ("structured", 8, 15000),
    "clevr_distance": ("structured", 6, 15000),
    "dmlab": ("structured", 6, 22735),
    "kitti": ("structured", 4, 711),
    "dsprites_location": ("structured", 16, 73728),
    "dsprites_orientation": ("structured", 16, 73728),
    "smallnorb_azimuth": ("structured", 18, 12150),
    "smallnorb_elevation": ("structured", 9, 12150),
}
GROUPS = {
    group: tuple(task for task, (its_group, _, _) in TASKS.items() if its_group == group)
    for group in ("natural", "specialized", "structured")
}
CLASSES = {task: classes for task, (_, classes, _) in TASKS.items()}
TEST_EXAMPLES = {task: examples for task, (_, _, examples) in TASKS.items()}


def averages(scores: Mapping[str, float]) -> dict[str, float | None]:
    """The benchmark's mean over 19 tasks, the three group means, and the mean of those, on the scale of `scores`.

    `vtab_mean_19` is the official score. `vtab_mean_groups` is what much of the fine-tuning literature prints: some
    points higher, as the eight Structured tasks are the hardest. A mean is None while one of its tasks is missing.
    """
    groups = {group: mean_or_none([scores.get(task) for task in tasks]) for group, tasks in GROUPS.items()}
    return {
        "vtab_mean_19": mean_or_none([scores.get(task) for task in TASKS]),
        "vtab_mean_groups": mean_or_none(list(groups.values())),
        **groups,
    }

"""Every task runs from its built-in sample, and the methods of a usual comparison serve every kind of task."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.audit import audit
from bench.records.bundle import pack, unpack
from tests.conftest import CONFIGURATION, RunCommand, records

COMPARED = ("full", "linear_probe", "bitfit", "lora", "adalora", "prefix_tuning")
TASKS = sorted(
    file.relative_to(CONFIGURATION / "task").with_suffix("").as_posix()
    for file in (CONFIGURATION / "task").rglob("*.yaml")
    if file.stem != "_base"
)
OF_EVERY_KIND = (
    "superglue/copa",
    "superglue/multirc",
    "superglue/wsc",
    "gsm8k",
    "commonsense/arc_easy",
    "vtab/dsprites_orientation",
)
ON_TEXT = ("glue/", "superglue/")
SHORT = ("data=sample", "budget=smoke", "measure=none")


def unfinished(
    run: RunCommand, folder: Path, tasks: list[str], methods: tuple[str, ...], *arguments: str
) -> dict[tuple[str, str], str | None]:
    """The pairs of these without a complete record after a sweep over all of them, and what became of them."""
    run("-m", f"method={','.join(methods)}", f"task={','.join(tasks)}", *arguments, timeout=1700)
    ended = {(record.method, record.task): record for record in records(folder / "results").values()}
    complete = {pair for pair, record in ended.items() if record.status == "complete"}
    missing = {(method, task) for method in methods for task in tasks} - complete
    return {pair: ended[pair].error if pair in ended else None for pair in missing}


def grouped(tasks: tuple[str, ...] | list[str]) -> list[tuple[list[str], bool]]:
    """Tasks on text for an encoder, and the others, which choose a built-in model themselves."""
    text = [task for task in tasks if task.startswith(ON_TEXT)]
    return [(text, True), ([task for task in tasks if task not in text], False)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("tasks", "on_text"), grouped(TASKS), ids=["text", "decoders and images"])
def test_every_task_runs_from_its_sample(
    tasks: list[str], on_text: bool, command: RunCommand, tiny_bert: Path, tmp_path: Path
) -> None:
    model = [f"model.path={tiny_bert}"] if on_text else []
    assert unfinished(command, tmp_path, tasks, ("lora",), *SHORT, *model) == {}
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    assert audit(results) == []  # every score follows from its predictions
    pack(records(results), tmp_path / "bundle")
    assert unpack(tmp_path / "bundle", elsewhere) == len(records(results))
    assert audit(elsewhere) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("tasks", "on_text"), grouped(OF_EVERY_KIND), ids=["text", "decoders and images"])
def test_the_methods_of_a_comparison_serve_every_kind_of_task(
    tasks: list[str], on_text: bool, command: RunCommand, tiny_bert: Path, tmp_path: Path
) -> None:
    model = [f"model.path={tiny_bert}"] if on_text else []
    assert unfinished(command, tmp_path, tasks, COMPARED, *SHORT, *model) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("task=gsm8k", "model=minilm"), "The task needs a decoder; model=minilm (bert) is none."),
        (("task=vtab/dtd", "model=minilm"), "The task needs a model that reads images; model=minilm (bert) is none."),
        (("task=glue/sst2", "model=tiny-vit"), "The task needs a model that reads text; model=tiny-vit (vit) is none."),
        (("task=vtab/dtd", "method=prompt_tuning"), "method=prompt_tuning serves"),
        (("task=glue/sst2", "budget=vtab_final"), "task.protocol is no setting."),
        (("task=gsm8k", "task.annotations=remove"), "task.annotations=remove is unknown."),
        (("task=gsm8k", "task.form=merged"), "task.form=merged is unknown."),
        (("task=gsm8k", "task.template='{query}'"), "task.template has the field 'query'. Allowed: question."),
        (("task=vtab/svnh",), "Did you mean 'vtab/svhn'?"),
        (("task=vtab/svhn", "task.order=svhm"), "task.order=svhm is unknown. Did you mean 'svhn'?"),
        (
            ("task=gsm8k", "task.stops='Question:'"),
            "task.stops=Question: must be a list, such as task.stops=[Question:].",
        ),
        (("task=gsm8k", "task.max_new_tokens=null"), "task.max_new_tokens=None must be a whole number of at least 1."),
        (("task=glue/mrpc", "task.headline=f_1"), "task.headline=f_1 is unknown. Did you mean 'f1'?"),
        (("task=superglue/rte", "task.diagnostics=[axc]"), "task.diagnostics=axc is unknown."),
        (("task=commonsense/arc_easy", "task.reported_splits=[validation,test]"), "must be one split."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    arguments: tuple[str, ...], expected: str, command: RunCommand, tmp_path: Path
) -> None:
    done = command("data=sample", "budget=smoke", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "results").rglob("record.json"))

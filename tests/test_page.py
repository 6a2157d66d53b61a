"""The leaderboard page in a real browser, and what it is made of."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import page
from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.index import Index
from bench.leaderboard.publish import publish
from bench.records.record import RunRecord
from bench.records.store import Store
from tasks.metrics.averages import GLUE_NINE, SUPERGLUE_EIGHT
from tasks.metrics.vtab import TASKS as VTAB
from tests.conftest import ROOT, records, run_in, runs_of
from tests.test_record import record, write

pytest.importorskip("selenium")
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

TUNED = ("tuning=grid", "tuning.trials=3", "tuning.steps=2", "measure=none")
IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
WITH_DEFAULTS = ("lora", "smoke", "none")
SECONDS = 10.0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Real runs, tuned and with defaults, and two records whose names are markup; with their leaderboard."""
    folder = tmp_path_factory.mktemp("page")
    run = functools.partial(run_in, folder, "-m", f"model.path={tiny_bert}", "data=sample", "budget=smoke")
    for arguments in (
        ("method=lora,bitfit", "task=glue/rte,glue/mrpc", "seed=0,1", *TUNED),
        ("method=full,lora", "task=glue/rte"),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    measured = found(folder / "results", lambda value: (value.method, value.budget, value.tuning) == WITH_DEFAULTS)
    hostile = {"a" * 16: {"method": IMAGE, "trainable_parameters": 900}, "b" * 16: {"model": SCRIPT}}
    for run_id, changes in hostile.items():
        write(Store(folder / "results").root / "glue" / run_id, replace(measured, run_id=run_id, **changes))
    publish(folder / "results")
    return folder / "results"


def found(results: Path, wanted: Callable[[RunRecord], bool]) -> RunRecord:
    """The first record below a folder that is wanted."""
    return next(value for value in records(results).values() if wanted(value))


@pytest.fixture
def browser(chromium: Chrome, results: Path) -> Iterator[Chrome]:
    """The page, just opened from disk; afterwards its console must be empty."""
    chromium.get((results / "leaderboard" / "demonstration" / page.PAGE).as_uri())
    yield chromium
    assert chromium.get_log("browser") == []


def column(browser: Chrome, key: str) -> list[str]:
    """The cells of a column, from top to bottom, at one moment."""
    read = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText.trim())"
    return list(browser.execute_script(read, f"tbody td[data-key={key}]"))


def choose(browser: Chrome, select: str, text: str) -> None:
    """Choose an option by what it shows."""
    Select(browser.find_element(By.ID, select)).select_by_visible_text(text)


def choose_tuned(browser: Chrome) -> None:
    """Show the group of the tuned runs, all tasks of it."""
    choose(browser, "settings", "tuned")
    choose(browser, "task", "all")


def heading(browser: Chrome, key: str) -> Any:
    """The heading of a column."""
    return browser.find_element(By.CSS_SELECTOR, f"th[data-key={key}]")


def sort(browser: Chrome, key: str) -> str | None:
    """Press the button of a heading; the order that it tells then."""
    heading(browser, key).find_element(By.TAG_NAME, "button").click()
    return heading(browser, key).get_attribute("aria-sort")


class TestTable:
    def test_a_column_is_sorted_by_value_and_a_second_press_turns_it_round(self, browser: Chrome) -> None:
        choose(browser, "settings", "defaults")
        assert heading(browser, "trainable_parameters").get_attribute("aria-sort") == "none"
        assert sort(browser, "trainable_parameters") == "ascending"
        assert column(browser, "label") == [IMAGE, "lora", "full"]  # 900, 4,096, 121,280: the other way round as text
        assert sort(browser, "trainable_parameters") == "descending"
        assert column(browser, "label") == ["full", "lora", IMAGE]

    def test_what_was_not_measured_is_a_dash_and_comes_last_in_either_order(self, browser: Chrome) -> None:
        choose_tuned(browser)
        assert set(column(browser, "inference_latency_seconds_median")) == {"–"}
        choose(browser, "settings", "defaults")
        choose(browser, "task", "glue/rte")
        assert "–" not in column(browser, "inference_latency_seconds_median")

    def test_a_group_with_several_tasks_opens_with_their_mean(self, browser: Chrome, results: Path) -> None:
        choose(browser, "settings", "tuned")
        assert column(browser, "task") == ["mean of 2 tasks"] * 2
        scores = [
            value.score or 0.0
            for value in records(results).values()
            if value.method == "lora" and value.tuning == "grid" and not value.held_out
        ]
        assert len(scores) == 4
        shown = dict(zip(column(browser, "label"), column(browser, "score_mean"), strict=True))["lora"]
        assert float(shown.split()[0]) == pytest.approx(sum(scores) / 4, abs=0.005)

    @pytest.mark.parametrize(("word", "methods"), [("lor", {"lora"}), ("adapters", set()), ("scales", {"bitfit"})])
    def test_search_reads_methods_and_families(self, browser: Chrome, word: str, methods: set[str]) -> None:
        choose_tuned(browser)
        browser.find_element(By.ID, "text").send_keys(word)
        assert WebDriverWait(browser, SECONDS).until(lambda _: set(column(browser, "label")) == methods)

    def test_rows_are_filtered_by_task_and_by_family(self, browser: Chrome) -> None:
        choose_tuned(browser)
        assert len(column(browser, "label")) == 3 * 2  # a mean and two tasks of two methods
        choose(browser, "task", "glue/mrpc")
        assert set(column(browser, "task")) == {"glue/mrpc"}
        choose(browser, "family", "low-rank")
        assert column(browser, "label") == ["lora"]
        browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
        WebDriverWait(browser, SECONDS).until(lambda _: len(column(browser, "label")) > 1)

    def test_tuned_rows_and_defaults_are_never_in_one_table(self, browser: Chrome) -> None:
        choose_tuned(browser)
        assert set(column(browser, "tuning")) == {"tuned (3 trials)"}
        choose(browser, "settings", "defaults")
        assert set(column(browser, "tuning")) == {"defaults"}
        assert "lora" in column(browser, "label")
        assert "bitfit" not in column(browser, "label")

    def test_what_was_lost_is_marked_and_what_has_no_score_is_named(self, chromium: Chrome, tmp_path: Path) -> None:
        kept = record(settings_id="x", data_source="hub", run_id="0")
        lost = replace(kept, status="diverged", score=None, metrics={})
        for run in (kept, replace(lost, seed=1, run_id="1"), replace(lost, method="dora", run_id="2")):
            write(Store(tmp_path).folder(run.task, run.model, run.method, run.run_id), run)
        publish(tmp_path)
        chromium.get((tmp_path / "leaderboard" / page.PAGE).as_uri())
        assert column(chromium, "score_mean") == ["80.50 ‡"]
        named = chromium.find_element(By.ID, "lost").text
        assert named == "Without a score: dora on glue/sst2 (seeds 0: diverged)."

    def test_the_mark_of_the_edge_is_where_the_records_have_it(self, browser: Chrome, results: Path) -> None:
        choose_tuned(browser)
        choose(browser, "task", "glue/rte")
        shown = dict(zip(column(browser, "label"), column(browser, "learning_rate"), strict=True))
        for method, text in shown.items():
            of_row = functools.partial(is_first, method=method)
            assert ("edge" in text) == found(results, of_row).tuned_at_edge


def is_first(value: RunRecord, method: str) -> bool:
    """Whether the record is that of the first seed of a tuned row on RTE."""
    return (value.method, value.task, value.seed, value.tuning) == (method, "glue/rte", 0, "grid")


class TestDetails:
    def test_a_row_opens_to_the_command_of_its_first_seed(self, browser: Chrome, results: Path) -> None:
        choose_tuned(browser)
        choose(browser, "task", "glue/rte")
        row = browser.find_elements(By.CSS_SELECTOR, "tbody .method button")[column(browser, "label").index("lora")]
        row.click()
        assert row.get_attribute("aria-expanded") == "true"
        words = shlex.split(browser.find_element(By.CSS_SELECTOR, ".command code").text)
        first = found(results, functools.partial(is_first, method="lora"))
        assert words == ["python", "bench/run.py", *first.overrides]
        assert f"training.learning_rate={first.tuned_settings['training.learning_rate']}" in words
        row.click()
        assert browser.find_elements(By.CSS_SELECTOR, ".command") == []

    def test_the_command_is_copied(self, browser: Chrome) -> None:
        choose_tuned(browser)
        browser.find_element(By.CSS_SELECTOR, "tbody .method button").click()
        button = browser.find_element(By.CSS_SELECTOR, ".command button")
        button.click()
        assert WebDriverWait(browser, SECONDS).until(lambda _: button.text == "Copied")

    def test_a_row_leads_to_the_card_of_its_method(self, browser: Chrome) -> None:
        choose_tuned(browser)
        browser.find_elements(By.CSS_SELECTOR, "tbody .method button")[column(browser, "label").index("lora")].click()
        browser.find_element(By.LINK_TEXT, "About lora").click()
        card = browser.find_element(By.CSS_SELECTOR, "details[data-method=lora]")
        assert card.get_attribute("open") is not None
        assert "arXiv:2106.09685" in card.text


class TestPlots:
    def test_pointing_at_a_mark_shows_what_it_is(self, browser: Chrome) -> None:
        choose_tuned(browser)
        choose(browser, "task", "glue/rte")
        figure = browser.find_element(By.ID, "plot-scores")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
        marks = WebDriverWait(browser, SECONDS).until(
            lambda _: figure.find_elements(By.CSS_SELECTOR, ".mark-symbol.role-mark path")
        )
        ActionChains(browser).move_to_element(marks[0]).perform()
        tooltip = WebDriverWait(browser, SECONDS).until(
            lambda _: browser.find_element(By.CSS_SELECTOR, "#vg-tooltip-element.visible")
        )
        assert "glue/rte" in tooltip.text
        assert any(method in tooltip.text for method in ("lora", "bitfit"))

    def test_every_plot_that_fits_the_choice_is_drawn(self, browser: Chrome) -> None:
        choose_tuned(browser)
        assert drawn(browser) == {
            "plot-scores",
            "plot-time",
            "plot-profiles",
            "plot-critical-differences",
            "plot-ranks",
        }
        choose(browser, "task", "glue/mrpc")
        assert drawn(browser) == {"plot-scores", "plot-time", "plot-learning-rates", "plot-training", "plot-ranks"}
        choose(browser, "settings", "defaults")
        assert drawn(browser) == {"plot-scores", "plot-memory", "plot-time", "plot-training"}


def drawn(browser: Chrome) -> set[str]:
    """The plots with a drawing, each of them brought into view first."""
    figures = [figure for figure in browser.find_elements(By.TAG_NAME, "figure") if figure.is_displayed()]
    for figure in figures:
        browser.execute_script("arguments[0].scrollIntoView()", figure)
        filled = functools.partial(figure.find_elements, By.CSS_SELECTOR, ".chart > *")
        WebDriverWait(browser, SECONDS).until(lambda _, filled=filled: filled())
    return {str(figure.get_attribute("id")) for figure in figures if figure.find_elements(By.CSS_SELECTOR, "svg path")}


class TestPage:
    def test_it_asks_no_network_for_anything(self, browser: Chrome) -> None:
        assert browser.current_url.startswith("file://")
        assert (
            browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
        )

    def test_names_that_are_markup_are_shown_as_text_and_run_nothing(self, browser: Chrome) -> None:
        choose(browser, "settings", "defaults")
        assert IMAGE in column(browser, "label")
        choose(browser, "model", SCRIPT)
        assert SCRIPT in browser.find_element(By.ID, "facts").text
        names = [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".card summary")]
        assert any(name.startswith(IMAGE) for name in names)
        assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
        with pytest.raises(NoAlertPresentException):
            browser.switch_to.alert  # noqa: B018

    def test_a_phone_needs_no_sideways_scrolling(self, browser: Chrome) -> None:
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            browser.refresh()
            choose_tuned(browser)
            browser.find_element(By.CSS_SELECTOR, "tbody .method button").click()
            drawn(browser)
            assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 390
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_it_follows_the_system_into_the_dark_and_the_reader_out_of_it(self, browser: Chrome) -> None:
        light = ground(browser)
        wish = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        try:
            dark = ground(browser)
            assert brightness(dark) < 64 < 192 < brightness(light)
            browser.find_element(By.ID, "theme").click()
            assert ground(browser) == light
        finally:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def test_the_keyboard_reaches_the_headings_and_sorts(self, browser: Chrome) -> None:
        choose_tuned(browser)
        browser.find_element(By.ID, "family").send_keys(Keys.TAB)  # to the button that clears the filters
        for _ in range(3):
            ActionChains(browser).send_keys(Keys.TAB).perform()  # the table, its first heading, its second
        focus = browser.switch_to.active_element
        assert focus.text.startswith("Method")
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        assert heading(browser, "label").get_attribute("aria-sort") == "ascending"
        assert column(browser, "label") == sorted(column(browser, "label"))
        assert browser.switch_to.active_element.text.startswith("Method"), "the focus stays where it was"

    def test_every_control_has_a_label(self, browser: Chrome) -> None:
        unnamed = (
            "return [...document.querySelectorAll('input, select')].filter((found) => !found.labels.length).length"
        )
        assert browser.execute_script(unnamed) == 0


def ground(browser: Chrome) -> str:
    """The colour of the page's background."""
    return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))


def brightness(colour: str) -> float:
    """The mean of the channels of `rgb(...)`, 0 to 255."""
    channels = [float(channel) for channel in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(channels) / 3


class TestFiles:
    def test_equal_records_give_equal_bytes_in_every_process(self, results: Path) -> None:
        folder = results / "leaderboard"
        before = {path: path.read_bytes() for path in folder.rglob("*.*")}
        assert {path.suffix for path in before} == {".csv", ".md", ".tex", ".html", ".svg", ".png"}
        for path in before:
            path.unlink()
        command = [sys.executable, str(ROOT / "scripts" / "leaderboard.py"), "--results", str(results)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
        assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before

    def test_plots_are_well_formed_and_hold_names_as_text(self, results: Path) -> None:
        plots = list((results / "leaderboard" / "demonstration" / page.PLOTS).rglob("*.svg"))
        elements = [element for path in plots for element in ET.parse(path).iter()]
        assert IMAGE in {element.text for element in elements}
        assert not {element.tag.rpartition("}")[2] for element in elements} & {"script", "img", "image"}

    def test_without_its_packages_the_tables_are_written_and_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocked = tmp_path / "blocked"
        blocked.mkdir()
        (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['altair'] = None\n")
        write(Store(tmp_path).root / "one", record(settings_id="x"))
        command = [sys.executable, str(ROOT / "scripts" / "leaderboard.py"), "--results", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(blocked)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr.strip()) == (0, page.NEEDED)
        assert (tmp_path / "leaderboard" / "demonstration" / "glue.csv").is_file()
        assert not (tmp_path / "leaderboard" / "demonstration" / page.PAGE).exists()


def of_benchmarks() -> list[RunRecord]:
    """One run of every task that an average needs."""
    tasks = [f"vtab/{name}" for name in VTAB] + [f"glue/{name}" for name in GLUE_NINE]
    tasks += [f"superglue/{name}" for name in SUPERGLUE_EIGHT]
    return [record(settings_id="x", task=task) for task in tasks]


class TestDocumentation:
    def test_it_is_up_to_date(self) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "document_leaderboard.py"), "--check"]
        assert subprocess.run(command).returncode == 0

    def test_every_column_of_every_table_is_explained(self, results: Path) -> None:
        from scripts.document_leaderboard import meanings

        index = Index.refreshed(results)
        real, all_tasks = (
            Boards.of(Sources(index.runs, index.trials, Store(results).root)),
            Boards.of(Sources(runs_of(of_benchmarks()), runs_of([]), results)),
        )
        tables = real.tables | {"averages": all_tasks.averages}
        assert tables.keys() >= {"glue", "overall", "profiles", "comparisons", "pareto", "lost"}
        for name, table in tables.items():
            assert len(table) or name == "lost", name
            assert set(table.columns) == meanings("benchmark" if name == "glue" else name).keys()

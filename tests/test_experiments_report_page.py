"""The dtype study's HTML page: it loads nothing, names stay text, tables sort and filter, the chart draws."""

import json
import re
import shutil

import pytest
from conftest import run_main
from experiment_rows import RATES, write_results

from experiments import report
from experiments.dtype_configs import CONFIGS, get_config

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 2">'
NAMES = [config.name for config in CONFIGS]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of both tasks, with a configuration and a reason that are markup."""
    folder = tmp_path_factory.mktemp("page")
    for task in RATES:
        rows = write_results(folder / task, task, seeds=2, grid=False)
        with (folder / task / "results.jsonl").open("a") as file:
            failed = {"config": HOSTILE, "status": "diverged", "reason": HOSTILE, "metrics": None}
            file.write(json.dumps(rows[0] | failed) + "\n")
    out = folder / "out"
    flags = ("--results", *[folder / task for task in RATES], "--out", out, "--resamples", 50)
    result = run_main(report.main, *flags)
    assert result.returncode == 0, result.stderr
    return out / "report.html"


def test_the_page_loads_nothing_and_holds_names_as_text(path):
    page = path.read_text("ascii")
    assert "default-src 'none'" in page and page.count("<script") == page.count("</script") == 2
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", outside).replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert not re.search(r"https?:|<link|<iframe|@import|url\(|import\(|fetch\(", outside)
    assert page.count("data:image/png;base64,") == page.count("<img") == 7
    assert HOSTILE not in page and "&lt;script&gt;window.broken = 1" in page
    block = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert [chapter["title"] for chapter in block] == ["Classification", "Language modelling"]


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium or Chrome on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, path):
    """The open page; the test fails if it asked for anything, spoke up or broke."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, seen = context.new_page(), []
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on(
        "request", lambda r: seen.append(r.url) if not r.url.startswith(("data:", path.as_uri())) else None
    )
    page.goto(path.as_uri())
    yield page
    assert seen == [] and page.evaluate("window.broken") is None
    context.close()


def section_of(page, title, number=0):
    return page.locator(f"section:has(> h3:text-is('{title}'))").nth(number)


def names_in(section):
    rows = section.locator("tbody tr")
    return rows.evaluate_all("rows => rows.filter(r => !r.hidden).map(r => r.cells[0].textContent)")


def test_headings_sort_and_missing_cells_come_last(page):
    cost = section_of(page, "Speed and memory")
    assert names_in(cost)[: len(NAMES)] == NAMES
    cost.get_by_role("button", name="samples/s").click()
    cells = cost.locator("tbody tr").evaluate_all("rows => rows.map(r => r.cells[1].textContent)")
    numbers = [float(cell.replace(",", "")) for cell in cells if cell != "-"]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == len(NAMES) - 3
    assert cells[len(numbers) :] == ["-"] * 4
    cost.get_by_role("button", name="samples/s").press("Enter")
    cells = cost.locator("tbody tr").evaluate_all("rows => rows.map(r => r.cells[1].textContent)")
    assert [float(cell) for cell in cells if cell != "-"] == numbers[::-1] and cells[-1] == "-"
    assert cost.get_by_role("columnheader", name="samples/s").get_attribute("aria-sort") == "ascending"
    cost.get_by_role("button", name="configuration").click()
    assert names_in(cost) == sorted([*NAMES, HOSTILE], key=str.lower, reverse=True)


def test_the_filter_narrows_tables_and_chart(page):
    page.fill("#filter", "kahan | fp32_")
    wanted = [name for name in NAMES if "kahan" in name or "fp32_" in name]
    for title in ("Quality", "Speed and memory"):
        assert names_in(section_of(page, title)) == wanted == names_in(section_of(page, title, 1))
    legend = page.locator("#legend label").all_text_contents()
    assert legend == wanted
    assert page.locator("#found").text_content() == f"{len(wanted)} shown"
    page.fill("#filter", "nowhere")
    assert page.locator("#plot svg text").all_text_contents() == ["no run gives this yet"]
    page.fill("#filter", "")
    assert names_in(section_of(page, "Quality")) == [*NAMES, HOSTILE]


def test_the_chart_draws_what_is_asked_for(page):
    drawn = page.locator("#plot svg .mark")
    completed = len(NAMES) - 2
    assert drawn.count() == completed + 1  # the hostile row has a curve
    assert page.locator("#plot svg .curve").count() == completed + 1
    page.select_option("#view", "difference")
    assert page.locator('#plot svg [data-config="fp32_baseline"] .dot').count() == 10
    heights = page.locator('#plot svg [data-config="fp32_baseline"] .dot').evaluate_all(
        "dots => dots.map(dot => dot.getAttribute('cy'))"
    )
    assert len(set(heights)) == 1  # zero all along
    page.select_option("#task", "1")
    page.select_option("#view", "speed")
    assert drawn.count() == completed - 1  # the emulated one has no speed
    titles = page.locator("#plot svg .dot title").all_text_contents()
    assert any(re.fullmatch(r"fp32_baseline: 50\.5, 2\.\d+", title) for title in titles)
    assert "test loss" in page.locator("#plot svg").text_content()
    page.click("#none")
    assert drawn.count() == 0
    page.locator("#legend label", has_text="bf16_kahan").click()
    assert drawn.evaluate_all("marks => marks.map(mark => mark.dataset.config)") == ["bf16_kahan"]
    drawn.locator(".dot").hover()
    assert page.locator("#point").text_content().startswith("bf16_kahan: ")
    page.click("#all")
    assert drawn.count() == completed - 1


def test_every_part_is_linked_and_fits_its_window(page):
    links = page.locator("nav a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert len(links) == page.locator("section").count() and all(
        page.locator(link).count() == 1 for link in links
    )
    for width in (360, 900, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    loaded = page.locator("img").evaluate_all("images => images.map(i => i.complete && i.naturalWidth > 0)")
    assert all(loaded) and len(loaded) == 7


def test_one_chapter_without_a_curve(browser, tmp_path):
    configs = [get_config("amp_bf16")]
    rows = write_results(tmp_path / "r", "language_modeling", 1, False, configs)
    (tmp_path / "r" / "results.jsonl").write_text(json.dumps(rows[0] | {"curve": None}) + "\n")
    result = run_main(report.main, "--results", tmp_path / "r", "--out", tmp_path / "out", "--resamples", 0)
    assert result.returncode == 0, result.stderr
    page = browser.new_page()
    page.goto((tmp_path / "out" / "report.html").as_uri())
    assert page.locator("#plot svg text").all_text_contents() == ["no run gives this yet"]
    page.select_option("#view", "memory")
    assert page.locator("#plot svg .dot").count() == 1
    page.close()

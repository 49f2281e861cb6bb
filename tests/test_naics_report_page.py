"""The report of a hand-made model: its measures, and its page in a browser, which asks for nothing."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from conftest import assert_refused, run_main
from tiny_naics import TITLES, hand_made, write_data

from naics import evaluate, report
from naics.consistency import Predictions, confused_siblings, parents_found, radius_levels, sector_table
from naics.data.census import load_taxonomy
from naics.disk_layout import circular_order, disk_radii, fit_disk, wedge_angles

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 2"> | nails'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report whose nail salons have a title and an entry of markup, the entry taken for beauty salons."""
    folder = tmp_path_factory.mktemp("report")
    data_dir = write_data(
        folder / "data", {"812113": HOSTILE}, [("812113", "Beauty " + HOSTILE, "validation")]
    )
    model = hand_made(data_dir, folder / "run/best.pt")
    model.words = dict.fromkeys(re.findall(r"\w+", HOSTILE), model.codes[model.taxonomy.row("812112")])
    patch = pytest.MonkeyPatch()
    patch.setattr(report, "load_model", lambda checkpoint, data_dir, device: model)
    patch.setattr(evaluate, "load_model", lambda checkpoint, data_dir, device: model)
    flags = ("--checkpoint", model.checkpoint, "--data_dir", data_dir)
    result = run_main(evaluate.main, *flags, "--split", "validation")
    assert result.returncode == 0, result.stderr
    flags += ("--out", folder / "out")
    result = run_main(report.main, *flags)
    patch.undo()
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def taxonomy(folder):
    return load_taxonomy(folder / "data")


# ---------------------------------------------------------------- measures


def test_radii_by_level_by_hand(taxonomy):
    radii = taxonomy.levels - 1.0
    rows = radius_levels(taxonomy, radii)
    assert [row["codes"] for row in rows] == [3, 3, 4, 5, 8]
    assert all(
        row["farther_than_parent"] == row["mean_step"] == row["above_previous"] == 1 for row in rows[1:]
    )
    assert "farther_than_parent" not in rows[0]
    inward = radii.copy()
    inward[taxonomy.row("812910")] = 3.5  # inside its parent (4), outside all of level 4 (3)
    inward[taxonomy.row("812112")] = 4.0  # level with its parent and with all others of level 5
    last = radius_levels(taxonomy, inward)[-1]
    assert last["farther_than_parent"] == 6 / 8
    assert last["above_previous"] == pytest.approx((6 + 0.5 + 0) / 8, abs=1e-4)
    assert last["mean_step"] == pytest.approx((6 * 1 - 0.5 + 0) / 8, abs=1e-4)


def test_parents_found_leaves_only_children_out(taxonomy):
    n = len(taxonomy)
    distances = np.ones((n, n))
    for row in range(n):
        distances[row, taxonomy.parents[row]] = 0 if taxonomy.parents[row] >= 0 else 1
    assert parents_found(taxonomy, distances) == {4: 1.0, 5: 1.0, 6: 1.0}
    distances[taxonomy.row("812112"), taxonomy.row("81292")] = -1
    distances[taxonomy.row("812910"), taxonomy.row("81292")] = -1  # an only child
    assert parents_found(taxonomy, distances)[6] == 5 / 6


def test_confusions_by_hand(taxonomy):
    def rows(*codes):
        return np.array([taxonomy.row(code) for code in codes])

    targets = rows("812921", "812921", "812921", "812922", "812910", "311811", "541940")
    found = rows("812922", "812922", "812921", "812921", "541940", "311811", "541940")
    predictions = Predictions(["a", "b", "c", "d", "e", "f", "g"], targets, found)
    pairs = [
        (pair["code"], pair["taken_for"], pair["entries"], pair["of"], pair["example"])
        for pair in confused_siblings(taxonomy, predictions)
    ]
    assert pairs == [("812921", "812922", 2, 3, "a"), ("812922", "812921", 1, 1, "d")]
    table, shares = sector_table(taxonomy, taxonomy.levels - 1.0, predictions)
    assert [row["sector"] for row in table] == ["31", "54", "81"]
    assert [row["right_sector"] for row in table] == [1, 1, 0.8]
    assert [row["right_code"] for row in table] == [1, 1, 0.2]
    assert [row["most_taken_for"] for row in table] == [None, None, "54"]
    np.testing.assert_allclose(shares, [[1, 0, 0], [0, 1, 0], [0, 0.2, 0.8]])


def test_the_report_says_what_it_measured(folder):
    measures = json.loads((folder / "out/report.json").read_text())
    assert measures["dimension"] == 8 and measures["entries"] == 9
    assert measures["evaluation"]["counts"]["candidates"] == 8
    assert measures["calibration"]["entries"] == 9 and len(measures["calibration"]["weights"]) == 2
    assert [row["median"] for row in measures["levels"]] == pytest.approx(
        [0.55, 1.1, 1.65, 2.2, 2.75], abs=1e-3
    )
    assert any(pair["example"] == "Beauty " + HOSTILE for pair in measures["confused_siblings"])
    text = (folder / "out/report.md").read_text()
    first = measures["evaluation"]["text_to_code"]["hybrid search"]["top1"]
    assert f"| hybrid search | {first['value']:.3f} [{first['low']:.3f}, {first['high']:.3f}] |" in text
    assert "| spearman | " in text and "| 6 national industry | " in text.split("## Confidence")[1]
    assert "| 6 national industry | 8 | 2.75 | 2.75 | 2.75 | 100.0% | 0.55 | 100.0% | " in text
    assert "&lt;script>window.broken = 1" in text and "<script" not in text
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if "onerror" in line}
    assert bars == {7}  # a bar in a title is no cell


# ---------------------------------------------------------------- the picture


def test_the_disk_keeps_the_learned_radii(taxonomy, folder):
    model = hand_made(folder / "data", folder / "other/best.pt")
    radii = np.linalg.norm(model.codes, axis=1) * np.linspace(0.9, 1.1, len(taxonomy))
    points = fit_disk(taxonomy, radii, model.distances(model.codes))
    shown = 2 * np.arctanh(np.linalg.norm(points, axis=1))
    np.testing.assert_allclose(shown / radii, (shown / radii)[0], rtol=1e-5)
    flat = disk_radii(taxonomy, np.ones(len(taxonomy)))  # a sphere has no depth: a ring a level
    np.testing.assert_allclose(flat / flat.min(), taxonomy.levels - 1)


def test_families_lie_together(taxonomy, folder):
    """In the disk, as in the space, the nearest code is one of the same sector."""
    model = hand_made(folder / "data", folder / "other/best.pt")
    points = fit_disk(taxonomy, np.linalg.norm(model.codes, axis=1), model.distances(model.codes))
    leaves, norm = points[taxonomy.leaves], 1 - (points[taxonomy.leaves] ** 2).sum(1)
    gap = ((leaves[:, None] - leaves) ** 2).sum(-1)
    near = np.arccosh(1 + 2 * gap / (norm[:, None] * norm))
    np.fill_diagonal(near, np.inf)
    sectors = taxonomy.sectors[taxonomy.leaves]
    siblings = np.bincount(sectors)[sectors] > 1
    assert (sectors[near.argmin(1)] == sectors)[siblings].all()


def test_wedges_are_as_wide_as_their_leaves(taxonomy):
    angles = wedge_angles(taxonomy, np.ones((len(taxonomy), len(taxonomy))))
    leaves = np.sort(angles[taxonomy.leaves])
    np.testing.assert_allclose(np.diff(leaves), 2 * np.pi / len(leaves))
    for row in range(len(taxonomy)):
        below = np.flatnonzero((taxonomy.ancestors == row).any(1) & (taxonomy.levels == 6))
        assert angles[row] == pytest.approx((angles[below].min() + angles[below].max()) / 2)


def test_the_round_trip_is_the_shortest(seed=0):
    """Points on a circle, shuffled: the best tour is the circle."""
    turn = np.random.default_rng(seed).permutation(12)
    points = np.stack([np.cos(turn * np.pi / 6), np.sin(turn * np.pi / 6)], axis=1)
    tour = circular_order(np.linalg.norm(points[:, None] - points, axis=-1))
    steps = np.diff(np.append(turn[tour], turn[tour[0]])) % 12
    assert set(steps) == {1} or set(steps) == {11}


# ---------------------------------------------------------------- the page


def test_the_page_loads_nothing_and_holds_titles_as_text(folder):
    page = (folder / "out/report.html").read_text("ascii")
    assert "default-src 'none'" in page and page.count("<script") == page.count("</script") == 2
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?:|<link|<iframe|@import|url\(|import\(|fetch\(", outside)
    assert HOSTILE not in page and "&lt;script&gt;window.broken = 1" in page


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium or Chrome on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, folder):
    """The open page; the test fails if it asked for anything, spoke up or broke."""
    address = (folder / "out/report.html").as_uri()
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page, seen = context.new_page(), []
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text))
    page.on("request", lambda request: None if request.url == address else seen.append(request.url))
    page.goto(address)
    page.locator("#canvas").scroll_into_view_if_needed()
    yield page
    assert seen == [] and page.evaluate("window.broken") is None
    context.close()


def frames(page):
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def place_of(page, code):
    """Where a code stands in the first view, in pixels of the window."""
    disk = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    row, box = disk["codes"].index(code), page.locator("#canvas").bounding_box()
    radius = box["width"] / 2 - 6
    return (
        box["x"] + box["width"] / 2 + radius * disk["x"][row],
        box["y"] + box["height"] / 2 - radius * disk["y"][row],
    )


def colour_at(page, x, y):
    from PIL import Image

    shot = page.screenshot(clip={"x": round(x), "y": round(y), "width": 1, "height": 1})
    return np.array(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=int)[0, 0]


def test_hover_shows_a_code(page):
    tip = page.locator("#tip")
    assert tip.is_hidden()
    for code in ("812910", "54", "311812"):
        page.mouse.move(*place_of(page, code))
        assert tip.is_visible() and tip.locator("b").inner_text() == f"{code} {TITLES[code]}"
    assert (
        "81 \u203a 812" not in tip.inner_text()
        and "31 \u203a 311 \u203a 3118 \u203a 31181" in tip.inner_text()
    )
    page.mouse.move(*place_of(page, "812113"))
    assert tip.locator("b").inner_text() == f"812113 {HOSTILE}"
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert tip.is_hidden()


def test_the_search_narrows_and_leads_to_a_code(page):
    page.fill("#search", "photofinishing")
    found = page.locator("#results .code").all_inner_texts()
    assert found == ["81292", "812921", "812922"]
    assert page.locator("#found").inner_text() == "3 of 23 codes"
    frames(page)
    page.mouse.move(*place_of(page, "311812"))
    assert page.locator("#tip").is_hidden()  # what does not match is faded, and no target
    page.fill("#search", "8129 pet")
    assert page.locator("#results .code").all_inner_texts() == ["81291", "812910"]
    page.press("#search", "Enter")
    assert page.locator("#detail h3").inner_text() == "81291 " + TITLES["81291"]
    listed = page.locator("#detail .row .code").all_inner_texts()
    assert listed[:4] == ["81", "812", "8129", "812910"]
    page.locator("#detail .row", has_text="812910").click()
    assert page.locator("#detail h3").inner_text() == "812910 " + TITLES["812910"]
    # 8129 is the nearest ancestor with more than one child, and stands at the centre now.
    frames(page)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#tip b").inner_text().startswith("8129 ")
    page.fill("#search", "nothing like it")
    assert (
        page.locator("#results .row").count() == 0 and page.locator("#found").inner_text() == "0 of 23 codes"
    )
    page.click("#reset")
    frames(page)
    page.mouse.move(*place_of(page, "812910"))
    assert page.locator("#tip b").inner_text() == "812910 " + TITLES["812910"]


def test_a_sector_stands_alone(page):
    place = place_of(page, "54")
    lively = colour_at(page, *place)
    page.mouse.move(*place)
    assert page.locator("#tip b").inner_text().startswith("54 ")
    row = page.locator("#sectors .row", has_text="Manufacturing")
    row.click()
    frames(page)
    assert page.locator("#sectors .row[aria-pressed=true] .code").all_inner_texts() == ["31"]
    assert page.locator("#detail h3").inner_text() == "31 Manufacturing"
    # Its sector code stands at the centre, in colour; nothing else can be pointed at.
    box = page.locator("#canvas").bounding_box()
    centre = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert np.ptp(colour_at(page, *centre)) > 50
    seen = set()
    for x in np.linspace(box["x"] + 10, box["x"] + box["width"] - 10, 12):
        for y in np.linspace(box["y"] + 10, box["y"] + box["height"] - 10, 12):
            page.mouse.move(x, y)
            if page.locator("#tip").is_visible():
                seen.add(page.locator("#tip b").inner_text()[:2])
    assert seen == {"31"}
    row.click()
    page.click("#reset")
    frames(page)
    assert (colour_at(page, *place) == lively).all()


def test_drag_and_wheel_move_the_disk(page):
    start = place_of(page, "812910")
    box = page.locator("#canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*middle, steps=4)
    page.mouse.up()
    frames(page)
    assert page.locator("#detail h3").count() == 0  # a drag chooses nothing
    page.mouse.move(middle[0] + 1, middle[1] + 1)
    assert page.locator("#tip b").inner_text() == "812910 " + TITLES["812910"]
    page.click("#reset")
    frames(page)
    page.mouse.move(*start)
    page.mouse.wheel(0, -400)
    frames(page)
    page.mouse.move(start[0] + 1, start[1])
    assert page.locator("#tip b").inner_text() == "812910 " + TITLES["812910"]  # it grows about the pointer
    page.mouse.move(*place_of(page, "311812"))
    assert page.locator("#tip").is_hidden() or "311812" not in page.locator("#tip").inner_text()


def test_levels_are_hidden_on_request(page):
    place = place_of(page, "812910")
    page.mouse.move(*place)
    assert page.locator("#tip").is_visible()
    page.select_option("#depth", "4")
    frames(page)
    page.mouse.move(place[0] + 1, place[1])
    assert page.locator("#tip").is_hidden() or "812910" not in page.locator("#tip").inner_text()


def test_the_page_fits_its_window(page):
    for width in (380, 900, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    links = page.locator("nav a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert len(links) == page.locator("section").count() and all(page.locator(a).count() == 1 for a in links)


def test_bad_input_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("{")
    flags = ("--checkpoint", folder / "run/best.pt", "--data_dir", folder / "data")
    assert_refused(run_main(report.main, *flags, "--out", tmp_path / "file"), "is a file")
    out = ("--out", tmp_path / "out", "--results")
    assert_refused(run_main(report.main, *flags, *out, tmp_path / "none.json"), "no such file", "evaluate")
    assert_refused(run_main(report.main, *flags, *out, tmp_path / "file"), "no JSON")
    (tmp_path / "file").write_text('{"counts": 3}')
    assert_refused(run_main(report.main, *flags, *out, tmp_path / "file"), "not what evaluate writes")
    assert not (tmp_path / "out").exists()

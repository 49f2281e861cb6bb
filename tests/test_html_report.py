"""The HTML page: what it holds and how it is escaped, and its filters as a reader clicks them in a browser.

python -m pytest tests/test_html_report.py
"""

import csv
import json
import re
import shutil
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_main
from datasets import Dataset

from category_classification import evaluate_embedding_classifier, html_report
from category_classification.evaluate_embedding_classifier import calibration, report_with_intervals
from category_classification.evaluation import score
from category_classification.html_report import most_confident_errors, write_html
from category_classification.lspc import Split

CLASSES, LANGUAGES = ["Books", "Jewelry & co", "Shoes"], ["en", "de", "ja"]
HOSTILE = [
    "</script><script>window.broken = 1</script><!-- <script>",
    '<img src="http://example.org/x" onerror="window.broken = 1">',
    "line\u2028separator\u2029 \x00\x1b[31m ${window.broken = 1} `",
    '=HYPERLINK("http://example.org")',
    "\u202eright to left override, שלום עולם",
    "新しい 商品 です ＡＢＣ",
    "long " * 1000,
]


def make_split(labels, languages=None, classes=CLASSES, language_names=LANGUAGES, clusters=None) -> Split:
    rows = len(labels)
    return Split(
        name="test",
        tokens=np.zeros(rows, np.uint32),
        offsets=np.arange(rows + 1),
        labels=np.array(labels),
        languages=np.zeros(rows, np.int64) if languages is None else np.array(languages),
        clusters=np.arange(rows) if clusters is None else np.array(clusters),
        seen=np.zeros(1, bool),
        class_names=list(classes),
        language_names=list(language_names),
        fingerprint="",
    )


def make_page(path, split, logits, texts, temperature=1.0, lang_min_samples=1):
    """The page as the script writes it, and the errors that it holds."""
    result = score(logits.astype(np.float32), split, lang_min_samples, 0)
    args = SimpleNamespace(resamples=20, seed=0, lang_min_samples=lang_min_samples, lang_top_k=0)
    metrics = {
        "checkpoint": "run<1>/best.pt",
        "data": "data",
        "split": "test",
        **report_with_intervals(result, split, args),
        "calibration": calibration(result, split, temperature),
    }
    errors = most_confident_errors(result.logits, split, temperature, Dataset.from_dict({"text": texts}))
    write_html(path, metrics, "run<1>/best.pt, test split", errors)
    return path.read_text("ascii"), errors


def make_rows(count, seed=0):
    """Random labels and logits: about a third of the rows is right."""
    rng = np.random.default_rng(seed)
    split = make_split(rng.integers(3, size=count), rng.integers(3, size=count))
    return split, 2 * rng.normal(size=(count, 3)), [f"offer {i}" for i in range(count)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page of 130 rows, none right, that begins with the hostile texts."""
    split, logits, texts = make_rows(130)
    logits[np.arange(130), split.labels] -= 20
    logits[np.arange(len(HOSTILE)), (split.labels[: len(HOSTILE)] + 1) % 3] += 40 - np.arange(len(HOSTILE))
    path = tmp_path_factory.mktemp("page") / "report.html"
    page, errors = make_page(path, split, logits, HOSTILE + texts[len(HOSTILE) :])
    return path, page, errors


# ---------------------------------------------------------------- what a page holds


def block_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_loads_nothing_and_keeps_hostile_texts_inside_its_block(hostile):
    _, page, errors = hostile
    assert page.isascii() and "default-src 'none'" in page
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?:|<link|<img|<iframe|@import|url\(|\bsrc=|import\(|fetch\(", outside)
    assert page.count("<script") == page.count("</script") == 2 and "<!--" not in page
    assert "run&lt;1&gt;/best.pt" in page and "Jewelry &amp; co" in page and "run<1>" not in page
    assert block_of(page) == errors
    cut = [text if len(text) <= 400 else text[:400] + "…" for text in HOSTILE]
    assert [error["text"] for error in errors[: len(HOSTILE)]] == cut


def test_errors_are_the_disagreements_most_confident_first(tmp_path):
    split, logits, texts = make_rows(300)
    split.clusters = split.clusters + 2**53  # neither neighbours nor digits may be lost
    _, errors = make_page(tmp_path / "a.html", split, logits, texts, temperature=1.7)
    logits = torch.from_numpy(logits.astype(np.float32)).double()
    probabilities, predictions = (logits / 1.7).softmax(1).numpy(), logits.argmax(1).numpy()
    wrong = [i for i in range(300) if predictions[i] != split.labels[i]]
    assert sorted(error["row"] for error in errors) == wrong
    assert all(a["probability"] >= b["probability"] for a, b in zip(errors, errors[1:], strict=False))
    for error in errors:
        row = error["row"]
        assert error["text"] == f"offer {row}" and error["cluster"] == str(row + 2**53)
        assert (
            error["label"] == CLASSES[split.labels[row]] and error["prediction"] == CLASSES[predictions[row]]
        )
        assert error["language"] == LANGUAGES[split.languages[row]]
        assert error["probability"] == pytest.approx(probabilities[row, predictions[row]], abs=1e-6)
        assert error["label_probability"] == pytest.approx(probabilities[row, split.labels[row]], abs=1e-6)


def test_a_page_holds_the_most_confident_errors_and_says_so(tmp_path, monkeypatch):
    split, logits, texts = make_rows(300)
    page, all_errors = make_page(tmp_path / "a.html", split, logits, texts)
    assert f"holds all {len(all_errors)} errors" in page
    monkeypatch.setattr(html_report, "MOST_ERRORS", 20)
    page, errors = make_page(tmp_path / "a.html", split, logits, texts)
    assert errors == all_errors[:20]
    assert f"the 20 most confident of {len(all_errors)} errors" in page
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_no_errors_and_one_cluster_and_no_listed_language(tmp_path):
    split = make_split([0, 1, 2, 0], clusters=[7, 7, 7, 7])
    page, errors = make_page(
        tmp_path / "a.html", split, 9 * np.eye(3)[split.labels], ["a"] * 4, lang_min_samples=9
    )
    assert errors == block_of(page) == []
    assert "No row's prediction differs" in page and "<div hidden>" in page
    assert "Not listed: 1 languages of 4 rows" in page and "nan" not in page.split("<script>")[0]


def test_many_classes_and_title_with_description(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"class {i:02d}" for i in range(30)]
    split = make_split(rng.integers(30, size=2000), classes=names, language_names=["und"])
    page, errors = make_page(tmp_path / "a.html", split, rng.normal(size=(2000, 30)), [""] * 2000)
    pairs = {(error["label"], error["prediction"]) for error in errors}
    assert page.count('aria-label="class ') == len(pairs) > 700  # a link for each cell with errors
    columns = {"description": ["d", None, "f"], "title": ["a", "b", None], "other": [1, 2, 3]}
    logits = np.eye(3, dtype=np.float32)[[1, 2, 0]]
    errors = most_confident_errors(logits, make_split([0, 1, 2]), 1.0, Dataset.from_dict(columns))
    assert [error["text"] for error in errors] == ["a d", "b", "f"]


# ---------------------------------------------------------------- the script


def call(run, data, *flags):
    fixed = "--device cpu --lang_min_samples 5 --resamples 20".split()
    return run_main(
        evaluate_embedding_classifier.main, "--checkpoint", run / "best.pt", "--data", data, *fixed, *flags
    )


def test_the_script_writes_the_page_that_its_metrics_tell(tiny_run, tiny_data, tmp_path):
    out = tmp_path / "out"
    result = call(tiny_run, tiny_data, "--out", out, "--html", out / "errors.html")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(out / "errors.html")
    metrics, page = json.loads((out / "metrics.json").read_text()), (out / "errors.html").read_text()
    errors = metrics["support"] - sum(row[i] for i, row in enumerate(metrics["confusion"]))
    assert len(block_of(page)) == errors
    for value in (metrics["macro_f1"], *metrics["accuracy_interval"], *metrics["macro_f1_interval"]):
        assert f"{value:.4f}" in page
    assert call(tiny_run, tiny_data, "--out", out, "--html", tmp_path / "b.html").returncode == 0
    assert not (out / "errors.html").exists()  # it went with the evaluation that it belonged to


def test_a_bad_path_is_refused_before_the_model_runs(tiny_run, tiny_data, tmp_path, monkeypatch):
    def no_model(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(evaluate_embedding_classifier, "load_classifier", no_model)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("kept")
    for name, words in {
        "none/a.html": "there is no folder",
        "file/a.html": "there is no folder",
        "folder.html": "no ordinary file",
        "file": "must end in .html",
    }.items():
        assert_refused(call(tiny_run, tiny_data, "--out", tmp_path / "out", "--html", tmp_path / name), words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]
    assert (tmp_path / "file").read_text() == "kept"


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
def open_page(browser):
    """Opens a page with filters in its address, and fails if it asked for anything, spoke up or broke."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, accept_downloads=True)
    page, seen = context.new_page(), []
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on("request", lambda request: seen.append(request.url) if "report.html" not in request.url else None)

    def open_file(path, **filters):
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#{urlencode(filters)}")
        return page

    yield open_file
    assert seen == [] and page.evaluate("window.broken") is None
    context.close()


def texts_on(page):
    return page.locator("#rows tbody td:first-child").evaluate_all("cells => cells.map(c => c.textContent)")


def wait_for_count(page, count):
    """A link is followed a moment after its click."""
    page.wait_for_function(
        "n => document.querySelector('#count').textContent.startsWith(`${n} row`)", arg=count
    )


def texts_of(errors, **wanted):
    return [e["text"] for e in errors if all(e[name] == value for name, value in wanted.items())]


def test_filters_search_and_pages(hostile, open_page):
    path, _, errors = hostile
    page = open_page(path)
    assert page.locator("#count").text_content() == "130 rows found"
    assert texts_on(page) == texts_of(errors)[:50] and page.locator("#previous").is_disabled()
    page.click("#next")
    page.click("#next")
    assert texts_on(page) == texts_of(errors)[100:] and page.locator("#next").is_disabled()
    assert page.locator("#page").text_content() == "page 3 of 3" and page.url.endswith("#page=3")

    wanted = {"label": "Jewelry & co", "prediction": "Shoes", "language": "de"}
    for name, value in wanted.items():
        page.select_option(f"#{name}", value)
    assert texts_on(page) == texts_of(errors, **wanted) != []
    address = page.url
    assert address.endswith("#" + urlencode(wanted))
    page.click("#clear")
    assert page.locator("#count").text_content() == "130 rows found"
    assert texts_on(open_page(path, **wanted)) == texts_of(errors, **wanted)

    page = open_page(path, search="ONERROR")
    assert texts_on(page) == [HOSTILE[1]] and page.locator("#count").text_content() == "1 row found"
    page.fill("#search", "abc")  # the text has full-width letters
    assert texts_on(page) == [HOSTILE[5]]
    page.fill("#search", errors[60]["cluster"])
    assert errors[60]["text"] in texts_on(page)
    page.fill("#search", "nowhere to be found")
    assert texts_on(page) == [] and page.locator("#page").text_content() == "page 1 of 1"
    page = open_page(path, label="no such class", page="99")
    assert page.locator("#count").text_content() == "130 rows found"
    assert page.locator("#page").text_content() == "page 3 of 3"


def test_a_cell_of_the_confusion_matrix_and_a_language_filter(hostile, open_page):
    path, _, errors = hostile
    page = open_page(path, search="offer")
    page.click('#confusion [aria-label^="Books predicted as Shoes:"]')
    wanted = {"label": "Books", "prediction": "Shoes"}
    count = page.locator('#confusion [aria-label^="Books predicted as Shoes:"]').text_content()
    wait_for_count(page, count)
    assert page.input_value("#label") == "Books" and page.input_value("#search") == ""
    assert texts_on(page) == texts_of(errors, **wanted)[:50] != []
    assert page.evaluate("document.querySelector('#errors').getBoundingClientRect().top < innerHeight")
    page.locator("#languages").get_by_role("link", name="ja").press("Enter")
    wait_for_count(page, len(texts_of(errors, language="ja")))
    assert texts_on(page) == texts_of(errors, language="ja")[:50]
    page.go_back()
    wait_for_count(page, count)
    assert texts_on(page) == texts_of(errors, **wanted)[:50]


def test_languages_are_sorted_by_a_heading(hostile, open_page):
    page = open_page(hostile[0])
    for heading, column in (("Rows", 1), ("Accuracy", 4), ("Language", 0)):
        for state in ("descending", "ascending"):
            page.get_by_role("button", name=heading, exact=True).press("Enter")
            values = page.locator("#languages tbody:last-child tr").evaluate_all(
                f"lines => lines.map(line => line.cells[{column}].dataset.value)"
            )
            key = str if column == 0 else float
            assert values == sorted(values, key=key, reverse=state == "descending") and len(values) == 3
            assert page.get_by_role("columnheader", name=heading).first.get_attribute("aria-sort") == state


def test_the_csv_holds_the_rows_found(hostile, open_page):
    path, _, errors = hostile
    page = open_page(path, label="Books")
    with page.expect_download() as download:
        page.click("#export")
    with open(download.value.path(), encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [error for error in errors if error["label"] == "Books"]
    assert len(rows) == len(found) and list(rows[0]) == list(found[0])
    for row, error in zip(rows, found, strict=True):
        formula = error["text"].startswith("=")
        numbers = {name: float(row[name]) for name in ("probability", "label_probability")}
        text = {"text": "'" * formula + error["text"], "row": str(error["row"])}
        assert {**row, **numbers} == {**error, **text}


def test_narrow_windows_hold_long_names_and_a_page_may_have_no_errors(open_page, tmp_path):
    names, path = [f"Cellphones_and_Accessories_{i}" for i in range(9)], tmp_path / "report.html"
    split = make_split(np.arange(9), classes=names, clusters=2**62 + np.arange(9))
    make_page(path, split, 9 * np.roll(np.eye(9), 1, 0), ["x" * 900] * 9)
    page = open_page(path)
    for width in (360, 896, 900):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    make_page(path, split, 9 * np.eye(9), ["a"] * 9)
    page = open_page(path, label=names[0])
    assert page.locator("#search").is_hidden() and page.locator("#confusion").is_visible()

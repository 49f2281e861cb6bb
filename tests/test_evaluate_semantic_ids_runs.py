"""evaluate_semantic_ids.py as a user runs it: its files, bad input, and the page in headless Chromium."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_refused, run_main, run_script
from test_train_rqvae_runs import SCRIPT
from tiny_items import SMALL, clusters

from semantic_ids import evaluate_semantic_ids, export_semantic_ids

EVIL = "</script><script>document.title='owned'</script> & <b>bold</b>"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """600 items with titles by cluster, a trained model, its export, another's IDs and purchases."""
    folder = tmp_path_factory.mktemp("catalogue")
    vectors = clusters()
    centre = np.random.default_rng(0)
    centre.normal(size=(20, 24))
    cluster = centre.integers(20, size=600)
    ids = [f"B{number:05}" for number in range(600)]
    titles = [f"lamp{kind} shade number{row}" for row, kind in enumerate(cluster)]
    titles[5] = EVIL
    table = {
        "parent_asin": ids,
        "title": titles,
        "text_hash": [f"{title:.20}" for title in titles],
        "brand": [f"brand {kind}" for kind in cluster],
        "embedding": pa.FixedSizeListArray.from_arrays(vectors.astype(np.float32).ravel(), 24),
    }
    pq.write_table(pa.table(table), folder / "items.parquet")
    flags = [
        *SMALL.split(),
        "--embeddings_path",
        folder / "items.parquet",
        "--checkpoint_dir",
        folder / "rqvae",
    ]
    result = run_script(SCRIPT, *flags, "--num_epochs", 40)
    assert result.returncode == 0, result.stderr[-2000:]
    files = ["--checkpoint", folder / "rqvae/best_model.pth", "--embeddings", folder / "items.parquet"]
    found = run_main(
        export_semantic_ids.main, *files, "--output", folder / "ids.parquet", "--collision_size", 99
    )
    assert found.returncode == 0, found.stderr
    other = {
        item: [int(kind), row % 16, 0] for row, (item, kind) in enumerate(zip(ids, cluster, strict=True))
    }
    (folder / "other.json").write_text(json.dumps(other))
    by_cluster = [np.flatnonzero(cluster == kind) for kind in range(20)]
    purchases = [
        {"history": [ids[rows[0]]], "target": ids[rows[k]]} for rows in by_cluster for k in (1, 2, 3)
    ]
    (folder / "purchases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in purchases))
    return folder


def flags_of(folder, out) -> list:
    return [
        *("--ids", folder / "ids.parquet", "--embeddings", folder / "items.parquet", "--out", out),
        *("--checkpoint", folder / "rqvae/best_model.pth", "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def evaluated(catalogue):
    out = catalogue / "evaluation"
    result = run_script(
        evaluate_semantic_ids.__file__,
        *flags_of(catalogue, out),
        *("--compare", catalogue / "other.json", "--sequences", catalogue / "purchases.jsonl"),
        *("--label_column", "brand"),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return out


def test_the_report_holds_every_method_and_measure(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    methods = {method["name"]: method for method in metrics["methods"]}
    assert list(methods) == [
        "these IDs", "other.json", "residual k-means, PCA-32", "residual k-means", "product quantization",
        "random",
    ]  # fmt: skip
    ours, other, chance = methods["these IDs"], methods["other.json"], methods["random"]
    assert ours["reconstruction_cosine"] > 0.6 > chance["reconstruction_cosine"]
    assert other["reconstruction_cosine"] is None
    assert other["prefixes"][0] == 20 and other["prefix_purity"][0] == 1.0
    assert other["adjacency"][0]["share"] == 1.0
    assert ours["adjacency"][0]["lift"] > 3 > chance["adjacency"][0]["lift"]
    assert ours["prefix_agreement"][0] > 5 * ours["prefix_agreement_by_chance"][0]
    assert 0 <= metrics["cosine_recall"] <= 1 and metrics["purchase_pairs"] == 60
    report = (evaluated / "report.md").read_text()
    assert all(f"| {name} |" in report for name in methods)


def test_codes_alone_need_no_checkpoint(catalogue, tmp_path):
    result = run_main(
        evaluate_semantic_ids.main,
        *("--no_checkpoint", "--ids", catalogue / "other.json", "--embeddings", catalogue / "items.parquet"),
        *("--levels", 2, "--out", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    ours = json.loads((tmp_path / "out/metrics.json").read_text())["methods"][0]
    assert len(ours["perplexity"]) == 2 and ours["reconstruction_cosine"] is None


def test_bad_input_is_refused(catalogue, tmp_path):
    out = tmp_path / "out"

    def refused(*says: str, **changed) -> None:
        flags = flags_of(catalogue, out)
        for name, value in changed.items():
            flags += [f"--{name}", value]
        assert_refused(run_main(evaluate_semantic_ids.main, *flags), *says)
        assert not out.exists()

    broken = tmp_path / "broken.parquet"
    broken.write_bytes((catalogue / "ids.parquet").read_bytes()[:400])
    some = tmp_path / "some.json"
    some.write_text(json.dumps({"B00000": [1, 2, 3]}))
    high = tmp_path / "high.json"
    high.write_text(json.dumps({f"B{n:05}": [900, 0, 0] for n in range(600)}))
    (tmp_path / "file").write_text("")
    refused("no such file", "export_semantic_ids.py", ids=tmp_path / "none.parquet")
    refused(str(broken), "not a whole Parquet file", ids=broken)
    refused("599 of 600 embedded items have no ID", "B00001", ids=some)
    refused("holds code 900", ids=high)
    refused("599 of 600", compare=some)
    refused("no such", checkpoint=tmp_path / "none.pth")
    refused("not a whole", embeddings=broken)
    refused("no column 'colour'", label_column="colour")
    refused("no such file", sequences=tmp_path / "none.jsonl")
    refused("--neighbour_items", neighbour_items=0)
    refused("is a file", out=tmp_path / "file")


def test_the_page_browses_the_tree(evaluated):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs an installed Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto((evaluated / "ids.html").as_uri())
        first = page.locator("#tree > details").first
        assert "lamp" in first.locator(".terms").first.inner_text()
        first.locator("summary").first.click()
        first.locator("div > *").first.wait_for()

        # The items of a prefix, and the way from an item to its place in the tree
        page.fill("#search", "lamp3 ")
        assert page.locator("#found").inner_text().endswith(" items")
        titles = page.locator("#results .title").all_inner_texts()
        assert titles and all(title.startswith("lamp3 ") for title in titles)
        wanted = page.locator("#results .item").last
        title, code = wanted.locator(".title").inner_text(), wanted.locator("button").inner_text()
        wanted.locator("button").click()
        opened = page.locator("#tree .item", has=page.get_by_text(title, exact=True))
        assert opened.is_visible() and opened.locator(".code").inner_text() == code
        prefix = "-".join(code.split("-")[:2])
        page.fill("#search", prefix)
        found = page.locator("#results .code").all_inner_texts()
        assert found and all(text.startswith(prefix + "-") for text in found)

        # By code; and a title that is no markup
        page.select_option("#order", "code")
        heads = [int(text) for text in page.locator("#tree > details > summary .code").all_inner_texts()]
        assert heads == sorted(heads)
        page.fill("#search", "owned")
        assert page.locator("#results .title").inner_text() == EVIL
        assert page.title() == "Semantic IDs" and not messages, messages
        browser.close()

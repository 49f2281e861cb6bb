"""The pictures of README.md, from what quickstart.sh made; needs the development group and a Chromium.

python scripts/readme_pictures.py data/quickstart --out docs/pictures [--chromium /usr/bin/chromium]
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image

from training_utils import InputError, replacing, run_script

PLOTS = {
    "learning_curve": "category_classification/encoder/learning_curve.png",
    "confusion_matrix": "category_classification/encoder/evaluation-test/confusion_matrix.png",
    "pareto": "experiments/report/pareto_language_modeling.png",
}
PAGES = {  # page, part of it, what is clicked first
    "id_tree": (
        "semantic_ids/output/Video_Games_evaluation/ids.html",
        "#tree",
        ("summary", "details details summary"),
    ),
    "poincare_disk": ("naics/report/report.html", "#stage", ()),
}
WIDTH, HEIGHT, COLOURS = 900, 760, 255


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where quickstart.sh left its results")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument(
        "--chromium", default=shutil.which("chromium"), help="program (default: Playwright's own)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for path in [*PLOTS.values(), *(page for page, *_ in PAGES.values())]:
        if not (args.folder / path).is_file():
            raise InputError(f"{args.folder / path}: no such file; run scripts/quickstart.sh first")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, path in PLOTS.items():
        write(args.out / f"{name}.png", Image.open(args.folder / path))
    for name, shot in photograph(args.folder, args.chromium).items():
        write(args.out / f"{name}.png", Image.open(io.BytesIO(shot)))


def photograph(folder: Path, chromium: str | None) -> dict[str, bytes]:
    from playwright.sync_api import sync_playwright

    shots = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (path, part, clicks) in PAGES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": 700})
            page.goto((folder / path).resolve().as_uri())
            for selector in clicks:
                page.locator(f"{part} {selector}").first.click()
            page.wait_for_timeout(500)  # pages draw in steps
            shots[name] = page.locator(part).screenshot()
        browser.close()
    return shots


def write(path: Path, picture: Image.Image) -> None:
    """At most WIDTH wide, no more than its first HEIGHT lines, in few colours: tens of kilobytes."""
    picture = picture.convert("RGB")
    picture.thumbnail((WIDTH, 10_000))
    picture = picture.crop((0, 0, picture.width, min(picture.height, HEIGHT)))
    with replacing(path) as file:
        picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(file, "png", optimize=True)
    print(f"{path}  {picture.width} x {picture.height}, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    run_script(main)

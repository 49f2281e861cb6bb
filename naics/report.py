"""What a trained model has learned of the hierarchy: report.md, report.json and report.html.

    naics-gemini report --checkpoint checkpoints/03_stage_hard/best.pt --out report

The measures of `naics-gemini evaluate` come first, as it wrote them (--results). Then: are children farther
out than their parents, do the levels' radii overlap, which siblings and sectors are mistaken for each
other, how far can the search's probabilities be believed, and, on the page, the whole tree as an
interactive Poincaré disk. Mistakes are those of the learned space alone on the index entries of role
validation: the sealed test entries stay for `evaluate`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from naics.consistency import (
    confused_siblings,
    parents_found,
    predict,
    radius_levels,
    sector_table,
)
from naics.data.texts import Corpus, load_corpus
from naics.disk_layout import disk_radii, fit_disk, has_depth
from naics.inference import LoadedModel, load_model
from naics.report_page import disk_data, write_page
from naics.report_tables import Section, evaluation_sections, sections_of, to_markdown
from naics.search_engine import stored_calibration, word_index_of
from training_utils import InputError, replacing, write_json

HEADING = "NAICS in hyperbolic space"
RESULTS = "results.json"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="naics-gemini report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path("checkpoints/03_stage_hard/best.pt"))
    add("--data_dir", type=Path, default=Path("data/naics"), help="folder that `data preprocess` wrote")
    add("--results", type=Path, help="results.json of evaluate (default: the one beside the checkpoint)")
    add("--out", type=Path, required=True, help="folder to write into")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


# ---------------------------------------------------------------- the run


def read_results(path: Path | None, checkpoint: Path) -> tuple[dict[str, Any] | None, list[Section]]:
    """What `evaluate` wrote, and its tables; nothing without --results and results.json by the checkpoint."""
    where = path or checkpoint.parent / RESULTS
    if path is None and not where.is_file():
        return None, []
    try:
        results = json.loads(where.read_text())
        return results, evaluation_sections(results)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"--results {where}: not what evaluate writes ({error!r}); run it again") from None
    except OSError:
        raise InputError(f"--results {where}: no such file; run naics-gemini evaluate first") from None
    except ValueError:
        raise InputError(f"--results {where}: is no JSON; run naics-gemini evaluate again") from None


def measure(
    model: LoadedModel, corpus: Corpus, data_dir: Path
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """All measures of this report, the shares of the sectors, and the distances (n, n) of the codes."""
    taxonomy, radii = model.taxonomy, np.linalg.norm(model.codes, axis=1)
    distances = model.distances(model.codes)
    predictions = predict(model, corpus.index)
    calibration = stored_calibration(data_dir, corpus, model, word_index_of(corpus))
    sectors, shares = sector_table(taxonomy, radii, predictions)
    measures = {
        "checkpoint": model.checkpoint.name,
        "geometry": model.geometry.kind,
        "dimension": model.codes.shape[1],
        "entries": len(predictions.texts),
        "levels": radius_levels(taxonomy, radii),
        "parents_found": parents_found(taxonomy, distances),
        "sectors": sectors,
        "calibration": {name: calibration[name] for name in ("entries", "weights", "levels")},
        "confused_siblings": confused_siblings(taxonomy, predictions),
    }
    return measures, shares, distances


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    results, evaluated = read_results(args.results, args.checkpoint)
    model = load_model(args.checkpoint, args.data_dir, args.device)
    taxonomy, radii = model.taxonomy, np.linalg.norm(model.codes, axis=1)
    measures, shares, distances = measure(model, load_corpus(args.data_dir), args.data_dir)

    # The picture
    points = fit_disk(taxonomy, radii, distances)
    shown = disk_radii(taxonomy, radii)
    levels = np.unique(taxonomy.levels).tolist()
    rings = {level: float(np.median(shown[taxonomy.levels == level])) for level in levels}
    depth = (
        "How far a dot lies from the centre is what the model has learned"
        if has_depth(radii)
        else "The space has no depth, so a dot's level says how far it lies from the centre"
    )
    picture = (
        f"Each dot is a code, each line leads to its parent. {depth}; its angle is fitted so that distances "
        "in the disk are near those of the whole space. Dotted circles are the median radii of the levels."
    )

    # Files
    sections = [*evaluated, *sections_of(measures, shares)]
    facts = facts_of(model, measures)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "report.json", measures | {"evaluation": results})
    with replacing(args.out / "report.md") as file:
        file.write(to_markdown(HEADING, facts, sections).encode())
    disk = disk_data(taxonomy, points, radii, rings, distances)
    write_page(args.out / "report.html", HEADING, facts, picture, disk, sections)
    print(
        f"{args.out}: report.md, report.json, report.html"
        + ("" if results else " (no results.json of evaluate)")
    )


def facts_of(model: LoadedModel, measures: dict[str, Any]) -> dict[str, str]:
    farther = [row["farther_than_parent"] * row["codes"] for row in measures["levels"][1:]]
    children = sum(row["codes"] for row in measures["levels"][1:])
    return {
        "codes": f"{len(model.taxonomy):,}",
        "space": f"{measures['geometry']}, {measures['dimension']} dimensions",
        "children farther out than their parents": f"{sum(farther) / children:.1%}",
        "checkpoint": f"{model.checkpoint.parent.name}/{model.checkpoint.name}",
    }

"""A trained model's codes -> Parquet, NumPy, TSV and a FAISS index, for use without this project.

    naics-gemini export --checkpoint checkpoints/03_stage_hard/best.pt --out export

Out: codes.parquet (`code`, `level`, `title`, `parent`, `radius`, `tangent`, and of a Lorentz model `lorentz`
and `poincare`), the same arrays in codes.npz, poincare.tsv, codes.faiss and manifest.json (sizes, sha256, how
to ask).

Points are x = (t, s) with <x, x> = s.s - t^2 = -1/c. The index is flat and holds (-t, s), so that a query's
inner product (t, s).(-t', s') is the Lorentz product <x, x'>; as d = acosh(-c <x, x'>) / sqrt(c) falls with
it, the largest product is the nearest code. Far out the product cancels in float32: manifest.json says for
how many codes the first neighbours come in the exact order, and a user who needs more re-ranks what the
index finds.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from naics.inference import LoadedModel, load_model
from naics.model.lorentz import flip_time, to_lorentz, to_poincare
from training_utils import InputError, replacing, write_json

NEIGHBOURS = 10  # whose order in the index is compared with the exact one
QUERIES_AT_ONCE = 512


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="naics-gemini export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path("checkpoints/03_stage_hard/best.pt"))
    add("--data_dir", type=Path, default=Path("data/naics"), help="folder of naics_descriptions.parquet")
    add("--out", type=Path, required=True, help="folder to write into")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


def coordinates(model: LoadedModel) -> dict[str, np.ndarray]:
    """`tangent` (n, d), `radius` (n,); of a Lorentz model `lorentz` (n, 1 + d), t first, and `poincare`."""
    tangent = np.ascontiguousarray(model.codes, dtype=np.float32)
    found = {"tangent": tangent, "radius": np.linalg.norm(tangent, axis=1)}
    if model.geometry.kind == "lorentz":
        vectors, curvature = torch.from_numpy(tangent), model.geometry.curvature
        found["lorentz"] = to_lorentz(vectors, curvature).numpy()
        found["poincare"] = to_poincare(vectors, curvature).numpy()
    return found


def build_index(kind: str, points: np.ndarray) -> Any:
    """A flat FAISS index of Lorentz points (n, 1 + d), of unit vectors, or of Euclidean ones."""
    import faiss

    if kind == "euclidean":
        index = faiss.IndexFlatL2(points.shape[1])
    else:
        index = faiss.IndexFlatIP(points.shape[1])
    if kind == "lorentz":
        points = flip_time(torch.from_numpy(points)).numpy()
    index.add(np.ascontiguousarray(points, dtype=np.float32))
    return index


def order_agreement(model: LoadedModel, index: Any, points: np.ndarray) -> float:
    """Share of codes whose first neighbours come from the index as `model.distances` orders them."""
    count = min(NEIGHBOURS, len(points) - 1)
    agree = []
    for start in range(0, len(points), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        distances = model.distances(model.codes[part])
        rows = np.arange(len(distances))[:, None]
        exact = np.take_along_axis(distances, np.argsort(distances, axis=1, kind="stable"), axis=1)
        found = index.search(points[part], count)[1]
        # Compared by distance, not by row: codes of one text stand at one point.
        agree.append(np.isclose(distances[rows, found], exact[:, :count], rtol=1e-4, atol=1e-4).all(axis=1))
    return float(np.concatenate(agree).mean())


def code_table(model: LoadedModel, found: dict[str, np.ndarray]) -> pa.Table:
    tree = model.taxonomy
    columns: dict[str, Any] = {
        "code": list(tree.codes),
        "level": tree.levels.astype(np.int8),
        "title": list(tree.titles),
        "parent": [tree.codes[row] if row >= 0 else None for row in tree.parents],
        "radius": found["radius"],
    }
    for name in ("tangent", "lorentz", "poincare"):
        if name in found:
            values = pa.array(found[name].ravel(), pa.float32())
            columns[name] = pa.FixedSizeListArray.from_arrays(values, found[name].shape[1])
    return pa.table(columns)


def write_tsv(file: BinaryIO, model: LoadedModel, points: np.ndarray) -> None:
    """One line a code: code, level, title and the coordinates, in as many digits as float32 needs."""
    names = [f"x{axis}" for axis in range(points.shape[1])]
    file.write(("\t".join(["code", "level", "title", *names]) + "\n").encode())
    tree = model.taxonomy
    for code, level, title, point in zip(tree.codes, tree.levels, tree.titles, points, strict=True):
        cells = [code, str(level), " ".join(title.split()), *(f"{value:.9g}" for value in point)]
        file.write(("\t".join(cells) + "\n").encode())


def write_export(model: LoadedModel, out: Path) -> dict[str, Any]:
    """Write all files into `out`; returns the manifest."""
    import faiss

    found, kind, tree = coordinates(model), model.geometry.kind, model.taxonomy
    points = found.get("lorentz", found["tangent"])
    index = build_index(kind, points)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "codes.parquet") as file:
        pq.write_table(code_table(model, found), file, compression="zstd")
    with replacing(out / "codes.npz") as file:
        np.savez(file, codes=np.array(tree.codes), levels=tree.levels, parents=tree.parents, **found)
    with replacing(out / "codes.faiss") as file:
        file.write(faiss.serialize_index(index).tobytes())
    names = ["codes.parquet", "codes.npz", "codes.faiss"]
    if "poincare" in found:
        with replacing(out / "poincare.tsv") as file:
            write_tsv(file, model, found["poincare"])
        names.append("poincare.tsv")
    query = {
        "lorentz": "search (t, s) of a query: the largest inner product is the nearest code",
        "sphere": "search a unit vector: the largest inner product is the nearest code",
        "euclidean": "search a vector: the least squared distance is the nearest code",
    }
    manifest = {
        "checkpoint": {"file": model.checkpoint.name, "sha256": sha256(model.checkpoint)},
        "geometry": kind,
        "curvature": model.geometry.curvature if kind == "lorentz" else None,
        "dimension": found["tangent"].shape[1],
        "codes": len(tree.codes),
        "largest_radius": round(float(found["radius"].max()), 4),
        "index": {
            "query": query[kind],
            "neighbours": min(NEIGHBOURS, len(tree.codes) - 1),
            "in_exact_order": round(order_agreement(model, index, points), 6),
        },
        "files": {
            name: {"bytes": (out / name).stat().st_size, "sha256": sha256(out / name)} for name in names
        },
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = load_model(args.checkpoint, args.data_dir, args.device)
    manifest = write_export(model, args.out)
    index = manifest["index"]
    print(
        f"{args.out}: {manifest['codes']:,} codes, "
        f"{manifest['dimension']} dimensions ({manifest['geometry']}), "
        f"{len(manifest['files'])} files; the index orders {index['in_exact_order']:.2%} of the codes' "
        f"first {index['neighbours']} neighbours exactly"
    )

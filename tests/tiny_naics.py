"""A taxonomy of 23 real codes in the files of `naics-gemini data preprocess`, and a model made by hand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from naics.data.census import Taxonomy, load_index, load_taxonomy
from naics.model.geometry import Geometry

TITLES = {
    "31": "Manufacturing",
    "311": "Food Manufacturing",
    "3118": "Bakeries and Tortilla Manufacturing",
    "31181": "Bread and Bakery Product Manufacturing",
    "311811": "Retail Bakeries",
    "311812": "Commercial Bakeries",
    "54": "Professional, Scientific, and Technical Services",
    "541": "Professional, Scientific, and Technical Services",
    "5419": "Other Professional, Scientific, and Technical Services",
    "54194": "Veterinary Services",
    "541940": "Veterinary Services",
    "81": "Other Services (except Public Administration)",
    "812": "Personal and Laundry Services",
    "8121": "Personal Care Services",
    "81211": "Hair, Nail, and Skin Care Services",
    "812112": "Beauty Salons",
    "812113": "Nail Salons",
    "8129": "Other Personal Services",
    "81291": "Pet Care (except Veterinary) Services",
    "812910": "Pet Care (except Veterinary) Services",
    "81292": "Photofinishing",
    "812921": "Photofinishing Laboratories (except One-Hour)",
    "812922": "One-Hour Photofinishing",
}
ENTRIES = {
    "311811": ["Bakeries with baking from flour, retailing on premises", "Doughnut shops, baking on premises",
               "Bagel shops baking and selling on site", "Cake shop with its own ovens"],
    "311812": ["Bread baking for wholesale, commercial", "Cakes, baking for groceries, commercial",
               "Rolls and buns, commercial bakery", "Pies, fresh, commercial baking"],
    "541940": ["Animal hospitals", "Veterinary clinics", "Veterinarians' practices", "Surgery, veterinary"],
    "812112": ["Beauty parlors", "Hairdresser services", "Hair stylist salons", "Beautician services"],
    "812113": ["Manicure salons", "Manicurist services", "Nail care salons", "Pedicurist services"],
    "812910": ["Grooming services, animal", "Dog grooming, mobile or in a shop", "Kennels, pet boarding",
               "Pet sitting services", "Obedience training, dogs"],
    "812921": ["Film developing laboratories", "Photofinishing labs", "Slide mounting services"],
    "812922": ["One-hour photo shops", "Film developing while you wait", "Photo minilab, one-hour"],
}  # fmt: skip
ROLES = ("examples", "train", "validation", "test", "withheld")
REFERENCES = [
    ("812910", "Providing veterinary services", ["541940"], "Industry 541940, Veterinary Services"),
    ("54194", "Grooming pets or boarding pets", ["812910"], "Industry 812910, Pet Care Services"),
    ("311812", "Retailing bread baked on the premises", ["311811"], "Industry 311811, Retail Bakeries"),
    ("812921", "Developing film in one hour or less", ["812922"], "Industry 812922, One-Hour Photofinishing"),
]  # fmt: skip


def write_data(
    folder: Path, titles: dict[str, str] | None = None, extra: Sequence[tuple[str, str, str]] = ()
) -> Path:
    """The three Parquet files, in `folder`; with other `titles`, and `extra` entries (code, text, role)."""
    folder.mkdir(parents=True, exist_ok=True)
    codes, titles = list(TITLES), TITLES | (titles or {})
    rows = [(code, text, ROLES[n % 5]) for code, texts in ENTRIES.items() for n, text in enumerate(texts)]
    rows += extra
    examples = {
        code: "; ".join(t for c, t, role in rows if c == code and role == "examples") for code in codes
    }
    descriptions = pa.table(
        {
            "index": pa.array(range(len(codes)), pa.uint32()),
            "level": pa.array([len(code) for code in codes], pa.uint8()),
            "code": codes,
            "title": list(titles.values()),
            "description": [f"This industry comprises {title.lower()}." for title in titles.values()],
            "examples": [examples[code] for code in codes],
            "excluded": ["; ".join(text for c, text, *_ in REFERENCES if c == code) for code in codes],
            "excluded_codes": pa.array(
                [[t for c, _, targets, _ in REFERENCES if c == code for t in targets] for code in codes],
                pa.list_(pa.string()),
            ),
        }
    )
    index = pa.table(
        {
            "entry_id": pa.array(range(len(rows)), pa.uint32()),
            "code": [row[0] for row in rows],
            "text": [row[1] for row in rows],
            "role": [row[2] for row in rows],
        }
    )
    references = pa.table(
        {
            "code": [row[0] for row in REFERENCES],
            "text": [f"{row[1]}--are classified in {row[3]}" for row in REFERENCES],
            "activity": [row[1] for row in REFERENCES],
            "targets": pa.array([row[2] for row in REFERENCES], pa.list_(pa.string())),
        }
    )
    for name, table in (("descriptions", descriptions), ("index", index), ("cross_references", references)):
        pq.write_table(table, folder / f"naics_{name}.parquet")
    return folder


@dataclass
class HandMade:
    """What `load_model` returns, as far as it is used: a query lies among the codes of its words."""

    taxonomy: Taxonomy
    geometry: Geometry
    codes: np.ndarray
    checkpoint: Path
    words: dict[str, np.ndarray]
    router: None = None
    config: dict = field(default_factory=dict)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        zero = np.zeros(self.codes.shape[1])
        known = [
            [self.words[w] for w in re.findall(r"\w+", text.lower()) if w in self.words] for text in texts
        ]
        return np.array([np.mean(each, axis=0) if each else zero for each in known], dtype=np.float32)

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        return self.distances(self.encode_queries(list(texts)))[:, self.taxonomy.leaves]

    def distances(self, queries: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
        return self.geometry.pairwise(points, torch.from_numpy(self.codes)).numpy()


def hand_made(data_dir: Path, checkpoint: Path, kind: str = "lorentz", curvature: float = 1.0) -> HandMade:
    """Codes near their parents and farther out, in 8 dimensions; words of titles and seen entries."""
    taxonomy, index = load_taxonomy(data_dir), load_index(data_dir)
    rng = np.random.default_rng(3)
    points = np.zeros((len(taxonomy), 8))
    for row in np.argsort(taxonomy.levels, kind="stable"):
        parent = taxonomy.parents[row]
        point = rng.normal(size=8) * 0.6 ** (taxonomy.levels[row] - 2)
        point += points[parent] / np.linalg.norm(points[parent]) if parent >= 0 else 0
        radius = 0.55 * (taxonomy.levels[row] - 1) / np.sqrt(curvature)
        points[row] = point / np.linalg.norm(point) * (1 if kind == "sphere" else radius)
    lists: dict[str, list[np.ndarray]] = {}
    seen = np.isin(index.roles, ("examples", "train"))
    texts = [(row, index.texts[n]) for n, row in enumerate(index.rows) if seen[n]]
    for row, text in [*texts, *((row, taxonomy.titles[row]) for row in taxonomy.leaves)]:
        for word in re.findall(r"\w+", text.lower()):
            lists.setdefault(word, []).append(points[row])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"stands for weights")
    words = {word: np.mean(each, axis=0) for word, each in lists.items()}
    codes = points.astype(np.float32)
    return HandMade(taxonomy, Geometry(kind, curvature), codes, checkpoint, words)

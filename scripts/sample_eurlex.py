"""Made-up acts of law in the form of EURLEX57K: a zip of JSON documents and a label file, and a plain text.

An act is about a few subjects, and its labels name them: goods, a measure, a partner country, an authority.
How often a subject comes up follows Zipf's law, so that some labels have hundreds of documents, many a
handful, and a few none in the training split. An act speaks of its subjects in words of theirs, and at times
in passing of another, so that labels can be learnt, but not perfectly.
"""

import json
import zipfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

SPLIT_SHARES = {"train": 0.75, "dev": 0.125, "test": 0.125}
ZIP_DATE = (2019, 6, 1, 0, 0, 0)
ZIP_FILE, LABEL_FILE, TEXT_FILE = "EURLEX57K.zip", "dataset/EURLEX57K.json", "corpus.txt"
UNSEEN_LABELS = 2  # of each kind, in dev and test alone
UNSEEN_RATE = 0.08  # of the documents of dev and test
NON_NUMERIC_ID = "c_5a1f0c37"  # the thesaurus has a few
FIRST_ID, ID_STEP = 17, 23

# Dirt
OTHER_SPELLING_RATE, NO_BODY_RATE, MISSING_FIELD_RATE, MESSY_SPACE_RATE = 0.08, 0.04, 0.06, 0.15
LABEL_LEFT_OUT_RATE, PASSING_MENTION_RATE = 0.05, 0.3

# Kind of subject: its names, each with words that go with it.
GOODS = """
citrus fruit: orange lemon grove peel|beef: cattle carcass slaughter veal
olive oil: press acidity virgin grove|wine: vineyard bottle vintage must|steel: coil furnace slab rolled
cotton: yarn spindle fibre bale|sugar: beet cane refinery molasses|milk powder: dairy skimmed spray creamery
rice: paddy husk milled grain|tobacco: leaf curing cigar bale|cereals: wheat barley silo harvest
fishery product: trawler catch mackerel hake|fertiliser: nitrogen urea potash soil
footwear: sole leather uppers shoe|bicycle: frame pedal wheel saddle
pharmaceuticals: dosage tablet clinical active|cosmetics: skin cream pigment fragrance
pig meat: sow farrow ham bacon|poultry: broiler chick hatchery egg|potato: tuber starch seedling blight
banana: ripening bunch plantation crate|glass: furnace pane bottle silica|paper: pulp board mill fibre
natural gas: pipeline storage metering supply|electric vehicle: battery charging motor range
television: broadcast screen tube receiver|timber: sawn log plank forest
cut flowers: bloom stem rose greenhouse|honey: hive bee pollen apiary|hops: brewer cone bitter bale
silicon metal: smelter quartz ingot purity|ball bearing: ring raceway lubricated shaft
ceramic tile: glazed kiln clay|aircraft: airframe fuselage wing aviation
railway: track wagon signalling gauge|medical device: implant sterile probe clinic
"""
MEASURES = """
import duty: tariff customs rate entry|export refund: refund destination licence exporter
market price: quotation average price week|tariff quota: quota ceiling volume allocation
state aid: beneficiary grant scheme undertaking|anti-dumping duty: dumping injury margin undertaking
labelling: label package legible consumer|veterinary inspection: animal disease border sample
merger control: concentration turnover acquisition share|tendering: tender award bidder lot
intervention buying: storage agency intake withdrawn|marketing standard: grade size class defect
environmental protection: emission waste habitat discharge|food additive: additive dose residue permitted
research programme: project laboratory call proposal|fishing rights: vessel zone tonnage permit
customs valuation: invoice value declarant transaction|plant health: pest quarantine seed certificate
statistics: survey sample respondents quarter|public health: hazard exposure patients surveillance
"""
PARTNERS = """
Norway|Morocco|Brazil|Japan|Turkey|Canada|Argentina|Egypt|Thailand|Israel|Chile|Kenya|Australia|Ukraine
South Korea|Tunisia|India|Peru|Iceland|Mexico|Vietnam|Algeria|Jordan|Uruguay|Ghana|New Zealand|Fiji|Malta
"""
AUTHORITIES = """
management committee: opinion chairman vote delivered|Member State: national competent notify territory
small business: enterprise artisan start turnover
producer organisation: member grower cooperative recognised|Court of Justice: judgment appeal plea annul
European Parliament: resolution reading plenary assent|Central Bank: reserve currency liquidity settlement
customs union: joint council association protocol
"""
SENTENCES = (
    "the measures provided for in respect of {a} should take account of {b}",
    "it is necessary to lay down detailed rules for {a}, having regard to {b}",
    "experience has shown that {a} may give rise to difficulties where {b} is concerned",
    "the quantities of {a} notified for the period fell short of {b}",
    "applications relating to {a} shall be lodged with {b} before the end of the month",
    "{a} shall be subject to verification by reference to {b}",
    "the conditions applying to {a} have changed since {b} was last reviewed",
    "no later than {n} days after {a}, the parties concerned shall report on {b}",
    "a security of {n} units per tonne shall be lodged for {a} and released against {b}",
    "in the light of {a}, the provisions concerning {b} should be amended",
)
PLAIN_SENTENCES = (
    "this act shall enter into force on the {n}th day following that of its publication",
    "the annex is replaced by the text set out below",
    "the procedure laid down in Article {n} shall apply",
    "it shall be binding in its entirety and directly applicable",
    "the references in paragraph {n} shall be read accordingly",
)
TYPES = {"Regulation": "R", "Decision": "D", "Directive": "L"}


class Subject:
    """A label: its id, its name, and the words that speak of it."""

    def __init__(self, kind: str, entry: str) -> None:
        self.kind, (self.name, _, words) = kind, entry.partition(": ")
        self.words = [self.name, self.name, *words.split()]  # its name comes up most
        self.id = ""


class Gazette:
    """Draws acts; what it draws depends on the seed and the order of the calls alone."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed).random
        tables = {"goods": GOODS, "measure": MEASURES, "partner": PARTNERS, "authority": AUTHORITIES}
        self.subjects = {
            kind: [Subject(kind, entry) for line in table.split("\n") if line for entry in line.split("|")]
            for kind, table in tables.items()
        }
        everyone = [subject for subjects in self.subjects.values() for subject in subjects]
        for number, subject in enumerate(everyone):
            subject.id = str(FIRST_ID + ID_STEP * number)
        self.subjects["partner"][2].id = NON_NUMERIC_ID

    # ---------------------------------------------------------------- draws

    def number(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def choose(self, options: Sequence) -> Any:
        return options[int(self.random() * len(options))]

    def zipf(self, options: Sequence) -> Any:
        """The n-th comes up in proportion to 1 / n."""
        sums = list(accumulate(1 / rank for rank in range(1, len(options) + 1)))
        return options[bisect(sums, self.random() * sums[-1])]

    def draw_subjects(self, unseen: bool) -> list[Subject]:
        """About five, of several kinds; those that training never sees only where `unseen`."""
        counts = {"goods": self.number(1, 2), "measure": self.number(1, 3), "partner": self.number(0, 2)}
        counts["authority"] = self.number(0, 1)
        found: dict[str, Subject] = {}
        for kind, count in counts.items():
            for _ in range(count):
                subject = self.zipf(self.subjects[kind][:-UNSEEN_LABELS])
                found[subject.name] = subject
        if unseen:
            subject = self.choose(self.subjects[self.choose(list(counts))][-UNSEEN_LABELS:])
            found[subject.name] = subject
        return list(found.values())

    # ---------------------------------------------------------------- text

    def sentence(self, subjects: Sequence[Subject]) -> str:
        if self.random() < 0.2:
            return self.choose(PLAIN_SENTENCES).format(n=self.number(2, 30))
        words = self.choose(self.choose(subjects).words), self.choose(self.choose(subjects).words)
        return self.choose(SENTENCES).format(a=words[0], b=words[1], n=self.number(2, 90))

    def act(self, number: int, unseen: bool = False) -> dict[str, Any]:
        """A whole document in the first spelling of its fields."""
        subjects = self.draw_subjects(unseen)
        talked_about = list(subjects)
        if self.random() < PASSING_MENTION_RATE:
            talked_about.append(self.zipf(self.subjects["goods"][:-UNSEEN_LABELS]))
        year, kind = self.number(1975, 2016), self.zipf(list(TYPES))
        names = " and ".join(subject.name for subject in subjects[:3])
        title = f"Commission {kind} (EC) No {number % 4000 + 1}/{year} concerning {names}"
        recitals = [f"Whereas {self.sentence(talked_about)};" for _ in range(self.number(3, 12))]
        body = []
        for article in range(1, self.number(2, 9)):
            sentences = ". ".join(
                (text := self.sentence(talked_about))[0].upper() + text[1:] for _ in range(self.number(1, 4))
            )
            body.append(f"Article {article}\n{sentences}.")
        concepts = [subject.id for subject in subjects]
        if len(concepts) > 1 and self.random() < LABEL_LEFT_OUT_RATE:
            concepts.pop()
        return {
            "celex_id": f"3{year}{TYPES[kind]}{number:04d}",
            "uri": f"http://publications.example/resource/cellar/{number:08x}",
            "type": kind,
            "concepts": concepts,
            "title": title,
            "header": f"{title.upper()}\nTHE COMMISSION OF THE EUROPEAN COMMUNITIES",
            "recitals": ",\nHaving regard to the Treaty,\n" + "\n".join(recitals),
            "main_body": body,
            "attachments": f"Done at Brussels, {self.number(1, 28)} June {year}.\nFor the Commission",
        }

    def dirty(self, act: dict[str, Any]) -> dict[str, Any]:
        """The other spelling of two fields, an empty body, a field less, stray white space."""
        if self.random() < OTHER_SPELLING_RATE:
            names = {"type": "document_type", "concepts": "eurovoc_concepts"}
            act = {names.get(name, name): value for name, value in act.items()}
        if self.random() < NO_BODY_RATE:
            act["main_body"] = []
        if self.random() < MISSING_FIELD_RATE:
            field = self.choose(("recitals", "attachments", "title", "uri"))
            if self.random() < 0.5:
                act[field] = None
            else:
                del act[field]
        if self.random() < MESSY_SPACE_RATE:
            act["header"] = "\n  " + act["header"].replace(" ", "\u00a0", 2) + "\n\n"
        return act

    def descriptors(self) -> dict[str, dict[str, Any]]:
        """The label file: more concepts than documents use, as in the thesaurus."""
        found = {
            subject.id: {"label": subject.name, "alt_labels": subject.words[2:4], "parents": [kind]}
            for kind, subjects in self.subjects.items()
            for subject in subjects
        }
        unused = {str(90_000 + n): f"former subject {n}" for n in range(5)}
        return found | {id: {"label": name, "alt_labels": [], "parents": []} for id, name in unused.items()}


def draw_documents(gazette: Gazette, documents: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name in the zip, document), split by split."""
    number = 0
    for split, share in SPLIT_SHARES.items():
        for _ in range(round(documents * share)):
            number += 1
            unseen = split != "train" and gazette.random() < UNSEEN_RATE
            act = gazette.dirty(gazette.act(number, unseen))
            yield f"dataset/{split}/{act['celex_id']}.json", act


def write_eurlex(out: Path, seed: int, documents: int = 640, text_acts: int = 320) -> dict[str, int]:
    """Write the zip and a text for the language model into the folder `out`; returns the rows of each."""
    gazette = Gazette(f"eurlex {seed}")
    with zipfile.ZipFile(out / ZIP_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        count = 0
        for name, act in draw_documents(gazette, documents):
            _add(archive, name, json.dumps(act, indent=1).encode())
            count += 1
        _add(archive, LABEL_FILE, json.dumps(gazette.descriptors(), indent=1).encode())
        _add(archive, "__MACOSX/dataset/._train", b"\x00\x05\x16\x07")  # as the original archive has
    lines = list(text_lines(Gazette(f"corpus {seed}"), text_acts))
    (out / TEXT_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return {ZIP_FILE: count, TEXT_FILE: len(lines)}


def text_lines(gazette: Gazette, acts: int) -> Iterator[str]:
    """Other acts of the same kind as plain text, an empty line between two."""
    for number in range(acts):
        act = gazette.act(number)
        yield from (
            act["title"],
            *act["recitals"].split("\n")[1:],
            *"\n".join(act["main_body"]).split("\n"),
            "",
        )


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """A member whose bytes do not depend on machine or time."""
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    archive.writestr(info, content)

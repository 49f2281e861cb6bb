"""The made-up offers behind the sample corpus: catalog -> product -> title and description -> raw line.

A product's class is that of the thing sold. In nearly a third of the products a thing of another class stands
beside it ("shoe charm", "charm for shoes"): every word is at home in several classes and the order decides.
"""

import html
import json
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from random import Random
from typing import NamedTuple

from sample_lexicon import (
    ATTRIBUTES,
    BOOK_FORMATS,
    BOOK_TITLES,
    BY,
    COMPOUNDS,
    GIVEN_NAMES,
    LANGUAGES,
    NOUNS,
    SENTENCES,
)

# Rows of the six classes in percent, as in the real corpus but for Baby, which has 4.7 there
CLASS_SHARES = {
    "Automotive": 11.2,
    "Baby": 5.4,
    "Books": 10.4,
    "Clothing": 45.6,
    "Jewelry": 16.4,
    "Shoes": 11.0,
}
OTHER_CLASSES_RATE = 0.08

# Labels: the real ones are a model's, worst for Baby
UNLABELLED_RATE = 0.03
WRONG_LABEL_RATES = {"Baby": 0.10, "Books": 0.05}
USUAL_WRONG_LABEL_RATE = 0.035
TWO_LABELS_RATE, REPEATED_LABEL_RATE = 0.003, 0.005

# Languages: of a tenth of the offers, nearly all beside an English offer of the same cluster
LANGUAGE_SHARES = {"de": 22, "fr": 18, "es": 14, "it": 10, "nl": 9, "ja": 9, "pl": 7, "ru": 6, "zh": 5}
NO_SPACE = ("ja", "zh")
COLUMN = {language: column for column, language in enumerate(LANGUAGES)}
SEVERAL_LANGUAGES_RATE, OTHER_LANGUAGE_RATE, LONE_FOREIGN_RATE = 0.5, 0.44, 0.01
ENGLISH_CORE_RATE = 0.3  # foreign offers whose title stays English in part

# Kinds of products, and what makes them hard
COMPOUND_RATE = 0.28
SAME_CLASS_PAIR_RATE, BARE_RATE, PHRASE_RATE = 0.12, 0.10, 0.015  # of the rest
BOOK_PHRASE_RATE, BOOK_FORMAT_RATE = 0.6, 0.6
AMBIGUOUS_REDRAW_RATE = 0.9
FOREIGN_BRAND_RATE = 0.25  # compounds under a brand of another class
HEADSHIP_RANGE, DECIDED_HEADSHIP, DECIDED_RATE = 25.0, 5.0, 0.4
STRAY_SIZE_RATE = 0.25  # a size or code of another class

# Clusters and descriptions
CLUSTER_OF_ONE_RATE, MAX_CLUSTER_SIZE, CLUSTER_SIZE_EXPONENT = 0.7, 20, 2.2
DESCRIPTION_RATE, MEAN_SENTENCES, MAX_SENTENCES = 0.7, 7.5, 20
NEUTRAL_SENTENCE_RATE, HEAD_SENTENCE_RATE = 0.66, 0.28

# Dirt
REPEATED_TEXT_RATE, RECENT_OFFERS = 0.02, 256
ENTITY_RATE, TWICE_ESCAPED_RATE, WHITE_SPACE_RATE = 0.10, 0.15, 0.08
BAD_ID_RATE, NO_TEXT_RATE, BROKEN_LINE_RATE, BLANK_LINE_RATE = 0.002, 0.003, 0.006, 0.002
ID_STEP, ID_PRIME = 61_803_399, 99_999_989  # scatter cluster ids, each once

# Names: few brands hold most offers, so that ever more are met as rows grow
BRANDS_PER_CLASS, BRANDS_PER_OTHER_CLASS, SHARED_BRANDS, SHARED_BRAND_RATE = 900, 120, 900, 0.2
BRAND_NAMES, SERIES_NAMES, PEOPLE = 8_000, 30_000, 4_000
BRAND_EXPONENT, NOUN_EXPONENT = 1.7, 1.3
# Sizes and codes by class; # is a digit, A a letter
SIZES = {
    "Automotive": '12V|24V|H7|1.6 TDI|2.0|4 pcs|front|16"|17"|120 mm|80 mm|5W-30',
    "Baby": "0-6 M|6-12 M|newborn|50|56|62|2 pcs|3 pcs|250 ml|0+|1-3 Y",
    "Books": "vol. 1|vol. 2|320 p.|240 p.|A4|A5|1st|2nd|3 pcs|16-18",
    "Clothing": "XS|S|M|L|XL|XXL|36|38|40|42|44|W32 L34|10-12 Y",
    "Jewelry": '925|18k|14k|0.25 ct|18 mm|42 cm|45 cm|52|54|16"|2 pcs',
    "Shoes": "36|37|38|39|40|41|42|43|US 8|US 9.5|UK 7|EU 40",
    "": '1|2|3 pcs|10|12|20 cm|A4|M|L|16"|42',
}
CODE_SHAPES = {
    "Automotive": "A### ### ## ##|# ### ### ###|##A ### ###",
    "Baby": "AA-###|####-A|A#-##",
    "Books": "978##########|978-#-###-#####-#|#########A",
    "Clothing": "A#####-##|AA####|########",
    "Jewelry": "AA####A|A##.###.##|AA-####",
    "Shoes": "######-###|AA####|A#####",
    "": "#####|A-####|AA###|##A####",
}
CURRENCIES = ("USD", "USD", "USD", "EUR", "GBP", "CAD", "AUD")
SHOP_ENDINGS = ("Buy Online", "Free Shipping", "Official Store", "Sale", "Best Price", "Shop now")

KEYS = (
    "cluster_id url nodeId name title description brand manufacturer price priceCurrency sku mpn productID "
    "identifier gtin gtin8 gtin12 gtin13 gtin14"
).split()
ENTITIES = {
    "&": "&amp;", '"': "&quot;", "'": "&#39;", "é": "&eacute;", "ü": "&uuml;", "ä": "&auml;", "ö": "&ouml;",
    "ñ": "&ntilde;", "à": "&agrave;", "è": "&egrave;", "ç": "&ccedil;", "ß": "&szlig;",
}  # fmt: skip
TO_ENTITIES = str.maketrans(ENTITIES)


class Noun(NamedTuple):
    category: str
    words: tuple[str, ...]  # one a language
    ambiguous: bool  # its English word stands under several classes
    headship: float  # how much rather it names what is sold than what that is for

    def differs(self, other: "Noun") -> bool:
        return not 1 / DECIDED_HEADSHIP < self.headship / other.headship < DECIDED_HEADSHIP


@dataclass(slots=True)
class Product:
    """What the offers of a cluster have in common."""

    kind: str  # plain, pair, compound, bare or phrase
    head: Noun
    other: Noun
    third: Noun
    attributes: tuple[tuple[str, ...], tuple[str, ...]]
    brand: str
    series: str
    code: str
    size: str
    person: str
    numbers: tuple[int, int, int]

    @property
    def category(self) -> str:
        return self.head.category


@dataclass(slots=True)
class Cluster:
    id: int
    labels: list[str]  # empty: not in the label file; several: the file contradicts or repeats itself
    offers: list[tuple[str, bytes]]  # clean text and raw line


class Weighted:
    """Items drawn in proportion to their weights by one uniform number."""

    def __init__(self, items: Sequence, weights: Sequence[float]) -> None:
        self.items = items
        self.sums = list(accumulate(weights))

    def pick(self, uniform: float):
        return self.items[bisect(self.sums, uniform * self.sums[-1])]


def zipf(items: Sequence, exponent: float = 1.0, offset: float = 3.0) -> Weighted:
    return Weighted(items, [(rank + offset) ** -exponent for rank in range(len(items))])


class Catalog:
    """All random choices of one seed: which brands, series and authors exist, and the draws from them."""

    def __init__(self, seed: int) -> None:
        self.reseed(f"catalog {seed}")
        self.classes = list(CLASS_SHARES)
        self.other_classes = [name for name in NOUNS if name not in CLASS_SHARES]
        names = self.invent_names(BRAND_NAMES)
        series_names = self.invent_names(SERIES_NAMES)
        shared = [names.pop() for _ in range(SHARED_BRANDS)]
        self.brands, self.series = {}, {}
        for category in NOUNS:
            count = BRANDS_PER_CLASS if category in CLASS_SHARES else BRANDS_PER_OTHER_CLASS
            brands = []
            for _ in range(count):
                brand = self.choose(shared) if self.random() < SHARED_BRAND_RATE else names.pop()
                if (category, brand) not in self.series:
                    brands.append(brand)
                    # A shared brand has its own series in each class
                    lines = [self.choose(series_names) for _ in range(2 + int(self.random() * 9))]
                    self.series[category, brand] = zipf(lines, offset=1.0)
            self.brands[category] = zipf(brands, BRAND_EXPONENT)
        surnames = names[: PEOPLE // 3]
        people = {f"{self.choose(GIVEN_NAMES)} {self.choose(surnames)}": None for _ in range(PEOPLE)}
        self.people = list(people)
        # Authors write for the most part, designers make for the most part; some do both
        self.people_of = {
            c: zipf(self.people[i::3], BRAND_EXPONENT) for i, c in enumerate(("Books", "Clothing", "Jewelry"))
        }
        self.nouns = {category: zipf(self.make_nouns(category), NOUN_EXPONENT) for category in NOUNS}
        self.languages = Weighted(list(LANGUAGE_SHARES), list(LANGUAGE_SHARES.values()))
        self.shops = zipf([f"{self.choose(names)}-{self.choose(names)}".lower() for _ in range(2_000)])
        counts = range(2, MAX_CLUSTER_SIZE + 1)
        self.cluster_sizes = Weighted(counts, [count**-CLUSTER_SIZE_EXPONENT for count in counts])
        self.sizes = {category: text.split("|") for category, text in SIZES.items()}
        self.code_shapes = {category: text.split("|") for category, text in CODE_SHAPES.items()}
        self.wrong_labels = Weighted(self.classes, list(CLASS_SHARES.values()))
        self.compound_classes, self.single_classes = class_mixture(CLASS_SHARES, COMPOUND_RATE)
        self.reseed(f"offers {seed}")

    def reseed(self, text: str) -> None:
        self.random = Random(text).random

    def choose(self, items: Sequence):
        return items[int(self.random() * len(items))]

    def invent_names(self, count: int) -> list[str]:
        onsets = "b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sl st t tr v w z".split()
        middles = "a e i o u a e i o ai ea ou io".split()
        codas = ["", "", "", "n", "r", "l", "s", "x", "nd", "rt", "m", "ck", "th", "lla", "tto", "ve"]
        names: dict[str, None] = {}
        while len(names) < count:
            syllables = 1 + int(self.random() * 2.6)
            parts = [self.choose(onsets) + self.choose(middles) for _ in range(syllables)]
            name = "".join(parts) + self.choose(codas)
            if len(name) > 3:
                names[name.capitalize()] = None
        return list(names)

    def make_nouns(self, category: str) -> list[Noun]:
        words = Counter(row[0] for rows in NOUNS.values() for row in rows)
        return [
            Noun(category, row, words[row[0]] > 1, HEADSHIP_RANGE ** (2 * self.random() - 1))
            for row in NOUNS[category]
        ]

    def draw_language(self) -> str:
        return self.languages.pick(self.random())

    def choose_by_class(self, table: dict[str, list[str]], category: str) -> str:
        if self.random() < STRAY_SIZE_RATE:
            category = self.choose(self.classes) if self.random() < 0.5 else ""
        return self.choose(table.get(category, table[""]))

    def draw_code(self, category: str) -> str:
        digits, letters = "0123456789", "ABCDEFGHJKLMNPRSTUVWXYZ"
        return "".join(
            self.choose(digits) if c == "#" else self.choose(letters) if c == "A" else c
            for c in self.choose_by_class(self.code_shapes, category)
        )

    def draw_product(self, others: bool = True) -> Product:
        """A product; `others` also draws from classes beyond the six."""
        random, choose = self.random, self.choose
        if others and random() < OTHER_CLASSES_RATE:
            category = choose(self.other_classes)
            kind = "compound" if random() < COMPOUND_RATE else "plain"
        elif random() < COMPOUND_RATE:
            category, kind = self.compound_classes.pick(random()), "compound"
        else:
            category = self.single_classes.pick(random())
            kind = self.draw_single_kind(category)
        head = self.draw_noun(category)
        if kind != "compound":
            head, _ = self.order_nouns(head, self.draw_noun(category))
        if kind == "plain" and head.ambiguous and random() < AMBIGUOUS_REDRAW_RATE:
            kind = "pair"  # a timing chain, a chain necklace
        other = self.draw_noun(category if kind == "pair" else choose(self.classes))
        if kind == "compound":
            decided = random() < DECIDED_RATE
            while other.category == category or (decided and not head.differs(other)):
                other = self.draw_noun(self.compound_classes.pick(random()))
            head, other = self.order_nouns(head, other)

        # Compounds also come under brands of other classes, so that the maker does not answer for the words
        brand_category = head.category
        if kind == "compound" and random() < FOREIGN_BRAND_RATE:
            brand_category = choose((other.category, choose(self.classes)))
        brand = self.brands[brand_category].pick(random())
        people = self.people_of.get(head.category)
        return Product(
            kind=kind,
            head=head,
            other=other,
            third=self.draw_noun(choose(self.classes)),
            attributes=(choose(ATTRIBUTES), choose(ATTRIBUTES)),
            brand=brand,
            series=self.series[brand_category, brand].pick(random()),
            code=self.draw_code(brand_category),
            size=self.choose_by_class(self.sizes, head.category),
            person=people.pick(random()) if people and random() < 0.8 else choose(self.people),
            numbers=(5 + int(random() * 90), 2 + int(random() * 6), 10 + int(random() * 80)),
        )

    def draw_noun(self, category: str) -> Noun:
        noun = self.nouns[category].pick(self.random())
        if noun.ambiguous and self.random() < AMBIGUOUS_REDRAW_RATE:
            noun = self.nouns[category].pick(self.random())
        return noun

    def order_nouns(self, first: Noun, second: Noun) -> tuple[Noun, Noun]:
        """What is sold, then what is not; some words mostly name the one, some the other, none always."""
        if self.random() * (first.headship + second.headship) < first.headship:
            return first, second
        return second, first

    def draw_single_kind(self, category: str) -> str:
        uniform = self.random()
        if category == "Books":
            return "phrase" if uniform < BOOK_PHRASE_RATE else "plain"
        for kind, rate in (("pair", SAME_CLASS_PAIR_RATE), ("bare", BARE_RATE), ("phrase", PHRASE_RATE)):
            if uniform < rate:
                return kind
            uniform -= rate
        return "plain"

    def draw_labels(self, product: Product) -> list[str]:
        """What the label file says: the class for the most part, at times a wrong one, none or two."""
        random = self.random
        if random() < UNLABELLED_RATE:
            return []
        label = product.category
        if random() < WRONG_LABEL_RATES.get(label, USUAL_WRONG_LABEL_RATE):
            label = product.other.category if random() < 0.5 else label
            while label == product.category:
                label = self.wrong_labels.pick(random())
        repeat = random()
        if repeat < TWO_LABELS_RATE:
            return [label, self.wrong_labels.pick(random())]
        return [label, label] if repeat < TWO_LABELS_RATE + REPEATED_LABEL_RATE else [label]


def class_mixture(shares: dict[str, float], compound_rate: float) -> tuple[Weighted, Weighted]:
    """Shares of classes in compounds, flatter, and in all else, so that both together give `shares`."""
    total = sum(shares.values())
    flat = {name: share**0.7 for name, share in shares.items()}
    flat = {name: share / sum(flat.values()) for name, share in flat.items()}
    # A compound's second class is never its first, and about half the time it is the second that is sold
    second = {n: sum(f * flat[n] / (1 - f) for m, f in flat.items() if m != n) for n in flat}
    in_compounds = {name: (flat[name] + second[name]) / 2 for name in flat}
    rest = [share / total - compound_rate * in_compounds[name] for name, share in shares.items()]
    return Weighted(list(flat), list(flat.values())), Weighted(list(shares), rest)


def render_offer(catalog: Catalog, product: Product, language: str) -> tuple[str, str]:
    """Title and description of one offer, clean; the description may be empty."""
    description = ""
    if catalog.random() < DESCRIPTION_RATE:
        description = render_description(catalog, product, language)
    return render_title(catalog, product, language), description


def render_title(catalog: Catalog, product: Product, language: str) -> str:
    random, choose = catalog.random, catalog.choose
    # Many foreign shops translate the description only
    core = render_core(catalog, product, "en" if random() < ENGLISH_CORE_RATE else language)
    if product.kind == "phrase":
        parts = [core, f"{BY[language]} {product.person}" if random() < 0.8 else product.person]
        if product.category == "Books" and random() < BOOK_FORMAT_RATE:
            parts.append(choose(BOOK_FORMATS[language]))
        if random() < 0.3:
            parts.append(f"({1940 + product.numbers[2]})" if random() < 0.5 else product.code)
        return choose((", ", " - ", " ", " / ")).join(parts)

    bare = product.kind == "bare"
    lead = product.brand if bare or random() < 0.85 else ""
    if bare or random() < 0.45:
        lead = f"{lead} {product.series}".strip()
    tail = [product.attributes[1][COLUMN[language]]] if random() < 0.4 else []
    if random() < 0.4:
        tail.append(product.size)
    if random() < (0.6 if bare else 0.35):
        tail.append(product.code)
    if random() < 0.06:
        tail.append(f"{BY[language]} {product.person}")
    if language == "en" and random() < 0.05:
        tail.append(f"| {choose(SHOP_ENDINGS)}")
    order = random()
    parts = (
        [lead, core, *tail] if order < 0.7 else [core, lead, *tail] if order < 0.85 else [lead, *tail, core]
    )
    return choose((" ", " ", " ", " - ", ", ")).join(part for part in parts if part)


def render_core(catalog: Catalog, product: Product, language: str) -> str:
    """The part of a title that says what is sold; empty where only the brand tells."""
    choose, column = catalog.choose, COLUMN[language]
    if product.kind == "bare":
        return ""
    if product.kind == "plain":
        pattern = choose(
            ("{a}{h}", "{h}", "{h}（{a}）") if language in NO_SPACE else ("{a} {h}", "{h}", "{h} {a}")
        )
    elif product.kind == "phrase":
        pattern = choose(BOOK_TITLES[language])
    else:
        pattern = choose(choose(COMPOUNDS[language]))
    core = pattern.format(
        h=product.head.words[column],
        m=product.other.words[column],
        n=product.third.words[column],
        a=product.attributes[0][column],
        c=product.attributes[1][column],
        p=product.person.split(" ", 1)[0],
    )
    style = catalog.random()
    if language != "en" or style >= 0.6:
        return core
    return core.upper() if style < 0.05 else core.title().replace("'S", "'s")


def render_description(catalog: Catalog, product: Product, language: str) -> str:
    random, choose, column = catalog.random, catalog.choose, COLUMN[language]
    neutral, of_head, of_other = SENTENCES[language]
    i, j, k = product.numbers
    words = {"h": product.head.words[column], "b": product.brand, "s": product.series, "q": product.code}
    words.update(i=i, j=j, k=k, p=product.person)
    sentences = []
    for _ in range(1 + min(MAX_SENTENCES - 1, int(-MEAN_SENTENCES * log(1 - random())))):
        words["a"], words["c"] = choose(ATTRIBUTES)[column], choose(ATTRIBUTES)[column]
        kind = random()
        if kind < NEUTRAL_SENTENCE_RATE:
            pattern = choose(neutral)
        elif kind < NEUTRAL_SENTENCE_RATE + HEAD_SENTENCE_RATE:
            pattern = choose(of_head)
        else:
            pattern = choose(of_other)
            related = product.kind == "compound" and random() < 0.75
            other = product.other if related else catalog.draw_noun(choose(catalog.classes))
            words["x"] = other.words[column]
        sentences.append(pattern.format_map(words))
    return ("" if language in NO_SPACE else " ").join(sentences)


def draw_clusters(catalog: Catalog, rows: int) -> Iterator[Cluster]:
    """Clusters of offers, `rows` offers in all; memory does not grow with `rows`."""
    random = catalog.random
    recent: list[tuple[Product, tuple[str, str]]] = []  # some earlier offers, to be repeated under another id
    index = 0
    while rows > 0:
        cluster_id = 1 + index * ID_STEP % ID_PRIME
        index += 1
        if recent and random() < REPEATED_TEXT_RATE:
            product, offer = catalog.choose(recent)
            offers = [offer]
        else:
            product = catalog.draw_product()
            languages = draw_languages(catalog)[:rows]
            offers = [render_offer(catalog, product, language) for language in languages]
            if len(recent) < RECENT_OFFERS:
                recent.append((product, offers[0]))
            else:
                recent[int(random() * RECENT_OFFERS)] = (product, offers[0])
        lines = [
            (" ".join(offer).strip(), offer_line(catalog, product, cluster_id, *offer)) for offer in offers
        ]
        rows -= len(lines)
        yield Cluster(cluster_id, catalog.draw_labels(product), lines)


def draw_languages(catalog: Catalog) -> list[str]:
    """A language for each offer of a cluster; all but a few foreign offers have an English sibling."""
    random = catalog.random
    if random() < CLUSTER_OF_ONE_RATE:
        return [catalog.draw_language() if random() < LONE_FOREIGN_RATE else "en"]
    size = catalog.cluster_sizes.pick(random())
    if random() >= SEVERAL_LANGUAGES_RATE:
        return ["en"] * size
    return ["en"] + [
        catalog.draw_language() if random() < OTHER_LANGUAGE_RATE else "en" for _ in range(size - 1)
    ]


def offer_line(catalog: Catalog, product: Product, cluster_id: int, title: str, description: str) -> bytes:
    """One raw line, ended, with all that is wrong with lines of web data; a blank line may follow it."""
    random, choose = catalog.random, catalog.choose
    title, description = add_text_dirt(catalog, title), add_text_dirt(catalog, description)
    row = dict.fromkeys(KEYS)
    row["cluster_id"] = cluster_id
    shop = catalog.shops.pick(random())
    row["url"] = (
        f"https://www.{shop}.example/{choose(('p', 'item', 'product', 'shop'))}/{int(random() * 1e7)}"
    )
    row["nodeId"] = f"_:node{int(random() * 1e16):x}"
    place = random()
    if place < 0.6:
        row["name"] = title
    elif place < 0.8:
        row["title"] = title
    else:
        row["title"], row["name"] = title, title
    row["description"] = description or (None if random() < 0.9 else "")
    if random() < 0.55:
        row["brand"] = product.brand
    if random() < 0.15:
        row["manufacturer"] = product.brand
    if random() < 0.6:
        row["price"], row["priceCurrency"] = f"{2 + random() ** 3 * 400:.2f}", choose(CURRENCIES)
    if random() < 0.5:
        row["sku"] = product.code if random() < 0.5 else str(int(random() * 1e6))
    if random() < 0.3:
        row["mpn"] = product.code
    if random() < 0.1:
        row[choose(("productID", "identifier"))] = str(int(random() * 1e9))
    if random() < 0.3:
        row[choose(("gtin", "gtin8", "gtin12", "gtin13", "gtin13", "gtin14"))] = str(
            int(1e12 + random() * 8e12)
        )
    return add_line_dirt(catalog, row)


def add_text_dirt(catalog: Catalog, text: str) -> str:
    """HTML entities, at times escaped twice, and stray white space."""
    random = catalog.random
    if random() < ENTITY_RATE:
        text = text.translate(TO_ENTITIES)
        if random() < TWICE_ESCAPED_RATE:
            text = text.replace("&", "&amp;")
    if text and random() < WHITE_SPACE_RATE:
        cut = text.find(" ", int(random() * len(text)))
        if cut > 0:
            text = text[:cut] + catalog.choose(("  ", "\n", " \r\n ", "\t", "\u00a0 ")) + text[cut + 1 :]
        text = catalog.choose(("", " ", "\n", "  ")) + text + catalog.choose(("", " ", "\n\n"))
    return text


def add_line_dirt(catalog: Catalog, row: dict) -> bytes:
    """Rows without a usable id or without text, broken lines, blank lines."""
    random, choose = catalog.random, catalog.choose
    fault = random()
    if fault < BAD_ID_RATE:
        row["cluster_id"] = choose((None, "n/a", ""))
        if random() < 0.3:
            del row["cluster_id"]
    elif fault < BAD_ID_RATE + NO_TEXT_RATE:
        row["title"] = row["name"] = row["description"] = None
        if random() < 0.5:
            row["name"] = choose(("", "  ", "\n"))
    line = json.dumps(row, ensure_ascii=False).encode()
    if fault > 1 - BROKEN_LINE_RATE:
        kind = random()
        cut = 20 + int(random() * (len(line) - 40))
        if kind < 0.4:
            line = line[:cut].decode(errors="ignore").encode()
        elif kind < 0.7:
            line = line[:cut] + b"\xff\xfe" + line[cut:]
        else:
            line = choose((b"[]", b"null", b"42", b'"offer"', b"<html><body>502 Bad Gateway</body></html>"))
    return line + (b"\n\n" if random() < BLANK_LINE_RATE else b"\n")


def clean_text(text: str) -> str:
    """A raw text as a reader should see it: entities resolved, also the doubled ones, white space folded."""
    return " ".join(html.unescape(html.unescape(text)).split())

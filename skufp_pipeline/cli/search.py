"""`skufp search`: asks an index."""

import json
import re
import unicodedata
from dataclasses import asdict
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skufp_pipeline.cli.options import index_option, open_engine, preset_option, user_errors
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skufp_pipeline.query.answers import Answer
    from skufp_pipeline.query.combine import Wish
    from skufp_pipeline.query.engine import QueryEngine, UsePolicy
    from skufp_pipeline.query.regions import RegionChoice
    from skufp_pipeline.search.index import FingerprintIndex
    from skufp_pipeline.search.rows import Rows

CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|=|<|>)\s*(.*\S)\s*", re.DOTALL)
ID_COLUMN = re.compile(r"(^|[,;\t])\s*\"?(?P<name>sku_id)\"?\s*($|[,;\t])", re.IGNORECASE)


@click.command()
@preset_option
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A photo; of one item, repeatable.",
)
@click.option(
    "--image-weight", "image_weights", type=float, multiple=True, help="How much each photo counts."
)
@click.option("--item", type=int, metavar="N", help="The Nth item that the detector finds in the photo.")
@click.option("--box", metavar="X1,Y1,X2,Y2", help="This part of the photo, in pixels of the upright photo.")
@click.option(
    "--whole", is_flag=True, help="The whole photo; without --item, --box or this the item that answers best."
)
@click.option(
    "--merge", is_flag=True, help="All items of the photo together, a SKU by the item it fits best."
)
@click.option("--text", help="A few words.")
@click.option(
    "--text-weight", type=float, help="With both: 0 for the photo alone, 1 for the words; 0.5 by default."
)
@click.option("--not", "avoided", multiple=True, metavar="WORDS", help="Words that push away; repeatable.")
@click.option("--not-weight", type=float, default=0.5, show_default=True, help="How far they push.")
@click.option(
    "--like",
    "liked",
    multiple=True,
    metavar="SKU_ID",
    help="A SKU of the index: what is like it; repeatable.",
)
@click.option(
    "--unlike", "disliked", multiple=True, metavar="SKU_ID", help="A SKU to stay away from; repeatable."
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help='Only SKUs with this; also <, <=, >, >= for numbers and dates ("price<=50"); repeatable.',
)
@click.option(
    "--within",
    type=click.Path(path_type=Path),
    help="Only SKUs of this file: an id a line, or a CSV with the column sku_id.",
)
@click.option(
    "--policy",
    type=click.Choice(["on", "off", "auto"]),
    default="auto",
    show_default=True,
    help="Whether the query policy may process the photo; auto: where the index has one.",
)
@click.option(
    "--words/--no-words", default=True, help="Whether exact words, names and codes of the text count as such."
)
@click.option(
    "--facets",
    type=click.IntRange(min=1),
    metavar="N",
    help="Count category, colour, pattern and the catalogue's columns of few values over the N best answers.",
)
@click.option(
    "--look-twice/--no-look-twice",
    default=True,
    help="Whether the best answers to a photo are compared with it patch by patch; verdicts need it.",
)
@click.option("--top", default=10, show_default=True, help="How many SKUs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=click.Path(path_type=Path), help="Save a picture of the results (PNG).")
@click.option(
    "--explain",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Save a picture of why the first answer is like the photo (PNG).",
)
@index_option
@user_errors
def search(
    name: str | None,
    images: tuple[Path, ...],
    image_weights: tuple[float, ...],
    item: int | None,
    box: str | None,
    whole: bool,
    merge: bool,
    text: str | None,
    text_weight: float | None,
    avoided: tuple[str, ...],
    not_weight: float,
    liked: tuple[str, ...],
    disliked: tuple[str, ...],
    facets: int | None,
    where: tuple[str, ...],
    within: Path | None,
    policy: "UsePolicy",
    words: bool,
    look_twice: bool,
    top: int,
    as_json: bool,
    save: Path | None,
    explain: Path | None,
    index: str | None,
) -> None:
    """Find the SKUs that match photos, a sentence, other SKUs or all together, best first.

    Several --where values for one column are alternatives; each column and each range narrows the search.
    """
    if text_weight is not None and (not images or text is None):
        raise UserError("--text-weight needs both --image and --text")
    from skufp_pipeline.query.combine import Wish

    wish = Wish(
        images,
        image_weights or None,
        text,
        0.5 if text_weight is None else text_weight,
        avoided,
        not_weight,
        [unicodedata.normalize("NFC", sku_id) for sku_id in liked],
        [unicodedata.normalize("NFC", sku_id) for sku_id in disliked],
    )
    if explain is not None and len(images) != 1:
        raise UserError("--explain says why a SKU is like a photo: give one --image FILE with it")
    region = _region(images, item, box, whole, merge)
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    engine = open_engine(preset, store, policy, index, words, look_twice)
    answer = engine.search(wish, top, _rows_to_search(engine.index, where, within), facets, region)
    if explain is not None:
        save_explanation(answer, images[0], engine, explain)
    if as_json:
        hits = [
            {key: value for key, value in asdict(hit).items() if key != "parts" or value}
            for hit in answer.hits
        ]
        found: dict[str, Any] = {"hits": hits, "ms": answer.milliseconds}
        found |= {} if answer.facets is None else {"facets": answer.facets}
        judged = {"confidence": answer.confidence, "verdict": answer.verdict, "no_verdict": answer.no_verdict}
        found |= {name: value for name, value in judged.items() if value is not None}
        found |= {"action": answer.action, "box": answer.box, "item": answer.item}
        found["items"] = [asdict(each) for each in answer.items]
        found |= {} if explain is None else {"explained": str(explain)}
        click.echo(json.dumps(found, indent=1, default=str))  # str: dates
    else:
        print_answer(answer)
    if save is not None:
        _save_picture(answer, _shown(images, wish, engine), engine, save)


VERDICTS = {
    "match": "a match: the first answer is right with a probability of {:.0%}",
    "similar": "similar products: the first answer is right with a probability of {:.0%}",
    "none": "probably not in this shop: the first answer is right with a probability of {:.0%}",
}


def print_answer(answer: "Answer") -> None:
    if answer.verdict is not None:
        click.echo(VERDICTS[answer.verdict].format(answer.confidence))
    if answer.no_verdict is not None:
        click.echo(answer.no_verdict)
    for hit in answer.hits:
        name = hit.title or hit.category_name or ""
        matched = f"  ({', '.join(hit.matched)})" if hit.matched else ""
        look = "" if hit.maxsim is None else f" patches {hit.maxsim:.2f} "
        click.echo(f"{hit.rank:>3}  {hit.score:.4f} {look} {hit.sku_id:<24} {name:<24} {hit.image}{matched}")
    for column, counts in (answer.facets or {}).items():
        click.echo(f"     {column}: " + ", ".join(f"{value} {count}" for value, count in counts.items()))
    for item in answer.items:
        x1, y1, x2, y2 = item.box
        mark, first = "*" if item.number == answer.item else " ", item.sku_id or "nothing"
        score = "" if item.score is None else f" {item.score:.4f}"
        click.echo(f"   {mark} item {item.number}: {item.label} at {x1},{y1},{x2},{y2}; first {first}{score}")
    spent = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in answer.milliseconds.items())
    click.echo(f"     {spent}" + (f"; policy: {answer.action}" if answer.action else ""))


def _shown(images: tuple[Path, ...], wish: "Wish", engine: "QueryEngine") -> "NDArray[np.uint8] | str":
    """What the results picture shows of a query: its first photo, else its text, else the first liked SKU."""
    import numpy as np

    from skufp_pipeline.query.engine import read_photo

    if images:
        return np.asarray(read_photo(images[0]))
    if wish.text is not None:
        return wish.text
    picture = engine.picture(wish.liked[0])
    return wish.liked[0] if picture is None else np.asarray(read_photo(picture))


def _region(
    images: tuple[Path, ...], item: int | None, box: str | None, whole: bool, merge: bool
) -> "RegionChoice":
    """What of the photo is searched for; raises UserError for options that exclude one another."""
    options = {"--item": item is not None, "--box": box, "--whole": whole, "--merge": merge}
    given = [name for name, is_set in options.items() if is_set]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of --item, --box, --whole and --merge")
    if given and len(images) != 1:
        raise UserError(f"{given[0]} needs one --image, the photo that it is a part of")
    if item is not None:
        return item
    if box is not None:
        return _box(box)
    return "whole" if whole else "merge" if merge else "auto"


def _box(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    try:
        x1, y1, x2, y2 = (int(part) for part in parts)
    except ValueError:
        raise UserError(
            f"--box {text!r}: expected four whole numbers x1,y1,x2,y2 in pixels, such as 10,20,300,400"
        ) from None
    return x1, y1, x2, y2


def _rows_to_search(index: "FingerprintIndex", where: tuple[str, ...], within: Path | None) -> "Rows | None":
    """The rows selected by --where and --within; None for all."""
    columns: dict[str, list[str]] = {}
    chosen: list[Rows] = []
    for condition in where:
        found = CONDITION.fullmatch(unicodedata.normalize("NFC", condition))
        if found is None:
            raise UserError(
                f"--where {condition!r}: expected column=value, such as category_name=shorts, or a range, "
                "such as price<=50"
            )
        column, sign, value = found.groups()
        if sign == "=":
            columns.setdefault(column, []).append(value)
        else:
            chosen.append(index.compare(column, sign, value))
    if columns:
        chosen.append(index.where(**columns))
    if within is not None:
        chosen.append(_listed(index, within))
    return reduce(and_, chosen) if chosen else None


def _listed(index: "FingerprintIndex", path: Path) -> "Rows":
    """The rows of a list of SKU ids; ids that the index lacks are counted on stderr."""
    from skufp_pipeline.search.segment import some

    sku_ids = _sku_ids(path)
    rows, unknown = index.known_skus(sku_ids)
    if not rows.count:
        raise UserError(f"--within {path}: {some(unknown)} is not in the index, so no SKU is left")
    if len(unknown):
        counted = f"{len(unknown)} of {len(set(sku_ids))} ids {'is' if len(unknown) == 1 else 'are'}"
        click.echo(f"--within {path}: {counted} not in the index: {some(unknown)}", err=True)
    return rows


def _sku_ids(path: Path) -> list[str]:
    """The ids of a file: its column sku_id if it has one, else its lines."""
    from skufp_pipeline.datasets.cells import sku_id_of
    from skufp_pipeline.datasets.text_files import read_cells, read_text

    text = read_text(path)
    lines = text.splitlines()
    header = next((line for line in lines if line.strip()), "")
    if column := ID_COLUMN.search(header):
        rows = read_cells(path, text, [column["name"]])
        place = [name.strip() for name in rows[0]].index(column["name"])
        lines = [row[place] for row in rows[1:] if len(row) > place]
    try:
        sku_ids = [sku_id_of(line) for line in lines if line.strip()]
    except ItemError as error:
        raise UserError(f"--within {path}: {error.detail}") from error
    if not sku_ids:
        raise UserError(f"--within {path} holds no SKU id; expected one a line")
    return sku_ids


def _save_picture(
    answer: "Answer", query: "NDArray[np.uint8] | str", engine: "QueryEngine", target: Path
) -> None:
    from skufp_pipeline.evaluation.figures import GridRow, results_grid

    hits = [(engine.picture(hit.sku_id) or b"", hit.sku_id, hit.score) for hit in answer.hits]
    try:
        target.write_bytes(results_grid([GridRow(query, None, hits)], shown=len(hits)))
    except OSError as error:
        raise UserError(f"--save {target}: {error}") from error
    click.echo(f"saved {target}", err=True)


def save_explanation(answer: "Answer", photo: Path, engine: "QueryEngine", target: Path) -> None:
    if not answer.hits:
        raise UserError("--explain: no SKU was found, so there is nothing to explain")
    if target.is_dir():
        raise UserError(f"--explain {target}: it is a folder; expected a file to write")
    from skufp_pipeline.query.regions import WHOLE

    region = answer.item or answer.box or WHOLE
    picture = engine.explain(photo, answer.hits[0].sku_id, region=region).picture()
    temporary = target.with_name(f".{target.name}.partial")
    try:
        picture.save(temporary, format="PNG")
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"--explain {target}: {error}") from error
    click.echo(f"saved {target}", err=True)

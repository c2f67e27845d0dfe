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
    from skufp_pipeline.query.engine import QueryEngine, UsePolicy
    from skufp_pipeline.search.index import FingerprintIndex
    from skufp_pipeline.search.rows import Rows

CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|=|<|>)\s*(.*\S)\s*", re.DOTALL)
ID_COLUMN = re.compile(r"(^|[,;\t])\s*\"?(?P<name>sku_id)\"?\s*($|[,;\t])", re.IGNORECASE)


@click.command()
@preset_option
@click.option("--image", type=click.Path(path_type=Path), help="A photo.")
@click.option("--text", help="A few words.")
@click.option(
    "--text-weight", type=float, help="With both: 0 for the photo alone, 1 for the words; 0.5 by default."
)
@click.option("--like", metavar="SKU_ID", help="A SKU of the index: what is most like it.")
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
    image: Path | None,
    text: str | None,
    text_weight: float | None,
    like: str | None,
    where: tuple[str, ...],
    within: Path | None,
    policy: "UsePolicy",
    words: bool,
    top: int,
    as_json: bool,
    save: Path | None,
    explain: Path | None,
    index: str,
) -> None:
    """Find the SKUs that match a photo, a sentence, both together or another SKU, best first.

    Several --where values for one column are alternatives; each column and each range narrows the search.
    """
    query = _Query(image, text, text_weight, like)
    if explain is not None and image is None:
        raise UserError("--explain says why a SKU is like a photo: give --image FILE with it")
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    engine = open_engine(preset, store, policy, index, words)
    answer = query.ask(engine, top, _rows_to_search(engine.index, where, within))
    if explain is not None and image is not None:
        _save_explanation(answer, image, engine, explain)
    if as_json:
        found: dict[str, Any] = {"hits": [asdict(hit) for hit in answer.hits], "ms": answer.milliseconds}
        found |= {} if explain is None else {"explained": str(explain)}
        click.echo(json.dumps({**found, "action": answer.action}, indent=1, default=str))  # str: dates
    else:
        print_answer(answer)
    if save is not None:
        _save_picture(answer, query.shown(engine), engine, save)


def print_answer(answer: "Answer") -> None:
    for hit in answer.hits:
        name = hit.title or hit.category_name or ""
        matched = f"  ({', '.join(hit.matched)})" if hit.matched else ""
        click.echo(f"{hit.rank:>3}  {hit.score:.4f}  {hit.sku_id:<24} {name:<24} {hit.image}{matched}")
    spent = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in answer.milliseconds.items())
    click.echo(f"     {spent}" + (f"; policy: {answer.action}" if answer.action else ""))


class _Query:
    """The query of `skufp search`: a photo, a text, both, or a SKU; raises UserError for other options."""

    def __init__(
        self, image: Path | None, text: str | None, text_weight: float | None, like: str | None
    ) -> None:
        if (like is None) == (image is None and text is None):
            raise UserError('give --image FILE or --text "..." or both, or --like SKU_ID alone')
        if text_weight is not None and (image is None or text is None):
            raise UserError("--text-weight needs both --image and --text")
        self.image, self.text = image, text
        self.like = None if like is None else unicodedata.normalize("NFC", like)
        self.text_weight = 0.5 if text_weight is None else text_weight

    def ask(self, engine: "QueryEngine", top: int, within: "Rows | None") -> "Answer":
        if self.like is not None:
            return engine.search_like(self.like, top, within)
        if self.image is None:
            return engine.search_text(self.text or "", top, within)
        if self.text is None:
            return engine.search_image(self.image, top, within)
        return engine.search_mixed(self.image, self.text, self.text_weight, top, within)

    def shown(self, engine: "QueryEngine") -> "NDArray[np.uint8] | str":
        """The query as the results picture shows it: pixels, or text if there is no picture."""
        import numpy as np

        from skufp_pipeline.query.engine import read_photo

        if self.like is not None:
            picture = engine.picture(self.like)
            return self.like if picture is None else np.asarray(read_photo(picture))
        return np.asarray(read_photo(self.image)) if self.image is not None else self.text or ""


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


def _save_explanation(answer: "Answer", photo: Path, engine: "QueryEngine", target: Path) -> None:
    if not answer.hits:
        raise UserError("--explain: no SKU was found, so there is nothing to explain")
    if target.is_dir():
        raise UserError(f"--explain {target}: it is a folder; expected a file to write")
    picture = engine.explain(photo, answer.hits[0].sku_id).picture()
    temporary = target.with_name(f".{target.name}.partial")
    try:
        picture.save(temporary, format="PNG")
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"--explain {target}: {error}") from error
    click.echo(f"saved {target}", err=True)

"""Asks the command line in this process, and what its tests ask with."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from skufp_pipeline.cli import main

from ..datasets.trees import write_image
from ..graphs import SMALL, Graph, write_preset


def ask(*words: str | Path) -> Result:
    """`skufp WORDS`, in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(result: Result) -> str:
    """The one line that a mistake was answered with."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def a_photo(graph: Graph) -> Path:
    """A query photo of a validation SKU."""
    return sorted(Path(graph.preset.data_root).glob("crops/shard_*/validation/query/*/*.jpg"))[0]


def found(*words: str | Path) -> list[str]:
    """Ids of the SKUs that a search prints, best first."""
    result = ask("search", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return [hit["sku_id"] for hit in json.loads(result.stdout)["hits"]]


def shop(folder: Path, rows: int, missing: int) -> Path:
    """The preset of a manifest of `rows` rows, `missing` of which name no file."""
    write_image(folder / "shop" / "a.jpg")
    paths = ["gone.jpg" if row < missing else "a.jpg" for row in range(rows)]
    lines = [f"sku{row},{path},catalog" for row, path in enumerate(paths)]
    (folder / "shop" / "manifest.csv").write_text("\n".join(["sku_id,image_path,domain", *lines]))
    dataset = {"source": "manifest", "read": {"path": str(folder / "shop" / "manifest.csv")}}
    return write_preset(folder, {**SMALL, "dataset": dataset})

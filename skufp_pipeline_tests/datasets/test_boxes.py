import json
from pathlib import Path

import polars as pl

from skufp_pipeline.datasets.boxes import annotated_boxes, listed_boxes

from .trees import write_image


def test_items_that_are_no_product_have_boxes_too(tmp_path: Path) -> None:
    for folder in ("annos", "image"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    write_image(tmp_path / "train/image/000001.jpg", size=(40, 20))
    boxes = {"item1": [1, 2, 30, 50], "item2": [0, 0, 9, 9], "item3": [50, 0, 60, 9]}
    items = {name: {"style": 0, "bounding_box": box} for name, box in boxes.items()}
    annotation = {"source": "user", "pair_id": 1, **items, "item4": "odd", "item5": {"style": 1}}
    (tmp_path / "train/annos/000001.json").write_text(json.dumps(annotation))
    found = annotated_boxes(tmp_path, ["train/image/000001.jpg"])
    assert found == {"train/image/000001.jpg": [[1, 2, 30, 20], [0, 0, 9, 9]]}, (
        "cut at the edge; one is outside"
    )


def test_an_image_that_is_one_item_as_a_whole_has_no_box(tmp_path: Path) -> None:
    rows = [("whole.jpg", [0, 0, 40, 20]), ("part.jpg", [0, 0, 40, 10]), ("two.jpg", [0, 0, 9, 9])]
    rows += [("two.jpg", [5, 5, 9, 9]), ("gone.jpg", [0, 0, 40, 20])]
    for name in {row[0] for row in rows} - {"gone.jpg"}:
        write_image(tmp_path / name, size=(40, 20))
    names, boxes = zip(*rows, strict=True)
    table = pl.DataFrame({"orig_image_path": names, "bbox": boxes})
    found = listed_boxes(table, ["gone.jpg", "part.jpg", "two.jpg", "whole.jpg"], tmp_path.joinpath)
    assert found == {"part.jpg": [[0, 0, 40, 10]], "two.jpg": [[0, 0, 9, 9], [5, 5, 9, 9]]}

"""Thumbs: what is kept of them, and how they come back as labelled photos."""

import csv
from pathlib import Path

import polars as pl
import pytest
from fastapi.testclient import TestClient

from skufp_pipeline.datasets.manifest import ManifestSettings, read_photos
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import open_photo
from skufp_pipeline.serving import feedback
from skufp_pipeline.serving.feedback import Feedback, Remembered, labelled_photos, read_feedback
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline_tests.graphs import SMALL, skufp, write_preset
from skufp_pipeline_tests.search.conftest import encoder, store
from skufp_pipeline_tests.serving.shop import Shop, photo_of, upload

__all__ = ["encoder", "store"]

SEARCH = Remembered("fingerprints", "one", ["a", "b"], photo_id="p", box=(1, 2, 30, 40))


def search(client: TestClient, **asked: object) -> str:
    answer = client.post("/v1/search", json={"top": 3, **asked})
    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"][0]["sku_id"] == "s0"
    return str(answer.json()["request_id"])


def thumb(client: TestClient, request_id: str, sku_id: str = "s0", good: bool = True) -> tuple[int, object]:
    body = {"request_id": request_id, "sku_id": sku_id, "good": good}
    answer = client.post("/v1/feedback", json=body)
    return answer.status_code, answer.json().get("photo_kept", answer.json().get("detail"))


def test_thumbs_become_a_csv_that_evaluate_and_a_manifest_read(tmp_path: Path, encoder: Encoder) -> None:
    shop = Shop.open(tmp_path, encoder)
    with shop.served(feedback=True) as client:
        photo = upload(client, photo_of("red"))
        boxed = search(client, photo_id=photo, box=[0, 0, 20, 30])
        whole = search(client, photo_id=photo)
        worded = search(client, photo_id=photo, text="thing 0", text_weight=0.1)
        words = search(client, text="s0")
        assert [thumb(client, each) for each in (boxed, whole, worded, words)] == [
            (201, True),
            (201, True),
            (201, False),
            (201, False),
        ]
        assert thumb(client, whole, "s1", good=False) == (201, True)
        assert not (tmp_path / "root" / "feedback").exists()  # written with others, or at the end
    (day,) = (tmp_path / "root" / "feedback").iterdir()
    (file,) = day.iterdir()
    rows = pl.read_parquet(file)
    assert rows.schema == feedback.SCHEMA
    assert rows.select("sku_id", "good", "rank", "bbox", "text").rows() == [
        ("s0", True, 1, "0,0,20,30", None),
        ("s0", True, 1, None, None),
        ("s0", True, 1, None, "thing 0"),
        ("s0", True, 1, None, "s0"),
        ("s1", False, 2, None, None),
    ]
    preset = write_preset(tmp_path, SMALL, shop.store.root)
    target = tmp_path / "out" / "labelled.csv"
    target.parent.mkdir()
    done = skufp("feedback", "export", "--to", target, "--preset", preset, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out: 2 (without a photo of their own)" in done.stderr
    assert "left out: 1 (thumbs down)" in done.stderr
    with target.open(encoding="utf-8-sig") as stream:
        listed = list(csv.DictReader(stream))
    assert [(row["sku_id"], row["domain"], row["bbox"]) for row in listed] == [
        ("s0", "query", "0,0,20,30"),
        ("s0", "query", ""),
    ]
    found = read_photos(target, ManifestSettings(path=str(target)))
    assert found.items.select("sku_id", "domain").unique().rows() == [("s0", "query")]
    assert found.items["bbox"].to_list()[0] == [0, 0, 20, 30]
    size = open_photo(photo_of("red")).size
    assert open_photo(target.parent / listed[0]["image_path"]).size == size


def test_nothing_is_kept_unless_the_shop_says_so(tmp_path: Path, encoder: Encoder) -> None:
    shop = Shop.open(tmp_path, encoder)
    with shop.served() as client:
        request_id = search(client, text="s0")
        assert thumb(client, request_id) == (403, "This shop keeps no feedback (serving.feedback is off).")
    assert not (tmp_path / "root" / "feedback").exists()


def test_a_search_without_a_thumb_leaves_nothing(tmp_path: Path, encoder: Encoder) -> None:
    shop = Shop.open(tmp_path, encoder)
    with shop.served(feedback=True) as client:
        request_id = search(client, photo_id=upload(client, photo_of("red")))
        assert thumb(client, "another")[0] == thumb(client, request_id, "s13")[0] == 404
    assert not (tmp_path / "root" / "feedback").exists()


def test_a_file_is_written_once_enough_has_come_or_waited(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "ROWS", 3)
    kept = Feedback(store, is_on=True)
    kept.remember("r", SEARCH)
    for _ in range(3):
        kept.add("r", "b", True, None)
    assert read_feedback(store)["rank"].to_list() == [2, 2, 2]
    kept.add("r", "a", True, None)
    kept.flush_old()
    assert read_feedback(store).height == 3
    monkeypatch.setattr(feedback, "SECONDS", 0.0)
    kept.flush_old()
    assert read_feedback(store).height == 4
    kept.flush()
    assert len(store.names(f"feedback/{store.names('feedback')[0]}")) == 2


def test_thumbs_wait_in_memory_while_they_can_not_be_written(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "ROWS", 1)
    monkeypatch.setattr(feedback, "HELD", 3)
    kept = Feedback(store, is_on=True)
    kept.remember("r", SEARCH)
    root = Path(store.root)
    root.write_text("no folder")
    for _ in range(3):
        kept.add("r", "a", True, None)
    with pytest.raises(UserError, match="can't be written at present"):
        kept.add("r", "a", True, None)
    root.unlink()
    kept.flush()
    assert read_feedback(store).height == 3


def test_only_so_many_searches_are_remembered(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "REMEMBERED", 2)
    kept = Feedback(store, is_on=True)
    for request_id in ("1", "2", "1", "3"):
        kept.remember(request_id, SEARCH)
    assert [kept.find(request_id) is not None for request_id in "123"] == [True, False, True]


def test_the_last_thumb_on_a_photo_and_a_sku_counts() -> None:
    def row(photo: str, sku_id: str, good: bool, bbox: str | None = None) -> dict[str, object]:
        content = photo.encode()
        return {"photo_digest": photo, "photo": content, "sku_id": sku_id, "good": good, "bbox": bbox}

    thumbs = pl.DataFrame(
        [
            row("p", "a", True),
            row("p", "a", False),  # taken back
            row("p", "b", True),
            row("q", "a", True),
            row("q", "b", True),  # two right SKUs: nobody knows
            row("q", "a", True, "0,0,5,5"),  # another item of that photo
        ],
        schema_overrides={"photo": pl.Binary},
    )
    found = labelled_photos(thumbs, "photos")
    assert found.photos.rows() == [
        ("b", "photos/p.jpg", "query", None),
        ("a", "photos/q.jpg", "query", "0,0,5,5"),
    ]
    assert found.files == {"photos/p.jpg": b"p", "photos/q.jpg": b"q"}
    assert found.left_out == {
        "taken back or given again": 1,
        "thumbs down": 1,
        "photos that are called right for several SKUs": 2,
    }


def test_a_store_without_feedback_is_told(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match=r"has no feedback yet; set serving\.feedback: true"):
        read_feedback(store)

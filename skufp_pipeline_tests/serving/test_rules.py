"""An operator's rules: what they move, what they hide, and what they leave alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pydantic import ValidationError

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.query.answers import Answer, Hit
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.patches import PatchIndex
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.serving.rules import FILE, Rule, Rules, apply_rules, usual_bias
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline_tests.encoders.examples import picture
from skufp_pipeline_tests.query.test_regions import LIME, RED, SIZE, Finder
from skufp_pipeline_tests.search.conftest import encoder, store
from skufp_pipeline_tests.serving.shop import SURE, shop_index

__all__ = ["encoder", "store"]

PIN, BURY, HIDE = Rule(rule="pin", bias=2), Rule(rule="bury", bias=2), Rule(rule="hide")


@pytest.fixture
def engine(encoder: Encoder) -> QueryEngine:
    index = shop_index(encoder)
    lexical = LexicalIndex.build(index.skus, LexicalSettings())
    return QueryEngine(index, encoder, lexical=lexical, confidence=SURE)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture("red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def ids(answer: Answer) -> list[str]:
    return [hit.sku_id for hit in answer.hits]


def unranked(hit: Hit) -> Hit:
    """A hit without what depends on the others: its rank, and the last bit of its cosine."""
    return replace(hit, rank=0, cosine=round(hit.cosine, 12))


def test_without_rules_that_count_the_engine_is_the_very_same(engine: QueryEngine) -> None:
    assert apply_rules(engine, {}).engine is engine
    applied = apply_rules(engine, {"gone": PIN, "also gone": HIDE})
    assert applied.engine is engine
    assert applied.unused == ("also gone", "gone")


def test_in_an_index_of_pictures_a_hidden_product_is_gone_and_a_pin_does_nothing(encoder: Encoder) -> None:
    plain = shop_index(encoder)
    pictured = ImageIndex.of_pictures(plain, plain.skus, np.arange(len(plain)))
    ruled = apply_rules(QueryEngine(pictured, encoder), {"s0": HIDE, "s9": PIN, "gone": BURY})
    assert ruled.unused == ("gone", "s9")
    assert not ruled.moved
    found = ids(ruled.engine.search_text("something soft", 14))
    assert found == [
        sku for sku in ids(QueryEngine(plain, encoder).search_text("something soft", 14)) if sku != "s0"
    ]


def test_a_pinned_sku_is_first_in_every_way_to_ask(engine: QueryEngine, photo: Path) -> None:
    ruled = apply_rules(engine, {"s9": PIN}).engine
    for answer in (
        ruled.search_image(photo, 5),
        ruled.search_text("something soft", 5),
        ruled.search_mixed(photo, "something soft", 0.5, 5),
        ruled.search_like("s3", 5),
        ruled.search(Wish([photo, photo]), 5),
    ):
        assert ids(answer)[0] == "s9"
    plain = [hit for hit in engine.search_image(photo, 14).hits if hit.sku_id != "s9"]
    moved = ruled.search_image(photo, 14)
    assert [(hit.sku_id, hit.score) for hit in moved.hits[1:]] == [(hit.sku_id, hit.score) for hit in plain]
    (own,) = [hit.score for hit in engine.search_image(photo, 14).hits if hit.sku_id == "s9"]
    assert moved.hits[0].score == pytest.approx(own + 2, abs=1e-6)


def test_a_buried_sku_is_last(engine: QueryEngine, photo: Path) -> None:
    assert ids(engine.search_image(photo, 14))[0] == "s0"
    assert ids(apply_rules(engine, {"s0": BURY}).engine.search_image(photo, 14))[-1] == "s0"


def test_a_hidden_sku_is_in_no_answer_and_the_others_are_as_before(engine: QueryEngine, photo: Path) -> None:
    ruled = apply_rules(engine, {"s0": HIDE}).engine
    for ask in (
        lambda e: e.search_image(photo, 14),
        lambda e: e.search_text("s0", 14),
        lambda e: e.search_text("thing 0", 14),
        lambda e: e.search_mixed(photo, "thing 0", 0.5, 14),
        lambda e: e.search_like("s1", 14),
    ):
        plain, found = ask(engine), ask(ruled)
        kept = [hit for hit in plain.hits if hit.sku_id != "s0"]
        assert [unranked(hit) for hit in found.hits] == [unranked(hit) for hit in kept]
    with pytest.raises(UserError, match="SKU 's0' is not in the index"):
        ruled.search_like("s0", 3)


def test_words_that_name_a_sku_come_before_a_pin(engine: QueryEngine) -> None:
    ruled = apply_rules(engine, {"s9": Rule(rule="pin", bias=4)}).engine
    assert ids(ruled.search_text("s5", 2)) == ["s5", "s9"]
    assert ids(ruled.search_text("s9", 1)) == ["s9"]


@pytest.mark.parametrize("rules", [{"s9": PIN}, {"s0": BURY}, {"s9": PIN, "s0": BURY, "s4": PIN}])
def test_pins_and_buries_change_neither_confidence_nor_verdict(
    engine: QueryEngine, photo: Path, rules: dict[str, Rule]
) -> None:
    plain, moved = engine.search_image(photo, 3), apply_rules(engine, rules).engine.search_image(photo, 3)
    assert ids(plain) != ids(moved)
    assert (moved.confidence, moved.verdict, moved.judged) == (plain.confidence, plain.verdict, "s0")
    assert plain.judged == "s0"


def test_a_pin_does_not_choose_the_item(encoder: Encoder, tmp_path: Path) -> None:
    red, lime = encoder.embed_images([picture("red"), picture("lime")])
    side = np.linalg.qr(np.stack([lime, red, np.eye(encoder.dimension)[0]], axis=1))[0][:, 2]
    rows = np.stack([red, 0.8 * lime + 0.6 * side]).astype(np.float32)
    skus = pl.DataFrame({"sku_id": ["red", "limy"], "category_name": "x", "title": "x", "image": "x"})
    index = FingerprintIndex(rows, skus)
    image = Image.new("RGB", SIZE, "white")
    for box, colour in ((RED, "red"), (LIME, "lime")):
        image.paste(colour, box)
    image.save(tmp_path / "photo.png")
    finder: Any = Finder(RED, LIME)
    plain = QueryEngine(index, encoder, detector=finder)
    ruled = apply_rules(plain, {"limy": PIN}).engine
    assert plain.search_image(tmp_path / "photo.png", 2).item == 1
    answer = ruled.search_image(tmp_path / "photo.png", 2)
    assert (answer.item, ids(answer)) == (1, ["limy", "red"])
    assert [item.sku_id for item in answer.items] == ["limy", "limy"]


def test_a_photo_is_embedded_once_whatever_the_rules(
    engine: QueryEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = SeenPhoto(photo.read_bytes())
    before = ids(engine.search_image(seen, 14))
    monkeypatch.setattr(QueryEngine, "embed_image", None)
    ruled = apply_rules(engine, {"s9": PIN, "s1": HIDE}).engine
    others = [sku_id for sku_id in before if sku_id not in ("s9", "s1")]
    assert ids(ruled.search_image(seen, 14)) == ["s9", *others]


def test_confidence_is_of_the_search_without_what_is_hidden(engine: QueryEngine, photo: Path) -> None:
    without = engine.over(engine.index.remove(["s0"])).search_image(photo, 3)
    for rules in ({"s0": HIDE}, {"s0": HIDE, "s9": PIN}):
        found = apply_rules(engine, rules).engine.search_image(photo, 3)
        assert (found.confidence, found.judged) == (without.confidence, "s1")
    assert without.confidence != engine.search_image(photo, 3).confidence


def test_the_second_look_ranks_a_pinned_sku_by_its_own_patches(engine: QueryEngine, encoder: Encoder) -> None:
    patches = np.zeros((14, 1, 1, 2), np.int8)
    patches[:, 0, 0, 0] = 127  # all look alike, but s9, which has nothing of the photo
    patches[9] = 0
    look = LookTwice(PatchIndex(patches, np.ones(14, np.uint8)), 5, 0.5)
    first = apply_rules(engine, {"s9": PIN}).engine.index.search(encoder.embed_images([picture("red")]), 5)[0]
    found = look.again(first, np.array([[127, 0]], np.int8))
    assert found.rows[0] == 9  # a pin of 2 exceeds what patches of weight 0.5 can take
    assert found.maxsim[0] == 0


def test_the_usual_bias_is_the_median_lead_over_the_twentieth_neighbour() -> None:
    """On a circle, SKU n is 360 / 40 degrees from its neighbours: two at each step."""
    angles = np.arange(40) * 2 * np.pi / 40
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = FingerprintIndex(rows, pl.DataFrame({"sku_id": [str(number) for number in range(40)]}))
    lead = np.cos(angles[1]) - np.cos(angles[10])  # the 19th and 20th are ten steps away
    assert usual_bias(index) == pytest.approx(lead, abs=1e-6)


def test_a_rule_without_a_bias_moves_by_the_usual_one(engine: QueryEngine) -> None:
    ruled = apply_rules(engine, {"s9": Rule(rule="pin"), "s4": Rule(rule="bury")}).engine
    change = ruled.index.biases - engine.index.biases
    usual = usual_bias(engine.index)
    assert usual > 0
    assert change[[9, 4]] == pytest.approx([usual, -usual], abs=1e-6)
    assert np.flatnonzero(change).tolist() == [4, 9]
    assert ruled.unmoved.index.biases.tolist() == engine.index.biases.tolist()


def test_rules_are_read_again_by_every_replica(store: ArtifactStore) -> None:
    here, there = Rules(store), Rules(store)
    here.put("b", PIN)
    assert there.read_again()
    there.put("a", HIDE)
    assert here.read_again()
    assert list(here.by_sku) == list(Rules(store).by_sku) == ["a", "b"]
    assert not here.read_again()
    assert here.delete("b")
    assert not here.delete("b")
    assert there.read_again()
    assert there.by_sku == {"a": HIDE}


def test_a_broken_file_leaves_the_rules_in_force_and_is_told(store: ArtifactStore) -> None:
    rules = Rules(store)
    rules.put("a", HIDE)
    rules.read_again()
    store.write_pointer(FILE, '{"rules": {"a": {"rule": "lift"}}}')
    assert not rules.read_again()
    assert rules.by_sku == {"a": HIDE}
    assert "rules.a.rule: Input should be 'pin', 'bury' or 'hide'" in (rules.problem or "")
    for act in (lambda: rules.put("b", PIN), lambda: Rules(store)):
        with pytest.raises(UserError, match="can't be read"):
            act()
    store.write_pointer(FILE, '{"rules": {}}')
    assert rules.read_again()
    assert rules.problem is None


@pytest.mark.parametrize("bias", [0, -1, 5, float("nan")])
def test_a_bias_is_a_difference_of_cosines(bias: float) -> None:
    with pytest.raises(ValidationError):
        Rule(rule="pin", bias=bias)


def test_a_hidden_sku_has_no_bias() -> None:
    with pytest.raises(ValidationError, match="a hidden SKU is in no answer"):
        Rule(rule="hide", bias=1)

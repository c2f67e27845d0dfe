from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from skufp_pipeline.artifacts.places import VLA_CHECKPOINT
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.onnx import OnnxImageEncoder
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.policy.actions import ACTIONS, IDENTITY
from skufp_pipeline.policy.enhance import fuse, processed
from skufp_pipeline.policy.network import Calibration, Constant, Policy, PolicyNetwork
from skufp_pipeline.policy.settings import ActionSettings
from skufp_pipeline.query.answers import Answer
from skufp_pipeline.query.confidence import Logistic, NoVerdicts
from skufp_pipeline.query.engine import CACHED_TEXTS, QueryEngine, read_photo
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import ArtifactStore, Recipe
from skufp_pipeline_tests.datasets.trees import write_png_bomb
from skufp_pipeline_tests.encoders.examples import noise, picture
from skufp_pipeline_tests.query.examples import calibrated
from skufp_pipeline_tests.search.conftest import SKUS, publish_encoder, publish_image_encoder, publish_index

CPU = torch.device("cpu")


@pytest.fixture
def engine(index: FingerprintIndex, encoder: Encoder) -> QueryEngine:
    return QueryEngine(index, encoder)


@pytest.mark.parametrize("sku_id", SKUS)
def test_a_photo_of_a_sku_finds_it(engine: QueryEngine, tmp_path: Path, sku_id: str) -> None:
    picture(SKUS[sku_id]).save(tmp_path / "photo.png")
    answer = engine.search_image(tmp_path / "photo.png", 2)
    assert [hit.rank for hit in answer.hits] == [1, 2]
    best = answer.hits[0]
    assert (best.sku_id, best.category_name, best.title) == (sku_id, "fruit", f"A {sku_id}")
    assert best.score == pytest.approx(1, abs=1e-5)
    assert best.image.endswith(f"/{sku_id}.jpg")
    assert list(answer.milliseconds) == ["decode", "preprocess", "encode", "search"]
    assert all(value > 0 for value in answer.milliseconds.values())


def test_a_hit_has_its_cosine_beside_bias_and_words(index: FingerprintIndex, encoder: Encoder) -> None:
    lexical = LexicalIndex.build(index.skus, LexicalSettings())
    biased = index.with_biases([0.25, 0.5, 0])
    by_words = QueryEngine(biased, encoder, lexical=lexical).search_text("lime", 3).hits
    query = encoder.embed_texts(["lime"])[0].astype(np.float64)
    for hit in by_words:
        (row,) = index.fingerprints_of([hit.sku_id]).astype(np.float64)
        assert hit.cosine == pytest.approx(row @ query / np.linalg.norm(query), abs=1e-12)
    assert by_words[0].score > by_words[0].cosine + 0.5
    liked = QueryEngine(biased, encoder).search_like("apple", 2).hits
    bias = {"lime": 0.5, "plum": 0.0}
    assert [hit.score - bias[hit.sku_id] for hit in liked] == pytest.approx([hit.cosine for hit in liked])


def test_a_sentence_finds_the_sku_that_it_is_nearest_to(encoder: Encoder) -> None:
    texts = ["a red apple", "a green lime", "a blue coat"]
    skus = pl.DataFrame({"sku_id": ["a", "l", "c"], "category_name": None, "title": None, "image": "x.jpg"})
    engine = QueryEngine(FingerprintIndex(encoder.embed_texts(texts), skus), encoder)
    answer = engine.search_text("a green lime", 10)
    assert len(answer.hits) == 3
    assert answer.hits[0].sku_id == "l"
    assert answer.hits[0].score == pytest.approx(1, abs=1e-5)
    assert list(answer.milliseconds) == ["encode", "search"]


def test_the_same_question_has_the_same_answer(engine: QueryEngine, tmp_path: Path) -> None:
    noise().save(tmp_path / "photo.png")
    one, two = (engine.search_image(tmp_path / "photo.png", 3).hits for _ in range(2))
    assert one == two


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_sentence_is_told(engine: QueryEngine, text: str) -> None:
    with pytest.raises(UserError, match="the text to search for is empty"):
        engine.search_text(text, 3)


@pytest.mark.parametrize("top", [0, -1])
def test_less_than_one_answer_is_told(engine: QueryEngine, top: int) -> None:
    with pytest.raises(UserError, match=f"top must be at least 1, got {top}"):
        engine.search_text("red", top)


def ids(answer: Answer) -> list[str]:
    return [hit.sku_id for hit in answer.hits]


def test_a_hit_has_what_else_the_catalogue_says(encoder: Encoder, index: FingerprintIndex) -> None:
    further = index.skus.with_columns(price=pl.Series([9.9, 5.0, None]))
    hits = QueryEngine(FingerprintIndex(index.fingerprints, further), encoder).search_text("a plum", 3).hits
    prices = {hit.sku_id: hit.columns for hit in hits}
    assert prices == {"apple": {"price": 9.9}, "lime": {"price": 5.0}, "plum": {"price": None}}


def test_only_skus_within_are_found(engine: QueryEngine, tmp_path: Path) -> None:
    picture(SKUS["plum"]).save(tmp_path / "photo.png")
    within = engine.index.where(colour=["red", "lime"])
    for answer in (
        engine.search_image(tmp_path / "photo.png", 3, within),
        engine.search_text("a plum", 3, within),
        engine.search_mixed(tmp_path / "photo.png", "a plum", 0.5, 3, within),
        engine.search_like("plum", 3, within),
    ):
        assert set(ids(answer)) == {"apple", "lime"}
        assert [hit.rank for hit in answer.hits] == [1, 2]


def test_a_photo_and_words_weigh_what_they_are_told_to(engine: QueryEngine, tmp_path: Path) -> None:
    picture(SKUS["lime"]).save(tmp_path / "photo.png")
    photo, text = tmp_path / "photo.png", "something else"
    ends = (engine.search_image(photo, 3).hits, engine.search_text(text, 3).hits)
    for weight, expected in zip((0, 1), ends, strict=True):
        mixed = engine.search_mixed(photo, text, weight, 3)
        assert ids(mixed) == [hit.sku_id for hit in expected]
        assert [hit.score for hit in mixed.hits] == pytest.approx([hit.score for hit in expected], abs=1e-12)
        assert list(mixed.milliseconds) == ["decode", "preprocess", "encode", "search"]
    embeddings = (engine.image_encoder.embed_images([read_photo(photo)]), engine.encoder.embed_texts([text]))
    units = [row[0].astype(float) / np.linalg.norm(row[0].astype(float)) for row in embeddings]
    query = 0.7 * units[0] + 0.3 * units[1]
    cosines = engine.index.fingerprints.astype(float) @ (query / np.linalg.norm(query))
    mixed = engine.search_mixed(photo, text, 0.3, 3)
    assert [hit.score for hit in mixed.hits] == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)
    with pytest.raises(UserError, match="weight must be 0 to 1, got 2"):
        engine.search_mixed(photo, text, 2, 3)
    with pytest.raises(UserError, match="the text to search for is empty"):
        engine.search_mixed(photo, " ", 0.5, 3)


@pytest.fixture
def worded(index: FingerprintIndex, encoder: Encoder) -> QueryEngine:
    return QueryEngine(index, encoder, lexical=LexicalIndex.build(index.skus, LexicalSettings()))


@pytest.mark.parametrize("sku_id", SKUS)
def test_an_id_is_found_first_whatever_the_vectors_say(worded: QueryEngine, sku_id: str) -> None:
    answer = worded.search_text(f" {sku_id.upper()}", 3)
    assert answer.hits[0].sku_id == sku_id
    assert answer.hits[0].score > 2
    assert [hit.matched for hit in answer.hits] == [[sku_id], [], []]
    assert list(answer.milliseconds) == ["encode", "words", "search"]


def test_words_are_found_within_a_filter_alone(worded: QueryEngine) -> None:
    within = worded.index.where(colour=["red", "purple"])
    assert set(ids(worded.search_text("lime", 3, within))) == {"apple", "plum"}
    assert ids(worded.search_text("plum", 1, within)) == ["plum"]


def test_a_bias_does_not_outweigh_an_id(index: FingerprintIndex, encoder: Encoder) -> None:
    lexical = LexicalIndex.build(index.skus, LexicalSettings(weight=2))
    engine = QueryEngine(index.with_biases([50.0, 0, -50.0]), encoder, lexical=lexical)
    assert ids(engine.search_text("plum", 3))[0] == "plum"


def test_a_text_without_words_of_the_catalogue_is_ranked_by_its_vector(
    worded: QueryEngine, engine: QueryEngine
) -> None:
    assert worded.search_text("warm and soft", 3).hits == engine.search_text("warm and soft", 3).hits


def test_words_weigh_in_a_mixed_query_what_its_text_does(worded: QueryEngine, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    picture(SKUS["apple"]).save(photo)
    assert worded.search_mixed(photo, "lime", 0, 3).hits == worded.search_image(photo, 3).hits
    assert worded.search_mixed(photo, "lime", 1, 3).hits == worded.search_text("lime", 3).hits
    whole, half = worded.search_text("lime", 1).hits[0], worded.search_mixed(photo, "lime", 0.5, 1).hits[0]
    assert half.sku_id == "lime"
    assert half.score < whole.score


def test_an_index_with_words_opens_them_when_a_text_is_asked(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    clip = publish_encoder(store, encoder)
    lexical = LexicalIndex.build(index.skus, LexicalSettings())
    publish_index(store, index, "one", clip=clip, lexical=lexical)
    engine = QueryEngine.open(store, CPU)
    assert engine.search_text("plum", 1).hits[0].matched == ["plum"]
    assert QueryEngine.open(store, CPU, use_words=False).search_text("plum", 1).hits[0].matched == []
    damaged = QueryEngine.open(store, CPU)
    (store.read(Versions(store).key("one")).path / "lexical" / "lexical.json").write_text("{}")
    picture("red").save(tmp_path / "photo.png")
    assert len(damaged.search_image(tmp_path / "photo.png", 3).hits) == 3
    with pytest.raises(
        UserError, match=r"the words of index bundle .* can't be read: lexical\.json: Field req"
    ):
        damaged.search_text("plum", 1)
    publish_index(store, index, "before", clip=clip)
    assert QueryEngine.open(store, CPU).lexical is None


def test_more_like_a_sku_are_the_others(engine: QueryEngine) -> None:
    answer = engine.search_like("lime", 5)
    assert sorted(ids(answer)) == ["apple", "plum"]
    assert list(answer.milliseconds) == ["search"]
    with pytest.raises(UserError, match="SKU 'pear' is not in the index"):
        engine.search_like("pear", 3)
    with pytest.raises(UserError, match="top must be at least 1, got 0"):
        engine.search_like("lime", 0)


def test_a_sku_added_today_is_found_and_shown(engine: QueryEngine, tmp_path: Path) -> None:
    picture("blue").save(tmp_path / "photo.png")
    row = engine.encoder.embed_images([picture("blue")])
    new = pl.DataFrame(
        {"sku_id": ["plum-2"], "category_name": "fruit", "title": "A blue one", "image": "b.jpg"}
    )
    changed = QueryEngine(engine.index.remove(["apple"]).add(row, new), engine.encoder)
    best = changed.search_image(tmp_path / "photo.png", 1).hits[0]
    assert (best.sku_id, best.title, best.image) == ("plum-2", "A blue one", "b.jpg")
    assert "apple" not in ids(changed.search_image(tmp_path / "photo.png", 9))


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_photo(path)
    assert str(caught.value).startswith(f"photo {path} ")
    return str(caught.value)


def test_a_photo_may_come_as_bytes(engine: QueryEngine, tmp_path: Path) -> None:
    picture(SKUS["lime"]).save(tmp_path / "photo.png")
    content = (tmp_path / "photo.png").read_bytes()
    assert engine.search_image(content, 3).hits == engine.search_image(tmp_path / "photo.png", 3).hits
    for nothing in (b"", b"no picture", content[:60]):
        with pytest.raises(UserError, match=r"^the photo can't be read as an image"):
            engine.search_image(nothing, 3)


def test_what_is_no_photo_is_told(tmp_path: Path) -> None:
    assert "does not exist" in complaint(tmp_path / "nowhere.jpg")
    assert "is no file" in complaint(tmp_path)
    for name, content in (("words.jpg", b"no picture"), ("empty.jpg", b""), ("page.pdf", b"%PDF-1.4\n")):
        (tmp_path / name).write_bytes(content)
        assert "can't be read as an image" in complaint(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_huge_photo_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    write_png_bomb(tmp_path / "bomb.png", side, side)
    message = complaint(tmp_path / "bomb.png")
    assert "pixels" in message


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_a_photo_of_any_mode_becomes_rgb(engine: QueryEngine, tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    picture("gray").convert("L").convert("I;16" if mode == "I;16" else mode).save(path)
    assert read_photo(path).mode == "RGB"
    assert len(engine.search_image(path, 3).hits) == 3


def test_an_engine_opens_what_is_published(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    publish_index(store, index, "one", clip=publish_encoder(store, encoder))
    picture(SKUS["plum"]).save(tmp_path / "photo.png")
    assert QueryEngine.open(store, CPU).search_image(tmp_path / "photo.png", 1).hits[0].sku_id == "plum"


def test_an_encoder_that_has_changed_since_is_refused_with_both_digests(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    old = publish_encoder(store, encoder)
    publish_index(store, index, "one", clip=old)
    new = publish_encoder(store, encoder, version="2")
    assert old != new
    with pytest.raises(UserError, match=f"made with clip_checkpoint {old}, but .* in use is {new}"):
        QueryEngine.open(store, CPU)


def test_a_sentence_asked_again_is_not_encoded_again(
    engine: QueryEngine, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def count(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.ones((1, encoder.dimension), np.float32)

    monkeypatch.setattr(engine.encoder, "embed_texts", count)
    first = engine.search_text("a red apple", 3).hits
    assert engine.search_text("a red apple", 3).hits == first
    engine.search_text("a lime", 3)
    assert asked == ["a red apple", "a lime"]
    for number in range(CACHED_TEXTS):
        engine.search_text(f"words {number}", 1)
    engine.search_text("a red apple", 3)
    assert asked.count("a red apple") == 2, "the oldest sentence has made room"


ONNX = QueryEncoderSettings(threads=1)


def test_photos_are_encoded_by_the_exported_tower_as_by_pytorch(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    clip = publish_encoder(store, encoder)
    publish_index(store, index, "one", clip=clip)
    publish_image_encoder(store, encoder, clip)
    noise().save(tmp_path / "photo.png")
    engine = QueryEngine.open(store, CPU, ONNX)
    assert isinstance(engine.image_encoder, OnnxImageEncoder)
    found = engine.search_image(tmp_path / "photo.png", 3)
    assert list(found.milliseconds) == ["decode", "preprocess", "encode", "search"]
    eager = QueryEngine.open(store, CPU, QueryEncoderSettings(engine="pytorch"))
    assert eager.image_encoder is eager.encoder
    expected = eager.search_image(tmp_path / "photo.png", 3)
    assert [hit.sku_id for hit in found.hits] == [hit.sku_id for hit in expected.hits]
    scores = [[hit.score for hit in answer.hits] for answer in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_tower_exported_from_another_encoder_is_refused_with_both_digests(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    old = publish_encoder(store, encoder)
    publish_image_encoder(store, encoder, old)
    new = publish_encoder(store, encoder, version="2")
    publish_index(store, index, "two", clip=new)
    told = f"image_encoder_onnx was made with clip_checkpoint {old}, but .* in use is {new}"
    with pytest.raises(UserError, match=told):
        QueryEngine.open(store, CPU, ONNX)
    assert QueryEngine.open(store, CPU, QueryEncoderSettings(engine="pytorch")).index.dimension == 8


def test_a_tower_that_was_never_exported_is_told(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    publish_index(store, index, "one", clip=publish_encoder(store, encoder))
    with pytest.raises(UserError, match="no complete checkpoints/image_encoder_onnx"):
        QueryEngine.open(store, CPU, ONNX)


def test_an_engine_without_an_index_or_encoder_is_told(store: ArtifactStore, index: FingerprintIndex) -> None:
    with pytest.raises(UserError, match="has no search index"):
        QueryEngine.open(store, CPU)
    publish_index(store, index, "one")
    with pytest.raises(UserError, match="no complete checkpoints/clip"):
        QueryEngine.open(store, CPU)


def policy_that_takes(action: str, dimension: int) -> Policy:
    """A policy that expects a gain of this action alone, whatever the photo; of identity: none of any."""
    network = PolicyNetwork(dimension, hidden=2)
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    offsets = tuple(
        0.1 if name == action and name != IDENTITY else -0.1 * (name != IDENTITY) for name in ACTIONS
    )
    return Policy(network, Calibration(offsets=offsets), ActionSettings())


def test_the_policys_action_makes_the_query_that_labels_and_report_know(
    index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    noise(size=(60, 40)).save(tmp_path / "photo.png")
    policy = policy_that_takes("sharpen", encoder.dimension)
    answer = QueryEngine(index, encoder, policy=policy).search_image(tmp_path / "photo.png", 3)
    assert answer.action == "sharpen"
    assert list(answer.milliseconds) == ["decode", "preprocess", "encode", "policy", "encode_again", "search"]
    photo = read_photo(tmp_path / "photo.png")
    plain = encoder.embed_images([photo])
    changed = encoder.embed_images([processed(np.asarray(photo), "sharpen", policy.actions)])
    cosines = index.fingerprints @ fuse(plain, changed, policy.actions)[0]
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)


def test_identity_costs_no_second_encoding_and_changes_no_answer(
    engine: QueryEngine, encoder: Encoder, tmp_path: Path
) -> None:
    noise().save(tmp_path / "photo.png")
    idle = QueryEngine(engine.index, encoder, policy=policy_that_takes("identity", encoder.dimension))
    answer = idle.search_image(tmp_path / "photo.png", 3)
    assert answer.action == "identity"
    assert list(answer.milliseconds) == ["decode", "preprocess", "encode", "policy", "search"]
    off = engine.search_image(tmp_path / "photo.png", 3)
    assert answer.hits == off.hits
    assert off.action is None


def test_a_policy_that_acts_by_the_constant_takes_it_on_every_photo_and_fuses_alike(
    index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    noise().save(tmp_path / "photo.png")
    gate = policy_that_takes("sharpen", encoder.dimension)
    answers = {}
    for action in ("sharpen", "denoise", "identity"):
        constant = Constant(action, 20, 0.5, 0.5, 0.0, 0.0, 0.0, False)
        always = Policy(gate.network, gate.calibration, gate.actions, constant, "constant")
        answers[action] = QueryEngine(index, encoder, policy=always).search_image(tmp_path / "photo.png", 3)
        assert answers[action].action == action
    gated = QueryEngine(index, encoder, policy=gate).search_image(tmp_path / "photo.png", 3)
    assert answers["sharpen"].hits == gated.hits
    assert answers["denoise"].hits != gated.hits
    assert "encode_again" in answers["denoise"].milliseconds
    assert "encode_again" not in answers["identity"].milliseconds


def test_the_policy_serves_a_photo_with_words_too(
    index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    noise().save(tmp_path / "photo.png")
    engine = QueryEngine(index, encoder, policy=policy_that_takes("denoise", encoder.dimension))
    alone, mixed = (
        engine.search_image(tmp_path / "photo.png", 3),
        engine.search_mixed(tmp_path / "photo.png", "red", 0, 3),
    )
    assert mixed.action == "denoise"
    assert [hit.score for hit in mixed.hits] == pytest.approx([hit.score for hit in alone.hits], abs=1e-6)
    assert engine.search_text("red", 3).action is None


def publish_policy(store: ArtifactStore, action: str, dimension: int, version: str = "1") -> str:
    def build(directory: Path) -> dict[str, str]:
        policy_that_takes(action, dimension).save(directory)
        return {}

    return store.produce(VLA_CHECKPOINT.key, Recipe(code_version=version), build).digest


def test_auto_asks_the_policy_that_the_index_was_published_with(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    clip = publish_encoder(store, encoder)
    publish_index(store, index, "without", clip=clip)
    assert QueryEngine.open(store, CPU).policy is None
    with pytest.raises(UserError, match="--policy on: the index in use was made without a query policy"):
        QueryEngine.open(store, CPU, use_policy="on")
    digest = publish_policy(store, "sharpen", encoder.dimension)
    publish_index(store, index, "with", clip=clip, policy=digest)
    picture(SKUS["plum"]).save(tmp_path / "photo.png")
    for use, action in (("auto", "sharpen"), ("on", "sharpen"), ("off", None)):
        answer = QueryEngine.open(store, CPU, use_policy=use).search_image(tmp_path / "photo.png", 1)
        assert (answer.action, answer.hits[0].sku_id) == (action, "plum")


def test_a_policy_that_has_changed_since_is_refused_with_both_digests(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    old = publish_policy(store, "sharpen", encoder.dimension)
    publish_index(store, index, "one", clip=publish_encoder(store, encoder), policy=old)
    new = publish_policy(store, "denoise", encoder.dimension, version="2")
    with pytest.raises(UserError, match=f"made with vla_checkpoint {old}, but .* in use is {new}"):
        QueryEngine.open(store, CPU)
    assert QueryEngine.open(store, CPU, use_policy="off").policy is None


SURE = calibrated(
    Logistic(features=("top",), means=(0.5,), scales=(1,), weights=(20,), intercept=0),
    match=0.9,
    reject_below=0.4,
)


class Everything:
    """A detector that takes the whole photo for an item."""

    trim = 0.0

    def find(self, image: Image.Image) -> list[Region]:
        return [Region((0, 0, *image.size), "item", 0.5)]


@pytest.fixture
def large(encoder: Encoder) -> FingerprintIndex:
    """Twelve SKUs: the red one, and others at right angles to it."""
    rows = np.random.default_rng(0).standard_normal((12, encoder.dimension))
    (red,) = rows[:1] = encoder.embed_images([picture("red")])
    rows[1:] -= np.outer(rows[1:] @ red, red)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    named = {
        "sku_id": [f"s{number}" for number in range(12)],
        "category_name": "x",
        "title": "x",
        "image": "x",
    }
    return FingerprintIndex(rows.astype(np.float32), pl.DataFrame(named))


def test_a_photo_of_the_whole_index_gets_confidence_and_verdict(
    large: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    picture("red").save(tmp_path / "red.png")
    engine = QueryEngine(large, encoder, confidence=SURE)
    answer = engine.search_image(tmp_path / "red.png", 1)
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-20 * (answer.hits[0].score - 0.5))))
    assert (answer.verdict, answer.no_verdict) == ("match", None)
    assert list(answer.milliseconds) == ["decode", "preprocess", "encode", "search", "confidence"]
    absent = QueryEngine(large.remove(["s0"]), encoder, confidence=SURE).search_image(tmp_path / "red.png", 1)
    assert absent.verdict == "none"
    others = (
        engine.search_image(tmp_path / "red.png", 1, large.of_skus(["s0", "s1"])),
        engine.search_text("red", 1),
        engine.search_mixed(tmp_path / "red.png", "red", 0.5, 1),
        engine.search_like("s0", 1),
        QueryEngine(large, encoder).search_image(tmp_path / "red.png", 1),
        QueryEngine(large.remove(["s0", "s1"]), encoder, confidence=SURE).search_image(
            tmp_path / "red.png", 1
        ),
    )
    assert {(other.confidence, other.verdict, other.no_verdict) for other in others} == {(None, None, None)}


def test_a_found_region_has_the_verdict_of_its_own_calibration(
    large: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    picture("red").save(tmp_path / "red.png")
    sure = Logistic(features=("region_score",), means=(0,), scales=(1,), weights=(2,), intercept=0)
    both = SURE.model_copy(update={"detected": calibrated(sure, 0.9, 0.8)})
    engine = QueryEngine(large, encoder, confidence=both, detector=Everything())
    found = engine.search_image(tmp_path / "red.png", 1)
    assert (found.item, found.verdict) == (1, "none")
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-2 * 0.5)))
    for region in ("whole", (0, 0, *picture("red").size)):
        part = engine.search_image(tmp_path / "red.png", 1, region=region)
        assert part.verdict == "match"


def test_the_policy_changes_the_answer_and_no_verdict(
    large: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    noise().save(tmp_path / "photo.png")
    policy = policy_that_takes("denoise", encoder.dimension)
    plain, processed_one = (
        QueryEngine(large, encoder, policy=used, confidence=SURE).search_image(tmp_path / "photo.png", 3)
        for used in (None, policy)
    )
    assert processed_one.action == "denoise"
    assert (plain.confidence, plain.verdict) == (processed_one.confidence, processed_one.verdict)


def test_an_index_that_could_not_be_calibrated_says_so(
    large: FingerprintIndex, encoder: Encoder, tmp_path: Path
) -> None:
    noise().save(tmp_path / "photo.png")
    engine = QueryEngine(large, encoder, confidence=NoVerdicts(off="no verdicts: too few"))
    answer = engine.search_image(tmp_path / "photo.png", 3)
    assert (answer.confidence, answer.verdict, answer.no_verdict) == (None, None, "no verdicts: too few")

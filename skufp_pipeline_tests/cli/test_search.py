"""`skufp search`: what it prints, and how it answers a mistake - one line, no stack trace."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.cli.search import print_answer
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.query.answers import Answer
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.settings import VERDICTS
from skufp_pipeline.search.bundle import current_index

from ..datasets.trees import truncate
from ..graphs import Graph, pretend_made_with
from .asking import a_photo, ask, found, refused


def test_a_photo_is_answered_with_ranked_skus_as_json(graph: Graph, preset: tuple[str, Path]) -> None:
    asked = (
        "search",
        *preset,
        "--image",
        a_photo(graph),
        "--whole",
        "--top",
        "7",
        "--policy",
        "off",
        "--json",
    )
    result = ask(*asked)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert set(answer["ms"]) == {"decode", "preprocess", "encode", "search", "look_twice", "confidence"}
    assert answer["action"] is None
    assert answer["verdict"] in VERDICTS
    assert 0 <= answer["confidence"] <= 1
    assert "no_verdict" not in answer
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == list(range(1, 8))
    artifact, index = current_index(graph.store)
    look = LookTwice.open(artifact.path, index.row_count)
    weight = 0 if look is None else look.weight
    ranked = [hit["score"] + weight * hit["maxsim"] for hit in hits]
    assert ranked == sorted(ranked, reverse=True)
    assert len({hit["sku_id"] for hit in hits}) == 7
    assert all(graph.store.local_path(hit["image"]).is_file() for hit in hits)


def test_a_verdict_is_told_in_words(
    graph: Graph, preset: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = ask("search", *preset, "--image", a_photo(graph)).stdout.splitlines()[0]
    assert first.split(": ")[0] in ("a match", "similar products", "probably not in this shop")
    assert re.search(r"with a probability of \d+%$", first)
    print_answer(Answer([], {"search": 1.0}, no_verdict="no verdicts: too few photos"))
    assert capsys.readouterr().out.splitlines()[0] == "no verdicts: too few photos"


def test_a_catalog_photo_finds_its_own_sku(graph: Graph, preset: tuple[str, Path]) -> None:
    folder = Path(graph.preset.data_root) / "crops"
    photos = sorted(folder.glob("shard_*/validation/catalog/*/*.jpg"))[:10]
    found = 0
    for photo in photos:
        answer = json.loads(
            ask("search", *preset, "--image", photo, "--whole", "--top", "5", "--json").stdout
        )
        found += photo.parent.name in [hit["sku_id"] for hit in answer["hits"]]
    assert found >= 7


def test_a_photo_and_words_are_mixed(graph: Graph, preset: tuple[str, Path]) -> None:
    both = (*preset, "--image", a_photo(graph), "--text", "a white skirt")
    photo, text = found(*both[:4]), found(*preset, *both[4:])
    assert found(*both, "--text-weight", "0") == photo
    assert found(*both, "--text-weight", "1") == text
    assert found(*both) == found(*both, "--text-weight", "0.5")
    assert refused(ask("search", *both, "--text-weight", "1.5")) == (
        "the text's weight must be 0 to 1, got 1.5"
    )


@pytest.mark.parametrize("use", ["on", "auto"])
def test_the_policy_says_what_it_did_to_the_photo(graph: Graph, preset: tuple[str, Path], use: str) -> None:
    asked = ("search", *preset, "--image", a_photo(graph), "--whole", "--policy", use)
    answer = json.loads(ask(*asked, "--json").stdout)
    assert answer["action"] in ACTIONS
    twice = {"encode_again"} if answer["action"] != "identity" else set()
    stages = {"decode", "preprocess", "encode", "policy", "search", "look_twice", "confidence"}
    assert set(answer["ms"]) == stages | twice
    assert ask(*asked).stdout.splitlines()[-1].endswith(f"; policy: {answer['action']}")


def test_a_policy_that_is_not_there_is_told(small_graph: Graph) -> None:
    asked = ("search", "--preset", small_graph.preset_file, "--image", a_photo(small_graph))
    assert refused(ask(*asked, "--policy", "on")).startswith(
        "--policy on: the index in use was made without a query policy"
    )
    assert ask(*asked, "--policy", "auto").exit_code == 0


def test_what_is_most_like_a_sku_is_not_itself(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path
) -> None:
    _, index = current_index(graph.store)
    sku_id = index.skus["sku_id"][3]
    expected = index.skus["sku_id"][index.search_like(sku_id, 10).rows].to_list()
    assert found(*preset, "--like", sku_id) == expected
    assert sku_id not in expected
    assert ask("search", *preset, "--like", sku_id, "--save", tmp_path / "like.png").exit_code == 0
    with Image.open(tmp_path / "like.png") as image:
        assert image.format == "PNG"
    assert refused(ask("search", *preset, "--like", "nope")) == "SKU 'nope' is not in the index"


def test_a_search_stays_where_it_is_told_to(graph: Graph, preset: tuple[str, Path], tmp_path: Path) -> None:
    _, index = current_index(graph.store)
    sku = index.skus.row(0, named=True)
    wanted = {"category_name": sku["category_name"], "colour": sku["colour"]}
    conditions = [word for name, value in wanted.items() for word in ("--where", f"{name}={value}")]
    text = (*preset, "--text", "a dress", "--top", "1000")
    alike = index.skus.filter(pl.col(name) == value for name, value in wanted.items())
    assert sorted(found(*text, *conditions)) == sorted(alike["sku_id"])
    other = index.skus.filter(pl.col("category_name") != sku["category_name"]).row(0, named=True)
    two = (
        "--where",
        f"category_name={sku['category_name']}",
        "--where",
        f"category_name={other['category_name']}",
    )
    either = index.skus.filter(pl.col("category_name").is_in([sku["category_name"], other["category_name"]]))
    assert sorted(found(*text, *two)) == sorted(either["sku_id"])
    (tmp_path / "ids.txt").write_text(f"{sku['sku_id']}\n\n {other['sku_id']} \n")
    within = ("--within", tmp_path / "ids.txt")
    assert sorted(found(*text, *within)) == sorted([sku["sku_id"], other["sku_id"]])
    assert found(*text, *within, *conditions) == [sku["sku_id"]]


def test_a_range_narrows_a_search(graph: Graph, preset: tuple[str, Path]) -> None:
    _, index = current_index(graph.store)
    bound = int(index.skus["num_views"].max()) - 1
    narrowed = index.skus.filter(pl.col("num_views") > bound, pl.col("num_views") <= bound + 1)
    conditions = ("--where", f"num_views > {bound}", "--where", f"num_views<={bound + 1}")
    assert sorted(found(*preset, "--text", "a dress", "--top", "1000", *conditions)) == sorted(
        narrowed["sku_id"]
    )


@pytest.mark.parametrize(
    "form", ["{0}\n{1}\nnope\n", "sku_id\n{0}\n{1}\nnope", "price;sku_id\n1;{0}\n2;{1}\n3;nope\n"]
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_ids_may_be_a_spreadsheets(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path, form: str, encoding: str
) -> None:
    ids = current_index(graph.store)[1].skus["sku_id"][:2].sort().to_list()
    (tmp_path / "ids.csv").write_text(form.format(*ids), encoding=encoding)
    result = ask("search", *preset, "--text", "a dress", "--within", tmp_path / "ids.csv", "--json")
    assert sorted(hit["sku_id"] for hit in json.loads(result.stdout)["hits"]) == ids
    assert f"--within {tmp_path / 'ids.csv'}: 1 of 3 ids is not in the index: SKU 'nope'" in result.stderr


def test_a_filter_that_means_nothing_is_refused(preset: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("nope\n")
    (tmp_path / "empty.txt").touch()
    for words, told in (
        (("--where", "colour"), "--where 'colour': expected column=value, such as category_name=shorts"),
        (("--where", "num_views>900"), "no SKU has num_views > 900; there are "),
        (("--where", "size=L"), "the SKU table has no column 'size' to filter by; it has sku_id, split, "),
        (("--where", "pattern=plane"), "no SKU has pattern 'plane'; nearest: plain"),
        (("--within", tmp_path / "ids.txt"), "SKU 'nope' is not in the index"),
        (("--within", tmp_path / "empty.txt"), "holds no SKU id; expected one a line"),
        (("--within", tmp_path / "gone.txt"), "No such file or directory"),
    ):
        assert told in refused(ask("search", *preset, "--text", "a dress", *words))


def test_a_sentence_is_answered_for_a_person(preset: tuple[str, Path]) -> None:
    result = ask("search", *preset, "--text", "a dark brown dress", "--top", "3")
    assert result.exit_code == 0, result.stderr
    *hits, spent = result.stdout.splitlines()
    assert [line.split()[0] for line in hits] == ["1", "2", "3"]
    assert "encode " in spent
    assert "search " in spent


def test_a_text_that_is_an_id_finds_its_sku_first(graph: Graph, preset: tuple[str, Path]) -> None:
    sku_id = current_index(graph.store)[1].sku_ids[3]
    asked = ("search", *preset, "--text", sku_id, "--top", "3", "--json")
    hit = json.loads(ask(*asked).stdout)["hits"][0]
    assert (hit["sku_id"], hit["matched"]) == (sku_id, [sku_id.replace("_", "")])
    assert [hit["matched"] for hit in json.loads(ask(*asked, "--no-words").stdout)["hits"]] == [[], [], []]


def test_more_than_there_is_gives_every_sku(graph: Graph, preset: tuple[str, Path]) -> None:
    answer = json.loads(ask("search", *preset, "--text", "a dress", "--top", "100000", "--json").stdout)
    assert len(answer["hits"]) == len(current_index(graph.store)[1])


def test_the_results_are_saved_as_a_picture(graph: Graph, preset: tuple[str, Path], tmp_path: Path) -> None:
    for name, query in (("photo", ("--image", a_photo(graph))), ("text", ("--text", "a dress"))):
        target = tmp_path / f"{name}.png"
        result = ask("search", *preset, *query, "--save", target)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == f"saved {target}\n"
        with Image.open(target) as image:
            assert image.format == "PNG"
            assert image.width > 300


def test_without_its_crops_an_index_is_searched_and_shown_as_before(spoilt: Graph, tmp_path: Path) -> None:
    photo = shutil.copy(a_photo(spoilt), tmp_path / "photo.jpg")
    like = current_index(spoilt.store)[1].skus["sku_id"][0]
    saved = []
    for name in ("before", "after"):
        for number, query in enumerate((("--image", photo), ("--like", like))):
            target = tmp_path / f"{name}{number}.png"
            result = ask("search", "--preset", spoilt.preset_file, *query, "--save", target)
            assert result.exit_code == 0, result.stderr
            saved.append(target.read_bytes())
        shutil.rmtree(Path(spoilt.preset.data_root) / "crops", ignore_errors=True)
    assert saved[:2] == saved[2:]


def test_an_index_of_another_encoder_is_refused_by_name(spoilt: Graph) -> None:
    pretend_made_with(current_index(spoilt.store)[0].path, "clip_checkpoint", "0123456789abcdef")
    told = refused(ask("search", "--preset", spoilt.preset_file, "--text", "a dress"))
    assert "was made with clip_checkpoint 0123456789abcdef, but the clip_checkpoint in use is " in told


def test_an_exported_tower_of_another_encoder_is_refused_by_name(spoilt: Graph) -> None:
    folder = spoilt.store.read("checkpoints/image_encoder_onnx").path
    pretend_made_with(folder, "clip_checkpoint", "0123456789abcdef")
    told = refused(ask("search", "--preset", spoilt.preset_file, "--image", a_photo(spoilt)))
    assert "image_encoder_onnx was made with clip_checkpoint 0123456789abcdef, but the clip_check" in told


def test_a_question_must_be_one(graph: Graph, preset: tuple[str, Path]) -> None:
    wanted = "give a photo, a text, a SKU to be like, or several of them"
    for words in ((), ("--not", "stripes"), ("--unlike", "a"), ("--not-weight", "0.3")):
        assert refused(ask("search", *preset, *words)).startswith(wanted)
    assert (
        refused(ask("search", *preset, "--like", "a", "--unlike", "a"))
        == "SKU 'a' is both liked and disliked"
    )
    for words in (("--text", "a"), ("--image", a_photo(graph)), ("--like", "b")):
        told = refused(ask("search", *preset, *words, "--text-weight", "0.3"))
        assert told == "--text-weight needs both --image and --text"


def test_photos_words_to_avoid_and_likes_are_combined(graph: Graph, preset: tuple[str, Path]) -> None:
    _, index = current_index(graph.store)
    liked, disliked = index.sku_ids[3], index.sku_ids[5]
    photo = a_photo(graph)
    alone = found(*preset, "--image", photo, "--no-look-twice", "--whole")
    assert found(*preset, "--image", photo, "--image", photo) == alone
    assert found(*preset, "--image", photo, "--not", "a striped dress", "--not-weight", "0") == alone
    asked = ("--image", photo, "--like", liked, "--unlike", disliked, "--not", "stripes", "--top", "9999")
    answers = found(*preset, *asked)
    assert sorted(answers) == sorted({*index.sku_ids} - {liked, disliked})
    assert refused(ask("search", *preset, "--image", photo, "--image-weight", "-1")) == (
        "a photo's weight must be above 0, got -1"
    )
    told = refused(ask("search", *preset, "--image", photo, "--image", photo, "--image-weight", "1"))
    assert told == "1 weights for 2 photos; expected one for each"


def test_facets_count_the_best_answers(graph: Graph, preset: tuple[str, Path]) -> None:
    asked = ("search", *preset, "--text", "a dress", "--facets", "30", "--top", "2")
    answer = json.loads(ask(*asked, "--json").stdout)
    assert len(answer["hits"]) == 2
    index = current_index(graph.store)[1]
    best = index.skus.filter(pl.col("sku_id").is_in(found(*preset, "--text", "a dress", "--top", "30")))
    expected = best["category_name"].value_counts().rows()
    assert sorted(answer["facets"]["category_name"].items()) == sorted(expected)
    assert "\n     category_name: " in ask(*asked).stdout


def test_an_empty_sentence_is_refused(preset: tuple[str, Path]) -> None:
    assert refused(ask("search", *preset, "--text", "  ")) == "the text to search for is empty"


def test_a_photo_that_is_not_there_is_named(preset: tuple[str, Path], tmp_path: Path) -> None:
    told = refused(ask("search", *preset, "--image", tmp_path / "nope.jpg"))
    assert "nope.jpg can't be read: it does not exist" in told
    assert "does not exist or is no file" in refused(ask("search", *preset, "--image", tmp_path))


def test_a_photo_that_is_none_is_named(graph: Graph, preset: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "empty.jpg").touch()
    shutil.copy(a_photo(graph), tmp_path / "cut.jpg")
    truncate(tmp_path / "cut.jpg")
    for name in ("text.jpg", "empty.jpg", "cut.jpg"):
        assert f"{name} can't be read as an image" in refused(
            ask("search", *preset, "--image", tmp_path / name)
        )


def test_a_top_below_one_is_refused(preset: tuple[str, Path]) -> None:
    for top in ("0", "-3"):
        told = refused(ask("search", *preset, "--text", "a dress", "--top", top))
        assert told == f"top must be at least 1, got {top}"


def test_a_top_that_is_no_number_is_refused(preset: tuple[str, Path]) -> None:
    result = ask("search", *preset, "--text", "a dress", "--top", "ten")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: Invalid value for '--top': 'ten' is not a valid integer."
    )


def test_a_picture_that_can_not_be_written_is_named(preset: tuple[str, Path], tmp_path: Path) -> None:
    result = ask("search", *preset, "--text", "a dress", "--save", tmp_path / "no" / "where.png")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: --save {tmp_path / 'no' / 'where.png'}: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--box", "1,2,3"], "--box '1,2,3': expected four whole numbers x1,y1,x2,y2 in pixels"),
        (["--box", "1,2,3,x"], "--box '1,2,3,x': expected four whole numbers"),
        (
            ["--box", "1,2,3,4", "--whole"],
            "--box and --whole: give one of --item, --box, --whole and --merge",
        ),
        (["--item", "1", "--box", "1,2,3,4"], "--item and --box: give one of"),
    ],
)
def test_a_part_of_a_photo_must_be_one(tmp_path: Path, words: list[str], told: str) -> None:
    assert told in refused(ask("search", "--image", tmp_path / "photo.jpg", *words))


def test_a_part_of_no_photo_is_refused() -> None:
    assert "--whole needs one --image" in refused(ask("search", "--text", "red", "--whole"))


def test_a_box_of_a_photo_is_answered_and_one_outside_it_is_told(small_graph: Graph) -> None:
    photo, preset = a_photo(small_graph), ("--preset", small_graph.preset_file)
    answer = json.loads(ask("search", *preset, "--image", photo, "--box", "0,0,5,5", "--json").stdout)
    assert (answer["box"], answer["item"], answer["items"]) == ([0, 0, 5, 5], None, [])
    assert "is no part of the photo" in refused(
        ask("search", *preset, "--image", photo, "--box", "0,0,5,9999")
    )
    assert "the index in use has no detector" in refused(
        ask("search", *preset, "--image", photo, "--item", "1")
    )


def test_the_items_of_a_photo_are_listed(graph: Graph, preset: tuple[str, Path]) -> None:
    photo = a_photo(graph)
    answer = json.loads(ask("search", *preset, "--image", photo, "--json").stdout)
    printed = ask("search", *preset, "--image", photo).stdout
    assert printed.count("item ") == len(answer["items"])
    assert "detect" in answer["ms"]
    whole = json.loads(ask("search", *preset, "--image", photo, "--whole", "--json").stdout)
    assert (whole["box"], whole["items"]) == (None, [])
    assert "detect" not in whole["ms"]

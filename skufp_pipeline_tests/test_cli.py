"""The command line: what it prints, and how it answers a mistake - one line, no stack trace."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from skufp_pipeline.cli import main
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import Recipe

from .datasets.trees import truncate, write_image
from .graphs import SMALL, Graph, pretend_made_with, skufp, write_preset


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


def test_windows_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert refused(ask("report")) == "skufp runs on Linux and macOS; on Windows, run it inside WSL 2"


@pytest.fixture
def preset(graph: Graph) -> tuple[str, Path]:
    return "--preset", graph.preset_file


def test_a_photo_is_answered_with_ranked_skus_as_json(graph: Graph, preset: tuple[str, Path]) -> None:
    asked = ("search", *preset, "--image", a_photo(graph), "--top", "7", "--policy", "off", "--json")
    result = ask(*asked)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert set(answer["ms"]) == {"decode", "preprocess", "encode", "search"}
    assert answer["action"] is None
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == list(range(1, 8))
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len({hit["sku_id"] for hit in hits}) == 7
    assert all(graph.store.local_path(hit["image"]).is_file() for hit in hits)


def test_a_catalog_photo_finds_its_own_sku(graph: Graph, preset: tuple[str, Path]) -> None:
    folder = Path(graph.preset.data_root) / "crops"
    photos = sorted(folder.glob("shard_*/validation/catalog/*/*.jpg"))[:10]
    found = 0
    for photo in photos:
        answer = json.loads(ask("search", *preset, "--image", photo, "--top", "5", "--json").stdout)
        found += photo.parent.name in [hit["sku_id"] for hit in answer["hits"]]
    assert found >= 7


def found(*words: str | Path) -> list[str]:
    """Ids of the SKUs that a search prints, best first."""
    result = ask("search", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return [hit["sku_id"] for hit in json.loads(result.stdout)["hits"]]


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
    asked = ("search", *preset, "--image", a_photo(graph), "--policy", use)
    answer = json.loads(ask(*asked, "--json").stdout)
    assert answer["action"] in ACTIONS
    twice = {"encode_again"} if answer["action"] != "identity" else set()
    assert set(answer["ms"]) == {"decode", "preprocess", "encode", "policy", "search"} | twice
    assert ask(*asked).stdout.splitlines()[-1].endswith(f"; policy: {answer['action']}")


def test_a_policy_that_is_not_there_is_told(small_graph: Graph) -> None:
    asked = ("search", "--preset", small_graph.preset_file, "--image", a_photo(small_graph))
    assert refused(ask(*asked, "--policy", "on")).startswith(
        "--policy on: the index in use was made without a query policy"
    )
    assert ask(*asked, "--policy", "auto").exit_code == 0


def test_products_with_the_same_picture_are_listed_and_counted_in_the_report(
    small_graph: Graph, tmp_path: Path
) -> None:
    preset, listed = ("--preset", small_graph.preset_file), tmp_path / "list.csv"
    result = ask("catalog", "duplicates", *preset, "--csv", listed)
    assert result.exit_code == 0, result.stderr
    rows = pl.read_csv(listed)
    counted = json.loads(ask("report", *preset, "--json").stdout)["duplicates"]
    groups = rows["group"].n_unique()
    same = rows.filter(kind="same").height
    assert counted == {"threshold": 0.98, "groups": groups, "skus": rows.height, "same": same}
    *lines, total = result.stdout.splitlines()
    assert total == f"{rows.height} SKUs in {groups} groups, cosine of at least 0.98"
    assert len(lines) == rows.height
    assert all(
        f" {row['sku_id']} " in line for row, line in zip(rows.iter_rows(named=True), lines, strict=True)
    )
    few = ask("catalog", "duplicates", *preset, "--threshold", "1").stdout.splitlines()
    assert len(few) <= len(lines) + 1
    told = refused(ask("catalog", "duplicates", *preset, "--csv", tmp_path / "no" / "list.csv"))
    assert told.startswith("--csv ")


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


def publish_as(graph: Graph, name: str, version: str, index: FingerprintIndex) -> None:
    """Publishes `index` as a version of the index `name`, made with the encoders of the one in use."""
    versions, recipe = Versions(graph.store, name), current_index(graph.store)[0].manifest.recipe

    def build(directory: Path) -> dict[str, int]:
        index.save(directory)
        return {"skus": len(index)}

    named = Recipe(code_version=version, inputs=recipe.inputs)
    graph.store.produce(versions.key(version), named, build)
    versions.publish(version, 3)


def test_an_index_is_asked_listed_and_rolled_back_by_its_name(spoilt: Graph, tmp_path: Path) -> None:
    _, whole = current_index(spoilt.store)
    ids = whole.skus["sku_id"].to_list()
    publish_as(spoilt, "few", "one", whole.remove(ids[3:]))
    publish_as(spoilt, "few", "two", whole.remove(ids[:-2]))
    preset, few = ("--preset", spoilt.preset_file), ("--index", "few")
    assert sorted(found(*preset, *few, "--text", "a dress")) == sorted(ids[-2:])
    assert len(found(*preset, "--text", "a dress", "--top", "1000")) == len(ids)
    own = ask("index", "list", *preset).stdout
    listed = ask("index", "list", *preset, *few).stdout
    assert listed == "two  in use     skus 2\none  published  skus 3\n"
    assert ask("index", "rollback", *preset, *few).stdout == "in use: one\n"
    assert sorted(found(*preset, *few, "--text", "a dress")) == sorted(ids[:3])
    listed = ask("index", "list", *preset, *few).stdout
    assert listed == "two  withdrawn  skus 2\none  in use     skus 3\n"
    assert ask("index", "publish", *preset, *few, "two").stdout == "in use: two\n"
    assert ask("index", "list", *preset).stdout == own
    export = ("export", "fingerprints", *preset, "--format", "numpy")
    assert ": 2 fingerprints" in ask(*export, *few, "--out", tmp_path / "few").stdout


def test_an_index_of_another_dimension_stands_beside(spoilt: Graph, tmp_path: Path) -> None:
    index = FingerprintIndex(np.eye(2, dtype=np.float32), pl.DataFrame({"sku_id": ["x", "y"]}))
    publish_as(spoilt, "flat", "one", index)
    export = ("export", "fingerprints", "--preset", spoilt.preset_file, "--format", "numpy")
    told = ask(*export, "--index", "flat", "--out", tmp_path / "flat").stdout
    assert "2 fingerprints of 2 dimensions" in told
    own = len(current_index(spoilt.store)[1])
    assert f": {own} fingerprints of" in ask(*export, "--out", tmp_path / "own").stdout


def test_an_index_that_is_not_there_is_told_with_those_that_are(small_graph: Graph, tmp_path: Path) -> None:
    for words in (
        ("search", "--text", "a dress"),
        ("export", "fingerprints", "--format", "numpy", "--out", tmp_path / "out"),
        ("index", "list"),
        ("index", "rollback"),
    ):
        told = refused(ask(*words, "--preset", small_graph.preset_file, "--index", "nope"))
        assert told.endswith("has no index 'nope'; it has fingerprints")


def test_the_report_is_printed_as_tables_and_as_json(graph: Graph, preset: tuple[str, Path]) -> None:
    tables = ask("report", *preset).stdout
    assert "Table 1: Image-to-SKU retrieval (preset ci, leak-free protocol)" in tables
    assert "fingerprint - mean_sku" in tables
    found = json.loads(ask("report", *preset, "--json").stdout)
    assert found == json.loads((graph.store.read("reports/retrieval").path / "report.json").read_text())


def test_the_export_has_the_crop_tree_the_metadata_and_the_jsonl(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path
) -> None:
    result = ask("export", "df2-jsonl", *preset, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for split in ("train", "validation"):
        lines = (tmp_path / "out" / f"{split}_image_text.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert f"{len(rows)} {split} rows" in result.stdout
        assert all((tmp_path / "out" / row["image_path"]).is_file() for row in rows)
        assert (tmp_path / "out" / f"{split}_sku_metadata.json").is_file()


def test_the_doctor_finds_a_graph_well(graph: Graph, preset: tuple[str, Path]) -> None:
    result = ask("doctor", *preset)
    assert result.exit_code == 0
    states = dict(line.split(": ") for line in result.stdout.splitlines())
    assert set(graph.steps) - {"search_index"} <= {owner(graph, key) for key in states}
    assert all(state.startswith("ok (") or state.endswith("shards are there") for state in states.values())
    assert states["crops"] == f"{graph.preset.shards} shards are there"
    every = ask("doctor", *preset, "--all")
    assert every.exit_code == 0
    assert all(line.split(": ")[1].startswith("ok (") for line in every.stdout.splitlines())
    assert "crops/shard_0001: ok (" in every.stdout


def owner(graph: Graph, key: str) -> str:
    """The asset that is kept at a key."""
    return next((name for name, step in graph.steps.items() if step.stored.key == key), "")


@pytest.mark.parametrize(
    ("key", "files"),
    [
        ("checkpoints/clip", "*.safetensors"),
        ("checkpoints/fingerprint", "*.safetensors"),
        ("checkpoints/image_encoder_onnx", "*.onnx"),
        ("index", "segment_0000/fingerprints.npy"),
        ("index", "segment_0000/skus.arrow"),
        ("index", "index.json"),
    ],
)
def test_the_doctor_names_a_damaged_file(spoilt: Graph, key: str, files: str) -> None:
    artifact = current_index(spoilt.store)[0] if key == "index" else spoilt.store.read(key)
    key, victim = artifact.manifest.artifact, next(artifact.path.glob(f"**/{files}"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    result = ask("doctor", "--preset", spoilt.preset_file)
    assert result.exit_code == 1
    assert f"{key}: DAMAGED" in result.stdout
    (line,) = result.stderr.splitlines()
    assert victim.name in line
    assert "delete the folder and materialize it again" in line


def test_an_index_of_another_encoder_is_refused_by_name(spoilt: Graph) -> None:
    pretend_made_with(current_index(spoilt.store)[0].path, "clip_checkpoint", "0123456789abcdef")
    told = refused(ask("search", "--preset", spoilt.preset_file, "--text", "a dress"))
    assert "was made with clip_checkpoint 0123456789abcdef, but the clip_checkpoint in use is " in told


def test_an_exported_tower_of_another_encoder_is_refused_by_name(spoilt: Graph) -> None:
    folder = spoilt.store.read("checkpoints/image_encoder_onnx").path
    pretend_made_with(folder, "clip_checkpoint", "0123456789abcdef")
    told = refused(ask("search", "--preset", spoilt.preset_file, "--image", a_photo(spoilt)))
    assert "image_encoder_onnx was made with clip_checkpoint 0123456789abcdef, but the clip_check" in told


@pytest.mark.parametrize("name", ["parquet", "numpy"])
def test_the_fingerprints_are_exported(
    graph: Graph, preset: tuple[str, Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "fingerprints"
    result = ask("export", "fingerprints", *preset, "--format", name, "--out", out)
    assert result.exit_code == 0, result.stderr
    count = len(current_index(graph.store)[1])
    assert result.stdout.startswith(f"{out}: {count} fingerprints of 128 dimensions in fingerprints.")
    assert "is not empty" in refused(ask("export", "fingerprints", *preset, "--format", name, "--out", out))


def test_a_format_whose_library_is_missing_names_the_extra(
    preset: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    told = refused(ask("export", "fingerprints", *preset, "--format", "faiss", "--out", tmp_path / "out"))
    assert told.endswith("pip install 'skufp-pipeline[export]'")


def test_an_unknown_preset_names_those_there_are() -> None:
    assert refused(ask("search", "--preset", "nope", "--text", "a")).startswith(
        "no preset 'nope': expected a YAML file or one of "
    )


def test_a_preset_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [b\n c: {")
    assert "bad.yaml is not YAML: " in refused(ask("report", "--preset", tmp_path / "bad.yaml"))


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    path = write_preset(tmp_path, {**SMALL, "shard": 3})
    assert refused(ask("report", "--preset", path)).endswith("shard: unknown key")


def test_a_question_must_be_one(graph: Graph, preset: tuple[str, Path]) -> None:
    wanted = 'give --image FILE or --text "..." or both, or --like SKU_ID alone'
    assert refused(ask("search", *preset)) == wanted
    assert refused(ask("search", *preset, "--text", "a", "--like", "b")) == wanted
    for words in (("--text", "a"), ("--image", a_photo(graph)), ("--like", "b")):
        told = refused(ask("search", *preset, *words, "--text-weight", "0.3"))
        assert told == "--text-weight needs both --image and --text"


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
        assert told == f"--top must be at least 1, got {top}"


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
    ("words", "message"),
    [
        (("search", "--text", "a"), "has no search index; materialize the graph first (`skufp demo`)"),
        (("doctor",), "has no search index; materialize the graph first (`skufp demo`)"),
        (("report",), "no complete reports/retrieval under"),
        (("export", "df2-jsonl", "--out", "out"), "no complete raw/dataset under"),
    ],
)
def test_what_is_not_materialized_yet_is_said(
    tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_preset(tmp_path, SMALL)
    assert message in refused(ask(*words, "--preset", path))


def test_a_mistake_while_materializing_is_one_line_and_no_stack_trace(tmp_path: Path) -> None:
    missing = {"source": "deepfashion2", "path": str(tmp_path / "nowhere")}
    path = write_preset(tmp_path, {**SMALL, "dataset": missing})
    done = skufp("materialize", "--preset", path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "[1/6] read_catalog: raw_dataset, annotations",
        f"Error: raw_dataset failed: dataset.path '{tmp_path / 'nowhere'}' is no folder; see README, "
        "'Your own data'",
    ]
    assert done.stdout == ""


def test_processes_that_dagster_starts_find_the_preset_that_was_given(
    spoilt: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKUFP_PRESET", "of-another-run")
    monkeypatch.chdir(spoilt.preset_file.parent)
    result = ask("materialize", "--preset", spoilt.preset_file.name)
    assert result.exit_code == 0, result.stderr
    assert os.environ["SKUFP_PRESET"] == str(spoilt.preset_file)


def test_the_demo_prints_tables_and_answers_a_photo_and_a_sentence(
    spoilt: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKUFP_PRESET", str(spoilt.preset_file))
    result = ask("demo")
    assert result.exit_code == 0, result.stderr
    assert "Table 2: Text-to-SKU retrieval (preset small, leak-free protocol)" in result.stdout
    assert "A photo no model was trained on (" in result.stdout
    assert 'A sentence: "' in result.stdout
    page = Path(result.stdout.splitlines()[-1].removeprefix("The report: "))
    assert page.name == "report.html"
    assert page.is_file()


def test_help_names_every_command() -> None:
    shown = ask("-h").stdout
    assert all(name in shown for name in ("demo", "doctor", "export", "materialize", "report", "search"))


def shop(folder: Path, rows: int, missing: int) -> Path:
    """The preset of a manifest of `rows` rows, `missing` of which name no file."""
    write_image(folder / "shop" / "a.jpg")
    paths = ["gone.jpg" if row < missing else "a.jpg" for row in range(rows)]
    lines = [f"sku{row},{path},catalog" for row, path in enumerate(paths)]
    (folder / "shop" / "manifest.csv").write_text("\n".join(["sku_id,image_path,domain", *lines]))
    dataset = {"source": "manifest", "read": {"path": str(folder / "shop" / "manifest.csv")}}
    return write_preset(folder, {**SMALL, "dataset": dataset})


def test_a_catalogue_is_checked_and_what_is_left_out_is_listed_without_building_anything(
    tmp_path: Path,
) -> None:
    table = tmp_path / "left_out.csv"
    result = ask("catalog", "check", "--preset", shop(tmp_path, 100, 2), "--csv", table)
    assert result.exit_code == 0, result.stderr
    assert "100 rows read, 98 kept, 2 left out (missing_image 2)" in result.stdout
    assert "100 SKUs read, 98 kept, 2 lost entirely" in result.stdout
    assert pl.read_csv(table).select("sku_id", "reason").rows() == [
        ("sku0", "missing_image"),
        ("sku1", "missing_image"),
    ]
    assert not (tmp_path / "data").exists()


def test_a_catalogue_of_which_too_much_is_unreadable_fails_the_check(tmp_path: Path) -> None:
    result = ask("catalog", "check", "--preset", shop(tmp_path, 100, 3), "--csv", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "3.0% of the wanted rows can't be read, 2.0% are tolerated" in result.stderr
    assert pl.read_csv(tmp_path / "out.csv").height == 3

"""The encoder: open_clip's own format, pretrained weights from everywhere they may come, bad files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import open_clip.factory
import open_clip.pretrained
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from skufp_pipeline.camera.white_balance import balanced
from skufp_pipeline.encoders.clip import Encoder, create_encoder, image_trunk, in_order, load_encoder
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.weights import weight_inputs

from .conftest import CPU
from .examples import noise, pictures, write_model

TEXTS = ["a red shirt", "a dark blue coat from the side", ""]


def with_changes(settings: EncoderSettings, **changes: Any) -> EncoderSettings:
    return settings.model_copy(update=changes)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return set(weights) == set(others) and all(weights[name].equal(others[name]) for name in weights)


def write_weights(model: torch.nn.Module, path: Path) -> None:
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)


def complaint(settings: EncoderSettings) -> str:
    """What the user sees where no encoder can be made: one line of reasonable length."""
    with pytest.raises(UserError) as caught:
        create_encoder(settings, CPU, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


def tag(monkeypatch: pytest.MonkeyPatch, settings: EncoderSettings, download: Any) -> EncoderSettings:
    """`settings` with a pretrained tag that open_clip knows and fetches by `download`."""
    name = Path(settings.model).stem
    config = open_clip.pretrained._pcfg(hf_hub="someone/tiny/")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"fine_tag": config})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", download)
    return with_changes(settings, pretrained="fine_tag")


def test_embeddings_are_unit_float32_rows_of_the_models_dimension(encoder: Encoder) -> None:
    for rows in (encoder.embed_images(pictures()), encoder.embed_texts(TEXTS)):
        assert rows.dtype == np.float32
        assert rows.shape[1] == encoder.dimension == 8
        np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-7)


def test_embeddings_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    together = encoder.embed_images(pictures())
    alone = np.concatenate([encoder.embed_images([picture]) for picture in pictures()])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_images_are_embedded_as_rgb(encoder: Encoder, mode: str) -> None:
    picture = noise().convert(mode)
    np.testing.assert_array_equal(
        encoder.embed_images([picture]), encoder.embed_images([picture.convert("RGB")])
    )


def test_the_same_seed_gives_the_same_encoder(encoder: Encoder, settings: EncoderSettings) -> None:
    assert same_weights(encoder.model, create_encoder(settings, CPU, seed=0).model)
    assert not same_weights(encoder.model, create_encoder(settings, CPU, seed=1).model)


def test_encoders_are_made_in_evaluation_mode(encoder: Encoder) -> None:
    assert not any(module.training for module in encoder.model.modules())


@pytest.mark.parametrize("bundled", ["skufp-tiny", "skufp-mobilenetv2"])
def test_bundled_models_are_built_by_name(bundled: str) -> None:
    made = create_encoder(EncoderSettings(model=bundled), CPU, seed=0)
    assert made.embed_images(pictures()[:1]).shape == (1, made.dimension)
    assert made.embed_texts(TEXTS).shape == (3, made.dimension)


@pytest.mark.parametrize("kind", ["settings", "vit_settings"])
def test_a_saved_encoder_is_one_of_stock_open_clip(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    changes = {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4), "interpolation": "bilinear"}
    made = create_encoder(with_changes(request.getfixturevalue(kind), **changes), CPU, seed=3)
    made.save(tmp_path / "saved")
    source = f"local-dir:{tmp_path / 'saved'}"
    model, preprocess = open_clip.create_model_from_pretrained(source)
    assert same_weights(open_clip.create_model(source), made.model)
    tokenizer = open_clip.get_tokenizer(source)
    model.eval()
    with torch.inference_mode():
        images = model.encode_image(
            torch.stack([preprocess(noise(seed)) for seed in range(3)]), normalize=True
        )
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    ours = made.embed_images([noise(seed) for seed in range(3)])
    np.testing.assert_allclose(images.numpy(), ours, atol=1e-6)
    np.testing.assert_allclose(texts.numpy(), made.embed_texts(TEXTS), atol=1e-6)


def test_a_folder_of_open_clip_is_a_model_with_its_weights(settings: EncoderSettings, tmp_path: Path) -> None:
    made = create_encoder(settings, CPU, seed=3)
    made.save(tmp_path / "saved")
    named = EncoderSettings(model=f"local-dir:{tmp_path / 'saved'}")
    found = create_encoder(named, CPU, seed=4)
    assert same_weights(found.model, made.model)
    np.testing.assert_allclose(found.embed_texts(TEXTS), made.embed_texts(TEXTS), atol=1e-6)
    before = weight_inputs(named.weight_files())
    assert set(before) == {"encoder.model"}
    create_encoder(settings, CPU, seed=5).save(tmp_path / "saved")
    assert weight_inputs(named.weight_files()) != before  # other bytes are other weights


def test_a_folder_that_holds_no_model_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"encoder.model 'local-dir:.*' can't be read .*expected local-dir:FOLDER"
    ):
        create_encoder(EncoderSettings(model=f"local-dir:{tmp_path}"), CPU, seed=0)


@pytest.mark.parametrize("kind", ["settings", "vit_settings"])
def test_a_loaded_encoder_equals_the_saved(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    changes = {"image_mean": (0.1, 0.2, 0.3), "resize_mode": "longest"}
    made = create_encoder(with_changes(request.getfixturevalue(kind), **changes), CPU, seed=3)
    made.save(tmp_path)
    loaded = load_encoder(tmp_path, CPU)
    assert same_weights(loaded.model, made.model)
    assert loaded.preprocess_config == json.loads(json.dumps(made.preprocess_config))
    assert loaded.model_config == made.model_config
    assert (loaded.dimension, loaded.image_size, loaded.mean_and_std) == (
        made.dimension,
        made.image_size,
        made.mean_and_std,
    )
    np.testing.assert_array_equal(loaded.embed_images([noise()]), made.embed_images([noise()]))
    np.testing.assert_array_equal(loaded.embed_texts(TEXTS), made.embed_texts(TEXTS))
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.parametrize("name", ["open_clip_config.json", "image_tower.json", "open_clip_model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_damaged_saved_encoder_is_told_by_its_folder(
    encoder: Encoder, tmp_path: Path, name: str, damage: str
) -> None:
    encoder.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage != "missing":
        (tmp_path / name).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError) as caught:
        load_encoder(tmp_path, CPU)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if damage == "missing":
        assert f"{name} is missing" in str(caught.value)


def test_an_unknown_model_is_told_with_what_there_is(tmp_path: Path) -> None:
    assert "'ViT-Z-99' is neither" in complaint(EncoderSettings(model="ViT-Z-99"))
    assert "skufp-tiny" in complaint(EncoderSettings(model="skufp-tinny"))
    assert "is neither" in complaint(EncoderSettings(model=str(tmp_path / "nowhere.json")))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"embed_dim": 8}'])
def test_a_file_that_is_no_model_config_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken-config.json"
    path.write_text(content)
    assert "broken-config" in complaint(EncoderSettings(model=str(path)))


def test_a_config_that_can_not_be_built_is_told_by_its_name(tmp_path: Path) -> None:
    settings = write_model(
        tmp_path / "no-such-tower.json", {"timm_model_name": "resnet_none", "image_size": 32}
    )
    assert "no-such-tower" in complaint(settings)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_a_local_checkpoint_is_loaded(
    encoder: Encoder, settings: EncoderSettings, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    write_weights(encoder.model, path)
    loaded = create_encoder(with_changes(settings, pretrained=str(path)), CPU, seed=9)
    assert same_weights(loaded.model, encoder.model)


def test_a_checkpoint_of_a_training_run_is_loaded(
    encoder: Encoder, settings: EncoderSettings, tmp_path: Path
) -> None:
    """open_clip's trainer saves an epoch and an optimizer too, and `module.` before each name."""
    weights = {f"module.{name}": value for name, value in encoder.model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {}}, tmp_path / "epoch_3.pt")
    loaded = create_encoder(with_changes(settings, pretrained=str(tmp_path / "epoch_3.pt")), CPU, seed=9)
    assert same_weights(loaded.model, encoder.model)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_local_checkpoint_directory_is_loaded(
    encoder: Encoder, settings: EncoderSettings, tmp_path: Path, name: str
) -> None:
    write_weights(encoder.model, tmp_path / name)
    loaded = create_encoder(with_changes(settings, pretrained=str(tmp_path)), CPU, seed=9)
    assert same_weights(loaded.model, encoder.model)


def test_a_directory_without_a_checkpoint_is_told(settings: EncoderSettings, tmp_path: Path) -> None:
    message = complaint(with_changes(settings, pretrained=str(tmp_path)))
    assert str(tmp_path) in message
    assert "open_clip_model.safetensors" in message


@pytest.mark.parametrize("content", [b"", b"no weights", b"half"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_broken_checkpoint_is_told_by_its_path(
    weights_file: Path, settings: EncoderSettings, tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(weights_file.read_bytes()[:5000] if content == b"half" else content)
    message = complaint(with_changes(settings, pretrained=str(path)))
    assert str(path) in message
    assert "tag" not in message


def test_a_checkpoint_of_another_architecture_is_told_by_both_names(
    weights_file: Path, vit_settings: EncoderSettings
) -> None:
    message = complaint(with_changes(vit_settings, pretrained=str(weights_file)))
    assert str(weights_file) in message
    assert vit_settings.model in message
    assert "key" in message


def test_a_missing_checkpoint_is_told(settings: EncoderSettings, tmp_path: Path) -> None:
    message = complaint(with_changes(settings, pretrained=str(tmp_path / "nowhere.pt")))
    assert f"{tmp_path / 'nowhere.pt'}' is no local file" in message


def test_a_tags_weights_are_fetched_and_loaded(
    encoder: Encoder, settings: EncoderSettings, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[dict[str, Any]] = []

    def download(config: dict[str, Any], cache_dir: str | None = None) -> str:
        fetched.append(config)
        return str(weights_file)

    made = create_encoder(tag(monkeypatch, settings, download), CPU, seed=9)
    assert [config["hf_hub"] for config in fetched] == ["someone/tiny/"]
    assert same_weights(made.model, encoder.model)
    np.testing.assert_array_equal(made.embed_texts(TEXTS), encoder.embed_texts(TEXTS))


def test_a_tag_without_network_is_told_with_the_tags_there_are(
    settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(config: dict[str, Any], cache_dir: str | None = None) -> str:
        raise ConnectionError("Max retries exceeded\n  (no route)\n" + "x" * 2000)

    message = complaint(tag(monkeypatch, settings, download))
    assert "'fine_tag' is no local file" in message
    assert "could not be loaded" in message
    assert "Max retries exceeded" in message
    assert "known tags: fine_tag" in message


def test_an_unknown_tag_of_a_known_model_is_told_with_the_tags_there_are() -> None:
    message = complaint(EncoderSettings(model="ViT-B-32", pretrained="laion2b_s34b_b79"))
    assert "laion2b_s34b_b79k" in message


@pytest.mark.parametrize("form", [".safetensors", ".pth", "nested.pth"])
def test_a_timm_files_tower_is_loaded_exactly(settings: EncoderSettings, tmp_path: Path, form: str) -> None:
    torch.manual_seed(5)
    tower = timm.create_model("test_resnet", num_classes=10)
    weights, path = tower.state_dict(), tmp_path / f"tower{form}"
    if form == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if form.startswith("nested") else weights, path)
    made = create_encoder(with_changes(settings, image_tower_weights=str(path)), CPU, seed=0)
    trunk = image_trunk(made.model).state_dict()
    assert trunk
    assert all(value.equal(weights[name]) for name, value in trunk.items())
    random = create_encoder(settings, CPU, seed=0)
    assert made.model.text_projection.equal(random.model.text_projection)


def test_a_tower_comes_from_an_installed_package_as_from_its_file(
    settings: EncoderSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder, told = tmp_path / "fake_tower", tmp_path / "fake_tower-1.0.dist-info"
    folder.mkdir()
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.4\nName: fake-tower\nVersion: 1.0\n")
    torch.manual_seed(5)
    path = folder / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    names = (str(path), "package:fake_tower/weights.safetensors", "package:fake-tower/weights.safetensors")
    file, *packaged = (
        create_encoder(with_changes(settings, image_tower_weights=name), CPU, seed=0) for name in names
    )
    assert all(same_weights(one.model, file.model) for one in packaged)
    assert "package:fake_tower/x.bin" in complaint(
        with_changes(settings, image_tower_weights="package:fake_tower/x.bin")
    )


def test_a_model_and_its_checkpoint_come_from_an_installed_package(
    encoder: Encoder, settings: EncoderSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fake_clip").mkdir()
    config = Path(settings.model)
    (tmp_path / "fake_clip" / config.name).write_bytes(config.read_bytes())
    encoder.save(tmp_path / "fake_clip" / "saved")
    packaged = with_changes(
        settings, model=f"package:fake_clip/{config.name}", pretrained="package:fake_clip/saved"
    )
    assert same_weights(create_encoder(packaged, CPU, seed=9).model, encoder.model)


def test_a_towers_tag_is_timms(settings: EncoderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    real, tower = timm.create_model, timm.create_model("test_resnet", num_classes=0)

    def create(name: str, **options: Any) -> Any:
        return tower if name == "test_resnet.r160_in1k" and options["pretrained"] else real(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    made = create_encoder(with_changes(settings, image_tower_weights="r160_in1k"), CPU, seed=0)
    assert same_weights(image_trunk(made.model), tower)
    told = complaint(with_changes(settings, image_tower_weights="nowhere"))
    assert told.startswith("encoder.image_tower_weights: timm's model 'test_resnet'")


def test_counters_may_be_missing_from_a_timm_file(settings: EncoderSettings, tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    slim = {name: value for name, value in weights.items() if "num_batches_tracked" not in name}
    assert len(slim) < len(weights)
    save_file(slim, tmp_path / "tower.safetensors")
    create_encoder(with_changes(settings, image_tower_weights=str(tmp_path / "tower.safetensors")), CPU, 0)


@pytest.mark.parametrize("counters", [True, False])
def test_a_tower_under_other_names_is_loaded_by_the_order_of_its_tensors(
    settings: EncoderSettings, tmp_path: Path, counters: bool
) -> None:
    torch.manual_seed(5)
    weights = timm.create_model("test_resnet", num_classes=10).state_dict()
    kept = [name for name in weights if counters or not name.endswith("num_batches_tracked")]
    renamed = {f"_layer{place}.{name.rpartition('.')[2]}": weights[name] for place, name in enumerate(kept)}
    torch.save(renamed, tmp_path / "tower.pth")
    named = with_changes(settings, image_tower_weights=str(tmp_path / "tower.pth"))
    trunk = image_trunk(create_encoder(named, CPU, seed=0).model).state_dict()
    assert all(trunk[name].equal(weights[name]) for name in kept if name in trunk)


@pytest.mark.parametrize("change", ["shape", "kind", "order", "one name fits", "too long"])
def test_another_network_is_not_loaded_by_order(change: str) -> None:
    wanted = {"a.weight": torch.ones(2), "a.running_mean": torch.ones(2), "b.weight": torch.ones(3)}
    found = {"x.weight": torch.ones(2), "x.running_mean": torch.zeros(2), "y.weight": torch.ones(3)}
    assert in_order(wanted, found) == dict(zip(wanted, found.values(), strict=True))
    if change == "shape":
        found["y.weight"] = torch.ones(4)
    elif change == "kind":
        found["x.running_var"] = found.pop("x.running_mean")
    elif change == "order":
        found = dict(reversed(found.items()))
    elif change == "one name fits":
        found = {("b.weight" if name == "y.weight" else name): value for name, value in found.items()}
    else:
        found |= {f"head{place}.weight": torch.ones(1) for place in range(3)}
    assert in_order(wanted, found) is None


def test_a_towers_pixels_are_scaled_as_its_weights_expect(settings: EncoderSettings, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "tower.pth")
    made = create_encoder(
        with_changes(settings, image_tower_weights=str(tmp_path / "tower.pth")), CPU, seed=0
    )
    own = image_trunk(made.model).pretrained_cfg
    assert made.mean_and_std == (tuple(own["mean"]), tuple(own["std"]))
    assert made.mean_and_std != create_encoder(settings, CPU, seed=0).mean_and_std


def test_a_bad_timm_file_is_told(settings: EncoderSettings, tmp_path: Path) -> None:
    def told(path: Path) -> str:
        return complaint(with_changes(settings, image_tower_weights=str(path)))

    assert "no local file" in told(tmp_path / "nowhere.pth")
    (tmp_path / "words.pth").write_text("no weights")
    assert f"{tmp_path / 'words.pth'} is no weight file" in told(tmp_path / "words.pth")
    (tmp_path / "words.safetensors").write_text("no weights")
    assert "is no weight file" in told(tmp_path / "words.safetensors")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    assert "does not fit the image tower" in told(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "list.pth" in told(tmp_path / "list.pth")


def test_tower_options_rebuild_the_tower_and_survive_saving(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    made = create_encoder(with_changes(settings, image_tower_kwargs={"act_layer": "silu"}), CPU, seed=0)
    other = create_encoder(settings, CPU, seed=0)
    twin = timm.create_model("test_resnet", num_classes=0, act_layer="silu").eval()
    twin.load_state_dict(image_trunk(other.model).state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(image_trunk(made.model)(pixels), twin(pixels))
        assert not torch.allclose(image_trunk(other.model)(pixels), twin(pixels))
    made.save(tmp_path / "saved")
    loaded = load_encoder(tmp_path / "saved", CPU)
    np.testing.assert_array_equal(loaded.embed_images([noise()]), made.embed_images([noise()]))


@pytest.mark.parametrize("options", [{"pad_typ": "same"}, {"act_layer": "none such"}, {"stem_width": 5}])
def test_tower_options_that_timm_does_not_take_are_told(
    settings: EncoderSettings, options: dict[str, Any]
) -> None:
    message = complaint(with_changes(settings, image_tower_kwargs=options))
    assert message.startswith("encoder.image_tower_kwargs")
    assert next(iter(options)) in message


def test_tower_options_are_for_timm_towers_alone(vit_settings: EncoderSettings) -> None:
    message = complaint(with_changes(vit_settings, image_tower_kwargs={"pad_type": "same"}))
    assert "encoder.image_tower_kwargs is for image towers named by timm_model_name" in message


def test_preprocessing_follows_the_settings(settings: EncoderSettings) -> None:
    changes = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.25, 0.25, 0.25)}
    made = create_encoder(with_changes(settings, **changes), CPU, seed=0)
    pixels = made.preprocess(Image.new("RGB", (10, 90), (255, 0, 51)))
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([2.0, -2.0, -1.2]))
    assert made.mean_and_std == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_white_balance_comes_before_all_else_and_is_kept_with_the_encoder(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    plain, made = (
        create_encoder(with_changes(settings, white_balance=share), CPU, seed=0) for share in (0.0, 0.7)
    )
    image = noise(seed=1)
    expected = plain.preprocess(Image.fromarray(balanced(np.asarray(image), 0.7)))
    assert made.preprocess(image).equal(expected)
    assert not plain.preprocess(image).equal(expected)
    assert same_weights(made.model, plain.model)
    made.save(tmp_path)
    loaded = load_encoder(tmp_path, CPU)
    assert loaded.white_balance == 0.7
    assert np.array_equal(loaded.embed_images([image]), made.embed_images([image]))


def test_an_encoder_without_white_balance_has_the_files_that_it_always_had(
    encoder: Encoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "image_tower.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert load_encoder(tmp_path, CPU).white_balance == 0


def test_a_damaged_preparation_is_told(settings: EncoderSettings, tmp_path: Path) -> None:
    create_encoder(with_changes(settings, white_balance=0.7), CPU, seed=0).save(tmp_path)
    (tmp_path / "preparation.json").write_text("{}")
    with pytest.raises(UserError, match="can't be read"):
        load_encoder(tmp_path, CPU)


def test_an_adapted_encoder_takes_no_white_balance() -> None:
    with pytest.raises(ValueError, match="white_balance is for a fine-tuned encoder"):
        EncoderSettings(model="skufp-tiny", pretrained="some_tag", adaptation={}, white_balance=0.7)


def test_the_config_is_readable_json(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert config["model_cfg"]["embed_dim"] == 8
    assert config["preprocess_cfg"]["size"] in (32, [32, 32])

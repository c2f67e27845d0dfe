"""The CLIP encoder: built by open_clip and saved in open_clip's local-directory format."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from numpy.typing import NDArray
from open_clip.factory import load_state_dict
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from skufp_pipeline.camera.white_balance import balanced
from skufp_pipeline.encoders.settings import BUNDLED_MODELS, EncoderSettings
from skufp_pipeline.encoders.text_tower import (
    TEXT_FOLDER,
    placed,
    read_quietly,
    read_tokenizer,
    save_text_tower,
    sentence_outputs,
    start_isometric,
    text_config,
    without_padding,
)
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import Weights, config_source, read_config, resolve

CONFIG_FILE, WEIGHTS_FILE, TOWER_FILE = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "image_tower.json",
)
PREPARATION_FILE = "preparation.json"  # what is done to an image before all else; absent if nothing is
_CHECKPOINTS = (WEIGHTS_FILE, "open_clip_pytorch_model.bin")
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Encoder:
    """A CLIP model, preprocessing and tokenizer; embeds images and texts in one space of D dimensions."""

    model: Any  # open_clip's (`encode_image`, `encode_text`), in evaluation mode; open_clip has no type hints
    model_config: dict[str, Any]  # the open_clip model config it was built from
    preprocess_config: dict[str, Any]
    device: torch.device
    image_tower_kwargs: dict[str, Any] = field(default_factory=dict)  # more arguments of `timm.create_model`
    text_source: str | None = None  # folder or hub id of a frozen text model's tokenizer; None without one
    white_balance: float = 0.0  # share of the colour cast that is removed from an image before all else

    def __post_init__(self) -> None:
        self._transform = image_transform_v2(PreprocessCfg(**self.preprocess_config), is_train=False)
        text = self.model_config["text_cfg"]
        if self.text_source is None:
            self._tokenizer = _tokenizer(text)
        else:
            vocabulary = self.model.text.config.vocab_size
            self._tokenizer = read_tokenizer(self.text_source, text["context_length"], vocabulary)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Prepares an image as the encoder was trained to see it: (3, side, side)."""
        if self.white_balance > 0:
            image = Image.fromarray(balanced(np.asarray(image.convert("RGB")), self.white_balance))
        pixels: Tensor = self._transform(image)
        return pixels

    @property
    def has_text_model(self) -> bool:
        """Whether the text tower is a frozen text model (`encoder.text_tower_weights`)."""
        return self.text_source is not None

    @property
    def dimension(self) -> int:
        return int(self.model_config["embed_dim"])

    @property
    def image_size(self) -> int:
        size = self.preprocess_config["size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(self.preprocess_config["mean"]), tuple(self.preprocess_config["std"])

    @property
    def text_width(self) -> int:
        """W, the dimensions of a text model's output."""
        return int(self.model.text.proj.in_features)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Returns (B, context_length) token ids; of a text model as few columns as the longest text needs."""
        tokens: Tensor = self._tokenizer(list(texts))
        return without_padding(tokens, self.model.text.config.pad_token_id) if self.has_text_model else tokens

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        return self.embed_pixels(pixels)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows of preprocessed images (B, 3, side, side)."""
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        return unit_rows(self.model.encode_image(pixels))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows."""
        return unit_rows(self.model.encode_text(self.tokenize(texts).to(self.device)))

    def text_outputs(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (B, W) float32 unit rows of the frozen text model, before its projection."""
        return unit_rows(sentence_outputs(self.model, self.tokenize(texts).to(self.device)))

    def save(self, directory: Path) -> None:
        """Writes a directory for `load_encoder` and `open_clip.create_model("local-dir:DIRECTORY")`.

        With a text model, open_clip needs the absolute path of `DIRECTORY/text_tower` in place of its name.
        """
        directory.mkdir(parents=True, exist_ok=True)
        config = {"model_cfg": self.model_config, "preprocess_cfg": self.preprocess_config}
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
        (directory / TOWER_FILE).write_text(json.dumps(self.image_tower_kwargs, indent=1) + "\n")
        if self.white_balance > 0:
            prepared = {"white_balance": self.white_balance}
            (directory / PREPARATION_FILE).write_text(json.dumps(prepared, indent=1) + "\n")
        if self.has_text_model:
            save_text_tower(self.model, self._tokenizer, directory)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)


def create_encoder(
    settings: EncoderSettings, device: torch.device, seed: int, prefix: str = "encoder"
) -> Encoder:
    """Creates the encoder before fine-tuning, with random weights where none are configured.

    `prefix` is the dotted name of the settings, which errors name.

    Raises:
        UserError: unknown model name or tag, missing or incompatible weight file, no network for a tag.
    """
    torch.manual_seed(seed)
    name, config = _model_config(settings.model, f"{prefix}.model")
    weights, checkpoint, text = None, None, None
    if settings.text_tower_weights is not None:
        text = resolve(settings.text_tower_weights, "encoder.text_tower_weights")
        config = {**config, "text_cfg": text_config(text)}
    if settings.pretrained is not None:
        weights = resolve(settings.pretrained, f"{prefix}.pretrained")
        checkpoint = str(weights.file(_CHECKPOINTS) or weights.name)
    try:
        with _without_random_weights_warning() if checkpoint is None else nullcontext():
            model = _with_text_model(name, config, text) if text else _create(name, checkpoint)
    except UserError:
        raise
    except Exception as error:  # open_clip raises RuntimeError, the hub and torch many other kinds
        raise UserError(_model_error(settings, name, weights, error, prefix)) from error
    _set_image_tower_options(model, config, settings.image_tower_kwargs)
    if settings.image_tower_weights is not None:
        weights = resolve(settings.image_tower_weights, "encoder.image_tower_weights")
        load_timm_weights(image_trunk(model), config["vision_cfg"].get("timm_model_name", name), weights)
    preprocess = _preprocess_config(settings, model)
    model = model.to(device, memory_format=torch.channels_last).eval()
    options, white_balance = settings.image_tower_kwargs, settings.white_balance
    if text is None:
        return Encoder(model, config, preprocess, device, options, white_balance=white_balance)
    with read_quietly(text):
        return Encoder(model, config, preprocess, device, options, text.source, white_balance)


def load_encoder(directory: Path, device: torch.device) -> Encoder:
    """Loads an encoder that `Encoder.save` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    for name in (CONFIG_FILE, TOWER_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory} holds no encoder: {name} is missing")
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        tower_options = json.loads((directory / TOWER_FILE).read_text())
        prepared, white_balance = directory / PREPARATION_FILE, 0.0
        if prepared.is_file():
            white_balance = float(json.loads(prepared.read_text())["white_balance"])
        text = str(directory / TEXT_FOLDER) if (directory / TEXT_FOLDER).is_dir() else None
        text_cfg = config["model_cfg"]["text_cfg"]
        options = {} if text is None else {"text_cfg": placed(text_cfg, text, with_weights=False)}
        model = _create(f"local-dir:{directory}", None, **options)
    except Exception as error:  # as many kinds as in create_encoder
        raise UserError(f"the encoder in {directory} can't be read: {in_a_line(error)}") from error
    _set_image_tower_options(model, config["model_cfg"], tower_options)
    model = model.to(device, memory_format=torch.channels_last).eval()
    if text is not None:
        model.text.transformer.requires_grad_(False)
    try:
        configs = config["model_cfg"], config["preprocess_cfg"]
        return Encoder(model, *configs, device, tower_options, text, white_balance)
    except Exception as error:  # the tokenizer's files
        raise UserError(f"the encoder in {directory} can't be read: {in_a_line(error)}") from error


def image_trunk(model: Any) -> nn.Module:
    """Returns the pretrained part of the image tower, without its projection into the shared space."""
    trunk: nn.Module = getattr(model.visual, "trunk", model.visual)
    return trunk


def _create(name: str, checkpoint: str | None = None, **options: Any) -> Any:
    # pretrained_image is off: a timm tower's own weights are loaded from image_tower_weights only.
    return open_clip.create_model(name, checkpoint, device="cpu", pretrained_image=False, **options)


def _with_text_model(name: str, config: dict[str, Any], text: Weights) -> Any:
    """Builds a model whose text tower is the frozen text model `text`."""
    with read_quietly(text):
        text_cfg = placed(config["text_cfg"], text.source, with_weights=True)
        model = _create(name, text_cfg=text_cfg, force_custom_text=True)
    start_isometric(model)
    return model


def _model_config(name: str, setting: str) -> tuple[str, dict[str, Any]]:
    """Returns open_clip's name of the model and its config; registers a JSON config with open_clip first."""
    source = config_source(name, BUNDLED_MODELS)
    if source is not None:
        # Validated first: once an invalid file is registered, open_clip fails on every model.
        path, _ = read_config(source, setting, ("embed_dim", "vision_cfg", "text_cfg"))
        open_clip.add_model_config(path)
        name = path.stem
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # a folder that is none, a hub that can't be reached
        raise UserError(
            f"{setting} {name!r} can't be read ({in_a_line(error)}); expected local-dir:FOLDER with "
            "open_clip_config.json and weights, or hf-hub:ID"
        ) from error
    if config is None:
        bundled = ", ".join(sorted(path.stem for path in BUNDLED_MODELS.glob("*.json")))
        raise UserError(
            f"{setting} {name!r} is neither an open_clip JSON config (embed_dim, vision_cfg, text_cfg), "
            f"nor bundled ({bundled}), nor one of open_clip's models; "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists those"
        )
    return name, dict(config)


@contextmanager
def _without_random_weights_warning() -> Iterator[None]:
    """Silences only open_clip's warning that no pretrained weights were loaded."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logger = logging.getLogger()  # open_clip logs to the root logger
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _set_image_tower_options(model: Any, config: dict[str, Any], options: dict[str, Any]) -> None:
    """Rebuilds the timm trunk with options that an open_clip config can't express; keeps its weights."""
    if not options:
        return
    vision = config["vision_cfg"]
    if "timm_model_name" not in vision:
        raise UserError("encoder.image_tower_kwargs is for image towers named by timm_model_name")
    try:
        trunk = timm.create_model(
            vision["timm_model_name"], num_classes=0, global_pool=vision.get("timm_pool", "avg"), **options
        )
        trunk.load_state_dict(model.visual.trunk.state_dict())
    except Exception as error:  # timm's constructors raise many kinds for an unsupported option
        raise UserError(f"encoder.image_tower_kwargs {options}: {in_a_line(error)}") from error
    model.visual.trunk = trunk


def _tokenizer(text_config: dict[str, Any]) -> Any:
    length = text_config.get("context_length", 77)
    hub_name = text_config.get("hf_tokenizer_name")
    if hub_name:
        return open_clip.tokenizer.HFTokenizer(hub_name, context_length=length)
    return open_clip.tokenizer.SimpleTokenizer(context_length=length)


def load_timm_weights(trunk: nn.Module, model: str, source: Weights, **options: Any) -> None:
    """Loads timm weights into a trunk; ignores a classifier head in the file.

    Args:
        model: timm's name of the trunk, for looking up a tag.
        options: further arguments of `timm.create_model` that the trunk was made with.

    Raises:
        UserError: the file or tag does not exist, is not a weight file, or does not fit the trunk.
    """
    path = source.file(_TIMM_FILES)
    try:
        weights = (
            timm_model(model, source.name, source.setting, **options).state_dict()
            if path is None
            else load_state_dict(str(path), device="cpu", weights_only=True)
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is no weight file (safetensors or .pth): {in_a_line(error)}") from error
    # num_batches_tracked is a counter that many exports omit; it does not affect the result.
    wanted = _without_counters(trunk.state_dict())
    weights = in_order(wanted, _without_counters(weights)) or weights
    wrong = [
        name for name, value in wanted.items() if name not in weights or weights[name].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the image tower: {len(wrong)} of {len(wanted)} tensors are missing or have "
            f"another shape, first {wrong[0]!r}; is the tower's timm model the one that the file is of?"
        )
    trunk.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def in_order(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Returns `found` under the names of `wanted`, for the same network exported under other names.

    None where a name fits, or where kind (`weight`, `running_var`, ...) or shape of any tensor differs in the
    order of the file. The file may have two tensors more at its end, those of a classifier.
    """
    kinds = [
        [(name.rpartition(".")[2], tuple(value.shape)) for name, value in tensors.items()]
        for tensors in (wanted, found)
    ]
    if wanted.keys() & found.keys() or kinds[0] != kinds[1][: len(wanted)] or len(found) > len(wanted) + 2:
        return None
    return dict(zip(wanted, found.values(), strict=False))


def _without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def timm_model(model: str, tag: str | None, setting: str, **options: Any) -> Any:
    """Creates a timm model without its classifier; its weights are random without a tag.

    `options` are further arguments of `timm.create_model`.

    Raises:
        UserError: unknown model or tag, or no network for the tag.
    """
    name = model if tag is None else f"{model}.{tag}"
    try:
        return timm.create_model(name, pretrained=tag is not None, num_classes=0, **options)
    except Exception as error:  # timm raises RuntimeError, the hub many other kinds
        known = [name.partition(".")[2] for name in timm.list_pretrained(model)]
        hint = f"; known tags: {', '.join(known)}" if known else ""
        raise UserError(
            f"{setting}: timm's model {model!r} with pretrained {tag!r}, which is no local file, could not "
            f"be made ({in_a_line(error)}){hint}"
        ) from error


def _preprocess_config(settings: EncoderSettings, model: Any) -> dict[str, Any]:
    own = model.visual.preprocess_cfg
    if settings.image_tower_weights is not None:  # open_clip does not know what timm's weights expect
        own = {**own, **{key: model.visual.trunk.pretrained_cfg[key] for key in ("mean", "std")}}
    return {
        "size": own["size"],
        "mode": "RGB",
        "mean": list(settings.image_mean or own["mean"]),
        "std": list(settings.image_std or own["std"]),
        "interpolation": settings.interpolation,
        "resize_mode": settings.resize_mode,
        "fill_color": 0,
    }


def _model_error(
    settings: EncoderSettings, name: str, weights: Weights | None, error: Exception, prefix: str
) -> str:
    if weights is None:
        return f"{prefix}.model {settings.model!r} can't be built: {in_a_line(error)}"
    if weights.path is not None:
        return (
            f"{prefix}.pretrained {settings.pretrained!r} is no checkpoint of {prefix}.model "
            f"{settings.model!r}: {in_a_line(error)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    return (
        f"{prefix}.pretrained {settings.pretrained!r} is no local file, and as a tag of {settings.model!r} "
        f"it could not be loaded ({in_a_line(error)}); known tags: {', '.join(tags) or 'none'}"
    )


def unit_rows(features: Tensor) -> NDArray[np.float32]:
    """Normalises (B, D) features to float32 rows of norm 1."""
    # Computed in float64, so that the norm is 1 to float32 precision at any scale of the tower.
    rows = features.double()
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return rows.float().cpu().numpy()

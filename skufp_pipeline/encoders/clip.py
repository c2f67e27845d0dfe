"""The CLIP encoder: built by open_clip, saved in open_clip's own local-directory format.

An `Encoder` is the model together with its preprocessing and tokenizer; images and texts come out as
unit rows in one space of D dimensions.
"""

import json
import logging
from collections.abc import Iterator, Sequence
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

from skufp_pipeline.encoders.settings import BUNDLED_MODELS, EncoderSettings
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import Weights, config_source, read_config, resolve

CONFIG_FILE, WEIGHTS_FILE, TOWER_FILE = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "image_tower.json",
)
_CHECKPOINTS = (WEIGHTS_FILE, "open_clip_pytorch_model.bin")
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Encoder:
    """A CLIP model ready to embed.

    Attributes:
        model: open_clip's model (`encode_image`, `encode_text`), in evaluation mode.
        model_config: the open_clip model config it was built from.
        preprocess_config: open_clip's preprocessing options.
        image_tower_kwargs: what `timm.create_model` was given beside the model's name.
    """

    model: Any  # open_clip declares no types
    model_config: dict[str, Any]
    preprocess_config: dict[str, Any]
    device: torch.device
    image_tower_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.preprocess = image_transform_v2(PreprocessCfg(**self.preprocess_config), is_train=False)
        text = self.model_config["text_cfg"]
        self._tokenizer = _tokenizer(text)

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

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) token ids."""
        tokens: Tensor = self._tokenizer(list(texts))
        return tokens

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(B, D) float32 unit rows."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        return self.embed_pixels(pixels)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """(B, D) float32 unit rows of preprocessed images (B, 3, side, side)."""
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        return unit_rows(self.model.encode_image(pixels))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) float32 unit rows."""
        return unit_rows(self.model.encode_text(self.tokenize(texts).to(self.device)))

    def save(self, directory: Path) -> None:
        """Writes what `open_clip.create_model("local-dir:DIRECTORY")` and `load_encoder` read."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {"model_cfg": self.model_config, "preprocess_cfg": self.preprocess_config}
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
        (directory / TOWER_FILE).write_text(json.dumps(self.image_tower_kwargs, indent=1) + "\n")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)


def create_encoder(settings: EncoderSettings, device: torch.device, seed: int) -> Encoder:
    """The encoder before fine-tuning: random where nothing pretrained is named.

    Raises:
        UserError: unknown model name or tag, missing or unfitting weight file, no network for a tag.
    """
    torch.manual_seed(seed)
    name, config = _model_config(settings.model)
    weights, checkpoint = None, None
    if settings.pretrained is not None:
        weights = resolve(settings.pretrained, "encoder.pretrained")
        checkpoint = str(weights.file(_CHECKPOINTS) or weights.name)
    try:
        # pretrained_image: a timm tower's own weights come from image_tower_weights alone.
        with _meant_to_be_random() if checkpoint is None else nullcontext():
            model = open_clip.create_model(name, checkpoint, device="cpu", pretrained_image=False)
    except Exception as error:  # open_clip raises RuntimeError, the hub and torch a dozen other kinds
        raise UserError(_model_error(settings, name, weights, error)) from error
    _set_image_tower_options(model, config, settings.image_tower_kwargs)
    if settings.image_tower_weights is not None:
        weights = resolve(settings.image_tower_weights, "encoder.image_tower_weights")
        load_timm_weights(image_trunk(model), config["vision_cfg"].get("timm_model_name", name), weights)
    preprocess = _preprocess_config(settings, model)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return Encoder(model, config, preprocess, device, settings.image_tower_kwargs)


def load_encoder(directory: Path, device: torch.device) -> Encoder:
    """The encoder that `Encoder.save` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    for name in (CONFIG_FILE, TOWER_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory} holds no encoder: {name} is missing")
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        tower_options = json.loads((directory / TOWER_FILE).read_text())
        model = open_clip.create_model(f"local-dir:{directory}", device="cpu", pretrained_image=False)
    except Exception as error:  # as many kinds as in create_encoder
        raise UserError(f"the encoder in {directory} can't be read: {in_a_line(error)}") from error
    _set_image_tower_options(model, config["model_cfg"], tower_options)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return Encoder(model, config["model_cfg"], config["preprocess_cfg"], device, tower_options)


def image_trunk(model: Any) -> nn.Module:
    """The image tower without its projection into the shared space: the pretrained part."""
    trunk: nn.Module = getattr(model.visual, "trunk", model.visual)
    return trunk


def _model_config(name: str) -> tuple[str, dict[str, Any]]:
    """The name open_clip knows the model by, and its config; a JSON file is made known to it first."""
    source = config_source(name, BUNDLED_MODELS)
    if source is not None:
        # Checked first: open_clip fails on every model once it knows a broken file.
        path, _ = read_config(source, "encoder.model", ("embed_dim", "vision_cfg", "text_cfg"))
        open_clip.add_model_config(path)
        name = path.stem
    config = open_clip.get_model_config(name)
    if config is None:
        bundled = ", ".join(sorted(path.stem for path in BUNDLED_MODELS.glob("*.json")))
        raise UserError(
            f"encoder.model {name!r} is neither an open_clip JSON config (embed_dim, vision_cfg, text_cfg), "
            f"nor bundled ({bundled}), nor one of open_clip's models; "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists those"
        )
    return name, dict(config)


@contextmanager
def _meant_to_be_random() -> Iterator[None]:
    """Silences open_clip's one warning that a model has no pretrained weights; others are shown."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logger = logging.getLogger()  # open_clip logs to the root
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _set_image_tower_options(model: Any, config: dict[str, Any], options: dict[str, Any]) -> None:
    """Rebuilds timm's trunk with options that an open_clip config has no words for; weights stay."""
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
    except Exception as error:  # whatever timm's constructors raise for an option they don't take
        raise UserError(f"encoder.image_tower_kwargs {options}: {in_a_line(error)}") from error
    model.visual.trunk = trunk


def _tokenizer(text_config: dict[str, Any]) -> Any:
    length = text_config.get("context_length", 77)
    hub_name = text_config.get("hf_tokenizer_name")
    if hub_name:
        return open_clip.tokenizer.HFTokenizer(hub_name, context_length=length)
    return open_clip.tokenizer.SimpleTokenizer(context_length=length)


def load_timm_weights(trunk: nn.Module, model: str, source: Weights) -> None:
    """timm weights into a trunk; a classifier head in the file is left aside.

    Args:
        model: timm's name of the trunk, whose tags a hub knows.

    Raises:
        UserError: there is no such file or tag, it is no weight file, or fits another model.
    """
    path = source.file(_TIMM_FILES)
    try:
        weights = (
            timm_model(model, source.name, source.setting).state_dict()
            if path is None
            else load_state_dict(str(path), device="cpu", weights_only=True)
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is no weight file (safetensors or .pth): {in_a_line(error)}") from error
    # num_batches_tracked is a counter that many exports leave out; it plays no part in the result.
    wanted = {name: value for name, value in trunk.state_dict().items() if "num_batches" not in name}
    unfit = [
        name for name, value in wanted.items() if name not in weights or weights[name].shape != value.shape
    ]
    if unfit:
        raise UserError(
            f"{path} does not fit the image tower: {len(unfit)} of {len(wanted)} tensors are missing or have "
            f"another shape, first {unfit[0]!r}; is the tower's timm model the one that the file is of?"
        )
    trunk.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def timm_model(model: str, tag: str | None, setting: str) -> Any:
    """timm's model without its classifier; random without a tag.

    Raises:
        UserError: timm knows no such model or tag, or there is no network for the tag.
    """
    name = model if tag is None else f"{model}.{tag}"
    try:
        return timm.create_model(name, pretrained=tag is not None, num_classes=0)
    except Exception as error:  # timm raises RuntimeError, the hub a dozen other kinds
        known = [name.partition(".")[2] for name in timm.list_pretrained(model)]
        told = f"; known tags: {', '.join(known)}" if known else ""
        raise UserError(
            f"{setting}: timm's model {model!r} with pretrained {tag!r}, which is no local file, could not "
            f"be made ({in_a_line(error)}){told}"
        ) from error


def _preprocess_config(settings: EncoderSettings, model: Any) -> dict[str, Any]:
    own = model.visual.preprocess_cfg
    return {
        "size": own["size"],
        "mode": "RGB",
        "mean": list(settings.image_mean or own["mean"]),
        "std": list(settings.image_std or own["std"]),
        "interpolation": settings.interpolation,
        "resize_mode": settings.resize_mode,
        "fill_color": 0,
    }


def _model_error(settings: EncoderSettings, name: str, weights: Weights | None, error: Exception) -> str:
    if weights is None:
        return f"encoder.model {settings.model!r} can't be built: {in_a_line(error)}"
    if weights.path is not None:
        return (
            f"encoder.pretrained {settings.pretrained!r} is no checkpoint of encoder.model "
            f"{settings.model!r}: {in_a_line(error)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    return (
        f"encoder.pretrained {settings.pretrained!r} is no local file, and as a tag of {settings.model!r} "
        f"it could not be loaded ({in_a_line(error)}); known tags: {', '.join(tags) or 'none'}"
    )


def unit_rows(features: Tensor) -> NDArray[np.float32]:
    """(B, D) features as float32 rows of norm 1."""
    # Normalised in float64, so that the norm is 1 to float32's last bit whatever the tower's scale.
    rows = features.double()
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return rows.float().cpu().numpy()

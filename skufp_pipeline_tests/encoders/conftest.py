"""The tiny CLIP of `examples` on the CPU."""

from pathlib import Path

import pytest
import torch

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.settings import EncoderSettings

from .examples import VIT_VISION, write_model

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    """Of a CLIP whose image tower is timm's."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-timm.json")


@pytest.fixture(scope="session")
def vit_settings(tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    """Of a CLIP whose image tower is open_clip's own."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-vit.json", VIT_VISION)


@pytest.fixture(scope="session")
def encoder(settings: EncoderSettings) -> Encoder:
    """A random encoder that no test changes."""
    return create_encoder(settings, CPU, seed=0)


@pytest.fixture
def weights_file(encoder: Encoder, tmp_path: Path) -> Path:
    """The weights of `encoder` as a .pt checkpoint."""
    path = tmp_path / "weights.pt"
    torch.save(encoder.model.state_dict(), path)
    return path

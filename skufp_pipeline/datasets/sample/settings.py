"""Size, variety and difficulty of the rendered sample data set."""

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings


class SampleSettings(Settings):
    """Settings of the rendered sample, whose distribution imitates DeepFashion2's: the number of views has a
    heavy tail, some SKUs have no query, some images hold two items, some items have style 0 (a garment that
    is no SKU)."""

    num_skus: int = Field(default=1000, ge=50, le=1_000_000)
    image_size: int = Field(default=96, ge=32, le=1024)  # pixels; images are square
    seed: int = Field(default=17, ge=0)
    train_fraction: float = Field(default=0.6, gt=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, lt=1)  # the rest is `validation`
    # View counts are log-normal, clipped at the maximum; every SKU has a shop view.
    mean_shop_views: float = Field(default=4.0, ge=1)
    max_shop_views: int = Field(default=12, ge=1)
    mean_user_views: float = Field(default=8.0, ge=1)
    max_user_views: int = Field(default=40, ge=1)
    fraction_without_query: float = Field(default=0.03, ge=0, le=1)  # of the SKUs
    # Images with only a style-0 item, per image of a SKU. A second item has style 0 too if the SKU's pair
    # has no garment to be worn with it.
    style_zero_fraction: float = Field(default=0.03, ge=0, le=1)
    two_item_fraction: float = Field(default=0.08, ge=0, le=1)  # images with a second item
    variants: int = Field(default=5, ge=1)  # SKUs that share one design
    difficulty: float = Field(default=1.0, ge=0, le=2)  # scales the degradation of user photos
    workers: int | None = Field(default=None, ge=1)  # processes; null: every core

    @model_validator(mode="after")
    def _validation_is_not_empty(self) -> "SampleSettings":
        if self.train_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"train_fraction + test_fraction must be below 1, so that SKUs remain for the validation "
                f"split; found {self.train_fraction} + {self.test_fraction}. Lower one of them."
            )
        return self

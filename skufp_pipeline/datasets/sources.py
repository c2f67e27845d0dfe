"""The data sets that a preset can name. Each is a settings class that lists, writes and reads its own files.

To add one, write a subclass of `Source` and add it to `Dataset`.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from skufp_pipeline.datasets.boxes import Boxes, annotated_boxes, listed_boxes
from skufp_pipeline.datasets.catalogue import folder_listing, with_image_digests, with_shards
from skufp_pipeline.datasets.deepfashion2 import DeepFashion2Settings, inventory, read_deepfashion2
from skufp_pipeline.datasets.manifest import ManifestSettings, image_urls, read_manifest
from skufp_pipeline.datasets.pictures import MANIFESTS, PicturesSettings, read_pictures
from skufp_pipeline.datasets.remote import Fetcher, RemoteImages, RemoteSettings, table_digest
from skufp_pipeline.datasets.sample import SampleSettings, render_sample
from skufp_pipeline.datasets.sample.pictures import render_pictures
from skufp_pipeline.datasets.sample.street2shop import render_street2shop
from skufp_pipeline.datasets.sample.writer import DEGRADATIONS
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.street2shop import (
    LAYOUT,
    Street2ShopSettings,
    is_street2shop,
    read_street2shop,
)
from skufp_pipeline.datasets.street2shop_rows import (
    hub_digest,
    hub_parts,
    parquet_files,
    parquet_parts,
    write_rows,
)
from skufp_pipeline.datasets.table import Catalogue
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import content_digest
from skufp_pipeline.progress import Progress
from skufp_pipeline.settings import Settings

DATASETS = "skufp_pipeline.datasets."
REMOTE_IMAGES = "remote_images"  # the table of a raw data set, `REMOTE_SCHEMA`


class Source(Settings):
    """The interface of a data set to the graph; the defaults suit a folder given by the user."""

    source: str
    read: Settings  # how the files are read

    writer_code: ClassVar[tuple[str, ...]] = ()  # the module that writes the files
    reader_code: ClassVar[tuple[str, ...]] = ()  # the module that reads them

    @property
    def folder(self) -> Path | None:
        """The user's folder; None if the data set writes its own files."""
        return None

    def config(self) -> dict[str, Any]:
        """Returns the settings that determine the raw data set, JSON-able."""
        return self.model_dump(mode="json", exclude={"read"})

    def listing(self, progress: Progress | None = None) -> dict[str, Any]:
        """Summarises `folder`, with a `digest`; empty if it is None. Raises `UserError` if it is missing.

        Tables that belong to the raw data set are under `tables`, by name. `progress` is called with
        (images fetched, total).
        """
        if self.folder is None:
            return {}
        if not self.folder.is_dir():
            raise UserError(f"dataset.path {str(self.folder)!r} is no folder; see README, 'Your own data'")
        return folder_listing(self.folder)

    def write_raw(
        self,
        directory: Path,
        progress: Progress | None = None,
        listing: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Writes the raw data set, by default the listing, into an empty directory; returns its summary.

        `listing` is what `listing` returned, which is called without it.
        """
        listing = dict(self.listing() if listing is None else listing)
        for name, table in listing.pop("tables", {}).items():
            table.write_parquet(directory / f"{name}.parquet", compression="zstd")
        (directory / "inventory.json").write_text(json.dumps(listing, indent=1, sort_keys=True) + "\n")
        return listing

    def root(self, raw: Path) -> Path:
        """Returns the folder that `orig_image_path` is relative to; `raw` was filled by `write_raw`."""
        return self.folder or raw

    def find(self, raw: Path) -> Callable[[str], Path]:
        """Returns a function from `orig_image_path` to a local file; it may raise an `ItemError`."""
        return self.root(raw).joinpath

    @abstractmethod
    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        """Returns the kept and the skipped items, from this source's reader."""

    def catalogue(
        self,
        raw: Path,
        splits: SplitSettings,
        shards: int,
        items_progress: Progress | None = None,
        images_progress: Progress | None = None,
    ) -> Catalogue:
        """Returns `items` with the shard of each SKU and the digest of each image."""
        found = self.items(raw, splits, items_progress)
        items = with_image_digests(found.items, self.find(raw), images_progress)
        return replace(found, items=with_shards(items, shards))

    def boxes(self, raw: Path, items: pl.DataFrame, images: Sequence[str]) -> dict[str, Boxes]:
        """Returns the boxes of every known item of `images`, by `orig_image_path`; an image whose items have
        no boxes is left out. `items` is the whole table of `items`."""
        return listed_boxes(items, images, self.find(raw))

    def degradations(self, raw: Path) -> pl.DataFrame | None:
        """Returns each photo's degradations, by `split` and `image_id`; None if they are unknown."""
        return None

    def another_rendering(self, seed: int, num_skus: int | None = None) -> Self | None:
        """Returns the data set rendered with another seed; None if it is not rendered."""
        return None


def rendered_again(render: SampleSettings, seed: int, num_skus: int | None) -> SampleSettings:
    """Returns the settings of a rendering with another seed, and another size if one is given."""
    return render.model_copy(update={"seed": seed} | ({} if num_skus is None else {"num_skus": num_skus}))


class SampleDataset(Source):
    """The rendered sample, written in DeepFashion2's layout and read by its reader."""

    source: Literal["sample"]
    render: SampleSettings
    read: DeepFashion2Settings = DeepFashion2Settings()

    writer_code = (DATASETS + "sample.writer",)
    reader_code = (DATASETS + "deepfashion2",)

    def config(self) -> dict[str, Any]:
        """Leaves out the number of processes, which does not affect the files."""
        return self.model_dump(mode="json", exclude={"read": True, "render": {"workers"}})

    def write_raw(
        self,
        directory: Path,
        progress: Progress | None = None,
        listing: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        return asdict(render_sample(self.render, directory, progress))

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        return read_deepfashion2(raw, self.read, splits, progress)

    def boxes(self, raw: Path, items: pl.DataFrame, images: Sequence[str]) -> dict[str, Boxes]:
        return annotated_boxes(self.root(raw), images)

    def degradations(self, raw: Path) -> pl.DataFrame:
        return pl.read_parquet(raw / DEGRADATIONS / "*.parquet")

    def another_rendering(self, seed: int, num_skus: int | None = None) -> Self:
        return self.model_copy(update={"render": rendered_again(self.render, seed, num_skus)})


class DeepFashion2Dataset(Source):
    """DeepFashion2 on disk, in its original layout."""

    source: Literal["deepfashion2"]
    path: str  # the folder that holds train/annos and train/image
    read: DeepFashion2Settings = DeepFashion2Settings()

    reader_code = (DATASETS + "deepfashion2",)

    @property
    def folder(self) -> Path:
        return Path(self.path)

    def listing(self, progress: Progress | None = None) -> dict[str, Any]:
        return {**super().listing(), "splits": inventory(self.folder)}

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        return read_deepfashion2(self.folder, self.read, splits, progress)

    def boxes(self, raw: Path, items: pl.DataFrame, images: Sequence[str]) -> dict[str, Boxes]:
        return annotated_boxes(self.root(raw), images)


class Street2ShopDataset(Source):
    """Street2Shop: in its original layout, as rows with embedded pictures, or rendered as a miniature."""

    source: Literal["street2shop"]
    path: str | None = None  # the folder of meta/json and photos; or a Parquet file, or a folder of them
    hub: str | None = None  # a data set of the Hugging Face hub, or a folder in its format
    revision: str | None = None  # of the hub's
    render: SampleSettings | None = None  # the miniature
    read: Street2ShopSettings = Street2ShopSettings()

    writer_code = (DATASETS + "sample.street2shop", DATASETS + "street2shop_rows")
    reader_code = (DATASETS + "street2shop",)

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        given = [name for name in ("path", "hub", "render") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of path, hub and render; found {' and '.join(given) or 'none of them'}"
            )
        return self

    @property
    def folder(self) -> Path | None:
        return None if self.path is None or self._holds_rows() else Path(self.path)

    def _holds_rows(self) -> bool:
        """Whether `path` is of Parquet files rather than of the original layout."""
        path = Path(self.path or "")
        return path.suffix == ".parquet" or (not is_street2shop(path) and bool(parquet_files(path)))

    def config(self) -> dict[str, Any]:
        """Leaves out the number of processes, which does not affect the files."""
        return self.model_dump(mode="json", exclude={"read": True, "render": {"workers"}})

    def listing(self, progress: Progress | None = None) -> dict[str, Any]:
        if self.hub is not None:
            return {"hub": self.hub, "digest": hub_digest(self.hub, self.revision)}
        if self.path is None:
            return {}
        path = Path(self.path)
        if not path.exists():
            raise UserError(f"dataset.path {self.path!r} does not exist; {LAYOUT}, or Parquet files")
        if path.is_file():
            return {"files": 1, "bytes": path.stat().st_size, "digest": content_digest(path)}
        return folder_listing(path)

    def write_raw(
        self,
        directory: Path,
        progress: Progress | None = None,
        listing: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        if self.render is not None:
            return asdict(render_street2shop(self.render, directory, progress))
        if self.hub is not None:
            return write_rows(hub_parts(self.hub, self.revision), directory, progress)
        if self._holds_rows():
            return write_rows(parquet_parts(Path(self.path or "")), directory, progress)
        return super().write_raw(directory, progress, listing)

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        return read_street2shop(self.root(raw), self.read, splits, progress)

    def another_rendering(self, seed: int, num_skus: int | None = None) -> Self | None:
        if self.render is None:
            return None
        return self.model_copy(update={"render": rendered_again(self.render, seed, num_skus)})


class ManifestDataset(Source):
    """A user's own catalogue: a CSV or Parquet file of SKUs and image paths or addresses."""

    source: Literal["manifest"]
    read: ManifestSettings
    remote: RemoteSettings = RemoteSettings()

    reader_code = (DATASETS + "manifest",)

    @property
    def folder(self) -> Path:
        return Path(self.read.path).parent

    def config(self) -> dict[str, Any]:
        """Leaves out how images are fetched: what was fetched is in the listing."""
        return self.model_dump(mode="json", exclude={"read", "remote"})

    def listing(self, progress: Progress | None = None) -> dict[str, Any]:
        if not Path(self.read.path).is_file():
            raise UserError(
                f"dataset.read.path {self.read.path!r} is no file; expected a .csv or .parquet manifest"
            )
        listing, urls = super().listing(), image_urls(Path(self.read.path), self.read)
        if not urls:
            return listing
        images = Fetcher(self.remote).fetch_all(urls, progress)
        left_out = images["reason"].drop_nulls().value_counts(sort=True).rows()
        kept_unchecked = images.filter(pl.col("digest").is_not_null() & pl.col("detail").is_not_null()).height
        return {
            **listing,
            "digest": f"{listing['digest']} {table_digest(images)}",
            "remote_images": images["digest"].count(),
            "remote_not_checked_again": kept_unchecked,
            "remote_left_out": dict(sorted(left_out)),
            "tables": {REMOTE_IMAGES: images},
        }

    def find(self, raw: Path) -> Callable[[str], Path]:
        table = raw / f"{REMOTE_IMAGES}.parquet"
        images = pl.read_parquet(table) if table.is_file() else None
        return RemoteImages(
            self.remote, self.folder, lambda: image_urls(Path(self.read.path), self.read), images
        ).find

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        return read_manifest(Path(self.read.path), self.read, splits, progress, self.find(raw))


class PicturesDataset(Source):
    """Pictures without SKUs, each a product: a folder, a manifest of image paths, or rendered ones."""

    source: Literal["pictures"]
    path: str | None = None  # a folder, or a .csv or .parquet manifest; empty: the pictures of `render`
    render: SampleSettings | None = None
    read: PicturesSettings = PicturesSettings()

    writer_code = (DATASETS + "sample.pictures",)
    reader_code = (DATASETS + "pictures",)

    @model_validator(mode="after")
    def _has_an_origin(self) -> Self:
        if not self.path and self.render is None:
            raise ValueError("give the path of a folder or a manifest of pictures, or `render: {}`")
        return self

    @property
    def folder(self) -> Path | None:
        if not self.path:
            return None
        path = Path(self.path)
        return path.parent if path.suffix.lower() in MANIFESTS else path

    def config(self) -> dict[str, Any]:
        """Leaves out what is not used, and the number of processes, which does not affect the files."""
        if self.path:
            return self.model_dump(mode="json", exclude={"read", "render"})
        return self.model_dump(mode="json", exclude={"read": True, "path": True, "render": {"workers"}})

    def write_raw(
        self,
        directory: Path,
        progress: Progress | None = None,
        listing: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        if not self.path and self.render is not None:
            return asdict(render_pictures(self.render, directory, progress))
        return super().write_raw(directory, progress, listing)

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        return read_pictures(Path(self.path) if self.path else raw, self.read, splits, progress)

    def another_rendering(self, seed: int, num_skus: int | None = None) -> Self | None:
        if self.path or self.render is None:
            return None
        return self.model_copy(update={"render": rendered_again(self.render, seed, num_skus)})


Dataset = Annotated[
    SampleDataset | DeepFashion2Dataset | Street2ShopDataset | ManifestDataset | PicturesDataset,
    Field(discriminator="source"),
]

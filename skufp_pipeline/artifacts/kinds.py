"""The typed form of every result: its files and how they are read and written.

A `write` fills the directory it is given; many return the summary that the manifest keeps. What a model's own
library writes (folders of open_clip, diffusers and ONNX, weights of the aggregator and the policy) is written
and read by that model; only its location is defined here.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl

from skufp_pipeline.artifacts.stored import Reader, write_frames, write_json
from skufp_pipeline.datasets.counts import CatalogueCounts
from skufp_pipeline.datasets.difference import described_items
from skufp_pipeline.datasets.table import ITEM_SCHEMA
from skufp_pipeline.store import shard_name

SHEET = "sheet.jpg"
ACCEPTED = "accepted"  # verdict on a generated view that no filter rejects
ANNOTATED_SCHEMA = {**ITEM_SCHEMA, "image_digest": pl.String(), "shard": pl.Int32()}


class UsesQueries(Reader):
    """A result that was trained or chosen with queries, and lists them (`USED_SCHEMA`)."""

    def used_queries(self) -> pl.DataFrame:
        return self.frame("used_queries")


def write_unused(directory: Path, used: pl.DataFrame) -> None:
    """Writes what a training that was switched off has: no epochs, and `used`, no queries."""
    write_json(directory, "history", [])
    write_frames(directory, used_queries=used)


class WithHistory(Reader):
    """A trained result with its learning curve: one row per epoch, or a list of rows per part."""

    def history(self) -> Any:
        return self.json("history")


class RawDataset(Reader):
    """The rendered sample, or the inventory of a user's folder."""


class Annotations(Reader):
    """The internal table, one row per annotated item in one file per SKU shard, and the skipped items."""

    def items(self, shard: int | None = None) -> pl.DataFrame:
        """Reads rows of `ANNOTATED_SCHEMA`, of one shard or of all."""
        if shard is None:
            return pl.read_parquet(self.path / "items" / "*.parquet")
        return pl.read_parquet(self.path / items_file(shard))

    def skipped(self) -> pl.DataFrame:
        return self.frame("skipped_items")

    @property
    def counts(self) -> CatalogueCounts:
        names = (field.name for field in fields(CatalogueCounts))
        return CatalogueCounts(**{name: self.summary[name] for name in names})

    def skus(self) -> pl.DataFrame:
        """Reads the catalogue's further columns by `sku_id`; that column alone if there are none."""
        known = (self.path / "skus.parquet").is_file()
        return self.frame("skus") if known else pl.DataFrame(schema={"sku_id": pl.String()})

    def described(self) -> pl.DataFrame:
        """Reads the items with the further columns of their SKUs, to compare catalogues."""
        return described_items(self.items(), self.skus())

    @classmethod
    def part_for(cls, shard: int | None) -> str | None:
        return None if shard is None else items_file(shard)

    @staticmethod
    def write(
        directory: Path,
        tables: Sequence[bytes],
        items: pl.DataFrame,
        skipped: pl.DataFrame,
        skus: pl.DataFrame | None = None,
        warnings: Sequence[str] = (),
    ) -> dict:
        """Writes `tables`, the Parquet files of the shards in order; `items` are all their rows, `skus` the
        catalogue's further columns by SKU."""
        if skus is not None and skus.width > 1:
            write_frames(directory, skus=skus)
        (directory / "items").mkdir()
        for shard, table in enumerate(tables):
            (directory / items_file(shard)).write_bytes(table)
        write_frames(directory, skipped_items=skipped)
        counts = CatalogueCounts.of(items, skipped).summary()
        return {**counts, **({"warnings": list(warnings)} if warnings else {})}


class Crops(Reader):
    """Crop files at `crop_path` below the folder, and the shard's items that have one."""

    def table(self) -> pl.DataFrame:
        return self.frame("crops")

    @staticmethod
    def write(directory: Path, items: pl.DataFrame, crops: pl.DataFrame, skipped: pl.DataFrame) -> dict:
        write_frames(directory, crops=crops, skipped_items=skipped)
        return {"items": items.height, "crops": crops.height, "skipped_items": skipped.height}


class SyntheticPhotos(Reader):
    """Synthetic photos of the shard's SKUs at `image_path` below the folder, with the product's box."""

    def table(self) -> pl.DataFrame:
        return self.frame("photos")

    @staticmethod
    def write(directory: Path, photos: pl.DataFrame) -> dict:
        write_frames(directory, photos=photos)
        roles = photos["role"].value_counts(sort=True).rows()
        return {"photos": photos.height, **{f"{role}_photos": count for role, count in roles}}


class ImageText(Reader):
    """Each crop with its prompts, the text queries, and the texts of the catalogue."""

    def images(self) -> pl.DataFrame:
        return self.frame("image_text")

    def text_queries(self) -> pl.DataFrame:
        return self.frame("text_queries")

    def catalog_texts(self) -> pl.DataFrame:
        return self.frame("catalog_texts")

    def every_text(self) -> pl.DataFrame:
        """Returns the texts of the catalogue, then the text queries: all that an encoder embeds."""
        columns = ("text_id", "sku_id", "split", "role", "text")
        return pl.concat([table.select(columns) for table in (self.catalog_texts(), self.text_queries())])

    @staticmethod
    def write(directory: Path, images: pl.DataFrame, queries: pl.DataFrame, texts: pl.DataFrame) -> dict:
        write_frames(directory, image_text=images, text_queries=queries, catalog_texts=texts)
        return {"rows": images.height, "text_queries": queries.height, "catalog_texts": texts.height}


class Encoder(UsesQueries, WithHistory):
    """A fine-tuned encoder in its library's own format, with its learning curve and the queries it used."""

    @property
    def folder(self) -> Path:
        return self.path / "encoder"

    def adaptation(self) -> pl.DataFrame | None:
        """Reads how each `alpha` was judged, one row each; None if the encoder was not adapted."""
        return self.frame("adaptation") if (self.path / "adaptation.parquet").is_file() else None

    @property
    def sheet(self) -> Path:
        """Synthetic photos that it was adapted on."""
        return self.path / SHEET

    @staticmethod
    def write(
        directory: Path,
        encoder: Any,
        history: Sequence[Any],
        used: pl.DataFrame,
        adaptation: pl.DataFrame | None = None,
        sheet: Any = None,
    ) -> None:
        """Writes the encoder by its own `save`; `sheet` is a PIL image."""
        encoder.save(directory / "encoder")
        write_json(directory, "history", history)
        write_frames(directory, used_queries=used)
        if adaptation is not None:
            write_frames(directory, adaptation=adaptation)
            sheet.save(directory / SHEET, quality=85)


class ExtractorFiles(UsesQueries, WithHistory):
    """A trained extractor, with its learning curve, the queries it used and a sheet of samples."""

    @property
    def folder(self) -> Path:
        """The folder of `extractors.extractor.load_extractor`."""
        return self.path / "encoder"

    @property
    def sheet(self) -> Path | None:
        """Pictures of what it was trained on; None if there are none."""
        return found if (found := self.path / SHEET).is_file() else None

    @staticmethod
    def write(
        directory: Path, extractor: Any, history: Sequence[Any], used: pl.DataFrame, sheet: Any = None
    ) -> None:
        """Writes the extractor by its own `save`; `sheet` is a PIL image."""
        extractor.save(directory / "encoder")
        write_json(directory, "history", history)
        write_frames(directory, used_queries=used)
        if sheet is not None:
            sheet.save(directory / SHEET, quality=85)


class ExtractorExport(Reader):
    """An extractor's tower for ONNX Runtime: the folder of `encoders.onnx.load_image_encoder`."""


class Embeddings(Reader):
    """Unit rows of a shard's crops, and of its texts if the encoder embeds texts."""

    def images(self) -> pl.DataFrame:
        return self.frame("images")

    def texts(self) -> pl.DataFrame:
        return self.frame("texts")

    def tables(self) -> list[pl.DataFrame]:
        """Reads the tables that exist: images, and texts if any."""
        return [pl.read_parquet(path) for path in sorted(self.path.glob("*.parquet"))]

    @staticmethod
    def write(directory: Path, images: pl.DataFrame, texts: pl.DataFrame | None = None) -> dict:
        tables = {"images": images} | ({} if texts is None else {"texts": texts})
        write_frames(directory, **tables)
        return {name: table.height for name, table in tables.items()}


class PatchHeadFiles(UsesQueries, WithHistory):
    """The trained projections of a tower's maps to patches, with their curve and the queries they used."""


class Patches(Reader):
    """int8 patches of a shard's catalogue pictures, and of its development photos."""

    def views(self) -> pl.DataFrame:
        return self.frame("views")

    def photos(self) -> pl.DataFrame:
        return self.frame("photos")

    @property
    def shape(self) -> tuple[int, int, int]:
        """V, P and d: pictures of a SKU, patches of a picture, dimensions of a patch."""
        most, patches, dimension = self.summary["shape"]
        return most, patches, dimension

    @staticmethod
    def write(
        directory: Path, views: pl.DataFrame, photos: pl.DataFrame, shape: tuple[int, int, int]
    ) -> dict:
        write_frames(directory, views=views, photos=photos)
        return {"views": views.height, "photos": photos.height, "shape": list(shape)}


class StageModels(Reader):
    """The models of the stages after the search: a text model and a re-ranker, each in its own format."""

    @property
    def sentences(self) -> Path:
        return self.path / "sentences"

    @property
    def reranker(self) -> Path:
        return self.path / "reranker"

    @staticmethod
    def write(directory: Path, sentences: Any, reranker: Any) -> None:
        """Writes the models that are there by their own `save`."""
        for name, model in (("sentences", sentences), ("reranker", reranker)):
            if model is not None:
                model.save(directory / name)


class StageEmbeddings(Reader):
    """Unit rows of a shard's catalogue pictures and development photos, by the models of the stages."""

    def texts(self) -> pl.DataFrame | None:
        return self.frame("texts") if (self.path / "texts.parquet").is_file() else None

    def pictures(self) -> pl.DataFrame | None:
        return self.frame("pictures") if (self.path / "pictures.parquet").is_file() else None

    @staticmethod
    def write(directory: Path, texts: pl.DataFrame | None, pictures: pl.DataFrame | None) -> dict:
        tables = {"texts": texts, "pictures": pictures}
        there = {name: table for name, table in tables.items() if table is not None}
        write_frames(directory, **there)
        return {name: table.height for name, table in there.items()}


class ViewFilters(Reader):
    """Thresholds of the filters, the calibration curve, and how the filters judge planted candidates."""

    def found(self) -> dict[str, Any]:
        """Returns everything, with the thresholds under `thresholds`."""
        return {**self.json("filters"), "thresholds": self.thresholds()}

    def thresholds(self) -> dict[str, float]:
        found: dict[str, float] = self.json("thresholds")
        return found

    @classmethod
    def part_for(cls, shard: int | None) -> str | None:
        """The thresholds alone: no other figure affects how views are judged."""
        return None if shard is None else "thresholds.json"

    @staticmethod
    def write_off(directory: Path) -> None:
        """Writes what filters that were switched off have: no thresholds."""
        ViewFilters.write(directory, {"thresholds": {}, "curve": [], "figures": {}})

    @staticmethod
    def write(directory: Path, found: Mapping[str, Any]) -> None:
        write_json(directory, "thresholds", found["thresholds"])
        write_json(directory, "filters", {name: part for name, part in found.items() if name != "thresholds"})


class SmallBase(WithHistory):
    """A small Stable Diffusion as a stock diffusers pipeline."""

    @property
    def pipeline(self) -> Path:
        return self.pipeline_in(self.path)

    @staticmethod
    def pipeline_in(directory: Path) -> Path:
        return directory / "pipeline"

    @staticmethod
    def write_history(directory: Path, history: Mapping[str, Any]) -> None:
        write_json(directory, "history", history)


class Lora(WithHistory):
    """An adapter in diffusers' format, its drift on held-out SKUs, and samples before and after."""

    def drift(self) -> pl.DataFrame:
        return self.frame("drift")

    @property
    def sheet(self) -> Path:
        return self.path / SHEET

    @staticmethod
    def write(directory: Path, drift: pl.DataFrame, history: Sequence[Any], sheet: Any) -> None:
        """`sheet` is a PIL image."""
        write_frames(directory, drift=drift)
        write_json(directory, "history", history)
        sheet.save(directory / SHEET, quality=85)


class GeneratedViews(Reader):
    """Every candidate with scores and verdict, the accepted images, and a contact sheet."""

    def candidates(self) -> pl.DataFrame:
        return self.frame("candidates")

    def accepted(self) -> pl.DataFrame:
        return self.candidates().filter(pl.col("verdict") == ACCEPTED)

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def sheet(self) -> Path:
        return self.path / SHEET

    @staticmethod
    def write(
        directory: Path, candidates: pl.DataFrame, accepted: Iterable[str], source: Path, sheet: Any
    ) -> None:
        """`accepted` are files below `source`; `sheet` is a PIL image."""
        write_frames(directory, candidates=candidates)
        for path in accepted:
            (directory / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, directory / "images" / path)
        sheet.save(directory / SHEET, quality=85)


class Teachers(UsesQueries):
    """The best view and the best text of every SKU."""

    def table(self) -> pl.DataFrame:
        return self.frame("teachers")

    @staticmethod
    def write(directory: Path, teachers: pl.DataFrame, used: pl.DataFrame) -> dict:
        write_frames(directory, teachers=teachers, used_queries=used)
        return {"skus": teachers.height, "queries": used.height}


class Aggregator(UsesQueries, WithHistory):
    """The aggregator's weights and the noise model, in one folder."""

    @staticmethod
    def write(directory: Path, history: Sequence[Any], used: pl.DataFrame) -> None:
        write_json(directory, "history", history)
        write_frames(directory, used_queries=used)


class Fingerprints(UsesQueries):
    """One unit vector and one bias per SKU."""

    def table(self) -> pl.DataFrame:
        return self.frame("fingerprints")

    def scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path / "fingerprints.parquet")

    @staticmethod
    def write(directory: Path, table: pl.DataFrame, used: pl.DataFrame) -> dict:
        write_frames(directory, fingerprints=table, used_queries=used)
        return {"skus": table.height, "dimension": len(table["fingerprint"][0])}


class PolicyLabels(Reader):
    """The effect of each action on the shard's training and development photos."""

    def table(self) -> pl.DataFrame:
        return self.frame("labels")

    @staticmethod
    def write(directory: Path, labels: pl.DataFrame) -> dict:
        write_frames(directory, labels=labels)
        return {"queries": labels.height}


class PolicyCheckpoint(UsesQueries, WithHistory):
    """The query policy's weights and calibration."""

    @staticmethod
    def write(directory: Path, policy: Any, history: Sequence[Any], used: pl.DataFrame) -> None:
        """Writes the policy by its own `save`."""
        policy.save(directory)
        write_json(directory, "history", history)
        write_frames(directory, used_queries=used)


class PolicyReport(Reader):
    """The policy compared with other arms: by arm, by query and by action, with pictures before and after."""

    def arms(self) -> pl.DataFrame:
        return self.frame("policy")

    def confusion(self) -> pl.DataFrame:
        return self.frame("confusion")

    @property
    def sheet(self) -> Path:
        return self.path / SHEET

    @staticmethod
    def write(
        directory: Path,
        arms: pl.DataFrame,
        queries: pl.DataFrame,
        confusion: pl.DataFrame,
        sheet: Any,
        compared: Mapping[str, Any],
    ) -> dict:
        """`compared` is what the summary says of the policy and the best constant action."""
        write_frames(directory, policy=arms, queries=queries, confusion=confusion)
        sheet.save(directory / SHEET, quality=85)
        return {"queries": queries["query_id"].n_unique(), **compared}


class DetectorCheckpoint(UsesQueries, WithHistory):
    """A detector in `detection.files`' format, with its learning curve."""

    @staticmethod
    def write(directory: Path, history: Sequence[Any], used: pl.DataFrame) -> None:
        write_json(directory, "history", history)
        write_frames(directory, used_queries=used)


class DetectorExport(Reader):
    """A detector for ONNX Runtime, in one folder."""


class DetectionReport(Reader):
    """The detector judged on photos with known boxes, and R@1 by the region that is searched for."""

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json("detection")
        return found

    def regions(self) -> pl.DataFrame:
        """Reads R@1 by setting and region, with the paired difference from the annotated box."""
        return self.frame("regions")

    def found(self) -> pl.DataFrame:
        """Reads the evaluation photos' regions nearest to the known boxes, as `FoundRegions.photos`."""
        return self.frame("found")

    @property
    def sheet(self) -> Path:
        return self.path / SHEET

    @staticmethod
    def write(
        directory: Path,
        figures: Mapping[str, Any],
        regions: pl.DataFrame,
        photos: pl.DataFrame,
        found: pl.DataFrame,
        sheet: Any,
    ) -> None:
        """`photos` has a row per photo; `sheet` is a PIL image."""
        write_json(directory, "detection", figures)
        write_frames(directory, regions=regions, photos=photos, found=found)
        sheet.save(directory / SHEET, quality=85)


class FoundRegions(Reader):
    """Development photos cut to the regions that the detector finds nearest to the known boxes."""

    def photos(self) -> pl.DataFrame:
        """Reads `item_id`, `sku_id`, `split`, `role`, `region_score`, `embedding`, and `patches` if the index
        looks twice."""
        return self.frame("photos")

    @staticmethod
    def write(directory: Path, photos: pl.DataFrame, asked: int) -> dict[str, int]:
        """`asked` counts the photos that were looked at."""
        write_frames(directory, photos=photos)
        return {"photos": photos.height, "found_nothing": asked - photos.height}


class ImageEncoder(UsesQueries):
    """The image tower for ONNX Runtime, in one folder."""

    @property
    def model(self) -> Path:
        return self.path / "image_encoder.onnx"

    @staticmethod
    def write(directory: Path, used: pl.DataFrame) -> None:
        write_frames(directory, used_queries=used)


class SearchIndex(Reader):
    """A version of the index: the folder that `FingerprintIndex.load` reads."""


class ReportFiles(Reader):
    """The retrieval report as JSON, Parquet, HTML and PNG."""

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    def figures(self) -> dict[str, bytes]:
        """Returns PNG bytes by name; there is no grid without evaluation photos."""
        return {path.stem: path.read_bytes() for path in sorted(self.path.glob("*.png"))}

    @staticmethod
    def write(
        directory: Path, report: str, metrics: pl.DataFrame, page: str, figures: Mapping[str, bytes]
    ) -> None:
        (directory / "report.json").write_text(f"{report}\n")
        write_frames(directory, metrics=metrics)
        (directory / "report.html").write_text(page)
        for name, png in figures.items():
            (directory / f"{name}.png").write_bytes(png)


class Street2ShopReport(Reader):
    """Accuracy by Street2Shop's own rule."""

    def accuracy(self) -> pl.DataFrame:
        """Reads one row per setting, category, model, unit and K."""
        return self.frame("accuracy")

    @staticmethod
    def write(directory: Path, accuracy: pl.DataFrame) -> None:
        write_frames(directory, accuracy=accuracy)
        write_json(directory, "accuracy", accuracy.to_dicts())


class ImageSearchReport(Reader):
    """Indexes of pictures and the stages after their search, beside the fingerprints."""

    def figures(self) -> pl.DataFrame:
        """Reads one row per system, setting, and what of the photos was asked."""
        return self.frame("figures")

    @staticmethod
    def write(directory: Path, figures: pl.DataFrame) -> None:
        write_frames(directory, figures=figures)
        write_json(directory, "figures", figures.to_dicts())


class ExtractorFolds(Reader):
    """An extractor trained once a fold: what each training was made of, its losses, and every query asked."""

    def products(self) -> pl.DataFrame:
        """Reads `fold`, `sku_id` and `part`: train, development or test."""
        return self.frame("products")

    def losses(self) -> pl.DataFrame:
        return self.frame("losses")

    def queries(self) -> pl.DataFrame:
        return self.frame("queries")

    @staticmethod
    def write(directory: Path, products: pl.DataFrame, losses: pl.DataFrame, queries: pl.DataFrame) -> None:
        write_frames(directory, products=products, losses=losses, queries=queries)


class LensReport(Reader):
    """The comparison of the extractors: a row per extractor and setting, and its pictures."""

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("lens_report")["rows"]
        return found

    def pictures(self) -> dict[str, bytes]:
        """Returns PNG bytes by name."""
        return {path.stem: path.read_bytes() for path in sorted(self.path.glob("*.png"))}

    @staticmethod
    def write(directory: Path, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        write_json(directory, "lens_report", report)
        for name, png in pictures.items():
            (directory / f"{name}.png").write_bytes(png)


def items_file(shard: int) -> str:
    """The path of one shard's annotations, relative to their folder."""
    return f"items/{shard_name(shard)}.parquet"

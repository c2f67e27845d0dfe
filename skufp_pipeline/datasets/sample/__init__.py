"""A rendered substitute for DeepFashion2, in its layout: every SKU is a garment in shop and user photos."""

from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.datasets.sample.writer import SampleSummary, render_sample

__all__ = ["SampleSettings", "SampleSummary", "render_sample"]

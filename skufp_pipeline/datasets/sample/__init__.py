"""A rendered stand-in for DeepFashion2, in its layout: every SKU a garment, seen in shop and user photos."""

from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.datasets.sample.writer import SampleSummary, render_sample

__all__ = ["SampleSettings", "SampleSummary", "render_sample"]

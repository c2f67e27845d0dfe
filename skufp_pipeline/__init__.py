"""skufp: one fingerprint per SKU, built as a Dagster graph of software-defined assets."""

import os

# OpenMP's spinning waits slow torch tenfold when another process needs a core. Must be set before torch is
# imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No library sends usage data. Some read their switch when they are imported; this file comes before them.
os.environ.update(
    {
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)

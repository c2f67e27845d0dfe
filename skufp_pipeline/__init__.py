"""skufp: one fingerprint per SKU, built as a Dagster graph of software-defined assets."""

import os

# OpenMP's spinning waits slow torch tenfold when another process needs a core. Must be set before torch is
# imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

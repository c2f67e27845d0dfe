"""skufp: one fingerprint per SKU, built as a Dagster graph of software-defined assets."""

import os

# OpenMP threads that wait by spinning slow torch tenfold as soon as anything else needs a core. It has
# to be said before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

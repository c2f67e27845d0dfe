"""skufp: one fingerprint per SKU, built as a Dagster graph of software-defined assets."""

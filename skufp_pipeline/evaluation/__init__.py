"""How good the search is, and whether each part helped: metrics, protocol, intervals, report."""

"""Evaluates the search and what each part adds to it: protocol, labels, latency, report."""

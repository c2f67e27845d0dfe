"""Ranks, retrieval metrics and their intervals."""

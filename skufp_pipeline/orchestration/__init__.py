"""When the graph runs, and on what: jobs, refreshes, staleness, executors, the run without a daemon."""

"""Running the graph: jobs, schedules, staleness, executors, and materialization without a daemon."""

"""The Prefect flow: DVC's own graph, run a stage a task, with schedules, time-outs, cancelling, logs and a UI."""

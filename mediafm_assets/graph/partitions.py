"""The two partition sets of the graph."""

import dagster as dg

TASKS = ("ad_relevancy", "clip_popularity", "clip_tone", "clip_genre", "clip_retrieval")

titles_partitions = dg.DynamicPartitionsDefinition(name="titles")
"""One key per title: its id. The landing sensor and the `mediafm` command add keys; nothing removes one."""

tasks_partitions = dg.StaticPartitionsDefinition(list(TASKS))
"""One key per task with labels: the label file's stem."""

"""The two partition sets of the graph."""

import dagster as dg

from model.tasks import LABELLED

titles_partitions = dg.DynamicPartitionsDefinition(name="titles")
"""One key per title: its id. The landing sensor and the `mediafm` command add keys; nothing removes one."""

tasks_partitions = dg.StaticPartitionsDefinition(list(LABELLED))
"""One key per task with labels: the label file's stem."""

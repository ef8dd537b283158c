"""The Dagster asset graph: assets, partitions, automation, sensor, checks, definitions and the `mediafm` command."""

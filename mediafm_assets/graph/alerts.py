"""What failed, told to people where they are: a sensor that follows failed runs."""

from html import escape

import dagster as dg

from mediafm_assets.graph.health import failure_sentence
from resources.errors import Unavailable, one_line
from resources.webhook import Webhook

LONGEST_ALERT = 2000
"""Characters: more is read in the UI."""


@dg.run_failure_sensor(
    name="alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Posts each failed run to MEDIAFM_ALERT_WEBHOOK, once, with the sentence for each title that failed.",
)
def alert_sensor(
    context: dg.RunFailureSensorContext, webhook: dg.ResourceParam[Webhook], ui_url: dg.ResourceParam[str]
) -> None:
    try:
        webhook.post(alert(context, ui_url))
    except Unavailable as error:
        context.log.warning(f"run {context.dagster_run.run_id}: {error}")


def alert(context: dg.RunFailureSensorContext, ui_url: str) -> str:
    """What failed and why, as text in which no name from outside calls people or makes links (Slack's escapes), with
    the run's address if the UI's is known."""
    run = context.dagster_run
    partition = run.tags.get("dagster/partition")
    reasons = [failure_sentence(event, partition) for event in context.get_step_failure_events()]
    why = reasons or [context.failure_event.message or "it failed without a word; see its page"]
    said = escape(one_line(f"MediaFM: run {run.run_id}: {' | '.join(why)}", LONGEST_ALERT), quote=False)
    return f"{said}\n{ui_url.rstrip('/')}/runs/{run.run_id}" if ui_url else said

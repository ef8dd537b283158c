"""When what is materialised with nobody watching."""

import os

import dagster as dg

Condition = dg.AutomationCondition


def per_title(table: str) -> dg.AutomationCondition:
    """A partition is made when it is new, when something that it is made from was updated, or when its code or
    configuration changed; once, not again until one of these happens again: a title that fails is not retried in a
    loop.

    `eager()` differs in one point that matters here: it forgets everything that was there before its first evaluation,
    so titles that had landed before the daemon started would wait for ever.

    Contextual embeddings leave a new encoder to `refresh_sensor`, which brings the whole catalogue up to date in one
    run; they also forget then that they were waiting for it.
    """
    updated, in_progress = Condition.any_deps_updated(), Condition.any_deps_in_progress()
    handled = Condition.newly_requested() | Condition.newly_updated()
    if table == "contextual_embeddings":
        encoder = dg.AssetSelection.assets("encoder")
        updated, in_progress = updated.ignore(encoder), in_progress.ignore(encoder)
        handled = handled | Condition.any_deps_match(Condition.newly_updated()).allow(encoder)
    return (
        (Condition.newly_missing() | updated | Condition.code_version_changed())
        .since(handled)
        .with_label("new, updated or changed since last handled")
        & ~Condition.any_deps_missing()
        & ~in_progress
        & ~Condition.in_progress()
    ).with_label(f"{table}: once per change")


def training() -> dg.AutomationCondition:
    """On the cadence of MEDIAFM_TRAINING_CRON (default: 02:00 UTC daily), if any title was added or changed since the
    last training. (`eager()` would never train while any title is missing, `on_cron()` forgets what came before the
    tick.)"""
    cron = os.environ.get("MEDIAFM_TRAINING_CRON") or "0 2 * * *"
    handled = Condition.newly_requested() | Condition.newly_updated()
    return (
        Condition.cron_tick_passed(cron) & Condition.any_deps_updated().since(handled) & ~Condition.in_progress()
    ).with_label("on the training cadence, if anything is new")


def evaluation() -> dg.AutomationCondition:
    """When contextual embeddings or labels changed and none of them is being made."""
    return (
        Condition.any_deps_updated().since(Condition.newly_requested() | Condition.newly_updated())
        & ~Condition.any_deps_match(Condition.missing()).allow(dg.AssetSelection.assets("encoder"))
        & ~Condition.any_deps_in_progress()
        & ~Condition.in_progress()
    ).with_label("when its inputs have settled")


automation_sensor = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    # A run for each title: it is named after its title, fails alone and is rerun alone.
    emit_backfills=False,
    description="Launches what is missing, updated or changed: a run for each title, the trainer on its cadence.",
)

"""The `mediafm` command: what the UI's automation does, headless, in one process that ends.

Exit status: 0 when everything is fresh, 1 when some titles failed (each is listed; all others are finished) or a folder
could not be landed, 2 for wrong usage or configuration.
"""

import argparse
import fcntl
import gc
import os
import shutil
import signal
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import dagster as dg

from mediafm_assets.commands import approve, encoders, explain, plan, status
from mediafm_assets.commands.budget import Budget, amount
from mediafm_assets.graph.stage import ROOT
from mediafm_assets.pages import commands as pages
from mediafm_assets.settings import PROJECT, ConfigurationError, dagster_home, environment
from mediafm_assets.stages import all_stages
from resources.errors import BadInput, Unavailable, one_line, printable

IN_SQLITE = """storage:
  sqlite:
    base_dir:
      env: DAGSTER_HOME
"""
"""What the project's dagster.yaml says of the storage."""

IN_POSTGRES = """storage:
  postgres:
    postgres_url:
      env: MEDIAFM_POSTGRES_URL
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mediafm",
        description="MediaFM: films in a landing zone become Delta tables of shot embeddings.",
        epilog="MEDIAFM_LANDING, MEDIAFM_LAKE and DAGSTER_HOME choose the places; the README lists the rest.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    materialize = commands.add_parser(
        "materialize", help="register complete drops and materialise whatever is missing or stale"
    )
    materialize.add_argument(
        "--title", action="append", default=[], metavar="ID", help="only this title (may be given again)"
    )
    training = materialize.add_mutually_exclusive_group()
    training.add_argument("--train", action="store_const", const=True, default=None, help="train an encoder now")
    training.add_argument("--no-train", dest="train", action="store_const", const=False, help="train none now")
    forced = [table for table in all_stages().title_tables if table != ROOT]
    materialize.add_argument(
        "--force", action="append", default=[], metavar="TABLE", choices=forced, help="make this table again"
    )
    materialize.add_argument(
        "--budget-usd", type=amount, metavar="X", help="start nothing that would bring the API's price above this"
    )
    materialize.add_argument(
        "--budget-hours", type=amount, metavar="Y", help="start nothing that would bring the work above this"
    )
    verify = commands.add_parser("verify", help="look for lost and damaged data files; materialize makes them again")
    verify.add_argument("--title", action="append", default=[], metavar="ID", help="only of this title")
    verify.add_argument("--deep", action="store_true", help="compare contents too, which reads every byte")
    land = commands.add_parser(
        "land", help="check a title folder and copy it to the landing zone, title.json last; then materialize or the UI"
    )
    land.add_argument("folder", type=Path, help="holds one film, its subtitles and title.json")
    land.add_argument("--id", metavar="ID", help="the title id (default: the folder's name)")
    land.add_argument("--title", metavar="TEXT", help="for a folder without title.json: what it would say")
    commands.add_parser("demo", help="render a small catalogue, land it and materialise everything")
    encoders.declare(commands)
    plan.declare(commands)
    commands.add_parser("approve", help="let the daemon make titles again for the configuration that is set now")
    status.declare(commands)
    explain.declare(commands)
    pages.declare(commands)
    ui = commands.add_parser("ui", help="open the Dagster UI, with sensors and automation, on the same instance")
    ui.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore", dg.PreviewWarning)  # Dagster's own calls of its own previews
    try:
        if options.command not in (*pages.COMMANDS, "plan", "approve", "status"):  # readers have no use for an instance
            prepare_instance()
        if options.command == "ui":
            open_ui(options.port)
        if options.command == "demo":
            from mediafm_assets.commands.demo import demo

            return demo()
        if options.command == "land":
            return land_title(options.folder, options.id, options.title)
        if options.command in pages.COMMANDS:
            return pages.run(options)
        if options.command == "plan":
            return plan.run(options)
        if options.command == "approve":
            return approve.run()
        if options.command == "status":
            return status.status(options.title, options.why)
        if options.command == "explain":
            return explain.run(options)
        from mediafm_assets.commands import headless

        if options.command == "encoders":
            return encoders.run(options)
        if options.command == "verify":
            return headless.verify(options.title, options.deep)
        seconds = None if options.budget_hours is None else 3600 * options.budget_hours
        budget = Budget(options.budget_usd, seconds)
        return headless.materialize(options.title, options.train, options.force, budget)
    except (ConfigurationError, Unavailable) as error:
        print(f"mediafm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mediafm: stopped; what was finished stays, the rest is made by the next call", file=sys.stderr)
        return 130


def land_title(folder: Path, title_id: str | None, title: str | None) -> int:
    """Copy a title folder to the configured landing zone. Returns 0, or 1 when it, or the zone, cannot be used."""
    from mediafm_assets.settings import resources

    landing = resources()["landing"]
    title_id = folder.resolve().name if title_id is None else title_id
    try:
        landed = landing.land(folder, title_id, title)
    except (BadInput, Unavailable) as error:
        print(f"mediafm: {printable(folder)}: {error}", file=sys.stderr)
        return 1
    print(f"landed {title_id} in {landing.uri}: {', '.join(landed)}")
    return 0


def prepare_instance() -> None:
    """Settle DAGSTER_HOME, give a new instance the project's dagster.yaml, and make the project's own landing zone.

    A landing zone that was named and is not there is an error: an unmounted disk must not look like an empty catalogue.
    Raises ConfigurationError or Unavailable when the database that MEDIAFM_POSTGRES_URL names cannot be used.
    """
    database = environment().postgres_url
    if not os.environ.get("MEDIAFM_LANDING"):
        (PROJECT / "data" / "landing" / "titles").mkdir(parents=True, exist_ok=True)
    home = dagster_home().expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    with (home / "storage.lock").open("w") as lock:  # two calls at once would both create Dagster's databases
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "dagster.yaml").exists():
            shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")
        if database:
            move_to_postgres(home / "dagster.yaml", database.get_secret_value())
        dg.DagsterInstance.get().dispose()


def move_to_postgres(instance_file: Path, url: str) -> None:
    """Let an instance that keeps its runs in SQLite keep them in the database that MEDIAFM_POSTGRES_URL names.

    Its other settings stay. Raises ConfigurationError or Unavailable, having changed nothing, when that cannot be used.
    """
    if find_spec("dagster_postgres") is None:
        raise ConfigurationError("MEDIAFM_POSTGRES_URL needs the package dagster-postgres: pip install '.[deploy]'")
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(url)
        engine.connect().close()
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ValueError, ImportError) as error:  # a port that is no number, an unknown driver
        why = one_line(getattr(error, "orig", error), 300)
        raise Unavailable(
            f"the database that MEDIAFM_POSTGRES_URL names cannot be used ({why}); see whether it runs, and to the "
            "variable: postgresql+psycopg2://user:password@host:port/database"
        ) from None
    settings = instance_file.read_text()
    if IN_SQLITE in settings:
        changed = instance_file.with_name("dagster.yaml.new")
        changed.write_text(settings.replace(IN_SQLITE, IN_POSTGRES))
        changed.replace(instance_file)


def open_ui(port: int) -> NoReturn:
    """Become `dagster dev` on the project's code location."""
    dagster = Path(sys.executable).with_name("dagster")
    # Dagster ends its processes by SIGINT, which a shell lets its background jobs ignore: they would never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [str(dagster), "dev", "-m", "mediafm_assets.definitions", "-p", str(port)]
    os.execv(command[0], command)


def command() -> int:
    """`main` in a process that ends with it."""
    try:
        return main()
    finally:
        gc.freeze()  # else Python looks through all objects once more before it ends, for a second or two


if __name__ == "__main__":
    sys.exit(command())

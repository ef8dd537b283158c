"""`mediafm approve`: let the daemon go on with the configuration that this call sees."""

import getpass

from mediafm_assets.graph.approval import Change, approve, change
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput


def run() -> int:
    """Say what waits, and approve of it. Returns the exit status: 0."""
    configured = resources()
    try:
        drops = configured["landing"].look().drops
    except BadInput as error:
        raise ConfigurationError(f"MEDIAFM_LANDING: {error}") from error
    catalogue = Catalogue(configured["lake"], configured, all_stages())
    catalogue.read_all_titles()
    found = change(catalogue, {drop.title_id: drop.drop_fingerprint for drop in drops})
    if found is None:
        print("nothing waits for an approval: this configuration is in force")
        return 0
    approve_by_hand(catalogue, found, "mediafm approve")
    print(f"approved: {found.sentence()}")
    return 0


def approve_by_hand(catalogue: Catalogue, found: Change, command: str) -> None:
    """Put the configuration in force in the name of whoever calls the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    approve(catalogue, user, command, found)

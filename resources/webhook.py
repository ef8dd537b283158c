"""Tells people what failed, by a webhook as Slack and Mattermost take it: one JSON object with a text."""

import json
from typing import Any

import dagster as dg

from resources.errors import Unavailable

TIMEOUT_S = 10.0
"""Of each wait for an answer: a webhook that hangs holds the daemon up no longer."""


class Webhook(dg.ConfigurableResource[Any]):
    """Where alerts go.

    url: of the webhook, http or https. It is a secret: whoever knows it may write there.
    """

    url: str

    def post(self, text: str) -> None:
        """Send one text, once. Raises Unavailable, without the URL, where it is not taken."""
        # Not httpx or requests: both log the addresses that they call.
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        request = Request(self.url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
        try:
            urlopen(request, timeout=TIMEOUT_S).close()
        except HTTPError as error:
            raise Unavailable(f"the alert was refused ({error.code}); see MEDIAFM_ALERT_WEBHOOK") from None
        except (OSError, HTTPException, ValueError) as error:  # their messages may quote the URL
            raise Unavailable(
                f"the alert could not be sent ({type(error).__name__}); see to MEDIAFM_ALERT_WEBHOOK and its server"
            ) from None

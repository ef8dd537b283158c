"""Tells people what failed, by a webhook as Slack and Mattermost take it: one JSON object with a text."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import dagster as dg

from resources.errors import Unavailable

TIMEOUT_S = 10.0
"""From the look-up of the name to the answer: a webhook that hangs holds the daemon up no longer."""


class Webhook(dg.ConfigurableResource[Any]):
    """Where alerts go.

    url: of the webhook, http or https. It is a secret: whoever knows it may write there.
    """

    url: str

    def post(self, text: str) -> None:
        """Send one text, once. Raises Unavailable, without the URL, where it is not taken."""
        refusals: list[str] = []
        # A thread, since a socket's time limit holds for each byte, and not for looking up the name.
        thread = threading.Thread(target=lambda: refusals.extend(self._refusals(text)), daemon=True)
        thread.start()
        thread.join(TIMEOUT_S)
        if thread.is_alive():
            refusals = [f"the alert could not be sent within {TIMEOUT_S:g} s; see to MEDIAFM_ALERT_WEBHOOK's server"]
        for refusal in refusals:
            raise Unavailable(refusal)

    def _refusals(self, text: str) -> Iterator[str]:
        """Post the text; yields what is wrong if it is not taken, which an exception's own message would say with the
        address."""
        # Not httpx or requests: both log the addresses that they call.
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            """A redirected POST would arrive as a GET, without its text, and seem to be taken."""

            def redirect_request(self, *args: Any, **kwargs: Any) -> None:
                return None

        try:
            request = Request(self.url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
            build_opener(NoRedirect).open(request, timeout=TIMEOUT_S).close()
        except HTTPError as error:
            error.close()
            yield f"the alert was refused ({error.code}); see MEDIAFM_ALERT_WEBHOOK"
        except (OSError, HTTPException, ValueError) as error:
            yield f"the alert could not be sent ({type(error).__name__}); see to MEDIAFM_ALERT_WEBHOOK and its server"

"""How fast a service may be asked."""

import threading
import time


class Pace:
    """Amounts per minute (of requests, and of what they hold), shared by the threads of a process; up to a minute's
    worth may go at once."""

    def __init__(self, *per_minute: float) -> None:
        self.rates = [amount / 60 for amount in per_minute]
        self.free_at = [0.0 for _ in per_minute]  # when what was taken so far will have been earned
        self.turn = threading.Lock()

    def take(self, *amounts: float) -> None:
        """Wait until one request fits that takes 1 of the first amount, and `amounts` of the others."""
        with self.turn:
            now = time.monotonic()
            wait = 0.0
            for which, amount in enumerate((1, *amounts)):
                self.free_at[which] = max(self.free_at[which], now - 60) + amount / self.rates[which]
                wait = max(wait, self.free_at[which] - now)
        time.sleep(max(0.0, wait))

"""Waiting between two tries of a request to a server."""

import random
import time
from email.utils import parsedate_to_datetime

MAX_WAIT_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 300.0


def seconds_to_wait(retry_after: str | None, tries: int, first_wait: float) -> float:
    """Return the seconds until the next try: what Retry-After says, else exponential back-off.

    `retry_after`: that header of the answer, seconds or a date; `first_wait` seconds after the
    first of the `tries`, twice as many after each further one, up to MAX_WAIT_SECONDS.
    """
    if retry_after is not None:
        try:
            seconds = float(retry_after)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
            except (ValueError, OverflowError):
                seconds = float("nan")
        if seconds == seconds:
            asked = min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
            return asked + random.uniform(0, first_wait)
    longest = min(MAX_WAIT_SECONDS, first_wait * 2.0 ** min(tries - 1, 10))
    return longest * random.uniform(0.5, 1)

"""How long a push waits for the Hub, and for how long not."""

import time

import pytest
from huggingface_hub import get_session

from sso_data.core.errors import HubError
from sso_data.core.progress import NullProgress
from sso_data.publishing.failures import HubTroubleError, patiently
from sso_data.publishing.hub import HubRepo
from tests.hub_server import HubServer
from tests.loopback.faults import Fault, once
from tests.publishing.listening import Listening


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def look_at_token() -> str:
    return HubRepo("dataset", "team/pairs").check_write()


def refused(headers: dict[str, str]) -> Fault:
    return Fault("status", 429, headers, "Too Many Requests")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1.0),
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, 1.0),
    ],
)
def test_as_long_as_the_server_asks(
    hub: HubServer, waited: list[float], headers: dict[str, str], seconds: float
) -> None:
    hub.plan = once(0, refused(headers))
    listener = Listening()
    assert patiently(look_at_token, listener) == "tester"
    assert waited == [seconds]
    assert f"trying again in {seconds:.0f} s" in listener.said[0]


def test_not_for_hours(hub: HubServer, waited: list[float]) -> None:
    hub.plan = once(0, refused({"Retry_After": "3600"}))
    with pytest.raises(HubTroubleError, match="429"):
        patiently(look_at_token, NullProgress())
    assert waited == []


def test_what_will_not_change_is_not_tried_again(hub: HubServer, waited: list[float]) -> None:
    hub.plan = once(0, Fault("status", 403, message="no"))
    with pytest.raises(HubError, match="no permission for this"):
        patiently(look_at_token, NullProgress())
    assert waited == []


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(hub: HubServer) -> None:
    HubRepo("dataset", "team/pairs")
    assert get_session().timeout.read == 300

"""The client's default way for large files, Xet, into a store that is a folder of this machine."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from huggingface_hub import constants

from sso_data.publishing.dataset import push_run
from tests.hub_server import HubServer
from tests.loopback.faults import Fault
from tests.publishing.conftest import REPO, Push
from tests.publishing.listening import Listening
from tests.publishing.test_failures import Trial, faults, packed, trial

__all__ = ["packed", "trial"]

try:
    HF_XET = version("hf_xet")
except PackageNotFoundError:
    HF_XET = ""

pytestmark = pytest.mark.skipif(
    not HF_XET.startswith("1.8."), reason="needs hf_xet 1.8, whose local store is known"
)


@pytest.fixture(autouse=True)
def over_xet(
    online: None, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Large files go over Xet; its client tries twice and does not wait."""
    from huggingface_hub.utils import _xet

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "1ms")
    hub.xet_folder = str(tmp_path / "store")
    Path(hub.xet_folder).mkdir()
    _xet.abort_xet_session()
    yield
    _xet.abort_xet_session()


def test_the_same_files_arrive(hub: HubServer, push: Push, run: Path) -> None:
    done = push(run)
    assert done.exit_code == 0, done.output
    files = hub.repos[REPO].files
    assert hub.repos[REPO].head("main").blobs["train.jsonl"].xet_hash
    assert files["train.jsonl"] == (run / "pairs/train.jsonl").read_bytes()
    assert files["rows/00001.jsonl"] == (run / "rows/00001.jsonl").read_bytes()
    assert [line for line in hub.requests if "/xet-write-token/" in line]
    assert not [line for line in hub.requests if "lfs" in line or "storage" in line]
    assert "nothing to do" in push(run).stdout


def test_bytes_are_counted(hub: HubServer, run: Path) -> None:
    listener = Listening()
    push_run(run, REPO, progress=listener)
    total = listener.bytes[0][1]
    assert listener.bytes[0] == (0, total)
    assert listener.bytes[-1] == (total, total)


def test_one_failure_at_any_request(trial: Trial) -> None:
    chosen = (
        "500 Internal Server Error",
        "connection cut before the answer",
        "answer lost, the request was done",
        "another writer in between (412)",
        "token expired",
    )
    some: dict[str, Fault] = {
        kind: fault for kind, fault in faults(trial.hub).items() if kind in chosen
    }
    trial.table("A new public repository over Xet, one failure", some)

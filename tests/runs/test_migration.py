"""Stored directories of earlier versions go on to the same content; later ones are refused."""

import json
from pathlib import Path

import pytest

from sso_data.config import migration
from sso_data.config.migration import (
    FORMAT,
    Change,
    defaults_of,
    kept_defaults,
    upgraded,
    with_defaults,
)
from sso_data.config.run import RunConfig, load_config
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.records import Failure, Row
from sso_data.runs.run import RUN, open_run, read_run
from sso_data.runs.workdir import stored_defaults
from tests.factories import make_row

DETAILS = {"config": {}, "date": "2026-01-01"}


def later(**changes: object) -> dict[str, object]:
    return make_row().to_json() | {"schema_version": 2} | changes


def test_a_manifest_of_a_later_format_is_refused_in_one_line(tmp_path: Path) -> None:
    with open_run(tmp_path, identity={"seed": 0}, details=DETAILS):
        pass
    manifest = json.loads((tmp_path / "run.json").read_text())
    later = manifest | {"schema_version": FORMAT + 1, "sso_data": "9.9.9"}
    (tmp_path / "run.json").write_text(json.dumps(later))
    with pytest.raises(RunError, match=rf"format {FORMAT + 1} of sso-data 9\.9\.9; .*upgrade"):
        read_run(tmp_path)


def test_a_row_or_failure_of_a_later_format_is_refused() -> None:
    with pytest.raises(RunError, match="has format 2 of a later sso-data"):
        Row.from_json(later())
    failure = Failure(id="a-0", stage="views", reason="why", detail="so").to_json()
    with pytest.raises(RunError, match="row a-0: has format 2"):
        Failure.from_json(failure | {"schema_version": 2})


def test_renamed_keys_take_their_new_names_and_values_in_config_and_identity() -> None:
    old = {
        "identity": {"loss.base": "dpo", "optim.warmup": 0.04, "model": "m"},
        "config": {"loss": {"base": "dpo"}, "optim": {"compute": "float32", "batch_rows": 8}},
    }
    found = upgraded(old, "training")
    assert found == {
        "schema_version": FORMAT,
        "identity": {"loss.type": "dpo", "optim.warmup_steps": 0.04, "model": "m"},
        "config": {
            "loss": {"type": "dpo"},
            "optim": {"compute_dtype": "float32", "batch_size": 8},
        },
    }
    assert upgraded(found, "training") == found


def test_nested_configurations_are_upgraded_too() -> None:
    old = {
        "identity": {"generate.engine.process": "child", "train.optim.warmup": 0.1},
        "config": {
            "generate": {"engine": {"process": "child"}},
            "train": {"optim": {"weights": "auto"}},
            "generator": None,
            "held_out": {"judge": {"engine": {"process": "inline"}}},
        },
    }
    found = upgraded(old, "iteration")
    assert found["identity"] == {
        "generate.engine.isolation": "subprocess",
        "train.optim.warmup_steps": 0.1,
    }
    assert found["config"] == {
        "generate": {"engine": {"isolation": "subprocess"}},
        "train": {"optim": {"param_dtype": "auto"}},
        "generator": None,
        "held_out": {"judge": {"engine": {"isolation": "inline"}}},
    }


def test_a_new_key_and_a_changed_default_keep_their_old_behaviour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = (
        Change(format=FORMAT + 1, of=("run",), key=key, default=default, in_identity=in_identity)
        for key, default, in_identity in (
            ("sampling.top_p", 0.5, True),
            ("source.limit", None, True),
            ("filter.gap", 0.2, False),
        )
    )
    monkeypatch.setattr(migration, "CHANGES", (*migration.CHANGES, *changes))
    monkeypatch.setattr(migration, "FORMAT", FORMAT + 1)
    old = {"schema_version": FORMAT, "identity": {"seed": 0}, "config": {"sampling": {}}}
    found = upgraded(old, "run")
    assert found["identity"] == {"seed": 0, "sampling.top_p": 0.5, "source.limit": None}
    assert found["config"]["sampling"]["top_p"] == 0.5
    kept = kept_defaults(old, "run")
    assert with_defaults(RunConfig(), kept).sampling.top_p == 0.5
    asked = load_config(None, ["sampling.top_p=0.9"])
    assert with_defaults(asked, kept).sampling.top_p == 0.9


def test_the_defaults_of_the_first_start_are_kept(tmp_path: Path) -> None:
    first = load_config(None, ["sampling.temperature=0.6"])
    defaults = defaults_of(first) | {"seed": 7}  # as if seed had had this default then
    assert "temperature" not in defaults["sampling"]
    with open_run(tmp_path, identity={"seed": 7}, details=DETAILS | {"defaults": defaults}):
        pass
    again = with_defaults(RunConfig(), stored_defaults(tmp_path, RUN))
    assert again.seed == 7
    assert again.sampling.temperature == RunConfig().sampling.temperature


def test_a_default_that_has_not_changed_stays_unset() -> None:
    """Whether `filter` was asked for decides if a run is filtered again."""
    again = with_defaults(RunConfig(), defaults_of(RunConfig()))
    assert not again.model_fields_set
    again = with_defaults(RunConfig(), defaults_of(RunConfig()) | {"seed": 7})
    assert again.model_fields_set == {"seed"}


def test_defaults_of_an_upgraded_directory_outlive_its_next_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier format records none: those that changed since are written when it goes on."""
    details = DETAILS | {"defaults": {}}
    with open_run(tmp_path, identity={"seed": 0}, details=details):
        pass
    key = "steering.concision_probability"
    change = Change(format=FORMAT + 1, of=("run",), key=key, default=0, in_identity=True)
    monkeypatch.setattr(migration, "CHANGES", (*migration.CHANGES, change))
    monkeypatch.setattr(migration, "FORMAT", FORMAT + 1)
    identity = {"seed": 0, "steering.concision_probability": 0}
    for _ in range(2):
        with open_run(tmp_path, identity=identity, details=details):
            pass
        assert stored_defaults(tmp_path, RUN) == {"steering": {"concision_probability": 0}}


def test_the_identity_of_an_evaluation_is_that_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys have no prefix, those of its configuration have."""
    change = Change(format=FORMAT, of=("run",), key="sampling.nucleus", old="sampling.top_p")
    monkeypatch.setattr(migration, "CHANGES", (change,))
    old = {"identity": {"sampling.top_p": 1}, "config": {"generate": {"sampling": {"top_p": 1}}}}
    found = upgraded(old, "evaluation")
    assert found["identity"] == {"sampling.nucleus": 1}
    assert found["config"] == {"generate": {"sampling": {"nucleus": 1}}}


def test_a_users_own_old_key_is_refused_with_the_new_name() -> None:
    with pytest.raises(ConfigError, match=r"'engine\.process' was renamed: use 'engine\.isol"):
        load_config(None, ["engine.process=child"])

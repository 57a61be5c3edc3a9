"""Stored directories of earlier versions go on to the same content; later ones are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.config import migration
from sso_data.config.iteration import IterateConfig
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
from sso_data.core.trees import Tree
from sso_data.filtering.refilter import last_decision
from sso_data.runs.pairs import read_decided
from sso_data.runs.run import RUN, open_run, read_run
from sso_data.runs.workdir import stored_defaults, write_json
from tests.factories import make_row

DETAILS = {"config": {}, "date": "2026-01-01"}


def later(**changes: object) -> dict[str, object]:
    return make_row().to_json() | {"schema_version": 2} | changes


def test_a_manifest_of_a_later_format_is_refused_in_one_line(tmp_path: Path) -> None:
    with open_run(tmp_path, identity={"seed": 0}, details=DETAILS):
        pass
    manifest = json.loads((tmp_path / "run.json").read_text())
    later = manifest | {"schema_version": FORMAT + 1, "sso_data": "9.9.9"}
    write_json(tmp_path / "run.json", later)
    with pytest.raises(RunError, match=rf"format {FORMAT + 1} of sso-data 9\.9\.9; .*upgrade"):
        read_run(tmp_path)


def test_a_decision_of_a_later_format_is_refused_in_one_line(tmp_path: Path) -> None:
    """`filter` of a later version rewrites filter.json of a run and leaves its run.json."""
    (tmp_path / "pairs").mkdir()
    write_json(tmp_path / "pairs/filter.json", {"schema_version": 2, "sso_data": "9.9.9"})
    for read in (read_decided, last_decision):
        with pytest.raises(RunError, match=r"^\S+/filter.json: has format 2 of sso-data 9.9.9"):
            read(tmp_path)


def test_a_row_or_failure_of_a_later_format_is_refused() -> None:
    with pytest.raises(RunError, match="has format 2 of a later sso-data"):
        Row.from_json(later())
    failure = Failure(id="a-0", stage="views", reason="why", detail="so").to_json()
    with pytest.raises(RunError, match="row a-0: has format 2"):
        Failure.from_json(failure | {"schema_version": 2})


@pytest.fixture
def renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the new keys of later versions."""
    renamed = tuple(change for change in migration.CHANGES if change.old is not None)
    monkeypatch.setattr(migration, "CHANGES", renamed)


@pytest.mark.usefixtures("renames")
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


@pytest.mark.usefixtures("renames")
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
    renamed = {"generate.engine.isolation": "subprocess", "train.optim.warmup_steps": 0.1}
    assert found["identity"].items() >= renamed.items()
    assert "generate.engine.process" not in found["identity"]
    assert found["config"] == {
        "generate": {"engine": {"isolation": "subprocess"}},
        "train": {"optim": {"param_dtype": "auto"}},
        "generator": None,
        "held_out": {"judge": {"engine": {"isolation": "inline"}}},
    }


def test_a_new_key_goes_where_its_section_is() -> None:
    """An iteration without a generator gets none, one with labelled pairs no keys of `generate`."""
    old: dict[str, Any] = {
        "identity": {"seed": 0, "train.optim.lr": 1e-6, "generator": None},
        "config": {"train": {"optim": {}}, "generator": None, "generate": {}},
    }
    found = upgraded(old, "iteration")
    assert found["identity"] == old["identity"] | {
        "train.optim.warmup_from_zero": True,
        "train.optim.save_dtype": "auto",
        "carry_float32": False,
    }
    assert "generator" not in found["defaults"]
    again = with_defaults(IterateConfig(), found["defaults"])
    assert again.generator is None and not again.carry_float32
    assert again.train.optim.warmup_from_zero
    old["identity"] |= {"generator.train.optim.lr": 1e-6}
    old["config"] |= {"generator": {"train": {"optim": {}}}}
    found = upgraded(old, "iteration")
    assert found["identity"]["generator.train.optim.warmup_from_zero"]
    assert found["config"]["generator"]["train"]["optim"]["save_dtype"] == "auto"


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


def test_new_keys_of_a_run_are_none_of_an_augmentation() -> None:
    old = {"identity": {"engine.process": "child"}, "config": {"engine": {"process": "child"}}}
    found = upgraded(old, "augmentation")
    own = {"checks.questions": False, "checks.pieces": False}
    assert found["identity"] == {"engine.isolation": "subprocess", **own}
    assert found["config"] == {"engine": {"isolation": "subprocess"}}
    assert found["defaults"].keys() == {"checks", "source"}


def test_filter_keys_stand_in_identities_of_iterations_that_generate() -> None:
    """A run's identity holds no filter; that of an iteration on labelled pairs no `generate`."""
    labelled, generated = {"train.loss.g": 0.1}, {"generate.filter.gap": 0.05}
    assert upgraded({"identity": {"seed": 0}}, "run")["identity"] == {"seed": 0}
    own = {"carry_float32": False}
    assert upgraded({"identity": labelled}, "iteration")["identity"] == labelled | own
    found = upgraded({"identity": generated}, "iteration")["identity"]
    new = {"generate.filter.steered": "chain", "generate.filter.keep_best": 1.0}
    assert found.items() >= (generated | new).items()


def test_a_new_key_enters_the_identities_that_hold_its_section() -> None:
    """A run may grow in samples, an iteration may not; with labelled pairs nothing is generated."""

    def identity(kind: migration.Kind, *held: str) -> Tree:
        old = {"schema_version": 2, "identity": dict.fromkeys(held, 0), "config": {}}
        found: Tree = upgraded(old, kind)["identity"]
        return found

    of_run = identity("run", "steering.choose", "sampling.top_p")
    assert of_run["steering.placement"] == "system"
    assert "sampling.samples" not in of_run
    keys = ("generate.steering.choose", "generate.sampling.top_p", "generate.filter.gap")
    of_iteration = identity("iteration", *keys)
    assert of_iteration["generate.steering.placement"] == "system"
    assert of_iteration["generate.sampling.samples"] == 1
    assert of_iteration["generate.filter.per_prompt"] == "all"
    own = {"carry_float32": False}
    assert identity("iteration", "labelled.data") == {"labelled.data": 0} | own


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

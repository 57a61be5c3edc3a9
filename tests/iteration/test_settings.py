"""What is refused before anything is done, and what belongs to an iteration's identity."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.trees import deep_merge
from sso_data.iteration.plans import generate_config, identity_of, merges_adapters, train_config
from sso_data.iteration.state import PolicyAt
from sso_data.training import run as train_run
from tests.iteration.conftest import TINY, run, tiny

GENERATOR = {"train": {"loss": {"objective": "sso-generator"}}}


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"generate": {"model": "m"}}, ("generate.model", "set by the iteration")),
        ({"train": {"seed": 3}}, ("train.seed", "set by the iteration")),
        ({"generator": {"train": {"model": "m"}}}, ("generator.train.model",)),
        ({"rounds": 0}, ("rounds",)),
        ({"round": 3}, ("unknown key 'round'", "docs/iterate.md")),
        ({"train": {"kind": "reward"}}, ("set rounds to 1",)),
        (
            {"train": {"kind": "reward"}, "rounds": 1, "generator": GENERATOR},
            ("train.kind reward",),
        ),
        ({"generator": {"train": {}}}, ("generator.train.loss.objective", "sso-generator")),
        ({"generator": GENERATOR, "labelled": {"data": "d"}}, ("exclude each other",)),
        ({"train": {"data": {"split": "test"}}}, ("train.data.split",)),
        ({"generate": {"engine": {"adapter": "a"}}}, ("generate.engine.adapter", "merge")),
        ({"generate": {"engine": {"revision": "v1"}}}, ("revision", "must be equal")),
        ({"train": {"trust_remote_code": True}}, ("trust_remote_code", "must be equal")),
        ({"held_out": {"judge": {"kind": "reward"}}}, ("held_out.judge", "name its model")),
    ],
)
def test_refused(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(IterateConfig, tree)
    for part in parts:
        assert part in str(caught.value)


def identity(**changes: Any) -> dict[str, Any]:
    return identity_of(validated(IterateConfig, deep_merge(TINY, changes)), "0123")


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 7},
        {"title": "other"},
        {"model": "elsewhere", "prompts": "moved.jsonl"},
        {"stop": {"gap": 0.5}},
        {"held_out": {"judge": {"kind": "none"}, "prompts": "p.jsonl"}},
        {"launcher": ["accelerate", "launch"]},
        {"generate": {"engine": {"isolation": "subprocess", "max_num_seqs": 3, "threads": 4}}},
        {"generate": {"engine": {"vllm": {"enforce_eager": True}}}},
        {"generate": {"output": {"parquet": True}}},
        {"train": {"stop": {"chosen_drop": None}, "optim": {"micro_batch_rows": 1}}},
        {"train": {"log": {"plot": True}, "checkpoints": {"keep_finished": True}}},
    ],
    ids=str,
)
def test_free_to_change(changes: dict[str, Any]) -> None:
    assert identity(**changes) == identity()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 4}, "seed"),
        ({"slices": {"order": "same"}}, "slices.order"),
        ({"generate": {"filter": {"preset": "closeness"}}}, "generate.filter.preset"),
        ({"generate": {"sampling": {"temperature": 1}}}, "generate.sampling.temperature"),
        ({"generate": {"engine": {"dtype": "bfloat16"}}}, "generate.engine.dtype"),
        ({"generate": {"engine": {"vllm": {"quantization": "fp8"}}}}, "generate.engine.vllm.q"),
        ({"generate": {"principles": None}}, "principles"),
        ({"train": {"loss": {"g": 0.3}}}, "train.loss.g"),
        ({"train": {"lora": {"enabled": True}}}, "train.lora.enabled"),
        ({"generator": GENERATOR}, "generator.train.loss.objective"),
    ],
    ids=str,
)
def test_part_of_the_identity(changes: dict[str, Any], key: str) -> None:
    before, after = identity(), identity(**changes)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert any(name.startswith(key) for name in changed), changed


def test_a_training_may_change_what_its_iteration_lets_change() -> None:
    """A key is free here exactly where `train` lets it change on continuing."""
    free = {*train_run._FREE_SECTIONS, *train_run._FREE_KEYS}
    dumped = validated(IterateConfig, TINY).train.model_dump(mode="json")
    keys = [
        f"{section}.{key}"
        for section, values in dumped.items()
        if isinstance(values, dict)
        for key in values
    ]
    kept = {name.removeprefix("train.") for name in identity()}
    for key in keys:
        is_free = any(key == name or (name[-1] == "." and key.startswith(name)) for name in free)
        is_kept = any(name == key or name.startswith(f"{key}.") for name in kept)
        assert is_free != is_kept, key


def test_what_a_round_is_told() -> None:
    config = validated(
        IterateConfig,
        deep_merge(
            TINY,
            {
                "generate": {"engine": {"revision": "v1"}},
                "train": {"revision": "v1", "lora": {"enabled": True}},
            },
        ),
    )
    first = PolicyAt(path=config.model, fingerprint="0")
    later = PolicyAt(path="runs/round-1/model", fingerprint="1")
    assert generate_config(config, 1, first).engine.revision == "v1"
    assert generate_config(config, 2, later).engine.revision is None
    assert train_config(config, 1, first).revision == "v1"
    trained = train_config(config, 2, later)
    assert (trained.revision, trained.model) == (None, later.path)
    assert trained.lora.merge and merges_adapters(config), "the next round needs a whole model"
    seeds = [generate_config(config, n, later).seed for n in (1, 2, 3)]
    seeds += [train_config(config, n, later).seed for n in (1, 2, 3)]
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    ("tree", "mode"),
    [
        ({}, "auto"),
        ({"generator": GENERATOR}, "rescore"),
        ({"generator": GENERATOR, "train": {"loss": {"objective": "pairs"}}}, "auto"),
        ({"labelled": {"data": "d"}}, "rescore"),
        ({"labelled": {"data": "d"}, "train": {"reference": {"mode": "strict"}}}, "strict"),
    ],
)
def test_references_of_rows_that_the_policy_did_not_sample(tree: dict[str, Any], mode: str) -> None:
    config = validated(IterateConfig, tree)
    assert train_config(config, 1, PolicyAt(path="m", fingerprint="0")).reference.mode == mode


def test_another_system_message_is_another_iteration(tmp_path: Path) -> None:
    """A directory of templates is free to move; what it says is not."""
    (tmp_path / "system.j2").write_text("Please: {{ texts | join(' ') }}")
    assert identity(generate={"templates": str(tmp_path)})["templates"] != identity()["templates"]
    same = tmp_path / "same"
    same.mkdir()
    assert identity(generate={"templates": str(same)}) == identity()


def test_a_disk_that_cannot_hold_a_policy_is_refused_first(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match=r"are free, the trained model takes"):
        run(tiny(prompts), tmp_path / "out")
    assert not (tmp_path / "out").exists()

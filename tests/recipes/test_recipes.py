"""Recipes as files: found, built on one another, filled in, refused in one line."""

from pathlib import Path

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.config.recipes import load_recipe, recipe_names, recipes_dir
from sso_data.core.errors import ConfigError
from sso_data.core.trees import deep_merge
from tools.tiny_world.examples import FOLDER, files


def config_of(name: str, *, tiny: bool) -> IterateConfig:
    tree = load_recipe(name, tiny=tiny)
    return validated(IterateConfig, tree, origin=name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_an_iteration(name: str) -> None:
    config = config_of(name, tiny=False)
    assert config.title
    assert config.reproduces
    assert config.model
    assert config.generate.recipe == config.train.recipe == "paper"
    assert all("{" not in word for word in config.launcher)
    (launch_file,) = [word for word in config.launcher if word.endswith(".yaml")]
    assert Path(launch_file).is_file()
    assert config.stop.length_growth > 100  # the paper's collapses are shown, too
    assert config.train.stop.chosen_drop is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_on_files_of_the_package_when_tiny(name: str) -> None:
    config = config_of(name, tiny=True)
    whole = config_of(name, tiny=False)
    assert config.launcher == ()
    assert config.held_out.judge.kind == "oracle"
    assert config.generate.engine.name == "transformers"
    places = [config.model, config.prompts, config.generate.principles, config.generate.templates]
    places += [part.data for part in config.train.reward.mix]
    places += [config.labelled.data] if config.labelled else []
    places += [config.held_out.prompts] if config.held_out.prompts else []
    for place in places:
        assert Path(str(place)).exists(), place
    assert config.rounds <= whole.rounds
    assert config.train.loss == whole.train.loss
    assert config.train.kind == whole.train.kind
    assert (config.labelled is None) == (whole.labelled is None)
    assert (config.generator is None) == (whole.generator is None)


def test_the_parts_are_no_recipes() -> None:
    assert (recipes_dir() / "_base.yaml").is_file()
    assert not [name for name in recipe_names() if name.startswith("_")]


def test_the_files_of_the_tiny_world_are_what_its_code_makes() -> None:
    shipped = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    assert shipped == files()


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_recipe_is_laid_over_those_it_extends(tmp_path: Path) -> None:
    write(
        tmp_path,
        low="model: a\ntrain: {seed: 1, loss: {g: 0.2, beta: 0.4}}\nreproduces: [x, y]\n",
        middle="extends: low.yaml\ntrain: {loss: {g: 0.3}}\nreproduces: [z]\n",
        side="extends: [low]\nrounds: 2\n",
        high="extends: [middle.yaml, side.yaml]\nmodel: b\n",
    )
    assert load_recipe(tmp_path / "high.yaml") == {
        "model": "b",
        "rounds": 2,
        "reproduces": ["z"],
        "train": {"seed": 1, "loss": {"g": 0.3, "beta": 0.4}},
    }


def test_tiny_goes_over_everything_and_only_when_asked_for(tmp_path: Path) -> None:
    write(
        tmp_path,
        low="rounds: 3\ntiny: {rounds: 1, seed: 7}\n",
        high="extends: low.yaml\nrounds: 5\nmodel: m\ntiny: {seed: 8}\n",
    )
    file = tmp_path / "high.yaml"
    assert load_recipe(file) == {"rounds": 5, "model": "m"}
    assert load_recipe(file, tiny=True) == {"rounds": 1, "model": "m", "seed": 8}


def test_a_recipe_of_ones_own_extends_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, mine="extends: llama3.1-8b-sft-sso.yaml\nmodel: me\ntrain: {loss: {g: 0.5}}\n")
    shipped = load_recipe("llama3.1-8b-sft-sso")
    mine = load_recipe(str(tmp_path / "mine.yaml"))
    assert mine == deep_merge(shipped, {"model": "me", "train": {"loss": {"g": 0.5}}})


def test_shipped_folders_are_put_in_at_the_start_of_a_value(tmp_path: Path) -> None:
    write(
        tmp_path, mine='model: "{world}/policy"\nlauncher: ["a{world}", "{world}s", "{here}/b"]\n'
    )
    tree = load_recipe(tmp_path / "mine.yaml")
    assert (Path(tree["model"]) / "model.safetensors").is_file()
    assert tree["launcher"] == ["a{world}", "{world}s", "{here}/b"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"mine": "extends: mine.yaml"}, r"extends itself \(mine.yaml -> mine.yaml\)"),
        (
            {"mine": "extends: b.yaml", "b": "extends: [c.yaml]", "c": "extends: b.yaml"},
            r"extends itself \(b.yaml -> c.yaml -> b.yaml\)",
        ),
        ({"mine": "extends: nowhere.yaml"}, "extends nowhere.yaml, which is neither in its folder"),
        ({"mine": "extends: {a: b}"}, "extends must be a file name"),
        ({"mine": "extends: [1]"}, "extends must be a file name"),
        ({"mine": "- a\n- b"}, "must be a mapping"),
        ({"mine": ""}, "must be a mapping"),
        ({"mine": "1: 2"}, "must be a mapping"),
        ({"mine": "tiny: 3"}, "tiny must be a mapping"),
        ({"mine": "a: [1"}, "not readable as YAML"),
        ({"mine": "rounds: 2"}, "has no `tiny` section"),
        ({}, "no such recipe file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    texts: dict[str, str], said: str, tmp_path: Path
) -> None:
    write(tmp_path, **texts)
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe(tmp_path / "mine.yaml", tiny=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lama3.1-8b-sft-sso", "", "_base", "x/y", "\n"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no recipe") as caught:
        load_recipe(name)
    assert "\n" not in str(caught.value)
    if name.startswith("lama"):
        assert "did you mean 'llama3.1-8b-sft-sso' or" in str(caught.value)


def test_unknown_keys_are_left_for_the_configuration_to_refuse(tmp_path: Path) -> None:
    write(tmp_path, mine="extends: llama3.1-8b-sft-sso.yaml\ntrain: {lossy: 1}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'train\.lossy'"):
        config_of(str(tmp_path / "mine.yaml"), tiny=False)

# SPDX-License-Identifier: Apache-2.0
"""The table of choices, from runs that have been scored before."""

import json
import subprocess

import pytest

from benchmarks.studies import ablation
from src.config import ConfigError, get_config


@pytest.mark.parametrize("name", ablation.CHOICES)
def test_every_choice_differs_from_the_recipe_and_sees_as_many_images(name):
    recipe = ["data.vertical_flip=true", "anchors.scales=0.1,0.2,0.3,0.4,0.5,0.6"]
    flags = ablation.flags_of("m2det_small", recipe, ablation.CHOICES[name], 600)
    config = get_config("m2det_small", flags)
    base = get_config("m2det_small", [*recipe, "train.total_steps=600"])
    assert (config == base) == (name == ablation.BASE)
    images = config.train.per_batch_size * config.train.total_steps
    assert images == base.train.per_batch_size * 600


def test_unknown_keys_are_refused_before_anything_is_trained(tmp_path):
    words = ["--dataset_path", "x", "--output", str(tmp_path / "out"), "--set", "train.nothing=1"]
    with pytest.raises(ConfigError, match="nothing"):
        ablation.main(words)
    assert not (tmp_path / "out").exists()


def test_scored_runs_are_not_repeated(tmp_path, capsys):
    values = {"the_recipe": (0.5, 0.8, 0.6), "one_TUM": (0.45, 0.75, 0.5)}
    for folder, scores in values.items():
        (tmp_path / folder / "run").mkdir(parents=True)
        text = json.dumps(dict(zip(ablation.SCORES, scores)))
        (tmp_path / folder / "run" / "metrics.json").write_text(text)
    ablation.main(["--dataset_path", "none", "--output", str(tmp_path), "--only", "one TUM"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| the recipe | 0.500 | 0.800 | 0.600 | +0.000 |",
        "| one TUM | 0.450 | 0.750 | 0.500 | -0.050 |",
    ]


def test_a_run_that_fails_names_its_log(tmp_path):
    words = ["--dataset_path", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    with pytest.raises(OSError, match=r"train\.py failed; see .*the_recipe.log\.txt"):
        ablation.main([*words, "--only", "no such choice"])


@pytest.mark.parametrize("flags", [[], ["--finetune", "photos"]])
def test_every_run_starts_from_the_weights(flags, tmp_path, monkeypatch):
    commands = []

    def call(command, **_):
        commands.append(command)
        run = tmp_path / "out" / "the_recipe" / "run"
        run.mkdir(exist_ok=True)
        (run / "x-final.ckpt").touch()
        (run / "metrics.json").write_text(json.dumps(dict.fromkeys(ablation.SCORES, 0.5)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ablation.subprocess, "run", call)
    words = ["--dataset_path", "x", "--output", str(tmp_path / "out"), "--only", "no such choice"]
    ablation.main([*words, *flags])
    train, score = commands
    assert train[train.index("--finetune") :][:2] == flags if flags else "--finetune" not in train
    assert "--finetune" not in score


def test_the_table_has_means_over_seeds(tmp_path, capsys):
    values = {"the_recipe": 0.5, "the_recipe_seed1": 0.3, "SGD": 0.2, "SGD_seed1": 0.3}
    for folder, score in values.items():
        (tmp_path / folder / "run").mkdir(parents=True)
        text = json.dumps(dict.fromkeys(ablation.SCORES, score))
        (tmp_path / folder / "run" / "metrics.json").write_text(text)
    words = ["--dataset_path", "none", "--output", str(tmp_path), "--only", "SGD", "--seeds", "2"]
    ablation.main(words)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| the recipe | 0.400 | 0.400 | 0.400 | +0.000 |",
        "| SGD | 0.250 | 0.250 | 0.250 | -0.150 |",
    ]

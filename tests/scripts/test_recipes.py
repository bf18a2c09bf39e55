# SPDX-License-Identifier: Apache-2.0
"""The recipes in scripts/recipes, with a stand-in for Python that says how it was called."""

import os

import pytest

from tests.scripts.test_scripts import SCRIPTS, call  # noqa: F401  (a fixture)

RECIPES = sorted(path.name for path in (SCRIPTS / "recipes").glob("*.sh"))


@pytest.mark.parametrize("name", RECIPES)
def test_help_and_too_few_arguments(call, name):  # noqa: F811
    shown = call(f"recipes/{name}", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: bash scripts/recipes/{name} ")
    for given in ((), ("data",), ("data", "--set", "x")):
        result = call(f"recipes/{name}", *given)
        assert result.returncode == 2
        assert result.stderr.startswith("usage:")
    assert list(call.folder.iterdir()) == []


def test_coco_tiny(call):  # noqa: F811
    result = call("recipes/coco_tiny.sh", "my data", "out", "--set", "train.total_steps=3")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    data, out = call.folder / "my data", call.folder / "out"  # the caller's, not the project's
    calls = [word for word in words if word.endswith(".py")]
    assert calls == ["train.py", "eval.py", "eval.py", "demo.py"]
    assert "benchmarks.studies.ceiling" in words
    train = words[: words.index("eval.py")]
    assert train[1:7] == [
        *("--device_target", "CPU", "--dataset_path", str(data), "--train_url", str(out / "run"))
    ]
    assert train.index("train.total_steps=3") > train.index("train.total_steps=2000")
    assert "data.augment=false" in train
    assert str(out / "eval_train") in words
    assert str(out / "eval_val") in words


def settings(name):
    """The overrides a recipe gives, in order."""
    text = (SCRIPTS / "recipes" / name).read_text(encoding="utf-8")
    lines = [line.strip().strip("\\") for line in text.splitlines()]
    return [line[6:].strip("'") for line in lines if line.startswith("--set ") and "=" in line]


@pytest.mark.parametrize(
    ("name", "maps", "per_cell"),  # the last convolution of a TUM has no padding: 10 to 8, 5 to 3
    [("coco_tiny.sh", (40, 20, 10, 5, 3), 6), ("bccd.sh", (40, 20, 10, 8), 4)],
)
def test_settings_are_known_and_make_priors(name, maps, per_cell):
    from src.config import get_config
    from src.priors import make_priors

    overrides = settings(name)
    assert len(overrides) > 5
    config = get_config("m2det_small", overrides)
    assert config.data.augment == (name != "coco_tiny.sh")
    assert len(make_priors(config)) == per_cell * sum(n * n for n in maps)


def test_bccd(call):  # noqa: F811
    result = call("recipes/bccd.sh", "my data", "out", "--set", "random_seed=1")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert [word for word in words if word.endswith(".py")] == ["train.py", "eval.py"]
    train, score = words[: words.index("eval.py")], words[words.index("eval.py") :]
    assert train[train.index("--split") + 1] == "trainval"  # never what is scored
    assert score[score.index("--split") + 1] == "test"
    assert train.index("random_seed=1") > train.index("train.total_steps=2000")
    assert str(call.folder / "out" / "eval") in score


def test_the_newest_network_is_scored(call):  # noqa: F811
    """Not that of an earlier call whose run had another name."""
    for seconds, name in ((1, "bccd"), (3, "m 2nd*"), (2, "seed1")):
        path = call.folder / "out" / "run" / name / "m2det-final.ckpt"
        path.parent.mkdir(parents=True)
        path.write_text("")
        os.utime(path, (seconds, seconds))
    result = call("recipes/bccd.sh", "my data", "out")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    scored = str(call.folder / "out" / "run" / "m 2nd*" / "m2det-final.ckpt")
    assert words[words.index("--checkpoint_path") + 1] == scored


def test_bccd_finetune(call):  # noqa: F811
    result = call("recipes/bccd_finetune.sh", "my data", "out", "--set", "random_seed=1")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    train, score = words[: words.index("eval.py")], words[words.index("eval.py") :]
    assert train[train.index("--config") + 1] == "m2det_finetune"
    assert train[train.index("--finetune") + 1] == "photos"
    assert train[train.index("--split") + 1] == "trainval"
    assert score[score.index("--split") + 1] == "test"
    for text in settings("bccd.sh"):
        assert (text in train) == text.startswith(("anchors.scales", "data.", "experiment_tag"))
    assert {"random_seed=1", "test.flip=true", "test.merge=soft_nms"} <= set(train)


def test_photos(call):  # noqa: F811
    """With a backbone it is converted and half frozen by the preset, without one all is trained."""
    result = call("recipes/photos.sh", "my data", "out", BACKBONE=None, PIXELS=None)
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert [word for word in words if word.endswith(".py")] == ["train.py", "eval.py"]
    assert "train.freeze_stages=0" in words
    assert "--pretrained_backbone" not in words
    result = call("recipes/photos.sh", "my data", "out", BACKBONE="my weights.npz", PIXELS="rgb")
    words = result.stdout.splitlines()
    assert [word for word in words if word.endswith(".py")] == ["convert.py", "train.py", "eval.py"]
    converted = str(call.folder / "out" / "backbone.ckpt")
    assert words[words.index("--input") + 1] == str(call.folder / "my weights.npz")
    assert words[words.index("--pixels") + 1] == "rgb"
    assert words[words.index("--output") + 1] == converted
    assert words[words.index("--pretrained_backbone") + 1] == converted
    assert "train.freeze_stages=0" not in words


def test_the_choices_are_those_of_the_recipe():
    def chosen(name):
        return {text for text in settings(name) if text.startswith(("anchors.", "data."))}

    assert len(chosen("bccd.sh")) == 3
    assert chosen("bccd_choices.sh") == chosen("bccd.sh")


def test_bccd_choices(call):  # noqa: F811
    result = call(
        "recipes/bccd_choices.sh", "my data", "out", STEPS="7", JOBS="2", OMP_NUM_THREADS="1"
    )
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    programs = [word for word in words if word.endswith(".py") or word.startswith("benchmarks.")]
    expected = (
        "benchmarks.studies.ablation",
        "benchmarks.studies.ablation",
        "benchmarks.peers.official_recipe",
        "eval.py",
        "benchmarks.studies.recipes",
    )
    assert tuple(programs) == expected
    steps = [words[i + 1] for i, word in enumerate(words) if word == "--steps"]
    assert steps == ["7", "7", "7"]
    assert words.count("model.input_size=192") == 3  # the same network
    assert words.count("--later") == words.count("anchors.ratios=[[2.0,3.0]]") == 1
    assert words[words.index("--finetune") + 1] == "photos"
    assert "test" not in words  # which is for bccd.sh alone
    wrong = call("recipes/bccd_choices.sh", "data", "out", STEPS="many", JOBS="1")
    assert wrong.returncode == 2
    assert "STEPS must be a whole number, not 'many'" in wrong.stderr

# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from src.config import PRESETS, Config, ConfigError, default_preset, from_json, get_config, to_json
from src.runtime.config_file import as_yaml
from src.runtime.typed_config import keys_of


def test_presets_of_the_model_zoo_are_there():
    assert {
        "m2det320_vgg16",
        "m2det512_vgg16",
        "m2det704_vgg16",
        "m2det800_vgg16",
        "m2det320_resnet101",
        "m2det512_resnet101",
        "m2det320_resnet50",
        "m2det_tiny",
    } <= set(PRESETS)
    assert get_config("m2det704_vgg16").model.input_size == 704


def test_defaults_are_those_of_the_earlier_port():
    config = get_config("m2det512_vgg16")
    assert (config.model.planes, config.model.num_levels, config.model.num_scales) == (256, 8, 6)
    assert config.train.lr_epochs == (90, 110, 130, 150)
    assert (config.test.iou, config.test.score_threshold, config.test.keep_per_class) == (
        0.45,
        0.1,
        50,
    )
    assert config.random_seed is None


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("model.sfam=true", "model", "sfam", True),
        ("model.sfam=False", "model", "sfam", False),
        ("train.lr=1", "train", "lr", 1.0),
        ("train.lr_epochs=3,5", "train", "lr_epochs", (3, 5)),
        ("train.gamma=[0.5, 0.1]", "train", "gamma", (0.5, 0.1)),
        ("model.backbone=resnet50", "model", "backbone", "resnet50"),
        ("anchors.ratios=[[2],[2,3]]", "anchors", "ratios", ((2.0,), (2.0, 3.0))),
    ],
)
def test_override(text, section, key, value):
    changed = getattr(get_config("m2det_tiny", [text]), section)
    assert getattr(changed, key) == value
    assert type(getattr(changed, key)) is type(value)


def test_a_single_override_need_not_be_in_a_list():
    assert get_config("m2det_tiny", "test.flip=true").test.flip


def test_no_tiles_is_zero():
    assert get_config("m2det_tiny", ["test.tile_px=0"]).test.tile_px == 0
    assert get_config("m2det_tiny", ["test.tile_px=64"]).test.tile_px == 64


def test_overrides_leave_the_preset_alone():
    before = PRESETS["m2det_tiny"]
    assert get_config("m2det_tiny", ["random_seed=none", "model.planes=32"]).random_seed is None
    assert PRESETS["m2det_tiny"] is before
    assert before.model.planes != 32
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.random_seed = 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.plane=3"], "model.planes"),
        (["modl.planes=3"], "did you mean model.planes"),
        (["xyzzy=3"], "optimizer"),
        (["model=3"], "model.backbone"),
        (["model.planes"], "section.key=value"),
        (["model.planes=many"], "a whole number"),
        (["model.planes=1.5"], "a whole number"),
        (["train.num_workers=true"], "a whole number"),
        (["model.planes=0"], "at least"),
        (["train.ema=1"], "at most"),
        (["model.backbone=vgg"], "se_resnext101_32x4d"),
        (["model.sfam=1"], "true or false"),
        (["train.lr=nan"], "a number"),
        (["train.gamma=a,b"], "train.gamma"),
        (["random_seed.x=1"], "random_seed"),
        (["lr=1"], r"did you mean train\.lr\?"),
        (["train.learning_rate=1"], r"train\.lr"),
        (["random_seed=-1"], "at least 0"),
        (["experiment_tag=../x"], "name for a folder"),
        (["experiment_tag="], "name for a folder"),
        (["train.lr=NaN"], "a number"),
        (["train.lr=1e400"], "a number"),
        (["train.lr=-Infinity"], "a number"),
        ([f"train.lr=1{400 * '0'}"], "a number"),
        ([f"train.total_steps=1{9999 * '0'}"], "a whole number"),
        (["train.lr=" + 9999 * "["], "a number"),
        (["train.gamma=0.1,NaN"], "a list|a number"),
        (["train.gamma=-1"], "at least 0"),
        (["data.mosaic=7"], "at most 1"),
        (["data.mosaic=-1"], "at least 0"),
        (["data.mixup=1.5"], "at most 1"),
        (["data.mean_bgr=104,117"], "must hold 3 values, not 2"),
        (["data.multi_scale=0"], "at least 64"),
        (["anchors.iou_threshold=2"], "at most 1"),
        (["anchors.iou_threshold=0"], "above 0"),
        (["anchors.ratios=[[]]"], "at least 1 values"),
        (["anchors.ratios=[]"], "at least 1 values"),
        (["anchors.ratios=[[-1]]"], "above 0"),
        (["anchors.scales=0.1,-0.2"], "above 0"),
        (["test.score_threshold=2"], "at most 1"),
        (["test.tile_overlap=1"], "at most 0.9"),
        (["test.tile_px=1"], "0 or at least 64"),  # a picture would be half a million tiles
        (["test.tile_px=-1"], "0 or at least 64"),
        (["train.total_steps=99999999999999"], "at most"),
        (["train.per_batch_size=1000000"], "at most"),
        (["model.input_size=100000"], "at most"),
        (["model.num_levels=100000"], "at most"),
    ],
)
def test_bad_overrides_name_what_was_expected(overrides, named):
    with pytest.raises(ConfigError, match=named) as caught:
        get_config("m2det_tiny", overrides)
    assert "\n" not in str(caught.value)


def test_unknown_preset_lists_the_choices():
    with pytest.raises(ConfigError, match="m2det800_vgg16"):
        get_config("m2det")


@pytest.mark.parametrize("config", PRESETS.values(), ids=list(PRESETS))
def test_json_round_trip(config):
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"model": 3}', '{"model": {"x": 1}}', '{"train": {"lr": "a"}}'),
        *('{"train": {"lr": NaN}}', '{"train": {"lr": 1e400}}', "[" * 100_000),
    ],
)
def test_damaged_json_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)


@pytest.mark.parametrize("name", PRESETS)
def test_files_give_the_configuration_back(name, tmp_path):
    """A run's config.json starts the next run."""
    (tmp_path / "config.json").write_text(to_json(PRESETS[name]))
    (tmp_path / "shown.yml").write_text(as_yaml(PRESETS[name]))
    for file in ("config.json", "shown.yml"):
        assert get_config(str(tmp_path / file)) == PRESETS[name]


def test_a_file_changes_the_preset_that_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: m2det_tiny\nrandom_seed: none\ntrain:\n  lr: 5e-4\n  lr_epochs: [3, 5]\n"
    )
    expected = ["random_seed=none", "train.lr=0.0005", "train.lr_epochs=3,5", "model.planes=32"]
    assert get_config(str(path), ["model.planes=32"]) == get_config("m2det_tiny", expected)


NINE = [f"&{new} [{','.join(9 * ['*' + old])}]" for old, new in zip("abcdefghi", "bcdefghij")]
BOMB = f"train:\n  lr: [&a [1], {', '.join(NINE)}]"  # 9 to the power of 9 values


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "train:\n  learing_rate: 1", "'train.learing_rate': did you mean train.lr?"),
        ("a.yaml", "tran:\n  lr: 1", "'tran': did you mean train?"),
        ("a.yaml", "train:\n  1: 2", "unknown key 'train.1'"),
        ("a.yaml", "train: 1", "train must hold keys, not 1"),
        ("a.yaml", "train:\n  lr: fast", "train.lr must be a number, not 'fast'"),
        ("a.yaml", "train:\n  lr: .nan", "train.lr must be a number, not nan"),
        ("a.yaml", "train:\n  lr: -.inf", "train.lr must be a number, not -inf"),
        ("a.yaml", "train:\n  lr: 1e400", "train.lr must be a number, not inf"),
        ("a.yaml", f"train:\n  lr: 1{'0' * 5000}", "not YAML"),
        (
            "a.yaml",
            "train:\n  lr_epochs: 3",
            "train.lr_epochs must be a list of whole numbers, not 3",
        ),
        ("a.yaml", "data:\n  augment: 1", "data.augment must be true or false, not 1"),
        ("a.yaml", "data:\n  mosaic: 0\n  mosaic: 1", "holds 'mosaic' twice"),
        ("a.yaml", "train:\n  lr: 1\n lr: 2", "not YAML, line 3"),
        ("a.yaml", "train: *x", "not YAML, line 1"),
        ("a.yaml", "[" * 5000, "nested too deeply"),
        ("a.yaml", "x: 2024-13-45", "not YAML"),
        ("a.yaml", "a: \x01", "not YAML"),
        ("a.yaml", "? [1]\n: 2", "not YAML, line 1"),
        ("a.yaml", BOMB, "train.lr must be a number, not [[1]"),
        ("a.yaml", "x: !!python/object/apply:os.getcwd []", "not YAML, line 1"),
        ("a.yaml", "preset: m2det\n", "preset must be one of m2det320_vgg16"),
        ("a.yaml", "preset: [m2det]\n", "preset must be one of m2det320_vgg16"),
        ("a.yml", "", "the configuration must hold keys, not None"),
        ("a.json", "", "not JSON: Expecting value"),
        ("a.json", "[1]", "the configuration must hold keys, not [1]"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"train": {"lr": 1, "lr": 2}}', "holds 'lr' twice"),
        ("a.json", '{"train": {"lr": Infinity}}', "train.lr must be a number, not inf"),
        ("a.json", '{"model": {"plane": 3}}', "'model.plane': did you mean model.planes?"),
        ("a.json", " " * 300_000, "larger than 256 KB"),
        ("a.json", b'{"experiment_tag": "caf\xe9"}', "expected UTF-8"),
        ("a.yaml", b"experiment_tag: caf\xe9", "expected UTF-8"),
        ("a.yaml", b"\xff\xfea\0", "expected UTF-8"),
        ("a.json", None, "No such file"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_file_is_named_with_key_and_what_was_expected(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        get_config(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_folder_is_no_configuration(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(ConfigError, match=r"x\.json: Is a directory"):
        get_config(str(tmp_path / "x.json"))


def test_a_wrong_override_is_not_said_to_be_of_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^unknown key 'model\.plane'"):
        get_config(str(tmp_path / "a.json"), ["model.plane=1"])


def test_missing_json_keys_take_defaults():
    assert from_json("{}") == Config()


def test_named_forms_of_the_test_section():
    config = get_config("m2det_tiny", ["test.batch_size=4", "test.keep_per_class=7", "test=paper"])
    assert (config.test.score_threshold, config.test.keep_per_class) == (0.05, 50)
    assert config.test.batch_size == 4  # not part of the form
    for preset in ("m2det_tiny", "m2det_photos"):
        changed = get_config(preset, ["test.score_threshold=0.7", "test=official"])
        assert changed.test == get_config("m2det_tiny").test
    with pytest.raises(ConfigError, match="test is a section"):
        get_config("m2det_tiny", ["test=other"])


def test_what_is_trained_where_nothing_is_named_is_a_preset_the_device_can_train():
    assert PRESETS[default_preset("CPU")].model.backbone == "resnet18_slim"
    assert PRESETS[default_preset("GPU")].model.backbone == "vgg16"


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [("most_expand", "max_expand_ratio", 2.5), ("crop_share", "crop_prob", 0.25)],
)
def test_old_keys_are_taken_with_a_word_of_warning(old, new, value, caplog):
    assert getattr(get_config("m2det_tiny", [f"data.{old}={value}"]).data, new) == value
    assert caplog.messages == [f"data.{old} is called data.{new} now"]
    assert getattr(from_json(f'{{"data": {{"{old}": {value}}}}}').data, new) == value


def test_every_key_says_what_it_is():
    for key in keys_of(Config):
        kind = Config
        *sections, name = key.split(".")
        for section in sections:
            kind = type(getattr(kind, section))
        declared = {field.name: field for field in dataclasses.fields(kind)}[name]
        assert declared.metadata["about"], key

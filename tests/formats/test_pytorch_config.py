# SPDX-License-Identifier: Apache-2.0
"""The configuration chosen for converted weights."""

from pathlib import Path

import pytest

from src.formats.pytorch_config import choose_config, unofficial_options
from src.formats.pytorch_keys import ConversionError


@pytest.mark.parametrize(
    ("files", "flags", "size", "note"),
    [
        (["m2det512_vgg.pth"], {}, 512, "by the file name"),
        (["m2det_800.pth", "m2det320.ckpt"], {}, 800, "by the file name"),
        (["x.pth", "m2det704.ckpt"], {}, 704, "by the file name"),
        (["x.pth", "se_101_32x4d.ckpt"], {}, 512, "assumed"),
        (["m2det512.pth"], {"overrides": ["model.input_size=640"]}, 640, ""),
        (["x.pth"], {"name": "m2det320_vgg16"}, 320, ""),
    ],
)
def test_input_size(files, flags, size, note):
    facts = {"backbone": "vgg16", "num_scales": 6}
    config, notes = choose_config(facts, [Path(file) for file in files], **flags)
    assert config.model.input_size == size
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)


def test_input_size_of_preset_and_name_differ():
    facts, files = {"backbone": "vgg16"}, [Path("m2det512_vgg.pth")]
    with pytest.raises(ConversionError, match=r"expected 320 pixels .* found 512"):
        choose_config(facts, files, "m2det320_vgg16")
    asked = ["model.input_size=320"]
    assert choose_config(facts, files, "m2det320_vgg16", asked)[0].model.input_size == 320


def test_experiment_tag_follows_the_checkpoint():
    config, _ = choose_config({"backbone": "senet154"}, [Path("a_320.pth")])
    assert config.experiment_tag == "m2det320_senet154"
    assert not unofficial_options(config.model)


def test_preset_of_another_network():
    facts = {"backbone": "vgg16", "neck": "mlfpn"}
    with pytest.raises(ConversionError, match=r"expected model\.neck=ssd .*, found mlfpn"):
        choose_config(facts, [Path("x.pth")], "ssd320_vgg16")

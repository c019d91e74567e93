"""The list of encoders and the description of a preset, without loading Keras."""

import subprocess
import sys

import keras_hub
import pytest

from anchorage.encoders.backbones import application_names
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import Encoder
from anchorage_pipeline.encoders import describe_preset, list_encoders
from anchorage_pipeline.fingerprint import preset_version


def test_all_names_can_be_used_in_an_experiment():
    names = [found.name for found in list_encoders()]
    assert len(set(names)) == len(names)
    presets = {name.removeprefix("hub:") for name in names if name.startswith("hub:")}
    for family in ("DINOV2", "DINOV3", "SigLIP", "CLIP", "ViT", "ResNet"):
        assert set(getattr(keras_hub.models, f"{family}Backbone").presets) <= presets
    assert presets <= set(keras_hub.models.Backbone.presets)
    assert set(application_names()) <= set(names)


@pytest.mark.parametrize(
    ("name", "size", "license_"),
    [
        ("dinov2_small", "multiples of 14", "Apache-2.0"),
        ("dinov3_vit_small_lvd1689m", "multiples of 16", "DINOv3 License, with terms of its own"),
        ("siglip2_base_patch16_224", "224", "Apache-2.0"),
        ("siglip2_so400m_patch14_384", "384", "Apache-2.0"),
        ("clip_vit_base_patch32", "224", "MIT"),
        ("clip_vit_large_patch14_336", "336", "MIT"),
        ("resnet_50_imagenet", "any", "Apache-2.0"),
    ],
)
def test_size_and_license_of_a_preset(name, size, license_):
    [found] = [found for found in list_encoders(name) if found.name == f"hub:{name}"]
    assert (found.size, found.license) == (size, license_)
    assert found.parameters == keras_hub.models.Backbone.presets[name]["metadata"]["params"]


def test_encoders_are_listed_by_pattern():
    assert {found.name for found in list_encoders("DINOv2_small")} == {"hub:dinov2_small"}
    assert [found.name for found in list_encoders("hub:clip*336")] == ["hub:clip_vit_large_patch14_336"]
    assert list_encoders("nothing like it") == []


def test_the_command_lists_encoders_or_names_the_nearest(capsys):
    assert main(["encoders", "siglip2_base_patch16_224"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[:5] == ["hub:siglip2_base_patch16_224", "224", "375.2", "M", "Apache-2.0"]
    assert main(["encoders", "dinvo2_small"]) == 2
    assert "Did you mean 'dinov2_small'?" in capsys.readouterr().err
    assert main(["encoders", "fetch"]) == 2
    assert main(["encoders", "one", "two"]) == 2


def test_fetch_does_not_touch_a_folder_that_is_there(tmp_path, capsys):
    assert main(["encoders", "fetch", "dinov2_small", "--output", str(tmp_path)]) == 2
    assert "E_OUTPUT_EXISTS" in capsys.readouterr().err


def test_the_list_needs_neither_keras_nor_tensorflow():
    code = (
        "import sys; from anchorage_pipeline.encoders import list_encoders; assert list_encoders('dinov2'); "
        "assert not {'keras', 'keras_hub', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_release_names_license_and_files_of_its_preset(tmp_path):
    (tmp_path / "config.json").write_text('{"module": "keras_hub.src.models.metaclip_2.metaclip_2_backbone"}')
    own = Encoder.model_validate({"name": "hub:our_own", "weights": str(tmp_path)})
    first = describe_preset(own)
    assert (first["name"], first["license"]) == ("our_own", "CC-BY-NC-4.0, not for commercial use")
    assert first["digest"] == preset_version(tmp_path)
    (tmp_path / "model.weights.h5").write_bytes(b"others")
    assert describe_preset(own)["digest"] != first["digest"]
    (tmp_path / "config.json").unlink()
    assert "kaggle.com" in describe_preset(own)["license"]
    assert preset_version(tmp_path / "nowhere") == ""

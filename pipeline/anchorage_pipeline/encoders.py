"""List of encoders, without loading Keras: KerasHub and `keras.applications` are read as text."""

import ast
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anchorage_pipeline.config import Encoder
from anchorage_pipeline.fingerprint import preset_version

_APACHE, _ELSEWHERE = "Apache-2.0", "see its page at kaggle.com/organizations/keras/models"
# Families of KerasHub that give embeddings of images, and the license of their weights.
_LICENSES = {
    "clip": "MIT",
    "cspnet": _APACHE,
    "deit": _APACHE,
    "densenet": _APACHE,
    "dinov2": _APACHE,
    "dinov3": "DINOv3 License, with terms of its own",
    "efficientnet": _APACHE,
    "hgnetv2": _APACHE,
    "metaclip_2": "CC-BY-NC-4.0, not for commercial use",
    "mobilenet": _APACHE,
    "resnet": _APACHE,
    "siglip": _APACHE,
    "swin_transformer": "MIT",
    "vgg": "BSD-3-Clause",
    "vit": _APACHE,
    "xception": _APACHE,
}
_OTHER_LICENSES = {"medsiglip_900m_448": "Health AI Developer Foundations, with terms of its own"}
_WITH_TEXT = ("clip", "metaclip_2", "siglip")
_CONVOLUTIONAL = ("cspnet", "densenet", "efficientnet", "hgnetv2", "mobilenet", "resnet", "vgg", "xception")
_SIZES = {"dinov2": "multiples of 14", "dinov3": "multiples of 16", **dict.fromkeys(_CONVOLUTIONAL, "any")}


class Found(NamedTuple):
    """An encoder: its `name` in an experiment file, image size in pixels, parameters, license of its weights."""

    name: str
    size: str
    parameters: int | None
    license: str
    text: str


def list_encoders(pattern: str = "") -> list[Found]:
    """Encoders whose name holds the pattern, in which `*` and `?` stand for any text and any one character."""
    every = [*_OWN, *_applications(), *_presets()]
    return [found for found in every if fnmatch(found.name.lower(), f"*{pattern.lower()}*")]


def describe_preset(encoder: Encoder) -> dict[str, str]:
    """Facts about the preset for a release: name, license and digest of the files."""
    known = next((found for found in _presets() if found.name == encoder.name), None)
    folder = Path(encoder.weights or "")
    return {
        "name": encoder.preset,
        "license": known.license if known else _LICENSES.get(_family(folder), _ELSEWHERE),
        "digest": preset_version(folder),
    }


_OWN = (
    Found("efficientnet_lite0", "any", 3_371_008, _APACHE, 'the default: weights = "imagenet" are installed with it'),
    Found("small", "any", None, "none", "a small network with random weights"),
)


def _applications() -> Iterator[Found]:
    module = ast.parse(_source("keras", "applications/__init__.py").read_text(encoding="utf-8"))
    names = {alias.name for node in module.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    for name in sorted(name for name in names if name[0].isupper()):
        yield Found(name, "any", None, "see keras.io/api/applications", 'keras.applications, weights = "imagenet"')


@cache
def _presets() -> tuple[Found, ...]:
    found = []
    for family in _LICENSES:
        for path in sorted(_source("keras_hub", f"src/models/{family}").glob("*_presets.py")):
            for name, preset in _tables(ast.parse(path.read_text(encoding="utf-8"))):
                facts = preset["metadata"]
                text = " ".join(facts["description"].split())
                size_in_name = re.search(r"_(\d{3})(?:_|$)", name)
                size = _SIZES.get(family) or (size_in_name[1] if size_in_name else "224")
                text += " Text search." if family in _WITH_TEXT else ""
                license_ = _OTHER_LICENSES.get(name, _LICENSES[family])
                found.append(Found(f"hub:{name}", size, facts.get("params"), license_, text))
    return tuple(found)


def _tables(module: ast.Module) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The entries of all tables of presets in a module."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).items()


def _source(package: str, inside: str) -> Path:
    """A file or folder of an installed package, which is not imported; nowhere if it is not installed."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent / inside if spec and spec.origin else Path("/nonexistent")


def _family(folder: Path) -> str:
    """The family of KerasHub that a preset folder belongs to; empty if its configuration does not say."""
    try:
        module = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("module", "")
    except (OSError, ValueError):
        return ""
    return (module.split(".") + [""] * 4)[3]

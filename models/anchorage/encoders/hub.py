"""Pretrained encoders of KerasHub: DINOv2, DINOv3, SigLIP, CLIP, ViT, ResNet and others.

A preset is a folder in KerasHub's format: architecture, weights, scaling of pixels and, for an encoder of images and
texts, the tokenizer. Only `fetch_preset` downloads anything.
"""

import inspect
import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import keras

from anchorage.encoders.backbones import ScalePixels, measure_scaling
from anchorage.errors import ResourceError, UsageError
from anchorage.extras import needs_extra

PREFIX = "hub:"


def hub_trunk(preset: str, pixels, weights: str | None, pooling: str, lora_rank: int = 0):
    """An image encoder of KerasHub with the weights of a preset folder.

    Args:
        preset: its name, for messages and for `anchorage encoders fetch`.
        pixels: symbolic `(N, S, S, 3)` tensor, values 0 to 255.
        weights: the preset's folder.
        pooling: `"token"` for what the encoder itself gives for a whole image: the class token, or the projected
            embedding of an encoder that has a text encoder beside it; otherwise the patches as a feature map.
        lora_rank: rank of the low-rank updates of the query and value projections (LoRA: Hu et al., ICLR 2022); all
            other weights of the trunk are then frozen. 0 trains all weights.

    Returns:
        Symbolic `(N, C)` tensor with `pooling="token"`, else `(N, H, W, C)`.

    Raises:
        UsageError: E_EXTRA_MISSING, E_ENCODER_WEIGHTS, E_IMAGE_SIZE, E_POOLING or E_LORA.
    """
    folder = check_folder(preset, weights)
    hub = import_hub()
    backbone = _load_backbone(hub, preset, folder, pixels.shape[1])
    if lora_rank < 0:
        raise ValueError(f"`lora_rank` must not be negative. Received: lora_rank={lora_rank}")
    if lora_rank:
        _enable_lora(backbone, preset, lora_rank)
    converter = hub.layers.ImageConverter.from_preset(str(folder), dtype="float32", image_size=None)
    scaled = ScalePixels(**measure_scaling(converter), name="scale_pixels")(pixels)
    vision = getattr(backbone, "vision_encoder", backbone)
    side = pixels.shape[1] // _patch_size(vision)
    if pooling == "token" and vision is not backbone:
        return backbone.get_vision_embeddings(scaled)
    if len(vision.output.shape) == 2:  # SigLIP pools inside: take what it pools
        vision = keras.Model(vision.input, vision.post_layer_norm.output, name="vision_encoder")
    features = vision(keras.tree.map_structure(lambda _: scaled, vision.input))
    return _pick(features, preset, side, pooling)


@keras.saving.register_keras_serializable(package="anchorage")
class PickTokens(keras.layers.Layer):
    """The first of the tokens of an image, or the last ones as a feature map: class token and registers come first.

    Args:
        side: height and width of the map, in patches; 0 for the class token.

    Call arguments:
        tokens: `(N, T, C)` tensor.

    Returns:
        `(N, C)`, or `(N, side, side, C)`.

    Example:
        >>> PickTokens(side=1)(keras.ops.array([[[1.0], [2.0], [3.0]]])).numpy().tolist()
        [[[[3.0]]]]
    """

    def __init__(self, side: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def call(self, tokens):
        if not self.side:
            return tokens[:, 0]
        patches = tokens[:, -self.side * self.side :]
        return keras.ops.reshape(patches, (-1, self.side, self.side, tokens.shape[-1]))

    def compute_output_shape(self, tokens_shape):
        count, _, width = tokens_shape
        return (count, self.side, self.side, width) if self.side else (count, width)

    def get_config(self):
        return {**super().get_config(), "side": self.side}


def merge_lora(encoder: keras.Model) -> keras.Model:
    """The same encoder with its low-rank updates added to the weights that they update; itself if it has none."""
    if not any(getattr(layer, "lora_enabled", False) for layer in encoder._flatten_layers()):
        return encoder
    with TemporaryDirectory() as folder:  # Keras merges when it saves
        path = Path(folder) / "encoder.keras"
        encoder.save(path)
        return keras.models.load_model(path)


def fetch_preset(source: str, folder: Path) -> None:
    """Download a preset into a new folder.

    Args:
        source: a name of KerasHub, `"hf://..."`, `"kaggle://..."` or a folder; checkpoints of Transformers and timm
            are converted.
        folder: where to; must not exist yet.

    Raises:
        ResourceError: E_ENCODER_WEIGHTS if it cannot be had.
    """
    hub = import_hub()
    aside = folder.with_name(f".{folder.name}.part")
    try:
        backbone = hub.models.Backbone.from_preset(source)
        backbone.save_to_preset(str(aside))
        text = hasattr(backbone, "get_text_embeddings")
        part = hub.models.CausalLMPreprocessor if text else hub.layers.ImageConverter
        part.from_preset(source).save_to_preset(str(aside))
        aside.rename(folder)
    except Exception as error:  # whatever the network, its proxy or the converter raised
        raise ResourceError("E_ENCODER_WEIGHTS", f"The preset {source!r} could not be fetched: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def import_hub():
    """The module `keras_hub`.

    Raises:
        UsageError: E_EXTRA_MISSING.
    """
    with needs_extra("hub", "An encoder `hub:...`"):
        import keras_hub
    return keras_hub


def check_folder(preset: str, weights: str | None) -> Path:
    """The folder of a preset.

    Raises:
        UsageError: E_ENCODER_WEIGHTS if there is none.
    """
    preset = preset.removeprefix(PREFIX)
    if weights and (Path(weights) / "config.json").is_file():
        return Path(weights)
    raise UsageError(
        "E_ENCODER_WEIGHTS",
        f"Expected `weights` to be the folder of a preset, with its config.json. Received: weights={weights!r}. "
        f"`anchorage encoders fetch {preset}` puts the preset into encoders/{preset}.",
    )


def _load_backbone(hub, preset: str, folder: Path, size: int):
    """The backbone for images of this size; position embeddings are interpolated where the encoder can do so."""
    try:
        backbone = hub.models.Backbone.from_preset(str(folder), load_weights=False)
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError("E_ENCODER_WEIGHTS", f"{folder} is no preset that KerasHub can read: {reason:.300}") from error
    vision = getattr(backbone, "vision_encoder", backbone)
    own = getattr(vision, "image_shape", (None,))[0]
    patch = _patch_size(vision)
    fixed = vision is not backbone or "image_shape" not in inspect.signature(type(backbone).__init__).parameters
    if own not in (None, size) and fixed:
        raise _wrong_size(preset, f"{own} pixels", size)
    if size % patch:
        raise _wrong_size(preset, f"a multiple of {patch} pixels, such as {max(1, round(size / patch)) * patch}", size)
    try:
        sized = {} if own in (None, size) else {"image_shape": (size, size, 3)}
        return hub.models.Backbone.from_preset(str(folder), **sized)
    except ValueError as error:  # position embeddings of another length
        if own in (None, size):
            reason = " ".join(str(error).split())
            raise UsageError("E_ENCODER_WEIGHTS", f"The weights in {folder} do not fit: {reason:.300}") from error
        raise _wrong_size(preset, f"{own} pixels", size) from error


def _wrong_size(preset: str, wanted: str, size: int) -> UsageError:
    return UsageError(
        "E_IMAGE_SIZE", f"{preset!r} takes images of {wanted}: set `data.image_size`. Received: image_size={size}"
    )


def _patch_size(vision) -> int:
    patch = getattr(vision, "patch_size", 1)
    return patch if isinstance(patch, int) else patch[0]


def _enable_lora(backbone, preset: str, rank: int) -> None:
    names = [*backbone.default_lora_layer_names(), "q_proj", "v_proj", "attention_qkv"]  # of DINOv3 and Swin, too
    backbone.enable_lora(rank, names)
    if not any(getattr(layer, "lora_enabled", False) for layer in backbone._flatten_layers()):
        raise UsageError(
            "E_LORA", f"`lora_rank` needs an encoder with attention. {preset!r} has no query and value projections."
        )


def _pick(features, preset: str, side: int, pooling: str):
    """The class token, or the map of all patches, out of tokens `(N, T, C)`; a map stays as it is."""
    rank, tokens = len(features.shape), features.shape[1]
    if pooling != "token" and rank == 4:
        return features
    if rank == 3 and side * side > tokens:  # patches were merged on the way
        side = math.isqrt(tokens)
    if pooling != "token":
        return PickTokens(side, name="map")(features)
    if rank != 3 or tokens == side * side:
        raise UsageError(
            "E_POOLING", f"`pooling` must be 'avg', 'max' or 'gem': {preset!r} has no class token. Received: 'token'"
        )
    return PickTokens(name="token")(features)

"""Tiny networks with random weights, saved as presets in KerasHub's own format."""

import io

SIZE = 48  # pixels of the images of all of them


def save_preset(folder, family):
    """Make a preset of a family, a key of `_FAMILIES`, in a new folder; gives its backbone."""
    import keras
    from keras_hub import layers

    keras.utils.set_random_seed(1)
    backbone, preprocessor = _FAMILIES[family]()
    backbone.save_to_preset(str(folder))
    if preprocessor is None:
        kind = {"dinov2": "DINOV2", "dinov3": "DINOV3", "vit": "ViT", "resnet": "ResNet"}[family]
        scaling = {"scale": [1 / 58, 1 / 57, 1 / 56], "offset": [-2.1, -2.0, -1.8]}
        preprocessor = getattr(layers, f"{kind}ImageConverter")(image_size=(SIZE, SIZE), **scaling)
    preprocessor.save_to_preset(str(folder))
    return backbone


def scaled(images):
    """Pixels as the presets without texts want them, with the numbers of their image converter."""
    import numpy as np

    return (images / np.array([58, 57, 56]) + np.array([-2.1, -2.0, -1.8])).astype("float32")


_BLOCKS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}


def _dinov2():
    from keras_hub.models import DINOV2Backbone

    shape = (SIZE, SIZE, 3)
    params = {"patch_size": 12, "intermediate_dim": 32, "num_register_tokens": 4}
    return DINOV2Backbone(**_BLOCKS, **params, image_shape=shape, position_embedding_shape=shape), None


def _dinov3():
    from keras_hub.models import DINOV3Backbone

    params = {"patch_size": 16, "intermediate_dim": 32, "num_register_tokens": 4}
    return DINOV3Backbone(**_BLOCKS, **params, image_shape=(SIZE, SIZE, 3)), None


def _vit():
    from keras_hub.models import ViTBackbone

    return ViTBackbone(**_BLOCKS, patch_size=16, mlp_dim=32, image_shape=(SIZE, SIZE, 3)), None


def _resnet():
    from keras_hub.models import ResNetBackbone

    blocks = {"stackwise_num_filters": [64], "stackwise_num_blocks": [1], "stackwise_num_strides": [1]}
    stem = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7]}
    return ResNetBackbone(**stem, **blocks, block_type="basic_block", image_shape=(None, None, 3)), None


def _clip():
    from keras_hub import models
    from keras_hub.layers import CLIPImageConverter

    letters = sorted(set("aredumblct"))
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = models.CLIPTokenizer(
        vocabulary={word: place for place, word in enumerate(words)},
        merges=["r e", "re d</w>"],
        pad_with_end_token=True,
    )
    sizes = {**_BLOCKS, "intermediate_dim": 32}
    backbone = models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(**sizes, patch_size=16, image_shape=(SIZE, SIZE, 3)),
        text_encoder=models.CLIPTextEncoder(
            **sizes, vocabulary_size=len(words), embedding_dim=16, max_sequence_length=12
        ),
        projection_dim=8,
    )
    converter = CLIPImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1)
    return backbone, models.CLIPPreprocessor(tokenizer, converter, sequence_length=12)


def _siglip():
    import sentencepiece
    from keras_hub import models
    from keras_hub.layers import SigLIPImageConverter

    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red umbrella", "a cat", "the quick brown fox"]),
        model_writer=words,
        model_type="WORD",
        vocab_size=10,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=0,
        minloglevel=2,
    )
    sizes = {**_BLOCKS, "intermediate_dim": 32}
    backbone = models.SigLIPBackbone(
        vision_encoder=models.SigLIPVisionEncoder(**sizes, patch_size=16, image_shape=(SIZE, SIZE, 3)),
        text_encoder=models.SigLIPTextEncoder(**sizes, vocabulary_size=10, embedding_dim=16, max_sequence_length=8),
    )
    converter = SigLIPImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1)
    tokenizer = models.SigLIPTokenizer(proto=words.getvalue())
    return backbone, models.SigLIPPreprocessor(tokenizer, converter, sequence_length=8)


_FAMILIES = {"dinov2": _dinov2, "dinov3": _dinov3, "vit": _vit, "resnet": _resnet, "clip": _clip, "siglip": _siglip}

"""Training on cached features: a frozen trunk embeds every image once, and the head is trained on the features."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np

from anchorage.data.batches import augmented_batches, create_augmentation, evaluation_batches
from anchorage.data.features import FeatureStore, write_features
from anchorage.data.store import Record, RecordSpec
from anchorage.encoders import ENCODERS, create_encoder
from anchorage.encoders.backbones import application_names
from anchorage.encoders.digest import digest_architecture, digest_weights
from anchorage.errors import DataError, UsageError
from anchorage.learner import MetricLearner
from anchorage.training.run import TrainRun, precision_policy
from anchorage.training.settings import VECTOR_ENCODER, EncoderSettings, RunSettings

_FORMAT = 1  # part of the key: raise it where the same inputs give other features
_BATCH = 64  # images


class CachedFeatures(NamedTuple):
    """The features of a training, and the trunk that gave them.

    Args:
        trunk: model from `(N, S, S, 3)` pixels to features `(N, C)` float32.
        store: features of the training images.
        validation_store: features of the validation images, or None.
    """

    trunk: keras.Model
    store: FeatureStore
    validation_store: FeatureStore | None

    def join(self, run: TrainRun) -> TrainRun:
        """The result of a training on the features, as if it were one of images: trunk and head are one encoder.

        The learner has the loss, but neither methods nor an optimizer, which belong to the head alone.
        """
        head = run.learner.encoder
        head.name = "head"
        encoder = keras.Model(self.trunk.input, head(self.trunk.output), name="encoder")
        learner = MetricLearner(encoder, run.learner.loss_layer)
        learner.build(encoder.input_shape)
        trained = head.get_weights()
        head.set_weights(run.result.start_weights)
        start = encoder.get_weights()
        head.set_weights(trained)
        return TrainRun(learner, dataclasses.replace(run.result, start_weights=start))


@contextmanager
def cached_features(
    store: Any, validation_store: Any, settings: RunSettings, folder: Path | None = None, verbose: int | str = "auto"
) -> Iterator[CachedFeatures]:
    """Embed all images with the trunk, unless the cache has their features.

    The key of a store of features is a digest of the images, of the weights and the architecture of the trunk and, with
    augmented copies, of the augmentation and the seed.

    Args:
        store: training images.
        validation_store: validation images, or None.
        settings: of the training, with the choices of the recipe.
        folder: folder of the cache; with None, or for a part of a store, features are kept for this block only.
        verbose: 0 prints nothing.

    Raises:
        UsageError: E_CACHE if the settings and cached features do not go together.
        ResourceError: E_DISK_FULL, E_NOT_WRITABLE.
    """
    check_cache(settings)
    copies, augmentation = settings.encoder.cached_copies, settings.training.augmentation
    with precision_policy(settings.training.precision), TemporaryDirectory() as scratch:
        keras.utils.set_random_seed(settings.seed)
        trunk = create_trunk(settings.encoder, store.spec)
        of_trunk = [_FORMAT, digest_architecture(trunk), digest_weights(trunk)]

        def embed(name: str, images: Any, copies: int) -> FeatureStore:
            digest, place = getattr(images, "digest", ""), Path(scratch) / name
            if folder and digest:
                of_copies = [copies, dict(augmentation), settings.seed] if copies else []
                key = json.dumps([*of_trunk, digest, settings.training.precision, of_copies])
                place = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
            if (found := _open(place)) is None:
                if verbose:
                    more = f" and {copies} augmented copies of each" if copies else ""
                    print(f"embedding {len(images):,} images{more} with the frozen trunk", flush=True)
                write = _writer(trunk, images, create_augmentation(augmentation), settings.seed)
                write_features(place, RecordSpec(dimension=trunk.output_shape[-1]), copies, len(images), write)
                found = FeatureStore(place)
            elif verbose:
                print(f"features of {len(images):,} images from the cache {place}", flush=True)
            return found

        train = embed("train", store, copies)
        yield CachedFeatures(trunk, train, None if validation_store is None else embed("val", validation_store, 0))


def create_trunk(settings: EncoderSettings, spec: RecordSpec) -> keras.Model:
    """The part of an encoder that cached features come from: trunk and pooling, as a model to `(N, C)` float32."""
    params = {key: value for key, value in settings.params.items() if key != "normalize"}
    return create_encoder(
        settings.name,
        image_size=spec.image_size,
        embedding_size=1,  # the identity has no say in it
        pooling=settings.pooling,
        normalize=False,
        weights=settings.weights,
        frozen_norm=settings.frozen_norm,
        head={"name": "identity"},
        **params,
    )


def check_cache(settings: RunSettings) -> None:
    """Raise unless the settings and cached features go together.

    Raises:
        UsageError: E_CACHE with all reasons.
    """
    encoder, training = settings.encoder, settings.training
    if not encoder.cache:
        if encoder.cached_copies:
            raise UsageError("E_CACHE", "`cached_copies` needs `cache` = true. Received: cache = false")
        return
    if encoder.name == VECTOR_ENCODER:
        raise UsageError("E_CACHE", "`cache` is for encoders of images. Received: vectors, which are features already")
    factor, steps = (getattr(training.optimizer, key).get("trunk") for key in ("rate_factors", "frozen_steps"))
    faults = {
        "random features: set `weights`, or take a pretrained encoder": encoder.weights is None
        and (encoder.name in ENCODERS or encoder.name in application_names()),
        "`training.epochs` = 0, which trains nothing: leave `cache` out": not training.epochs,
        "`rate_factors` that train the trunk: leave `trunk` out, or 0": factor,
        "`frozen_steps` after which the trunk trains: leave `trunk` out": steps,
        "`lora_rank`, which trains the trunk: leave one of the two out": encoder.params.get("lora_rank"),
        "the head 'identity', which has nothing to train": encoder.head.name == "identity",
        "the head 'global_local', which needs feature maps: the cache has pooled features": encoder.head.name
        == "global_local",
        f"`strategy` = {training.strategy!r}: the head is trained on one device": training.strategy,
        "`training.augmentation` without copies that it could change: set `cached_copies`, or `augmentation` = {}": (
            training.augmentation and not encoder.cached_copies
        ),
        f"`cached_copies` = {encoder.cached_copies} without an augmentation that tells them apart": (
            encoder.cached_copies and not training.augmentation
        ),
    }
    if found := [fault for fault, there in faults.items() if there]:
        raise UsageError(
            "E_CACHE", f"`cache` needs a pretrained trunk that does not train. Received: {'; '.join(found)}"
        )


def _open(folder: Path) -> FeatureStore | None:
    """The features in a folder; None if there are none, or they are damaged."""
    if not folder.is_dir():
        return None
    try:
        return FeatureStore(folder)
    except DataError as fault:
        print(f"note: {fault}; the images are embedded again", flush=True)
        return None


def _writer(
    trunk: keras.Model, images: Any, augmentation: list[keras.layers.Layer], seed: int
) -> Callable[[int], Iterable[Record]]:
    """A function from the number of a copy to the records of all images."""
    names = np.asarray(images.class_names, object)[images.labels]

    def records(copy: int) -> Iterator[Record]:
        batches = (
            augmented_batches(images, _BATCH, augmentation, seed, copy) if copy else evaluation_batches(images, _BATCH)
        )
        row = 0
        for batch in batches:
            for features in trunk.predict_on_batch(batch):
                yield Record(images.ids[row], names[row], images.roles[row], np.asarray(features, np.float32))
                row += 1

    return records

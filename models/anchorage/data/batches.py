"""Batches for training and evaluation, read from a record store through tf.data.

What happens to a training batch hangs on (seed, step) alone: which rows it holds is the sampler's answer for the
step, and the random values of the augmentation are drawn from a counter made of seed and step. So a training that
goes on at step s sees what an undisturbed one would have seen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import keras
import numpy as np
from keras import layers

from anchorage.data.store import RecordSpec
from anchorage.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

_DRAWS = 64  # seeds set aside for one step: more than all augmentations together draw


class Sampler(Protocol):
    """What says which rows make up a step, as in `anchorage.data.sampling`."""

    batch_size: int

    @property
    def steps_per_round(self) -> int: ...

    def batch(self, step: int) -> np.ndarray: ...


class RefreshedSampler(Sampler, Protocol):
    """A sampler that goes by where the classes lie, as `anchorage.data.sampling.CentredSampler`."""

    refreshes: bool

    def probes(self, step: int) -> np.ndarray: ...

    def update(self, embeddings: np.ndarray) -> None: ...

    def get_state(self) -> dict[str, np.ndarray]: ...

    def set_state(self, state: Mapping[str, np.ndarray]) -> None: ...


def is_refreshed(sampler: Sampler) -> TypeGuard[RefreshedSampler]:
    """Whether a sampler wants embeddings while training goes on."""
    return getattr(sampler, "refreshes", False)


class Store(Protocol):
    """What holds the images or vectors, as in `anchorage.data.store`."""

    ids: np.ndarray
    labels: np.ndarray
    roles: np.ndarray
    spec: RecordSpec

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...


def _layer(cls: type, *args, **kwargs) -> keras.layers.Layer:
    return cls(*args, **kwargs, dtype="float32")  # pixels keep their precision under every policy


# Name in an experiment file -> layer for its value, in the order of application; edges repeat the nearest pixel.
AUGMENTATIONS: dict[str, Callable[[float], keras.layers.Layer]] = {
    "flip": lambda wanted: _layer(layers.RandomFlip, "horizontal"),
    "shift": lambda share: _layer(layers.RandomTranslation, share, share, fill_mode="nearest"),
    "zoom": lambda share: _layer(layers.RandomZoom, (-share, share), fill_mode="nearest"),
    "rotation": lambda degrees: _layer(layers.RandomRotation, degrees / 360, fill_mode="nearest"),
    "brightness": lambda share: _layer(layers.RandomBrightness, share),
    "contrast": lambda share: _layer(layers.RandomContrast, share),
    "erase": lambda chance: _layer(layers.RandomErasing, (chance, chance), scale=(0.02, 0.2), fill_value=255.0),
}


def create_augmentation(values: Mapping[str, float | bool]) -> list[keras.layers.Layer]:
    """Keras preprocessing layers for the values of an experiment file.

    Args:
        values: strength by name; 0 and false leave an augmentation out. `flip` mirrors left and right in half of
            the cases; `shift` and `zoom` are shares of the image size; `rotation` is in degrees to either
            side; `brightness` and `contrast` are shares; `erase` is the chance of a white box.

    Raises:
        UsageError: E_NAME_UNKNOWN or E_AUGMENTATION.
    """
    unknown = sorted(set(values) - set(AUGMENTATIONS))
    if unknown:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown augmentation {unknown}. Known: {list(AUGMENTATIONS)}")
    for name, value in values.items():
        if not 0 <= value <= (180 if name == "rotation" else 1):
            limit = "180 degrees" if name == "rotation" else "1"
            raise UsageError("E_AUGMENTATION", f"`{name}` must lie between 0 and {limit}. Received: {name}={value}")
    return [make(values[name]) for name, make in AUGMENTATIONS.items() if values.get(name)]


def training_batches(
    store: Store,
    sampler: Sampler,
    first_step: int,
    steps: int,
    augmentation: Sequence[keras.layers.Layer] = (),
    seed: int = 0,
) -> "tf.data.Dataset":
    """Batches of the steps `first_step` to `first_step + steps - 1`.

    Args:
        store: where the images are.
        sampler: which rows a step gets.
        first_step: counted from the start of the training, over all epochs.
        steps: number of batches.
        augmentation: Keras image preprocessing layers, applied in this order.
        seed: of the augmentation.

    Returns:
        Dataset of `(images (N, S, S, 3) uint8 or vectors (N, D) float32, labels (N,) int32)`.
    """
    import tensorflow as tf

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        for step in range(first_step, first_step + steps):
            rows = sampler.batch(step)
            yield store.read(rows), store.labels[rows], step

    count, spec = sampler.batch_size, store.spec
    signature = (
        tf.TensorSpec((count, *spec.shape), spec.dtype),
        tf.TensorSpec((count,), tf.int32),
        tf.TensorSpec((), tf.int64),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.map(_augmenter(augmentation, seed), num_parallel_calls=2, deterministic=True)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def evaluation_batches(store: Store, batch_size: int, rows: np.ndarray | None = None) -> "tf.data.Dataset":
    """Records of a store, the last batch as short as it falls: all in row order, or `rows`."""
    import tensorflow as tf

    wanted = np.arange(len(store)) if rows is None else rows

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(wanted), batch_size):
            yield store.read(wanted[start : start + batch_size])

    none = store.read(wanted[:0])
    signature = tf.TensorSpec((None, *none.shape[1:]), none.dtype)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(wanted) // batch_size))).prefetch(2)


class _StepSeeds(keras.random.SeedGenerator):
    """Hands out seeds that are a pure function of seed, step and the number of the draw within the step."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self._key = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        self._first: Any = None
        self._drawn = 0

    def start(self, step) -> None:
        self._first, self._drawn = step * _DRAWS, 0

    def next(self, ordered=True):
        import tensorflow as tf

        self._drawn += 1
        if self._drawn > _DRAWS:
            raise ValueError(f"Augmentation of one batch drew more than {_DRAWS} random tensors")
        return tf.stack([tf.constant(self._key, tf.int64), self._first + self._drawn])


def _augmenter(augmentation: Sequence[keras.layers.Layer], seed: int) -> Callable:
    import tensorflow as tf

    seeds = _StepSeeds(seed)

    def augment(images, labels, step):
        if not augmentation:
            return images, labels
        seeds.start(step)
        images = tf.cast(images, tf.float32)
        for layer in augmentation:
            layer.backend.set_backend("tensorflow")  # tf.data runs TensorFlow whatever Keras runs on
            try:
                drawn = layer.get_random_transformation(images, training=True, seed=seeds)
                images = layer.transform_images(images, drawn, training=True)
            finally:
                layer.backend.reset()
        # Back to bytes: training sees pixels of the same kind as embedding and serving do.
        return tf.cast(tf.round(tf.clip_by_value(images, 0.0, 255.0)), tf.uint8), labels

    return augment

"""`tf.data` datasets of training and evaluation batches from a record store.

A training batch depends only on seed and step: the sampler chooses the rows as a function of the step, and the
augmentation uses counter-based random numbers of seed and step. A resumed training therefore sees the same batches as
an uninterrupted one.
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

_COPIES = 0xC0  # separates these random numbers from those of the samplers
_DRAWS = 64  # random tensors per step, an upper limit for all augmentations together
_STEPS_AT_ONCE = 16  # whose vectors are read by one call: each call of Python from `tf.data` takes a millisecond


class Sampler(Protocol):
    """Chooses the rows of each step, as in `anchorage.data.sampling`."""

    batch_size: int

    @property
    def steps_per_round(self) -> int: ...

    def batch(self, step: int) -> np.ndarray: ...


class RefreshedSampler(Sampler, Protocol):
    """An embedding-aware sampler, such as `anchorage.data.sampling.CentredSampler`."""

    refreshes: bool

    def probes(self, step: int) -> np.ndarray: ...

    def update(self, embeddings: np.ndarray) -> None: ...

    def get_state(self) -> dict[str, np.ndarray]: ...

    def set_state(self, state: Mapping[str, np.ndarray]) -> None: ...


def is_refreshed(sampler: Sampler) -> TypeGuard[RefreshedSampler]:
    """Return whether a sampler needs current embeddings during training."""
    return getattr(sampler, "refreshes", False)


class Store(Protocol):
    """Random access to images or vectors and their labels, as in `anchorage.data.store`."""

    ids: np.ndarray
    labels: np.ndarray
    roles: np.ndarray
    spec: RecordSpec

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...


def read_for_training(store: Store, rows: np.ndarray, seed: int, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Read the records of some steps; of a store with augmented copies each row is one of its copies, by chance.

    Args:
        store: a store or a view of one; those with copies have `copies`, their number, and `read_copies`.
        rows: `(n,)` rows of the steps, equally many of each.
        seed: of the choice of copies, which is a pure function of seed and step.
        steps: numbers of the steps.
    """
    copies = getattr(store, "copies", 0)
    if not copies:
        return store.read(rows)
    count = len(rows) // len(steps)
    drawn = [np.random.default_rng((_COPIES, seed, int(step))).integers(copies + 1, size=count) for step in steps]
    return store.read_copies(rows, np.concatenate(drawn))  # type: ignore[attr-defined]


def _layer(cls: type, *args, **kwargs) -> keras.layers.Layer:
    return cls(*args, **kwargs, dtype="float32")  # full precision of pixels under every dtype policy


# Name in an experiment file -> function from the value to a layer, in the order of application.
AUGMENTATIONS: dict[str, Callable[[float], keras.layers.Layer]] = {
    "flip": lambda _: _layer(layers.RandomFlip, "horizontal"),
    "shift": lambda share: _layer(layers.RandomTranslation, share, share, fill_mode="nearest"),
    "zoom": lambda share: _layer(layers.RandomZoom, (-share, share), fill_mode="nearest"),
    "rotation": lambda degrees: _layer(layers.RandomRotation, degrees / 360, fill_mode="nearest"),
    "brightness": lambda share: _layer(layers.RandomBrightness, share),
    "contrast": lambda share: _layer(layers.RandomContrast, share),
    "erase": lambda chance: _layer(layers.RandomErasing, (chance, chance), scale=(0.02, 0.2), fill_value=255.0),
}


def create_augmentation(values: Mapping[str, float | bool]) -> list[keras.layers.Layer]:
    """Create the Keras preprocessing layers for the values of an experiment file.

    Args:
        values: strength by name; 0 and false disable an augmentation. `flip` mirrors images horizontally with
            probability 0.5; `shift` and `zoom` are shares of the image size; `rotation` is the largest angle in
            degrees, in both directions; `brightness` and `contrast` are shares; `erase` is the probability of a white
            box.

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
    """Create a dataset of the batches of steps `first_step` to `first_step + steps - 1`.

    Args:
        store: holds the images.
        sampler: chooses the rows of each step.
        first_step: first step, counted from the start of the training over all epochs.
        steps: number of batches.
        augmentation: Keras image preprocessing layers, applied in this order.
        seed: seed of the augmentation.

    Returns:
        Dataset of `(images (N, S, S, 3) uint8 or vectors (N, D) float32, labels (N,) int32)`.
    """
    import tensorflow as tf

    count, spec = sampler.batch_size, store.spec
    chunk = _STEPS_AT_ONCE if spec.dimension else 1  # images take longer than the call, and memory

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for first in range(first_step, first_step + steps, chunk):
            numbers = np.arange(first, min(first + chunk, first_step + steps))
            rows = np.concatenate([sampler.batch(step) for step in numbers.tolist()])
            records = read_for_training(store, rows, seed, numbers).reshape(len(numbers), count, *spec.shape)
            yield records, store.labels[rows].reshape(len(numbers), count), numbers

    signature = (
        tf.TensorSpec((None, count, *spec.shape), spec.dtype),
        tf.TensorSpec((None, count), tf.int32),
        tf.TensorSpec((None,), tf.int64),
    )
    dataset = tf.data.Dataset.from_generator(chunks, output_signature=signature).unbatch()
    dataset = dataset.map(_augmenter(augmentation, seed), num_parallel_calls=2, deterministic=True)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def evaluation_batches(store: Store, batch_size: int, rows: np.ndarray | None = None) -> "tf.data.Dataset":
    """Create a dataset of records of a store: `rows`, or all in row order; the last batch can be smaller."""
    import tensorflow as tf

    chosen = np.arange(len(store)) if rows is None else rows

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(chosen), batch_size):
            yield store.read(chosen[start : start + batch_size])

    empty = store.read(chosen[:0])
    signature = tf.TensorSpec((None, *empty.shape[1:]), empty.dtype)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(chosen) // batch_size))).prefetch(2)


def augmented_batches(
    store: Store, batch_size: int, augmentation: Sequence[keras.layers.Layer], seed: int, copy: int
) -> "tf.data.Dataset":
    """Create a dataset of all images of a store in row order, augmented; another `copy` gets other random numbers."""
    import tensorflow as tf

    augment, starts = _augmenter(augmentation, seed), range(0, len(store), batch_size)
    images = evaluation_batches(store, batch_size)
    steps = tf.data.Dataset.range(copy * len(starts), (copy + 1) * len(starts))
    return tf.data.Dataset.zip(images, steps).map(lambda images, step: augment(images, step, step)[0]).prefetch(2)


class _StepSeeds(keras.random.SeedGenerator):
    """Generates seeds that are a pure function of seed, step and the number of the draw within the step."""

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
            raise ValueError(
                f"Expected at most {_DRAWS} random tensors for the augmentation of a batch. Received: {self._drawn}"
            )
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
            layer.backend.set_backend("tensorflow")  # tf.data runs TensorFlow operations on every Keras backend
            try:
                transformation = layer.get_random_transformation(images, training=True, seed=seeds)
                images = layer.transform_images(images, transformation, training=True)
            finally:
                layer.backend.reset()
        # Back to bytes: the model gets pixels of the same dtype in training, embedding and serving.
        return tf.cast(tf.round(tf.clip_by_value(images, 0.0, 255.0)), tf.uint8), labels

    return augment

"""Try user-defined samplers, losses and methods on random embeddings before a run, to report their errors early."""

from typing import Any

from anchorage.errors import UsageError
from anchorage.training.settings import RunSettings, Sections

_BATCH = (8, 4)  # classes and rows per class of a trial batch, unless the sampler provides one


def try_own_parts(learner, settings: RunSettings, sampler: Any, sections: Sections) -> None:
    """Draw a batch from a user-defined sampler, and compute the loss of a batch with user-defined losses and methods.

    Args:
        learner: a built `MetricLearner`.
        settings: the settings that the learner was built from.
        sampler: the sampler of the training, over two rows per class.
        sections: records errors under a path of the experiment file.
    """
    training, loss = settings.training, settings.loss.name
    own_methods = [index for index, method in enumerate(training.methods) if ":" in method.name]
    if not own_methods and not any(":" in name for name in (loss, training.sampler.name)):
        return
    labels = None
    with sections.at("training.sampler"):
        labels = _draw_labels(sampler, ":" in training.sampler.name)
    if labels is None:
        return
    if ":" in loss:
        with sections.at("loss"):
            _check_loss(learner, loss, labels)
    for index in own_methods[:1]:
        with sections.at(f"training.methods.{index}"):
            learner.training_loss(_random_step(learner, labels))


def _draw_labels(sampler: Any, own: bool):
    import numpy as np

    from anchorage.data.batches import is_refreshed

    if is_refreshed(sampler):  # it needs embeddings of a trained network
        return np.repeat(np.arange(_BATCH[0]), _BATCH[1])
    rows = np.asarray(sampler.batch(0))
    if own and not (rows.ndim == 1 and rows.size and np.issubdtype(rows.dtype, np.integer) and rows.min() >= 0):
        raise UsageError(
            "E_SAMPLER_BATCH",
            f"Expected `batch` to return row numbers, a list of non-negative integers. Received: {rows!r:.80}",
        )
    return np.unique(rows // 2, return_inverse=True)[1]


def _random_step(learner, labels):
    import numpy as np
    import tensorflow as tf

    from anchorage.inference import named_outputs
    from anchorage.methods import Step

    rng = np.random.default_rng(0)
    outputs = {
        name: tf.math.l2_normalize(tf.constant(rng.normal(size=(len(labels), *output.shape[1:])), output.dtype), -1)
        for name, output in named_outputs(learner.encoder.output).items()
    }
    images = tf.constant(rng.integers(0, 256, (len(labels), *learner.encoder.input_shape[1:])), tf.uint8)
    return Step(images, outputs, tf.constant(labels, tf.int32), True, learner.encoder)


def _check_loss(learner, name: str, labels) -> None:
    import numpy as np
    import tensorflow as tf

    step = _random_step(learner, labels)
    with tf.GradientTape() as tape:
        tape.watch(step.outputs)
        value = learner.plain_loss(step)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, list(step.outputs.values())) if g is not None]
    batch = f"for {len(labels)} random embeddings of unit length and {labels.max() + 1} classes"
    if not np.isfinite(value):
        raise UsageError("E_LOSS_VALUE", f"Expected a finite loss from {name!r} {batch}. Received: {float(value)}")
    if not gradients:
        raise UsageError("E_LOSS_VALUE", f"Expected the loss of {name!r} to depend on the embeddings. It does not.")
    if not all(np.isfinite(gradient).all() for gradient in gradients):
        raise UsageError("E_LOSS_VALUE", f"Expected a finite gradient from {name!r} {batch}. It is not finite")

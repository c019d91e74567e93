"""Recipes: default training settings that depend on the encoder and on the training classes.

In the settings of a training, None is replaced by the value of the recipe; all other values are kept. The recipes were
tuned on validation classes of icons and of letters in many fonts, with EfficientNet-Lite0 at 96 pixels and with the
small network at 64.
"""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchorage.catalogue import describe_loss
from anchorage.errors import UsageError
from anchorage.registry import format_value
from anchorage.training.settings import VECTOR_ENCODER, EncoderSettings

LEAST_STEPS = 10  # per epoch; with few images an epoch is several passes
BATCH = 64  # images per batch, if there are as many
PAIR_BATCH = 128  # images per batch of a class-balanced sampler, which needs more classes in a batch
PER_CLASS = 4  # images per class in such a batch
LARGE_CLASS = 200  # images per class from which on a class gets more than one proxy

# Losses and methods that a recipe may choose; their code is part of the cache key of every training with a recipe.
LOSSES = ("multi_similarity", "multi_proxy_anchor")
METHODS = ("whitened_start", "class_mean_start")

# Losses with normalized proxies for each class, which can be initialized to the class means.
DIRECTION_PROXIES = frozenset({"arcface", "cosface", "multi_proxy_anchor", "p2s_grad", "proxy_nca", "soft_triple"})

WRITTEN = "set in the experiment"

Settings = Mapping[str, Any]


class Choice(NamedTuple):
    """A setting: its path in the experiment file, its value, and the reason for the value."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    """Properties of the encoder and the data that determine the recipe.

    Args:
        vectors: whether the encoder is a head over given vectors.
        pretrained: whether the trunk has pretrained weights.
        classes: number of training classes.
        images: number of training images, counting at most four times the median per class.
        all_images: number of training images.
        typical: images of the median class.
        smallest: images of the smallest class.
    """

    pretrained: bool
    vectors: bool
    classes: int
    images: int
    all_images: int
    typical: int
    smallest: int

    @classmethod
    def of(cls, encoder: Settings, counts: Sequence[int] | np.ndarray) -> "Facts":
        """The facts of an encoder section and the number of images of each training class."""
        sizes = np.asarray(counts)
        sizes = sizes[sizes > 0] if np.any(sizes > 0) else np.ones(1, int)
        typical = max(int(np.median(sizes)), 1)
        usable = int(np.minimum(sizes, 4 * typical).sum())
        pretrained = encoder.get("weights") is not None or bool(encoder.get("cache"))
        vectors = encoder.get("name") == VECTOR_ENCODER
        return cls(pretrained, vectors, len(sizes), usable, int(sizes.sum()), typical, int(sizes.min()))

    def describe(self) -> str:
        """Describe the facts, as in "a pretrained trunk, 98 training classes of 13 images (median; minimum 2)"."""
        trunk = "a pretrained trunk" if self.pretrained else "a trunk with random weights"
        if self.vectors:
            return f"a head over vectors, {self.classes} training classes of {self.typical} vectors (median)"
        return f"{trunk}, {self.classes} training classes of {self.typical} images (median; minimum {self.smallest})"


def choose_settings(settings: Settings, counts: Sequence[int] | np.ndarray) -> tuple[dict[str, Any], list[Choice]]:
    """Replace every None in the settings by the value of the recipe.

    Args:
        settings: `encoder`, `loss` and `training` as for `anchorage.training.run.train_run`.
        counts: number of images of each training class.

    Returns:
        The complete settings, and a choice with its reason for each setting that recipes cover.
    """
    chosen = _Chooser(settings)
    facts = Facts.of(chosen.settings["encoder"], counts)
    if facts.vectors:
        _choose_for_vectors(chosen, facts)
    elif chosen.settings["encoder"].get("cache"):
        _choose_for_features(chosen)
    _choose_loss(chosen, facts)
    _choose_batches(chosen, facts)
    _choose_optimizer(chosen, facts)
    return chosen.settings, chosen.choices


def format_choices(choices: Sequence[Choice], facts: Facts | None = None) -> str:
    """List the choices of the recipe with their reasons, one per line; empty if the experiment sets everything."""
    made = [choice for choice in choices if choice.reason != WRITTEN]
    if not made:
        return ""
    rows = [(choice.setting, format_value(choice.value), choice.reason) for choice in made]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for name, value, reason in rows]
    head = "recipe" + (f" for {facts.describe()}" if facts else "")
    return "\n".join([f"{head}; the experiment sets all other values", *lines])


def _choose_loss(chosen: "_Chooser", facts: Facts) -> None:
    encoder = chosen.settings["encoder"]
    set_by_trunk = encoder.get("params", {}).get("freeze_norm") is not None
    why = "batch statistics are noisy in small batches" if facts.pretrained else "random weights have no statistics yet"
    chosen.put("encoder.frozen_norm", facts.pretrained and not set_by_trunk, why)
    if facts.pretrained:
        why = "a loss over pairs has no random proxies that could disturb a pretrained trunk"
        chosen.put("loss", {"name": "multi_similarity", "params": {}}, why)
    else:
        why = "proxies give a trunk with random weights targets from the first step on"
        chosen.put("loss", {"name": "multi_proxy_anchor", "params": {"proxies_per_class": None}}, why)
    loss = chosen.settings["loss"]
    if "proxies_per_class" in (loss.get("params") or {}):
        _choose_proxies(chosen, facts, loss)
    methods, why = [], "features of random weights are no basis for initialization"
    if facts.pretrained and (_head(encoder) != "plain" or chosen.training.get("procedure")):
        why = "only for the plain head and without a procedure"
    elif facts.pretrained:
        methods, why = ["whitened_start"], "the projection starts from the features of the trunk"
        if loss["name"] in DIRECTION_PROXIES:
            methods.append("class_mean_start")
            why += ", the proxies from the class means"
    chosen.put("training.methods", [{"name": name, "params": {}} for name in methods], why)


def _choose_for_vectors(chosen: "_Chooser", facts: Facts) -> None:
    """Settings that differ from those for images: no augmentation, no trunk, a head that can start as the identity."""
    chosen.put("encoder.frozen_norm", False, "a head has no batch norm")
    why = "compares the vectors of a batch, which are as good as they were given from the first step on"
    chosen.put("loss", {"name": "multi_similarity", "params": {}}, why)
    chosen.put("training.methods", [], "the head needs no initialization")
    sampler = _class_batches(facts)
    if chosen.put("training.sampler", sampler, "every vector has positives in its batch"):
        size = math.prod(sampler["params"].values())
        steps = max(-(-facts.images // size), LEAST_STEPS)
        why = f"{facts.images} vectors in batches of {size}, at least {LEAST_STEPS} steps"
        chosen.put("training.steps_per_epoch", steps, why)
    chosen.put("training.epochs", 20, "an epoch takes seconds")
    chosen.put("training.augmentation", {}, "vectors are not augmented")
    _drop_trunk(chosen)
    chosen.put("training.optimizer.schedule", "cosine", "high learning rates early, low ones at the end")
    chosen.put("training.optimizer.rate_factors.proxies", 10.0, "proxies keep up with the head")


def _choose_for_features(chosen: "_Chooser") -> None:
    """Settings that differ with cached features: the trunk is not trained, and only the copies are augmented."""
    chosen.put("training.epochs", 20, "an epoch over cached features takes a second or so")
    if not chosen.settings["encoder"].get("cached_copies"):
        chosen.put("training.augmentation", {}, "no augmented copies are cached")
    _drop_trunk(chosen)


def _drop_trunk(chosen: "_Chooser") -> None:
    for key in ("rate_factors", "frozen_steps"):
        chosen.drop(f"training.optimizer.{key}.trunk")


def _choose_proxies(chosen: "_Chooser", facts: Facts, loss: dict[str, Any]) -> None:
    if "proxies_per_class" not in _parameters(loss):
        del loss["params"]["proxies_per_class"]
    elif facts.typical < LARGE_CLASS:
        chosen.put("loss.params.proxies_per_class", 1, f"{facts.typical} images per class form one cluster")
    else:
        chosen.put("loss.params.proxies_per_class", 2, f"{facts.typical} images per class can form several clusters")


def _choose_batches(chosen: "_Chooser", facts: Facts) -> None:
    balanced = facts.images == facts.all_images
    if facts.pretrained or not balanced or not _has_proxies(chosen.settings["loss"]):
        sampler, why = _class_batches(facts), "every image has positives in its batch, and classes have equal weight"
    else:
        sampler = {"name": "shuffled_batches", "params": {"batch_size": min(BATCH, facts.all_images)}}
        why = "the loss compares images with proxies only, so batches need no positives"
    is_chosen = chosen.put("training.sampler", sampler, why)
    epochs, why = (10, "a pretrained trunk learns fast") if facts.pretrained else (20, "random weights take longer")
    chosen.put("training.epochs", epochs, why)
    steps, why = 0, "one round of the sampler set in the experiment"
    if is_chosen:
        size = math.prod(sampler["params"].values())
        steps = max(-(-facts.images // size), LEAST_STEPS)
        why = f"{facts.images} images in batches of {size}, at least {LEAST_STEPS} steps"
    chosen.put("training.steps_per_epoch", steps, why)
    augmentation = {"shift": 0.06, "zoom": 0.12, "rotation": 11.0}
    why = "small shifts and rotations preserve the class of any image; flips and color changes may not"
    chosen.put("training.augmentation", augmentation, why)


def _class_batches(facts: Facts) -> dict[str, Any]:
    per_class = min(max(facts.typical, 2), PER_CLASS)
    classes = max(min(facts.classes, PAIR_BATCH // per_class), 1)
    if classes * per_class < PAIR_BATCH:  # few classes, so more images of each
        per_class = max(per_class, min(facts.typical, PAIR_BATCH // classes) // 2 * 2)
    return {"name": "class_batches", "params": {"classes": classes, "per_class": per_class}}


def _choose_optimizer(chosen: "_Chooser", facts: Facts) -> None:
    def put(key: str, value: Any, reason: str) -> None:
        chosen.put(f"training.optimizer.{key}", value, reason)

    put("name", "adamw", "adaptive learning rates need little tuning")
    put("learning_rate", 1e-3, "for the head; multiplied by the rate factors for other groups")
    if facts.pretrained:
        put("schedule", "cosine", "high learning rates early, low ones at the end")
        encoder = chosen.settings["encoder"]
        if encoder["name"].startswith("hub:") and not encoder.get("params", {}).get("lora_rank"):
            put("rate_factors.trunk", 0.01, "pretrained transformers are usually fine-tuned at about 1e-5")
        else:
            put("rate_factors.trunk", 0.3, "preserves the features of a pretrained trunk")
        put("rate_factors.proxies", 10.0, "proxies keep up with the head")
        why = "the trunk stays frozen until head and proxies have adapted"
        put("frozen_steps.trunk", _frozen_steps(chosen.training, facts), why)
    else:
        put("schedule", "linear", "the learning rate decays evenly")
        put("rate_factors.trunk", 1.0, "the whole network starts from random weights")
        put("rate_factors.proxies", 100.0, "proxies must reach their classes before the network changes much")
        put("frozen_steps.trunk", 0, "a trunk with random weights needs no protection")
    put("warmup_steps", 0, "AdamW bounds its first updates")
    put("final_share", 0.02, "fine-tunes at the end")
    if chosen.training["optimizer"]["name"] == "adamw":
        put("params.weight_decay", 0.004, "the default of Keras; not applied to proxies")
    chosen.drop("training.optimizer.params.weight_decay")


def _frozen_steps(training: Settings, facts: Facts) -> int:
    """Half an epoch, but at most a tenth of the training."""
    epoch = training.get("steps_per_epoch") or -(-facts.images // PAIR_BATCH)
    return min(epoch // 2, epoch * training["epochs"] // 10)


def _head(encoder: Settings) -> str:
    return encoder["head"]["name"] if encoder.get("head") else EncoderSettings.head.name


def _has_proxies(loss: Settings) -> bool:
    """Whether a loss has class weights, that is, requires `num_classes`."""
    return _parameters(loss).get("num_classes") is inspect.Parameter.empty


def _parameters(loss: Settings) -> dict[str, Any]:
    try:
        return describe_loss(loss["name"]).parameters
    except UsageError:
        return {}  # creating the loss reports the wrong name


class _Chooser:
    """Replaces None in the settings and records the choices."""

    def __init__(self, settings: Settings):
        self.settings: dict[str, Any] = copy.deepcopy(dict(settings))
        self.choices: list[Choice] = []

    @property
    def training(self) -> dict[str, Any]:
        return self.settings["training"]

    def put(self, path: str, value: Any, reason: str) -> bool:
        """Set a value if it is None, record the first choice of it, and return whether it was None."""
        table, key = self._find(path)
        if key not in table or any(choice.setting == path for choice in self.choices):
            return False
        is_open = table[key] is None
        if is_open:
            table[key] = value
        self.choices.append(Choice(path, copy.deepcopy(table[key]), reason if is_open else WRITTEN))
        return is_open

    def drop(self, path: str) -> None:
        """Delete a value that is still None."""
        table, key = self._find(path)
        if key in table and table[key] is None:
            del table[key]

    def _find(self, path: str) -> tuple[dict[str, Any], str]:
        *parents, key = path.split(".")
        table = self.settings
        for parent in parents:
            table = table.get(parent) or {}
        return table, key

"""Settings for whoever names none: chosen by what is known of the network and of the classes.

In the settings of a training, None stands for a value that the recipe chooses; every other value is kept as it is.
The numbers were chosen on validation classes of icons and of letters in many fonts, with EfficientNet-Lite0 at 96
pixels and with the small network at 64.
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
from anchorage.training.settings import EncoderSettings

LEAST_STEPS = 10  # of an epoch: with few images an epoch is several rounds
BATCH = 64  # images of a step, where the data allows as many
PAIR_BATCH = 128  # the same where classes are drawn together: more of them meet
PER_CLASS = 4  # of them of one class
LARGE_CLASS = 200  # images of a class from which one proxy is too few

# Building blocks that are chosen by name: their code is part of every training that leaves the choice open.
LOSSES = ("multi_similarity", "multi_proxy_anchor")
METHODS = ("whitened_start", "class_mean_start")

# Losses whose proxies are directions that stand for their classes: they may start at the means of these.
DIRECTION_PROXIES = frozenset({"arcface", "cosface", "multi_proxy_anchor", "p2s_grad", "proxy_nca", "soft_triple"})

WRITTEN = "as the experiment says"

Settings = Mapping[str, Any]


class Choice(NamedTuple):
    """A setting by its path in the experiment file, its value, and a sentence on why it has that value."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    """What a recipe goes by.

    Args:
        pretrained: whether the trunk starts from stored weights.
        classes: number of training classes.
        images: training images; of a class far larger than the others only as many as four usual ones have.
        all_images: training images.
        typical: images of the median class.
        smallest: images of the smallest class.
    """

    pretrained: bool
    classes: int
    images: int
    all_images: int
    typical: int
    smallest: int

    @classmethod
    def of(cls, encoder: Settings, counts: Sequence[int] | np.ndarray) -> "Facts":
        """The facts of an encoder section and of the number of images of each training class."""
        sizes = np.asarray(counts)
        sizes = sizes[sizes > 0] if np.any(sizes > 0) else np.ones(1, int)
        typical = max(int(np.median(sizes)), 1)
        usable = int(np.minimum(sizes, 4 * typical).sum())
        return cls(encoder.get("weights") is not None, len(sizes), usable, int(sizes.sum()), typical, int(sizes.min()))

    def told(self) -> str:
        """In words, as in "a pretrained trunk, 98 training classes of 13 images (median; least 2)"."""
        trunk = "a pretrained trunk" if self.pretrained else "a trunk with random weights"
        return f"{trunk}, {self.classes} training classes of {self.typical} images (median; least {self.smallest})"


def choose_settings(settings: Settings, counts: Sequence[int] | np.ndarray) -> tuple[dict[str, Any], list[Choice]]:
    """Settings without any None, and how each value that a recipe knows of came about.

    Args:
        settings: `encoder`, `loss` and `training` as `anchorage.training.run.train_run` takes them.
        counts: images of each training class.
    """
    chosen = _Chooser(settings)
    facts = Facts.of(chosen.settings["encoder"], counts)
    _choose_loss(chosen, facts)
    _choose_batches(chosen, facts)
    _choose_optimizer(chosen, facts)
    return chosen.settings, chosen.choices


def format_choices(choices: Sequence[Choice], facts: Facts | None = None) -> str:
    """What the recipe chose, a line each, with the reasons; empty if everything was written."""
    own = [choice for choice in choices if choice.reason != WRITTEN]
    if not own:
        return ""
    rows = [(choice.setting, format_value(choice.value), choice.reason) for choice in own]
    widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for name, value, reason in rows]
    head = "recipe" + (f" for {facts.told()}" if facts else "")
    return "\n".join([f"{head}; other values are those of the experiment", *lines])


def _choose_loss(chosen: "_Chooser", facts: Facts) -> None:
    encoder = chosen.settings["encoder"]
    own = encoder.get("params", {}).get("freeze_norm") is not None  # the trunk was told by a parameter of its own
    why = "small batches have poor statistics" if facts.pretrained else "a trunk with random weights has none to keep"
    chosen.put("encoder.frozen_norm", facts.pretrained and not own, why)
    if facts.pretrained:
        why = "compares the images of a batch: no proxy that starts at random pulls at a pretrained trunk"
        chosen.put("loss", {"name": "multi_similarity", "params": {}}, why)
    else:
        why = "a proxy for each class is an aim from the first step on, for a trunk with random weights"
        chosen.put("loss", {"name": "multi_proxy_anchor", "params": {"proxies_per_class": None}}, why)
    loss = chosen.settings["loss"]
    if "proxies_per_class" in (loss.get("params") or {}):
        _choose_proxies(chosen, facts, loss)
    methods, why = [], "a trunk with random weights tells a head nothing to start from"
    if facts.pretrained and (_head(encoder) != "plain" or chosen.training.get("procedure")):
        why = "only for the plain head and without a procedure"
    elif facts.pretrained:
        methods, why = ["whitened_start"], "the head starts with what the trunk can tell apart already"
        if loss["name"] in DIRECTION_PROXIES:
            methods.append("class_mean_start")
            why += ", proxies where their classes are"
    chosen.put("training.methods", [{"name": name, "params": {}} for name in methods], why)


def _choose_proxies(chosen: "_Chooser", facts: Facts, loss: dict[str, Any]) -> None:
    if "proxies_per_class" not in _parameters(loss):
        del loss["params"]["proxies_per_class"]
    elif facts.typical < LARGE_CLASS:
        chosen.put("loss.params.proxies_per_class", 1, f"{facts.typical} images of a class have one centre")
    else:
        chosen.put("loss.params.proxies_per_class", 2, f"{facts.typical} images of a class may have several centres")


def _choose_batches(chosen: "_Chooser", facts: Facts) -> None:
    even = facts.images == facts.all_images
    if facts.pretrained or not even or not _has_proxies(chosen.settings["loss"]):
        sampler, why = _class_batches(facts), "each image meets others of its class, and small classes count in full"
    else:
        sampler = {"name": "shuffled_batches", "params": {"batch_size": min(BATCH, facts.all_images)}}
        why = "the loss compares images with proxies alone, so that any batch will do"
    own = chosen.put("training.sampler", sampler, why)
    epochs, why = (10, "a pretrained trunk learns fast") if facts.pretrained else (20, "random weights take longer")
    chosen.put("training.epochs", epochs, why)
    steps, why = 0, "one round of the sampler that the experiment names"
    if own:
        size = math.prod(sampler["params"].values())
        steps = max(-(-facts.images // size), LEAST_STEPS)
        why = f"{facts.images} images in batches of {size}, {LEAST_STEPS} steps at least"
    chosen.put("training.steps_per_epoch", steps, why)
    moves = {"shift": 0.06, "zoom": 0.12, "rotation": 11.0}
    why = "small moves keep the class of any image; mirror images and other colours may not"
    chosen.put("training.augmentation", moves, why)


def _class_batches(facts: Facts) -> dict[str, Any]:
    per_class = min(max(facts.typical, 2), PER_CLASS)
    classes = max(min(facts.classes, PAIR_BATCH // per_class), 1)
    if classes * per_class < PAIR_BATCH:  # few classes: more images of each
        per_class = max(per_class, min(facts.typical, PAIR_BATCH // classes) // 2 * 2)
    return {"name": "class_batches", "params": {"classes": classes, "per_class": per_class}}


def _choose_optimizer(chosen: "_Chooser", facts: Facts) -> None:
    def put(key: str, value: Any, reason: str) -> None:
        chosen.put(f"training.optimizer.{key}", value, reason)

    put("name", "adamw", "gives each weight steps of its own size")
    put("learning_rate", 1e-3, "of the head; the groups below have factors on it")
    if facts.pretrained:
        put("schedule", "cosine", "long steps at first, short ones at the end")
        put("rate_factors.trunk", 0.3, "what a pretrained trunk knows is kept")
        put("rate_factors.proxies", 10.0, "proxies keep up with the head")
        why = "the trunk waits until the head and proxies have settled"
        put("frozen_steps.trunk", _frozen_steps(chosen.training, facts), why)
    else:
        put("schedule", "linear", "steps that shrink evenly")
        put("rate_factors.trunk", 1.0, "the whole network starts from random weights")
        put("rate_factors.proxies", 100.0, "proxies must find their classes before the network has moved far")
        put("frozen_steps.trunk", 0, "nothing in the trunk needs protection")
    put("warmup_steps", 0, "the first steps of AdamW are no longer than the others")
    put("final_share", 0.02, "the last steps only polish")
    if chosen.training["optimizer"]["name"] == "adamw":
        put("params.weight_decay", 0.004, "the default of Keras; proxies get none")
    chosen.drop("training.optimizer.params.weight_decay")


def _frozen_steps(training: Settings, facts: Facts) -> int:
    """Half an epoch, a tenth of the training at most."""
    epoch = training.get("steps_per_epoch") or -(-facts.images // PAIR_BATCH)
    return min(epoch // 2, epoch * training["epochs"] // 10)


def _head(encoder: Settings) -> str:
    return encoder["head"]["name"] if encoder.get("head") else EncoderSettings.head.name


def _has_proxies(loss: Settings) -> bool:
    """Whether a loss compares embeddings with weights of the classes: it cannot be made without their number."""
    return _parameters(loss).get("num_classes") is inspect.Parameter.empty


def _parameters(loss: Settings) -> dict[str, Any]:
    try:
        return describe_loss(loss["name"]).parameters
    except UsageError:
        return {}  # whoever makes the loss explains what is wrong with its name


class _Chooser:
    """Puts values where settings hold None, and keeps account of them."""

    def __init__(self, settings: Settings):
        self.settings: dict[str, Any] = copy.deepcopy(dict(settings))
        self.choices: list[Choice] = []

    @property
    def training(self) -> dict[str, Any]:
        return self.settings["training"]

    def put(self, path: str, value: Any, reason: str) -> bool:
        """Put a value where there is none yet; whether there was none."""
        table, key = self._find(path)
        if key not in table:
            return False
        is_open = table[key] is None
        if is_open:
            table[key] = value
        self.choices.append(Choice(path, copy.deepcopy(table[key]), reason if is_open else WRITTEN))
        return is_open

    def drop(self, path: str) -> None:
        """Take out a value that is still open."""
        table, key = self._find(path)
        if key in table and table[key] is None:
            del table[key]

    def _find(self, path: str) -> tuple[dict[str, Any], str]:
        *parents, key = path.split(".")
        table = self.settings
        for parent in parents:
            table = table.get(parent) or {}
        return table, key

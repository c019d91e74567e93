"""Records of hyperparameter searches, as plain values like those of `search.json`."""

_IF_TRIPLET = {"path": "loss", "value": "triplet"}
SPACE = [
    {"path": "loss", "choices": ["nca", "triplet"]},
    {"path": "loss.choices.1.params.margin", "low": 0.0, "high": 1.0, "condition": _IF_TRIPLET},
    {"path": "training.optimizer.learning_rate", "low": 1e-4, "high": 1e-1, "sampling": "log"},
]


def trial(number, score, *, state="completed", reason="", margin=None, rate=1e-2, started=None, seconds=30.0):
    """A trial with the triplet loss if there is a margin; one after the other, a minute apart."""
    values = {"loss": "nca"} if margin is None else {"loss": "triplet", "loss.choices.1.params.margin": margin}
    return {
        "number": number,
        "values": {**values, "training.optimizer.learning_rate": rate},
        "state": state,
        "reason": reason,
        "score": score,
        "curve": [] if score is None else [score / 2, score],
        "samples": [] if score is None else [512, 1024],
        "metrics": {},
        "seconds": seconds,
        "started": 60.0 * number if started is None else started,
        "worker": "",
    }


def record(trials=None, best=1):
    """A search of the learning rate and of the loss, one of which has a setting of its own."""
    trials = trials or [
        trial(0, 0.2, rate=1e-4),
        trial(1, 0.4, margin=0.25, rate=1e-3),
        trial(2, None, state="failed", reason="E_LOSS_NOT_FINITE: <loss> is nan", margin=1.0, rate=1e-1),
        trial(3, 0.1, state="stopped", reason="below the median", margin=0.0),
    ]
    blank = {"low": None, "high": None, "sampling": "linear", "step": None, "choices": None}
    blank |= {"default": None, "condition": None}
    return {
        "oracle": "random",
        "objective": "map@r",
        "seed": 1,
        "max_trials": 4,
        "max_minutes": 0.0,
        "space": [{**blank, **item} for item in SPACE],
        "trials": trials,
        "best": best,
        "stop_reason": "trials",
        "repeats": [{"seed": 2, "score": 0.38}, {"seed": 3, "score": 0.36}],
        "interval": {"mean": 0.37, "low": 0.25, "high": 0.49, "confidence": 0.95},
        "folds": 0,
        "steps": {},
    }

from types import SimpleNamespace

from anchorage.progress import shown_on
from anchorage.training.reports import TRAINING, ProgressReport, format_epoch


class Counts:
    def __init__(self):
        self.steps = []

    def advance(self, title, steps, note):
        self.steps.append((title, steps, note))


def test_steps_are_counted_also_where_several_are_taken_at_once(capsys):
    report, display = ProgressReport(epochs=3, steps=20, done=20), Counts()
    report.set_model(SimpleNamespace(steps_per_execution=16))
    with shown_on(display):
        report.on_epoch_begin(1)
        report.on_train_batch_end(15, {"loss": 0.5})
        report.on_train_batch_end(19, {"loss": 0.25})
        report.on_epoch_end(1, {"loss": 0.25, "val_map@r": 0.81234})
    assert display.steps == [(TRAINING, 16, "epoch 2/3, loss 0.5000"), (TRAINING, 4, "epoch 2/3, loss 0.2500")]
    assert capsys.readouterr().out == "epoch 2/3  loss 0.25  val_map@r 0.8123  (0 s)\n"


def test_epoch_0_has_no_loss():
    assert format_epoch({"epoch": 0, "val_recall@1": 0.5}, 6) == "epoch 0/6  val_recall@1 0.5"

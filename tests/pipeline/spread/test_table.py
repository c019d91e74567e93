from anchorage_pipeline.spread.table import format_row, format_table


def test_one_training_is_a_line(row):
    assert format_row(row(7, 0.4321)) == "seed 7    map@r 43.2  recall@1 50.0  (epoch 3, 61 s)"


def test_one_machine_is_listed_above_the_table(row):
    assert format_table([row(1, 0.2), row(2, 0.4), row(3, 0.6)]).splitlines() == [
        "one: Some CPU, 2 cores, oneDNN on, TensorFlow 2.20.0",
        "percent   mean  deviation  lowest  highest  seed 1  seed 2  seed 3",
        "map@r     40.0       20.0    20.0     60.0    20.0    40.0    60.0",
        "recall@1  50.0        0.0    50.0     50.0    50.0    50.0    50.0",
    ]


def test_several_machines_have_a_table_each_and_one_of_all(row, machine):
    rows = [row(1, 0.2), row(2, 0.4), row(1, 0.6, machine=machine("two", gpu="Some GPU", onednn=False))]
    one, two, together = format_table(rows).split("\n\n")
    assert one.splitlines()[2] == "map@r     30.0       14.1    20.0     40.0    20.0    40.0"
    assert two.splitlines() == [
        "two: Some CPU, 2 cores, Some GPU, oneDNN off, TensorFlow 2.20.0",
        format_row(rows[2]),
    ]
    assert together.splitlines() == [
        "all 2 machines, 3 trainings",
        "percent   mean  deviation  lowest  highest",
        "map@r     40.0       20.0    20.0     60.0",
        "recall@1  50.0        0.0    50.0     50.0",
    ]

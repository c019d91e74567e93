"""The model card: metadata that the Hugging Face Hub reads, then text."""

import yaml

from anchorage.reporting.card import write_card

REPORT = {
    "experiment": "toy",
    "split": "test",
    "counts": {"queries": 1200, "classes": 40, "gallery": 1300, "distance": "cosine similarity"},
    "metrics": {"map@r": {"value": 0.464, "interval": [0.424, 0.501]}},
    "reproduce": {"seed": 7},
    "identity": {
        "model": {"Use": 'Finding icons: "ours".', "Loss": "triplet", "Training": {"epochs": 9}},
        "data": {"Source": "data/icons"},
        "limits": ["One seed.", "Only icons."],
    },
}


def test_metadata_is_yaml_with_the_measured_values():
    _, head, _ = write_card({**REPORT, "facts": {"license": "mit"}}).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "mit",
        "library_name": "keras",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["deep-metric-learning", "image-retrieval", "embeddings", "anchorage"],
        "metrics": ["map@r"],
        "model-index": [
            {
                "name": "toy",
                "results": [
                    {
                        "task": {"type": "image-feature-extraction"},
                        "dataset": {"type": "private", "name": "data/icons", "split": "test"},
                        "metrics": [{"type": "map@r", "name": "MAP@R", "value": 0.464}],
                    }
                ],
            }
        ],
    }


def test_without_a_license_none_is_named():
    assert "license" not in write_card(REPORT)


def test_text_has_numbers_with_data_seed_and_interval():
    _, _, text = write_card(REPORT).split("---\n", 2)
    for part in (
        '## Intended use\n\nFinding icons: "ours".\n',
        "## Limitations\n\n- One seed.\n- Only icons.\n",
        "- Loss: triplet\n- Training: epochs 9\n",
        "- Source: data/icons\n",
        "1,200 queries of 40 classes against 1,300 gallery images, cosine similarity, seed 7.",
        "| MAP@R | 46.4 | 42.4 to 50.1 |",
    ):
        assert part in text


def test_without_measurements_there_are_no_results():
    card = write_card({**REPORT, "metrics": {}})
    assert card.endswith("## Evaluation\n\nNot measured.\n")
    assert "model-index" not in card

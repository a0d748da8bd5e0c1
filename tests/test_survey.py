"""The claim about coverage: of all causal model types of transformers, none is read wrongly."""

from collections import Counter

import pytest
from survey import survey
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FEW = ("llama", "gemma3n_text", "mamba", "bert-generation", "jamba")


def test_the_survey_tells_the_ways_apart():
    ways = [way for _, way, _ in survey(FEW)]
    assert ways == ["tree", "tree without lens", "plain", "refused", "plain"]


@pytest.mark.slow
def test_no_type_is_read_wrongly(capsys):
    found = {model_type: way for model_type, way, _ in survey(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}
    counts = Counter(found.values())
    with capsys.disabled():
        print("\n" + ", ".join(f"{count} {way}" for way, count in counts.most_common()))
    assert [model_type for model_type, way in found.items() if way == "WRONG"] == []
    assert counts["tree"] >= 90 and counts["not built"] <= 40

"""Claims about texts of any script: what is equal scores 1, what is not scores less."""

import string
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from core.schema import TEXT_SCORES
from measures import scoring, texts


@given(st.text(st.characters(max_codepoint=127)))
def test_on_ascii_the_words_of_rouge_are_those_of_rouge_score(text):
    assert texts.RougeWords().tokenize(text) == tokenize(text, None)


@given(st.text(st.characters(max_codepoint=127)))
def test_on_ascii_the_words_of_exact_match_are_those_of_squad(text):
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    assert texts.normalised_words(text) == texts.ARTICLES.sub(" ", bare).split()
    assert texts.pieces(bare.split()) == bare.split()


EQUAL = [
    "我们今天去公园。",
    "これはペンです",
    "Müller",
    "हिन्दी भाषा",
    "мир",
    "한국어 문장",
    "ภาษาไทย",
    "😀",
    "שלום",
]


@pytest.mark.parametrize("text", EQUAL)
def test_equal_texts_of_any_script_score_1_in_either_normal_form(text):
    for form in ("NFC", "NFD"):
        scores = scoring.text_scores(normalize(form, text), [text])
        assert all(scores[name] == 1 for name in TEXT_SCORES if name != "rouge2")


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [("Müller", "Möller"), ("北京", "東京都"), ("мир", "мяч"), ("हिन्दी", "हिन्दू"), ("é", "e")],
)
def test_texts_that_differ_in_other_letters_alone_are_not_equal(prediction, reference):
    scores = scoring.text_scores(prediction, [reference])
    assert max(scores.values()) < 1


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge", "f1"),
    [
        ("我爱北京", "我爱东京", 3 / 4, 3 / 4),  # three of four characters
        ("the 北京", "北京", 4 / 5, 1),  # without the article two of two
        ("a café", "the café", 1 / 2, 1),
        ("北京。", "北京", 1, 1),
    ],
)
def test_scripts_without_spaces_are_compared_by_characters(prediction, reference, rouge, f1):
    scores = scoring.text_scores(prediction, [reference])
    assert (scores["rouge"], scores["f1"]) == pytest.approx((rouge, f1))


# --- what is never right


@pytest.mark.parametrize("reply", ["", " ", "\n"])
@pytest.mark.parametrize("reference", ["A", "the", "?", "x", "++"])
def test_an_empty_reply_is_never_right(reply, reference):
    assert set(scoring.text_scores(reply, [reference]).values()) == {0.0}


@pytest.mark.parametrize(
    ("prediction", "reference", "squad", "strict"),
    [
        ("A", "A", 1, 1),
        ("a", "A", 1, 0),
        ("the", "A", 0, 0),  # of both nothing is left, so the texts are compared
        (".", "A", 0, 0),
        ("++", "++", 1, 1),
        ("2.5", "25", 1, 0),  # SQuAD takes punctuation out
        ("C", "C++", 1, 0),
        ("The end", "end", 1, 0),
        (" end\n", "end", 1, 1),
        ("cafe\u0301", "café", 1, 1),
    ],
)
def test_exact_match_is_squad_s_and_strict_is_to_the_character(
    prediction, reference, squad, strict
):
    scores = scoring.text_scores(prediction, [reference])
    assert (scores["exact_match"], scores["exact_match_strict"]) == (squad, strict)


# --- labels in a text

LETTERS = ("A", "B", "C", "D")
FOUND = [
    ("答案是正面的。", ("正面", "负面"), "正面"),
    ("不是正面\uff0c是负面", ("正面", "负面"), None),
    ("答案是B。", LETTERS, "B"),
    ("选项B正确", LETTERS, "B"),
    ("答えはBです", LETTERS, "B"),
    ("คำตอบคือบวก", ("บวก", "ลบ"), "บวก"),
    ("\u0438\u0442\u043e\u0433B", LETTERS, None),
    ("Très cafe\u0301!", ("café", "thé"), "café"),
    ("cafés", ("café", "thé"), None),
    ("überpositiv", ("positiv", "negativ"), None),
    ("C++", LETTERS, None),
    ("A+", LETTERS, None),
]


@pytest.mark.parametrize(("text", "labels", "label"), FOUND)
def test_a_label_is_found_by_the_borders_of_its_script(text, labels, label):
    for form in ("NFC", "NFD"):
        assert scoring.find_label(normalize(form, text), labels) == label

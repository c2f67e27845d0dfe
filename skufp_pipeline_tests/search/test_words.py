import pytest

from skufp_pipeline.search.words import normal, squeezed, trigrams, words


def tokens(text: str) -> list[str]:
    return [token for word in words(text) for token in word.tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AB-100.2", ["ab1002", "ab", "100", "2"]),
        ("ab1002", ["ab1002"]),
        ("Size: 10 (new!)", ["size", "10", "new"]),
        ("The shop's jeans", ["the", "shop", "jeans"]),
        ("Crème brûlée", ["creme", "brulee"]),
        ("Straße \uff21\uff22\uff23", ["strasse", "abc"]),
        ("Нож", ["nozh"]),
        ("हिन्दी", ["hindi"]),
        ("綠茶包", ["綠茶", "綠", "茶", "茶包", "茶", "包"]),
        ("茶 tea", ["tea", "茶"]),
        ("ชา", ["ชา", "ช", "า"]),
        ("", []),
        ("—…!", []),
    ],
)
def test_texts_of_any_script_become_words(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_composed_and_decomposed_letters_are_one() -> None:
    assert tokens("cafe\u0301") == tokens("caf\u00e9") == ["cafe"]
    assert normal("Cafe\u0301") == normal("CAF\u00c9") == "caf\u00e9"


def test_normal_text_is_stable() -> None:
    for text in ("ŉ ǰ ΐ", "ﬁve", "İstanbul", "ß", "A\u00a0B\tC"):
        assert normal(normal(text)) == normal(text)
    assert normal("A\u00a0B\tC ") == "a b c"


def test_signs_do_not_count_in_a_squeezed_code() -> None:
    assert squeezed(normal("AB-100.2")) == squeezed(normal("ab 1002")) == "ab1002"
    assert squeezed(normal("Ж-2")) == "ж2"
    assert squeezed("--") == ""


def test_trigrams_know_the_ends_of_a_word() -> None:
    assert trigrams("ab") == ["  a", " ab", "ab ", "b  "]

"""Splits the catalogue's texts and a query into the words that a lexical index compares.

Texts are compared in Unicode's form NFKC without capitals. Words are further reduced to ASCII letters and
digits ("crème" is "creme", "нож" is "nozh"). Scripts without spaces give each character and each pair of
neighbours. A compound such as "AB-100.2" gives its parts and itself without signs ("ab1002").
"""

import re
import unicodedata
from typing import NamedTuple

from anyascii import anyascii

# Thai, Lao, Burmese, Khmer; kana; Han with its extensions and compatibility forms.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_COMPOUND = re.compile(r"[a-z0-9]+(?:[-./_:+#'][a-z0-9]+)*")
_PART = re.compile(r"[a-z0-9]+")
_SHORT_FOR = re.compile(r"'(s|t|re|ve|ll|d|m)\b")  # "shop's" is "shop"


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        whole: without signs; what is looked for first.
        parts: what is looked for if no SKU has the whole; empty for a word of one part.
    """

    whole: str
    parts: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """All that a SKU's text is found by."""
        return (self.whole, *self.parts)


def normal(text: str) -> str:
    """Returns the form in which ids and codes are compared.

    >>> normal(" ＡＢ-100 \\n x")
    'ab-100 x'
    """
    if not text.isascii():  # casefold may leave the form: normalize again
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.lower().split())


def squeezed(text: str) -> str:
    """Returns a `normal` text without anything but letters, digits and marks.

    >>> squeezed("ab-100.2 x")
    'ab1002x'
    """
    if text.isascii():
        return "".join(_PART.findall(text))
    return "".join(sign for sign in text if sign.isalnum() or unicodedata.category(sign)[0] == "M")


def words(text: str) -> list[Word]:
    """Returns the words of a text in its order; those of scripts without spaces come last.

    >>> [word.whole for word in words("Crème, AB-100.2")]
    ['creme', 'ab1002']
    >>> words("AB-100.2")
    [Word(whole='ab1002', parts=('ab', '100', '2'))]
    >>> words("綠茶")
    [Word(whole='綠茶', parts=('綠', '茶'))]
    """
    plain = normal(text)
    if plain.isascii():
        return _ascii_words(plain)
    runs = UNSPACED.findall(plain)
    found = _ascii_words(anyascii(UNSPACED.sub(" ", plain)).casefold())
    for run in runs:
        pairs = [run[at : at + 2] for at in range(len(run) - 1)]
        found += [Word(pair, tuple(pair)) for pair in pairs] or [Word(run)]
    return found


def _ascii_words(plain: str) -> list[Word]:
    found = []
    for compound in _COMPOUND.findall(_SHORT_FOR.sub("", plain)):
        parts = _PART.findall(compound)
        found.append(Word("".join(parts), tuple(parts) if len(parts) > 1 else ()))
    return found


def trigrams(word: str) -> list[str]:
    """Returns the runs of three letters of a word and its ends.

    >>> trigrams("ale")
    ['  a', ' al', 'ale', 'le ', 'e  ']
    """
    padded = f"  {word}  "
    return [padded[at : at + 3] for at in range(len(padded) - 2)]

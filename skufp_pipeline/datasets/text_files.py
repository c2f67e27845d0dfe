"""Reads text files that people save from spreadsheets: their encoding and the cells of a CSV.

UTF-8, and UTF-16 with or without a byte order mark, are recognised by their bytes. Windows-1252 is not: the
same bytes are text in other encodings too. It is read only if every encoding in which all words of the file
look written gives the same text; else the first doubtful cell is named.
"""

import codecs
import csv
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from skufp_pipeline.errors import UserError

DELIMITERS = (",", ";", "\t")
WESTERN = "cp1252"
RIVALS = (
    *("cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso8859_15", "mac_roman", "gb18030", "shift_jis"),
)
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the mark of UTF-16 does, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Letters and bytes above ASCII without a break, with at least one such byte.
FOREIGN_WORD = re.compile(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*")
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+$")
LETTERS = re.compile(r"[^\W\d_]+")
SYMBOL_IN_WORD = re.compile(r"[^\W\d_][^\w'\u2019\u00b7\s-][^\W\d_]")
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


def read_text(path: Path, encoding: str | None = None) -> str:
    """Returns the text of a file, without a byte order mark.

    Args:
        encoding: what the file is in; None recognises it.

    Raises:
        UserError: the file can't be read or its encoding is in doubt; names row and column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    chosen = encoding or _recognised(data)
    try:
        return data.decode(chosen).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(f"{path}: unknown encoding {encoding!r}; expected a name such as utf-8") from error
    except UnicodeDecodeError as error:
        if encoding is None and chosen == "utf-8":
            return _western(path, data, error.start)
        where = _place(error.object[: error.start].decode(chosen, errors="ignore"))
        raise UserError(f"{path} is not {chosen} text: {where}; save it as CSV UTF-8") from error


def read_cells(path: Path, text: str, names: Collection[str]) -> list[list[str]]:
    """Returns the rows of a CSV, blank lines left out; the delimiter is the one of `DELIMITERS` by which the
    header holds most of `names`.

    Raises UserError if it is not a CSV.
    """
    try:
        return _rows(text, _delimiter(text, names), strict=True)
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}; check its quotes") from error


def _delimiter(text: str, names: Collection[str]) -> str:
    def found(delimiter: str) -> int:
        rows = csv.reader(_lines(text), delimiter=delimiter)
        header: list[str] = next(filter(None, rows), [])
        return len({name.strip() for name in header} & set(names))

    return max(DELIMITERS, key=found)


def _rows(text: str, delimiter: str, strict: bool = False) -> list[list[str]]:
    return [row for row in csv.reader(_lines(text), delimiter=delimiter, strict=strict) if row]


def _lines(text: str) -> Iterator[str]:
    """Yields the lines with their ends; a stream in memory would hold four bytes for each character."""
    return (line[0] for line in LINE.finditer(text))


def _recognised(data: bytes) -> str:
    """The encoding by the byte order mark or, without one, by the zero bytes of UTF-16's ASCII characters."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return encoding
    if len(data) >= 4 and not any(data[1:4:2]) and all(data[0:4:2]):
        return "utf-16-le"
    if len(data) >= 4 and not any(data[0:4:2]) and all(data[1:4:2]):
        return "utf-16-be"
    return "utf-8"


def _western(path: Path, data: bytes, first_bad: int) -> str:
    """Returns Windows-1252 text, or raises UserError where another encoding may be meant."""
    words = list(dict.fromkeys(FOREIGN_WORD.findall(data)))
    readings = {name: [_reading(word, name) for word in words] for name in (WESTERN, *RIVALS)}
    plausible = [texts for texts in readings.values() if None not in texts]
    if None in readings[WESTERN]:
        doubtful, what = first_bad, "is not UTF-8 text and no Windows-1252 text either"
    else:
        doubts = [place for place, texts in enumerate(zip(*plausible, strict=True)) if len(set(texts)) > 1]
        if not doubts:
            return data.decode(WESTERN)
        doubtful = data.index(words[doubts[0]])
        options = dict.fromkeys(str(texts[doubts[0]]) for texts in plausible)
        what = f"is not UTF-8 text and may read {' or '.join(map(repr, list(options)[:3]))}"
    where = _place(data[:doubtful].decode(WESTERN, errors="replace"))
    raise UserError(
        f"{path} {what} in {where}; save it as CSV UTF-8, or name the encoding of a manifest "
        "(dataset.read.encoding: cp1252)"
    )


def _place(before: str) -> str:
    """Row and column of the cell that follows this text of a CSV; row 1 is the first under the header."""
    delimiter = max(DELIMITERS, key=before.split("\n")[0].count)
    rows = _rows(before + "?", delimiter)
    if len(rows) == 1:
        return f"the header, column {len(rows[0])}"
    column = len(rows[-1])
    name = rows[0][column - 1] if column <= len(rows[0]) else column
    return f"row {len(rows) - 1}, column {name!r}"


def _reading(word: bytes, encoding: str) -> str | None:
    """Returns the text of a word, or None if nobody writes such a word."""
    try:
        text = word.decode(encoding)
    except UnicodeDecodeError:
        return None
    if any(unicodedata.category(character)[0] == "C" for character in text) or SYMBOL_IN_WORD.search(text):
        return None
    return text if all(map(_looks_written, LETTERS.findall(text))) else None


def _looks_written(word: str) -> bool:
    """Whether a word is of one script and all lower, all upper or lower case behind its first letter."""
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in word}
    one_script = len({"CJK" if script in EAST_ASIAN else script for script in scripts}) == 1
    cased = word[1:] == word[1:].lower() or (capitals := word.replace("ß", "")) == capitals.upper()
    return one_script and cased and unicodedata.normalize("NFKC", word) == word

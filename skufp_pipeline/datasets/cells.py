"""Reads single cells of a manifest: words, SKU ids, numbers."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import polars as pl

from skufp_pipeline.errors import ItemError

MAX_SKU_ID = 128
EXACT = 2**53  # whole numbers below it are exact as a float
WHOLE = re.compile(r"(0|[1-9][0-9]*)\.0+")
SHORTENED = re.compile(r"[0-9][.,]?[0-9]*[eE]\+[0-9]+")  # 4.01235E+12
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?")
# A comma before exactly three digits may group thousands; any other is a decimal comma.
COMMA_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(,([0-9]{1,2}|[0-9]{4,}))?")
INVISIBLE = ("\u00ad", "\u200b", "\u2060", "\ufeff")  # two ids that differ in them look the same


def words(value: Any) -> str | None:
    """Returns a cell as text in Unicode's form NFC without outer spaces; None if it is empty."""
    if isinstance(value, Mapping):
        return words([f"{name} {text}" for name, cell in value.items() if (text := words(cell))])
    if isinstance(value, (list, tuple)):
        return ", ".join(text for cell in value if (text := words(cell))) or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return unicodedata.normalize("NFC", _scalar_text(value)).strip() or None


def _scalar_text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (float, Decimal)) and math.isfinite(value):
        return f"{value:.0f}" if value == int(value) else f"{value}"
    return str(value)


def sku_id_of(value: Any) -> str:
    """Returns a cell as a SKU id, in NFC; a whole number has no decimals, leading zeros of a text stay.

    Raises:
        ItemError: bad_sku_id.
    """
    text = words(value)
    if text is None:
        raise _bad("sku_id is empty")
    if isinstance(value, (bool, Mapping, list, tuple)):
        raise _bad(f"sku_id {text!r} is a {type(value).__name__}, expected a text or a whole number")
    if isinstance(value, bytes) and not _is_text(value):
        raise _bad(f"sku_id {value!r} is not UTF-8 text")
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value) or value != int(value):
            raise _bad(f"sku_id {text} is a number with a fraction; save ids as text")
        if isinstance(value, float) and abs(value) >= EXACT:
            raise _bad(f"sku_id {text} is a rounded number (from {EXACT} on); save ids as text")
    if SHORTENED.fullmatch(text):
        raise _bad(f"sku_id {text!r} was shortened by a spreadsheet; save the column as text")
    broken = next((char for char in text if _cannot_be_shown(char)), None)
    if broken is not None:
        raise _bad(f"sku_id {text!r} holds a line break or an invisible character (U+{ord(broken):04X})")
    text = text.split(".")[0] if WHOLE.fullmatch(text) else text
    if len(text) > MAX_SKU_ID:
        raise _bad(f"sku_id {text[:20]!r}... is longer than {MAX_SKU_ID} characters")
    return text


def kind_of_texts(texts: Iterable[str]) -> pl.DataType:
    """Returns the type of a column of text cells: Int64, Float64 or String.

    Leading zeros make words (a GTIN), as does an exponent.
    """
    cells = list(texts)
    if cells and all(map(INTEGER.fullmatch, cells)):
        return pl.Int64()
    numbers = cells and any(all(map(form.fullmatch, cells)) for form in (DECIMAL, COMMA_DECIMAL))
    return pl.Float64() if numbers else pl.String()


def kind_of_dtype(dtype: pl.DataType) -> pl.DataType:
    """Returns the type that a Parquet column is kept in."""
    if dtype.is_integer():
        return dtype if dtype in (pl.UInt64, pl.Int128, pl.UInt128) else pl.Int64()
    if dtype.is_float() or dtype.is_decimal():
        return pl.Float64()
    if isinstance(dtype, (pl.Boolean, pl.Date, pl.Datetime)):
        return dtype
    return pl.List(pl.String()) if isinstance(dtype, (pl.List, pl.Array)) else pl.String()


def typed(value: Any, kind: pl.DataType) -> Any:
    """Returns a cell as a value of `kind`; None if it is empty."""
    text = words(value)
    if text is None:
        return None
    if isinstance(kind, pl.List):
        return [part for cell in value if (part := words(cell))]
    if isinstance(kind, pl.Float64):
        number = float(text.replace(",", ".")) if isinstance(value, str) else float(value)
        return number if math.isfinite(number) else None
    if isinstance(kind, pl.Int64):
        return int(value)
    return text if isinstance(kind, pl.String) else value


def _bad(detail: str) -> ItemError:
    return ItemError("bad_sku_id", detail)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cannot_be_shown(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in INVISIBLE

"""Labels as people write them, and the classes that they mean: one class for one number, one for one word."""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

HIDDEN = "-1"
"""What many data sets give for the label of a picture whose label is not published; see :func:`hidden_labels`."""
HIDDEN_DETAIL = "-1 in the label column, which stands for no label"
"""Of the reject of a picture that has it."""

_NUMBER = re.compile(r"[+-]?\d{1,50}(\.\d{0,50})?", re.ASCII)
_HOLDS = {"true": 1, "yes": 1, "false": 0, "no": 0}


def same_text(text: str) -> str:
    """Equal for texts that look the same: macOS composes accents in another way (NFD) than the rest (NFC)."""
    return unicodedata.normalize("NFC", text).strip()


def label_places(values: Iterable[str], *, numbers: bool = False) -> tuple[dict[str, int], tuple[str, ...]]:
    """Classes in a fixed order.

    Args:
        values: labels as they are written; not empty ones.
        numbers: where all of them are numbers, they sort as numbers, and 1, 1.0 and 01 are one class.

    Returns:
        The position of each value's class, and the names of the classes. A class that is written in one way has that name;
        one that is written in several is called after the whole number (as is one with a decimal point), or in NFC.
    """
    spellings: dict[object, list[str]] = {}
    texts = sorted(set(values))
    numeric = numbers and are_numbers(texts)
    for text in texts:
        spellings.setdefault(Decimal(text) if numeric else same_text(text), []).append(text)
    ordered = sorted(spellings) if numeric else sorted(spellings, key=lambda key: spellings[key][0])  # type: ignore[type-var]
    position = {text: place for place, key in enumerate(ordered) for text in spellings[key]}
    return position, tuple(_name(key, spellings[key]) for key in ordered)


def are_numbers(values: Iterable[str]) -> bool:
    """Whether all of them are numbers, with or without a decimal point."""
    return all(_NUMBER.fullmatch(value.strip()) for value in values)


def whole(value: str) -> str:
    """A label written with a decimal point, ``3.0``, as the whole number that it is; any other as it is."""
    if _NUMBER.fullmatch(value) and "." in value and (number := Decimal(value)) == number.to_integral_value():
        return str(int(number))
    return value


def hidden_labels(trained: Iterable[str | None], classes: Iterable[str] = ()) -> set[str | None]:
    """The labels that stand for none: a missing one and, unless it names a class, -1.

    -1 names a class in two cases: the training labels are -1 and 1, or there are other negative numbers among them.

    Args:
        trained: labels of training pictures, whole numbers without a decimal point.
        classes: names of classes that words are compared with; -1 may be one of them.
    """
    there = {label for label in trained if label}
    negative = any(label.startswith("-") and are_numbers([label]) for label in there - {HIDDEN})
    if HIDDEN in classes or there == {HIDDEN, "1"} or negative:
        return {None, ""}
    return {None, "", HIDDEN}


def attribute_value(text: str) -> int | None:
    """1 where an attribute holds (1, 1.0, true, yes), 0 where it does not (-1, 0, false, no); None for anything else."""
    text = text.strip().lower()
    if text in _HOLDS:
        return _HOLDS[text]
    if not _NUMBER.fullmatch(text):
        return None
    return {Decimal(1): 1, Decimal(0): 0, Decimal(-1): 0}.get(Decimal(text))


def _name(key: object, spellings: list[str]) -> str:
    if isinstance(key, Decimal) and key == key.to_integral_value():
        return spellings[0] if len(spellings) == 1 and "." not in spellings[0] else str(int(key))
    return spellings[0] if len(spellings) == 1 else same_text(spellings[0])

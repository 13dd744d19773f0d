"""Map labels in their various spellings to classes: equal numbers, and words that look equal, are one class."""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

HIDDEN = "-1"
"""Label that many datasets use for pictures whose label is not published; see :func:`hidden_labels`."""
HIDDEN_DETAIL = "-1 in the label column, which stands for no label"
"""Detail of the reject of a picture with that label."""

_NUMBER = re.compile(r"[+-]?\d{1,50}(\.\d{0,50})?", re.ASCII)
_HOLDS = {"true": 1, "yes": 1, "false": 0, "no": 0}


def normalize_text(text: str) -> str:
    """Normalize text, so that texts that look equal are equal: macOS composes accents differently (NFD, not NFC)."""
    return unicodedata.normalize("NFC", text).strip()


def label_positions(values: Iterable[str], *, numbers: bool = False) -> tuple[dict[str, int], tuple[str, ...]]:
    """Assign a class to each label, in a fixed order.

    Args:
        values: labels as written, without empty ones.
        numbers: if all labels are numbers, sort them as numbers, and take 1, 1.0 and 01 as one class.

    Returns:
        The position of each label's class, and the names of the classes. A class with one spelling has that name; a class
        with several, or with a decimal point, is named by the whole number or by the text in NFC.
    """
    spellings: dict[object, list[str]] = {}
    texts = sorted(set(values))
    numeric = numbers and are_numbers(texts)
    for text in texts:
        spellings.setdefault(Decimal(text) if numeric else normalize_text(text), []).append(text)
    ordered = sorted(spellings) if numeric else sorted(spellings, key=lambda key: spellings[key][0])  # type: ignore[type-var]
    position = {text: place for place, key in enumerate(ordered) for text in spellings[key]}
    return position, tuple(_name(key, spellings[key]) for key in ordered)


def are_numbers(values: Iterable[str]) -> bool:
    """Whether all values are numbers, with or without a decimal point."""
    return all(_NUMBER.fullmatch(value.strip()) for value in values)


def normalize_number(value: str) -> str:
    """Write a whole number with a decimal point, ``3.0``, as ``3``; return any other label unchanged."""
    if _NUMBER.fullmatch(value) and "." in value and (number := Decimal(value)) == number.to_integral_value():
        return str(int(number))
    return value


def hidden_labels(trained: Iterable[str | None], classes: Iterable[str] = ()) -> set[str | None]:
    """The labels that mean "no label": a missing label and, unless it is a class, -1.

    -1 is a class if the training labels are -1 and 1, or include other negative numbers.

    Args:
        trained: labels of training pictures, whole numbers without a decimal point.
        classes: known names of classes; -1 may be one of them.
    """
    there = {label for label in trained if label}
    negative = any(label.startswith("-") and are_numbers([label]) for label in there - {HIDDEN})
    if HIDDEN in classes or there == {HIDDEN, "1"} or negative:
        return {None, ""}
    return {None, "", HIDDEN}


def attribute_value(text: str) -> int | None:
    """Parse the value of an attribute: 1 for 1, 1.0, true, yes; 0 for -1, 0, false, no; None for anything else."""
    text = text.strip().lower()
    if text in _HOLDS:
        return _HOLDS[text]
    if not _NUMBER.fullmatch(text):
        return None
    return {Decimal(1): 1, Decimal(0): 0, Decimal(-1): 0}.get(Decimal(text))


def _name(key: object, spellings: list[str]) -> str:
    if isinstance(key, Decimal) and key == key.to_integral_value():
        return spellings[0] if len(spellings) == 1 and "." not in spellings[0] else str(int(key))
    return spellings[0] if len(spellings) == 1 else normalize_text(spellings[0])

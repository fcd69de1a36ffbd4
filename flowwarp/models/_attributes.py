"""What networks are told of a clip, or tell of it: attributes, each one of some values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Attributes = tuple[tuple[str, tuple[str, ...]], ...]  # the name of each, and its values
_NO_PAIRS = "attributes must be names, each with its values"


def check_attributes(attributes: Attributes) -> None:
    """Raise ValueError unless these are different names, each with different values."""
    for name, values in attributes:
        if not isinstance(name, str) or not isinstance(values, tuple):
            raise ValueError(_NO_PAIRS)
        if not all(isinstance(value, str) for value in values) or len({*values}) < len(values):
            raise ValueError(f"values of {name} must be different texts")
    if len({name for name, _ in attributes}) < len(attributes):
        raise ValueError("attributes must have different names")


def attributes_from_card(given: Iterable[Any]) -> Attributes:
    """Return attributes as a card of weights has them, whose lists are of lists.

    Raises:
        ValueError: they are no pairs.
    """
    try:
        return tuple(
            (name, tuple(values) if isinstance(values, list) else values) for name, values in given
        )
    except (TypeError, ValueError) as fault:
        raise ValueError(_NO_PAIRS) from fault

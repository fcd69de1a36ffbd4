"""Configuration from a TOML file and ``--set key=value``, into frozen dataclasses.

A run has several: the loop's, the network's, the data's. ``{"loop": LoopConfig(), "model": ...}``
gives each a section; a key may be written ``loop.steps`` or, where only one section has it,
``steps``.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
import types
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flowwarp.errors import InputError
from flowwarp.io.files import open_input

Configs = dict[str, Any]  # section: an instance of a frozen dataclass
Preset = Literal["tiny", "small", "base"]  # each trainer has settings for these

_LARGEST_FILE = 2**20
_LONGEST_SHOWN = 80  # characters of a wrong setting that a message quotes


class UnclearSetting(InputError):
    """The key of a setting is unknown or ambiguous: wrong usage on a command line."""


def check_least(config: Any, least: int, *names: str) -> None:
    """Refuse settings of a configuration that are too small.

    Raises:
        ValueError: one is below ``least``; the first is named.
    """
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")


def check_shares(config: Any, *names: str) -> None:
    """Refuse settings of a configuration that are not in [0, 1].

    Raises:
        ValueError: one is not; the first is named.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")


def override(configs: Mapping[str, Any], settings: Sequence[str]) -> Configs:
    """Return the configurations with ``key=value`` settings applied.

    Args:
        configs: a frozen dataclass for each section.
        settings: such as ``["steps=100", "model.width=64"]``.

    Raises:
        UnclearSetting: no configuration has such a key, or several have, or the value is missing.
        InputError: a value has the wrong type or range.
    """
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        source = f"--set {_cut(setting)}"
        if not equals:
            raise UnclearSetting(source, "has no value", "write key=value")
        section, name = _locate(configs, key.strip(), source)
        kind = _types(configs[section])[name]
        given.setdefault(section, {})[name] = _parse(kind, text.strip(), source)
    result = dict(configs)
    for section, values in given.items():  # all at once: some are valid only together
        source = f"--set {', '.join(values)}"
        result[section] = _replaced(configs[section], values, source)
    return result


def read_toml(
    path: str | Path, configs: Mapping[str, Any], ignored: Collection[str] = ()
) -> Configs:
    """Return the configurations with the values of a TOML file; others stay.

    Args:
        path: the file.
        configs: a frozen dataclass for each section.
        ignored: sections to skip.

    Raises:
        InputError: not a TOML file, an unknown section or key, or a wrong value.
    """
    with open_input(path) as (file, size):
        if size > _LARGEST_FILE:
            raise InputError(path, f"has {size} bytes, too many for a configuration")
        data = file.read()
    try:
        sections = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as fault:  # ValueError also for 5,000 digits
        raise InputError(path, f"is not TOML ({fault})") from fault
    result = dict(configs)
    for section, values in sections.items():
        if section in ignored:
            continue
        if section not in configs or not isinstance(values, dict):
            known = f"its sections may be {', '.join(f'[{name}]' for name in configs)}"
            raise InputError(path, f"unknown section or key {section!r}", known)
        checked = {}
        for name, value in values.items():
            _locate(configs, f"{section}.{name}", path)
            kind = _types(configs[section])[name]
            checked[name] = _checked(kind, value, f"{path}: {section}.{name}")
        result[section] = _replaced(configs[section], checked, path)
    return result


def to_toml(configs: Mapping[str, Any]) -> str:
    """Write configurations as TOML; a value of None is left out."""
    lines = []
    for section, config in configs.items():
        lines.append(f"[{section}]")
        values = ((item.name, getattr(config, item.name)) for item in fields(config))
        lines += [f"{name} = {_literal(value)}" for name, value in values if value is not None]
        lines.append("")
    return "\n".join(lines)


def _locate(configs: Mapping[str, Any], key: str, source: str | Path) -> tuple[str, str]:
    names = {
        f"{section}.{item.name}": (section, item.name)
        for section, config in configs.items()
        for item in fields(config)
    }
    found = [names[key]] if key in names else [place for place in names.values() if place[1] == key]
    if len(found) == 1:
        return found[0]
    if found:
        places = " or ".join(".".join(place) for place in found)
        raise UnclearSetting(source, f"key {key!r} is in several sections", f"write {places}")
    near = difflib.get_close_matches(key, [*names, *(name for _, name in names.values())], 1)
    remedy = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(names)}"
    raise UnclearSetting(source, f"unknown key {key!r}", remedy)


def _types(config: Any) -> dict[str, Any]:
    if not is_dataclass(config):
        raise TypeError(f"a configuration must be a dataclass, got {type(config).__name__}")
    return get_type_hints(type(config))


def _replaced(config: Any, values: Mapping[str, Any], source: str | Path) -> Any:
    try:
        return replace(config, **values)
    except InputError:
        raise
    except ValueError as fault:  # raised by __post_init__
        raise InputError(source, str(fault)) from fault


def _parse(kind: Any, text: str, source: str) -> Any:
    """Read a value from a command line, where strings have no quotes."""
    if _plain(kind) is str or get_origin(_plain(kind)) is Literal:
        return _checked(kind, text.strip("\"'"), source)
    if text.lower() in ("none", "null"):
        return _checked(kind, None, source)
    if get_origin(_plain(kind)) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    return _checked(kind, value, source)


def _checked(kind: Any, value: Any, source: str | Path) -> Any:
    """Return a value as its type, or raise an InputError that says what the type is."""
    plain = _plain(kind)
    if value is None and plain is not kind:
        return None
    if get_origin(plain) is Literal:
        if value in get_args(plain):
            return value
        raise InputError(
            source, f"is {_cut(repr(value))}, must be one of {', '.join(get_args(plain))}"
        )
    if get_origin(plain) is tuple:
        if isinstance(value, list):
            kinds = get_args(plain)
            if kinds[-1] in (..., kinds[0]):  # one type for all items; any length
                kinds = kinds[:1] * len(value)
            if len(kinds) == len(value):
                return tuple(
                    _checked(one, item, source) for one, item in zip(kinds, value, strict=True)
                )
    elif plain is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        with suppress(OverflowError):  # an integer of 400 digits
            if number and math.isfinite(value):
                return float(value)
    elif type(value) is plain:  # isinstance would take a bool for an int
        return value
    name = getattr(plain, "__name__", str(plain))
    raise InputError(source, f"is {_cut(repr(value))}, must be {_WORDS.get(name, name)}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
}


def _plain(kind: Any) -> Any:
    """Return X for ``X | None``; any other type as it is."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(item for item in get_args(kind) if item is not type(None))
    return kind


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)

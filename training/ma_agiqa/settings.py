"""Frozen dataclasses from YAML: unknown names and wrong types are errors."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from ma_agiqa.errors import ConfigError

_T = TypeVar("_T")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected names and values.")
    return values


def from_mapping(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Build a dataclass, and the dataclasses in it, from plain values.

    Args:
        cls: a dataclass; fields without default must be given.
        values: as YAML gives them; an int is taken for a float, a list for a tuple.
        where: name of the section, for messages.

    Raises:
        ConfigError: an unknown or missing name, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; expected names and values.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{where}: unknown settings {unknown}; there are {sorted(fields)}.")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(values)):
        raise ConfigError(f"{where}: settings {missing} are missing.")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def to_mapping(value: Any) -> Any:
    """Give a dataclass as plain values for YAML or JSON; the inverse of `from_mapping`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_mapping(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_mapping(item) for item in value]
    return value


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Give the dotted names of the settings whose values differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in found.keys() | wanted.keys():
            yield from differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield name


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    expected = origin or hint
    if expected is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)  # YAML takes 1 for an integer and 1e-5 for text
    if (isinstance(value, bool) and expected is not bool) or not isinstance(value, expected):
        raise ConfigError(f"{where} is {value!r}; expected {_name(expected)}.")
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; expected a list.")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} has {len(value)} values; expected {len(kinds)}.")
    return tuple(
        _convert(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _name(kind: Any) -> str:
    words = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return words.get(kind, f"a {getattr(kind, '__name__', kind)}")

"""Plain fields of a workload by dotted names, as the command line and tables of rows set them."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from accsim.workload import Workload, WorkloadError

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def with_settings(workload: Workload, settings: Sequence[str]) -> Workload:
    """`workload` with fields replaced in turn, each by a text ``name=value``.

    Raises WorkloadError for a text of another form, a name that the workload has not, or has more
    than once, and a value that it cannot have.
    """
    for text in settings:
        name, given, value = text.partition("=")
        if not given:
            raise WorkloadError(
                f"--set must be a name and its value, such as data.labels=4000, not {text!r}"
            )
        place = place_of(workload, name.strip(), "--set")
        workload = changed(workload, place, _read(value.strip()), f"--set {text}")
    return workload


def place_of(workload: Workload, name: str, option: str) -> tuple[str, ...]:
    """Where the workload keeps the field called `name`, whose parts are joined by dots.

    As many of the last parts as make it unique: ``labels`` or ``data.labels``; elements of a tuple
    are called 0, 1 ..., as in ``disturbances.0.when.share``. Raises WorkloadError, which names the
    `option`, for a name that the workload has not, or has more than once.
    """
    wanted = tuple(name.split("."))
    places = list(_places(workload))
    found = [place for place in places if place[-len(wanted) :] == wanted]
    if wanted in found:
        return wanted
    if not found:
        whole = {".".join(place[-len(wanted) :]): ".".join(place) for place in places}
        close = [whole[tail] for tail in get_close_matches(name, whole, n=5, cutoff=0)]
        raise WorkloadError(
            f"{option} must name a field of the workload, such as {', '.join(close)}, not {name!r}"
        )
    if len(found) > 1:
        known = sorted(".".join(place) for place in found)
        raise WorkloadError(f"{option} must name one of {', '.join(known)}, not {name!r}")
    return found[0]


def changed(workload: Workload, place: Sequence[str], value: Any, told: str) -> Workload:
    """`workload` with the field at `place` replaced.

    The field's annotation says what it may be; members of an enumeration go by their names. Raises
    WorkloadError, which begins with `told`, for a value that it cannot have.
    """
    try:
        return _replaced(workload, place, value)
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"{told}: {error}") from error


def _read(text: str) -> Any:
    """A Python literal, or else the text itself: a name needs no quotes."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _places(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a workload keeps plain numbers, names, paths, switches and what it may leave out."""
    for name, value in _parts(part):
        place = (*above, name)
        if is_dataclass(value) and NoneType in _kinds(part, name, value):
            yield place
        if is_dataclass(value) or isinstance(value, tuple):
            if place not in (("network",), ("accelerator", "dram")):
                yield from _places(value, place)
        elif isinstance(value, bool | int | float | str | Path | Enum | None) and place != (
            "seed",
        ):
            yield place


def _parts(part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, tuple):
        return [(str(place), value) for place, value in enumerate(part)]
    return [(field.name, getattr(part, field.name)) for field in fields(part)]


def _replaced(part: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    old = dict(_parts(part))[name]
    new = _replaced(old, rest, value) if rest else _fitting(_kinds(part, name, old), name, value)
    if isinstance(part, tuple):
        return (*part[: int(name)], new, *part[int(name) + 1 :])
    return replace(part, **{name: new})


def _kinds(owner: Any, name: str, old: Any) -> tuple[type, ...]:
    """What the field `name` of `owner` may be; in a tuple, what it is."""
    if isinstance(owner, tuple):
        return (int, float) if type(old) is int else (type(old),)
    hint = get_type_hints(type(owner))[name]
    return get_args(hint) or (hint,)


def _fitting(kinds: Sequence[type], name: str, value: Any) -> Any:
    """`value` as one of `kinds`; ValueError for one that is none of them."""
    for kind in kinds:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if issubclass(kind, Enum) and isinstance(value, str) and value in kind.__members__:
            return kind[value]
    wanted = [
        KINDS.get(kind) or ", ".join(getattr(kind, "__members__", [f"a {kind.__name__}"]))
        for kind in kinds
    ]
    raise ValueError(f"{name} must be {' or '.join(wanted)}, not {value!r}")

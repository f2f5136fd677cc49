"""Files with parameters of the detectors: YAML, a table a detector, only what differs from the defaults.

What always holds: a file that is taken says what it seems to say. Unknown names, values of another kind and values out of bounds
are refused, all at once, with line and remedy; so are values that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ruamel.yaml.comments import CommentedMap

from broker.anomaly.watching import WatchParameters
from broker.config.detector_parameters import PARAMETERS, Parameter, Value, values_of
from broker.config.reading import ConfigError, Problem, line_of, parse_duration, plain, read_yaml, suggestion

_FACTORS: Final = (1.0, 0.5, 0.8, 1.25, 2.0)
"""What neighbours are of a value."""
_GROUPS: Final = frozenset(
    ".".join(name.split(".")[:depth]) for name in PARAMETERS for depth in range(1, name.count(".") + 1)
)
"""Names that have others below them."""


def load_parameters(path: Path) -> WatchParameters:
    """Read a file of parameters; what it does not name has its default.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    node = read_yaml(path)
    problems: list[Problem] = []
    changed: dict[str, Value] = {}
    for name, written in _leaves(node):
        parameter = PARAMETERS.get(name)
        value = _unknown(name) if parameter is None else _value(parameter, written)
        if isinstance(value, str):
            line = line_of(node, name.split("."))
            problems.append(Problem(file=str(path), line=line, field=name, what=value))
        else:
            changed[name] = value
    if problems:
        raise ConfigError(problems)
    parameters = with_values(WatchParameters(), changed)
    if what := contradiction(parameters):
        field = "retries.honest_refused"
        raise ConfigError(
            [Problem(file=str(path), line=line_of(node, field.split(".")), field=field, what=what)]
        )
    return parameters


def with_values(parameters: WatchParameters, changed: Mapping[str, Value]) -> WatchParameters:
    """The same with other values for some, by name."""
    changed_ones: WatchParameters = _replaced(parameters, changed, "")
    return changed_ones


def neighbours(parameters: WatchParameters, name: str) -> Iterator[WatchParameters]:
    """The same with other values for one of them: somewhat smaller and larger ones, also than the default, within bounds."""
    parameter, value = PARAMETERS[name], values_of(parameters)[name]
    near = (_times(start, factor, parameter) for start in (value, parameter.default) for factor in _FACTORS)
    for one in dict.fromkeys(near):
        found = with_values(parameters, {name: one})
        if one != value and not contradiction(found):
            yield found


def _times(value: Value, factor: float, parameter: Parameter) -> Value:
    changed: Value
    match value:
        case timedelta():
            changed = timedelta(seconds=round(value.total_seconds() * factor))
        case int():
            changed = round(value * factor)
        case float():
            changed = float(f"{value * factor:.6g}")
    return max(parameter.least, min(changed, parameter.most))


def contradiction(parameters: WatchParameters) -> str:
    """What values say against each other; empty where they do not."""
    retries = parameters.retries
    if retries.honest_refused >= retries.probing_refused:
        return "must be below probing_refused: else the test would take honest agents for probing ones"
    return ""


def as_yaml(parameters: WatchParameters) -> str:
    """A file that `load_parameters` reads as these: what differs from the defaults, each with its meaning above it."""
    lines: list[str] = []
    above: tuple[str, ...] = ()
    for name, value in values_of(parameters).items():
        parameter = PARAMETERS[name]
        if value == parameter.default:
            continue
        *groups, last = name.split(".")
        shared = next((n for n, (a, b) in enumerate(zip(above, groups, strict=False)) if a != b), None)
        shared = min(len(above), len(groups)) if shared is None else shared
        lines += [f"{'  ' * depth}{groups[depth]}:" for depth in range(shared, len(groups))]
        above, indent = tuple(groups), "  " * len(groups)
        lines += [f"{indent}# {parameter.meaning}; default: {as_text(parameter.default)}"]
        lines += [f"{indent}{last}: {as_text(value)}"]
    return "\n".join(lines or ["{}"]) + "\n"


def as_text(value: Value) -> str:
    """As it is written in a file."""
    if not isinstance(value, timedelta):
        return repr(value) if isinstance(value, int) else f"{value:.12g}"
    seconds = round(value.total_seconds())
    parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def _replaced(node: Any, changed: Mapping[str, Value], prefix: str) -> Any:  # noqa: ANN401 - any of the dataclasses
    values: dict[str, object] = {}
    for part in fields(node):
        name, own = f"{prefix}{part.name}", getattr(node, part.name)
        if is_dataclass(own):
            values[part.name] = _replaced(own, changed, f"{name}.")
        elif name in changed:
            values[part.name] = changed[name]
    return replace(node, **values)


def _leaves(node: CommentedMap, prefix: str = "") -> Iterator[tuple[str, object]]:
    """What a file says, by name; a table where none belongs, or none where one does, is a leaf as well."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, CommentedMap) and name in _GROUPS:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, plain(value)


def _unknown(name: str) -> str:
    if name in _GROUPS:
        return "is a table of parameters: write them below it"
    above, _, last = name.rpartition(".")
    level = f"{above}." if above else ""
    beside = {one.removeprefix(level).split(".")[0] for one in PARAMETERS if one.startswith(level)}
    return f"unknown parameter{suggestion(last, sorted(beside))}: `tasklease anomaly parameters` lists them"


def _value(parameter: Parameter, written: object) -> Value | str:
    """What is written, or what to write instead."""
    value: Value | None = None
    match parameter.default:
        case timedelta():
            try:
                value = parse_duration(written)
            except ValueError as error:
                return str(error)
        case int() if isinstance(written, int) and not isinstance(written, bool):
            value = written
        case float() if isinstance(written, int | float) and not isinstance(written, bool):
            with suppress(OverflowError):
                value = float(written)
        case _:
            pass
    # Written so that what is no number at all (.nan) is out of bounds as well.
    if value is None or not (parameter.least <= value <= parameter.most):  # type: ignore[operator]  # of one kind
        return f"give a {parameter.kind} from {as_text(parameter.least)} to {as_text(parameter.most)}"
    return value

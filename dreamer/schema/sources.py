"""Reads the declared keys of this project's classes and functions from their source.

To import them takes seconds, as most import torch. So help and a first check of a command line read
them here. It evaluates annotations and nothing else; tests compare the result with `keys_of`.
"""

import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamer.schema.keys import REQUIRED, Key, Keys, declaration, of_parameters

PACKAGE = Path(__file__).parents[1]
# Modules whose names are imported; of all others, the source is read, or only the name is known.
IMPORTED = ("dreamer.schema", "typing", "collections", "functools", "pathlib", "pydantic")


def keys_in_source(target: Any) -> Keys | None:
    """Return the keys of a `_target_` in this project; None if it is elsewhere or does not exist.

    Functions in annotations that check a value do nothing, so more values are allowed.
    """
    module, _, name = str(target).rpartition(".")
    source, found = _definition(_source(module), name)
    if source is None or not isinstance(found, ast.ClassDef | ast.FunctionDef):
        return None
    if isinstance(found, ast.ClassDef) and _is_dataclass(found):
        return Keys(_fields(source, found))
    return _of_signature(source, found)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A module: its statements by the names that they define, and where names are imported from."""

    names: Mapping[str, ast.stmt]
    imports: Mapping[str, tuple[str, str]]  # module, and name there

    def __hash__(self) -> int:
        return id(self)


class _Names(dict):
    """The values of a module's names, found when an annotation uses them."""

    def __init__(self, source: _Source):
        super().__init__()
        self._source = source

    def __missing__(self, name: str) -> Any:
        return _value(self._source, name)


@functools.cache
def _source(module: str) -> _Source | None:
    root, *parts = module.split(".")
    path = PACKAGE.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if root != PACKAGE.name or not path.is_file():
        return None
    names: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]):
                names[name] = statement
            case ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = statement
            case ast.ImportFrom(module=str(origin)):
                for alias in statement.names:
                    imports[alias.asname or alias.name] = (origin, alias.name)
            case ast.Import():
                for alias in statement.names:
                    imports[alias.asname or alias.name.split(".")[0]] = (alias.name, "")
    return _Source(names, imports)


def _definition(source: _Source | None, name: str) -> tuple[_Source, ast.stmt] | tuple[None, None]:
    """Follow a name to the module of this project that defines it."""
    while source and name in source.imports:
        module, name = source.imports[name]
        source = _source(module)
    if source is None or name not in source.names:
        return None, None
    return source, source.names[name]


@functools.cache
def _value(source: _Source, name: str) -> Any:
    """Return what a name stands for; a class is represented by one of the same name."""
    if name in source.imports:
        module, original = source.imports[name]
        if module.startswith(IMPORTED):
            found = importlib.import_module(module)
            return getattr(found, original) if original else found
        origin = _source(module)
        if origin and original in {*origin.names, *origin.imports}:
            return _value(origin, original)
        return type(original or module, (), {})
    match source.names.get(name):
        case ast.ClassDef() as found:
            return _stand_in(source, found)
        case ast.FunctionDef():
            return lambda value, **options: value  # the check of a value
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return _evaluate(source, value)
    return getattr(builtins, name)


def _stand_in(source: _Source, found: ast.ClassDef) -> type:
    """Make a class that stands for another in annotations."""
    bases = {ast.unparse(base) for base in found.bases}
    if hints := _items(source, found):
        return type(found.name, (), {"__annotations__": hints, "__module__": __name__})
    is_object = _is_dataclass(found) or any(base.startswith("Protocol") for base in bases)
    return type(found.name, (), {"_is_protocol": is_object})  # then only nodes are allowed


def _evaluate(source: _Source, expression: ast.expr) -> Any:
    code = compile(ast.Expression(expression), "annotation", "eval")
    return eval(code, {"__builtins__": {}}, _Names(source))


def _hint(source: _Source, annotation: ast.expr | None) -> Any:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _hint(source, ast.parse(annotation.value, mode="eval").body)  # a forward reference
    try:
        return Any if annotation is None else _evaluate(source, annotation)
    except (AttributeError, TypeError):  # it uses an object of a package that is not imported
        return Any


def _is_dataclass(found: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(line) for line in found.decorator_list)


def _bases(source: _Source, found: ast.ClassDef) -> Iterator[tuple[_Source, ast.ClassDef]]:
    """Yield the base classes that are in this project, the last one first."""
    for base in reversed(found.bases):
        place, definition = _definition(source, ast.unparse(base))
        if place and isinstance(definition, ast.ClassDef):
            yield place, definition


def _items(source: _Source, found: ast.ClassDef) -> dict[str, Any]:
    """Return the annotations of a `TypedDict`, those of its bases first; of other classes none."""
    inherited = [_items(*base) for base in _bases(source, found)]
    if not any(inherited) and "TypedDict" not in {ast.unparse(base) for base in found.bases}:
        return {}
    named = {name: hint for items in inherited for name, hint in items.items()}
    for line in found.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            named[line.target.id] = _hint(source, line.annotation)
    return named


def _fields(source: _Source, found: ast.ClassDef) -> dict[str, Key]:
    """Return the keys of a dataclass, those of its bases first."""
    named: dict[str, Key] = {}
    for place, base in _bases(source, found):
        named |= _fields(place, base) if _is_dataclass(base) else {}
    for line in found.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(line.annotation):
            continue
        hint = _hint(source, line.annotation)
        default = REQUIRED if line.value is None else _default(source, line.value)
        named[line.target.id] = declaration(hint, default)
    return named


def _default(source: _Source, value: ast.expr) -> Any:
    match value:
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            given = {word.arg: _evaluate(source, word.value) for word in keywords}
            return given["default_factory"]() if "default_factory" in given else given["default"]
        case ast.Call() | ast.Attribute():  # an object of some package
            return ...
    return _evaluate(source, value)


def _of_signature(source: _Source, found: ast.ClassDef | ast.FunctionDef) -> Keys:
    """Return the keys of a function, or of the constructor of a class."""
    if isinstance(found, ast.ClassDef):
        place, function = _constructor(source, found)
        if function is None:
            return Keys({})
    else:
        place, function = source, found
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    pairs = zip(positional, [*missing, *arguments.defaults], strict=True)
    kinds = inspect.Parameter
    parameters = [(kinds.POSITIONAL_OR_KEYWORD, *pair) for pair in pairs]
    parameters = parameters[1:] if isinstance(found, ast.ClassDef) else parameters  # no `self`
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters += [(kinds.KEYWORD_ONLY, *pair) for pair in named]
    if arguments.kwarg:
        parameters.append((kinds.VAR_KEYWORD, arguments.kwarg, None))
    return of_parameters(
        kinds(
            argument.arg,
            kind,
            default=REQUIRED if default is None else _default(place, default),
            annotation=_hint(place, argument.annotation),
        )
        for kind, argument, default in parameters
    )


def _constructor(source: _Source, found: ast.ClassDef) -> tuple[_Source, ast.FunctionDef | None]:
    for line in found.body:
        if isinstance(line, ast.FunctionDef) and line.name == "__init__":
            return source, line
    for place, base in reversed([*_bases(source, found)]):
        where, function = _constructor(place, base)
        if function:
            return where, function
    return source, None

"""Reads DSPy's string form, ``"text -> label: Literal['a', 'b'], urgent: bool"``, without DSPy or eval."""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from . import _signature_types as sigtypes
from ._signature_names import name_problem, normalise_name
from ._signature_source import Source
from .errors import SignatureError, nearest

__all__ = ["ParsedField", "parse_signature", "parse_type"]

MAX_DEPTH = 32
_STRING = (
    r"'''(?:\\[^\r\n]|[^\\\r\n])*?'''|\"\"\"(?:\\[^\r\n]|[^\\\r\n])*?\"\"\""
    r"|'(?!'')(?:\\[^\r\n]|[^\\'\r\n])*'|\"(?!\"\")(?:\\[^\r\n]|[^\\\"\r\n])*\""
)
_TOKEN = re.compile(
    rf"(?P<string>(?:(?<!\w)[A-Za-z]{{1,2}})?(?:{_STRING}))|(?P<arrow>->)|(?P<mark>[\[\](){{}},:=#'\"])"
)
_CLOSER = {"[": "]", "(": ")", "{": "}"}
_NEWLINES = re.compile(r"[\r\n\f]")
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class ParsedField(NamedTuple):
    """One field of a signature string; ``classes`` are a Literal's values in the order they were written."""

    name: str
    annotation: Any
    classes: tuple[Any, ...]


class _Marks(NamedTuple):
    """Positions of what separates fields: everything outside strings and brackets."""

    arrows: list[int]
    commas: list[int]
    colons: list[int]
    equals: list[int]


def _scan(source: Source) -> _Marks:
    marks = _Marks([], [], [], [])
    keep = {",": marks.commas, ":": marks.colons, "=": marks.equals}
    open_brackets: list[tuple[str, int]] = []
    string_end = -1
    for match in _TOKEN.finditer(source.text):
        token, at = match.group(), match.start()
        if match["string"]:
            if string_end >= 0 and not source.text[string_end:at].strip():
                raise source.error(
                    "a comma is missing between two strings", at, match.end(), hint="Put a comma before it"
                )
            string_end = match.end()
        elif match["arrow"]:
            if not open_brackets:
                marks.arrows.append(at)
        elif token in _CLOSER:
            open_brackets.append((token, at))
            if len(open_brackets) > MAX_DEPTH:
                raise source.error(
                    "brackets are nested too deep", at, hint=f"At most {MAX_DEPTH} levels are read"
                )
        elif token in _CLOSER.values():
            if not open_brackets or _CLOSER[open_brackets.pop()[0]] != token:
                raise source.error(f"{token!r} closes nothing", at, hint="Check the brackets before it")
        elif token in "'\"":
            raise source.error(
                "this quote is never closed", at, hint=f"Close it with {token} on the same line"
            )
        elif token == "#":
            raise source.error("a comment cannot stand here", at, hint="Put it outside the string")
        elif not open_brackets:
            keep[token].append(at)
    if open_brackets:
        token, at = open_brackets[-1]
        raise source.error(f"{token!r} is never closed", at, hint=f"Add {_CLOSER[token]!r}")
    return marks


def parse_signature(text: str) -> tuple[list[ParsedField], list[ParsedField]]:
    """The input and the output fields of a signature string.

    Raises:
        SignatureError: anything that is not ``inputs -> outputs`` with typed, distinct, usable names.
    """
    source = Source(text)
    marks = _scan(source)
    if not marks.arrows:
        raise source.error(
            "there is no '->'", len(text.rstrip()), hint="Write 'inputs -> outputs', as in 'text -> label'"
        )
    if len(marks.arrows) > 1:
        at = marks.arrows[1]
        raise source.error(
            "there is a second '->'", at, at + 2, hint="One '->' parts the inputs from the outputs"
        )
    arrow = marks.arrows[0]
    seen: dict[str, str] = {}
    inputs = _parse_side(source, marks, 0, arrow, "input", seen)
    return inputs, _parse_side(source, marks, arrow + 2, len(text), "output", seen)


def _parse_side(
    source: Source, marks: _Marks, start: int, end: int, role: str, seen: dict[str, str]
) -> list[ParsedField]:
    if not source.text[start:end].strip():
        raise source.error(
            f"there is no {role} field",
            start if role == "output" else end,
            hint=f"Name at least one {role} {'after' if role == 'output' else 'before'} the '->'",
        )
    cuts = [c for c in marks.commas if start <= c < end]
    if cuts and not source.text[cuts[-1] + 1 : end].strip() and source.text[start : cuts[-1]].strip():
        end = cuts.pop()  # a trailing comma, which Python and DSPy allow
    fields = []
    for lo, hi in zip([start, *(c + 1 for c in cuts)], [*cuts, end], strict=True):
        fields.append(_parse_field(source, marks, lo, hi, role, seen))
    return fields


def _parse_field(
    source: Source, marks: _Marks, lo: int, hi: int, role: str, seen: dict[str, str]
) -> ParsedField:
    equal = next((e for e in marks.equals if lo <= e < hi), None)
    if equal is not None:
        hint = "A signature holds no default values: pass the value in each call"
        raise source.error("a default value cannot be given", equal, hi, hint=hint)
    colon = next((c for c in marks.colons if lo <= c < hi), hi)
    raw = source.text[lo:colon]
    name_at = lo + len(raw) - len(raw.lstrip())
    if not raw.strip():
        raise source.error(
            "a field name is missing", min(name_at, hi), hint="Write a name before each ',' or ':'"
        )
    name = normalise_name(raw.strip())
    problem = name_problem(name)
    if problem:
        raise source.error(problem[0], name_at, name_at + len(raw.strip()), hint=problem[1])
    if name in seen:
        what = f"{name!r} is an {seen[name]} field already"
        raise source.error(
            what, name_at, name_at + len(raw.strip()), hint="Give each field its own name", field=name
        )
    seen[name] = role
    if colon == hi:
        return ParsedField(name, str, ())
    reader = _TypeReader(source, colon + 1, hi, name, {}, None)
    return ParsedField(name, reader.read(), tuple(reader.literals))


def parse_type(
    text: str,
    field: str,
    *,
    aliases: Mapping[str, str] | None = None,
    dspy_type: Callable[[str], Any] | None = None,
) -> tuple[Any, tuple[Any, ...]]:
    """The type that a text such as ``"list[Literal['a', 'b']]"`` names, and its Literal values in order.

    Args:
        text: the type as it would follow the ``:`` in a signature string.
        field: the field it is for, for error messages.
        aliases: further names for types, as ``{"string": "str"}``.
        dspy_type: makes a type of a dotted name below ``dspy``; without it that becomes a NamedType.

    Raises:
        SignatureError: the text names no type.
    """
    source = Source(text, "type", field)
    marks = _scan(source)
    strays = sorted(marks.arrows + marks.commas + marks.colons + marks.equals)
    if strays:
        raise source.error("this does not belong into a type", strays[0], hint="Give one type, such as 'str'")
    reader = _TypeReader(source, 0, len(text), field, aliases or {}, dspy_type)
    return reader.read(), tuple(reader.literals)


class _TypeReader:
    """Turns one annotation's syntax tree into the type that DSPy would make of it."""

    def __init__(
        self,
        source: Source,
        start: int,
        end: int,
        field: str,
        aliases: Mapping[str, str],
        dspy_type: Callable[[str], Any] | None,
    ) -> None:
        self.source, self.field, self.aliases, self.dspy_type = source, field, aliases, dspy_type
        raw = source.text[start:end]
        self.start = start + len(raw) - len(raw.lstrip())
        self.text = _NEWLINES.sub(" ", raw.strip())
        self.literals: list[Any] = []

    def read(self) -> Any:
        if not self.text:
            raise self.source.error(
                "a type is missing",
                self.start - 1,
                hint="Write one, such as 'str', or drop the ':'",
                field=self.field,
            )
        odd = _UNREADABLE.search(self.text)
        if odd:
            at, hint = self.start + odd.start(), f"Write it as an escape: {odd.group()!r}"
            raise self.source.error("this character cannot stand here", at, hint=hint, field=self.field)
        try:
            # The parentheses let an annotation span what were several lines.
            body = ast.parse(f"({self.text})", mode="eval").body
            found = self.type_of(body)
        except SyntaxError as error:
            at = self.start + max(0, min((error.offset or 2) - 2, len(self.text) - 1))
            raise self.source.error("this is no type", at, hint=_TYPE_HINT, field=self.field) from None
        except (ValueError, MemoryError, RecursionError):
            # A number of thousands of digits, or an expression that is nested without brackets.
            raise self.source.error(
                "this type is too complex", self.start, hint="Write a simpler one", field=self.field
            ) from None
        if found is None:
            raise self.error(
                "None is no type for a field", body, "Write 'Optional[...]', or 'NoneType' if you mean it"
            )
        return found

    def error(self, what: str, node: ast.expr, hint: str) -> SignatureError:
        data = f"({self.text})".encode()
        start = self.start - 1 + len(data[: node.col_offset].decode())
        end = self.start - 1 + len(data[: node.end_col_offset].decode())
        return self.source.error(what, start, end, hint=hint, field=self.field)

    def type_of(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name | ast.Attribute):
            found = self.named(node)
            if sigtypes.needs_brackets(found):
                name = ast.unparse(node)
                raise self.error(
                    f"{name} needs a type in brackets", node, f"Write {name}[...]{_BARE.get(name, '')}"
                )
            return found
        if isinstance(node, ast.Subscript):
            return self.subscripted(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self.build(node, typing.Union, (self.type_of(node.left), self.type_of(node.right)))
        if isinstance(node, ast.Constant):
            if node.value is None:
                return None
            what = (
                "a type is written without quotes"
                if isinstance(node.value, str)
                else "this is a value, not a type"
            )
            raise self.error(what, node, "For a fixed set of values write Literal[...]")
        raise self.error("this is no type", node, _TYPE_HINT)

    def named(self, node: ast.Name | ast.Attribute) -> Any:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self.error("this is no type", node, _TYPE_HINT)
        name = ".".join([inner.id, *reversed(parts)])
        found = sigtypes.resolve_name(self.aliases.get(name, name), self.dspy_type)
        if found is None:
            raise self.error(f"unknown type {sigtypes.short(name)}", node, _unknown_hint(name, self.aliases))
        return found

    def subscripted(self, node: ast.Subscript) -> Any:
        if not isinstance(node.value, ast.Name | ast.Attribute):
            raise self.error("this is no type", node.value, _TYPE_HINT)
        base = self.named(node.value)
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            if isinstance(base, sigtypes.NamedType):
                return sigtypes.NamedType(f"{base.name}[{node.slice.value!r}]")  # as in dspy.Code['python']
            if base.__module__.startswith("dspy."):
                return base[node.slice.value]
        items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if base is Literal:
            return Literal[tuple(self.literal_values(node, items))]
        takes_dots = base in (tuple, typing.Tuple)  # noqa: UP006
        args = [
            ... if takes_dots and isinstance(i, ast.Constant) and i.value is ... else self.type_of(i)
            for i in items
        ]
        return self.build(node, base, tuple(args))

    def build(self, node: ast.expr, base: Any, args: tuple[Any, ...]) -> Any:
        try:
            return sigtypes.subscript(base, args)
        except TypeError as error:
            raise self.error(
                f"this type cannot be made ({error})", node, "Check what stands between the brackets"
            ) from None

    def literal_values(self, node: ast.Subscript, items: list[ast.expr]) -> list[Any]:
        if not items:
            raise self.error("a Literal without values", node, "Write them as in Literal['a', 'b']")
        values: list[Any] = []
        seen: dict[Any, Any] = {}
        for item in items:
            value = self.literal_value(item)
            if value in seen:
                raise self.error(sigtypes.clash(seen[value], value), item, sigtypes.CLASH_HINT)
            seen[value] = value
            values.append(value)
        self.literals += values
        return values

    def literal_value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = node.operand
            if isinstance(inner, ast.Constant) and type(inner.value) is int:
                return -inner.value
        if isinstance(node, ast.Constant) and (
            node.value is None or isinstance(node.value, str | bool | bytes) or type(node.value) is int
        ):
            return node.value
        what = "only strings, whole numbers, True, False and None can be in a Literal"
        hint = (
            f"Write {sigtypes.short(node.id)} in quotes"
            if isinstance(node, ast.Name)
            else "Write it as a string"
        )
        raise self.error(what, node, hint)


_TYPE_HINT = "Write a type such as str, bool, int, float, list[str] or Literal['a', 'b']"
_BARE = {"List": ", or list", "Dict": ", or dict", "Tuple": ", or tuple", "Set": ", or set"}


def _unknown_hint(name: str, aliases: Mapping[str, str]) -> str:
    if name in sigtypes.ALIASES:
        return f"Write {sigtypes.ALIASES[name]}"
    if name in sigtypes.SAFE_MODULES:
        return f"{name} is a module: name the type in it, as in datetime.date"
    full = next((s for s in sigtypes.SUGGESTED if s.endswith(f".{name}")), None)
    if full:
        return f"Write {full}"
    hint = nearest(name, [*sigtypes.SUGGESTED, *aliases])
    own = "For a type of your own pass the dspy.Signature class itself"
    return f"{hint}{'' if hint.endswith('?') else '.'} {own}"

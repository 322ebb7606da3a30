"""The API to read and to try, made from the document at ``/openapi.json``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from tornado.escape import xhtml_escape

Json = Mapping[str, Any]

_METHODS = ("get", "post", "put", "patch", "delete")

_CODE = re.compile(r"`([^`]+)`")


class Field(NamedTuple):
    """A parameter, or a field of a body.

    ``example`` is what a form is filled with; empty for what is optional.
    """

    name: str
    place: str
    kind: str
    required: bool
    about: str
    example: str = ""


class Answer(NamedTuple):
    """The responses of one status. ``problems`` are the sentences of an error."""

    status: str
    about: str
    example: str
    problems: list[str]


class Operation(NamedTuple):
    """One method of one path, as the page shows it."""

    id: str
    method: str
    path: str
    summary: str
    about: str
    parameters: list[Field]
    body: list[Field]
    body_examples: list[tuple[str, str]]
    answers: list[Answer]

    def curl(self, server: str) -> str:
        """A command for a shell that sends it.

        Args:
            server: the address of the server, without a slash at the end.
        """
        values = {each.name: quote(each.example, safe="") for each in self.parameters if each.place == "path"}
        command = "curl" if self.method == "get" else f"curl -X {self.method.upper()}"
        command += f" {shlex.quote(server + self.path.format(**values))}"
        if self.body_examples:
            compact = json.dumps(json.loads(self.body_examples[0][1]), ensure_ascii=False)
            command += f" \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(compact)}"
        return command


class Group(NamedTuple):
    """The operations of one tag."""

    name: str
    about: str
    operations: list[Operation]


def groups_of(document: Json) -> list[Group]:
    """The operations of an OpenAPI document by their first tag, in the document's order.

    HEAD and OPTIONS are left out: each path has them.
    """
    reader = _Reader(document)
    by_tag: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                tag = item[method]["tags"][0]
                by_tag.setdefault(tag, []).append(reader.operation(path, method, item))
    abouts = {tag["name"]: tag.get("description", "") for tag in document["tags"]}
    return [Group(name, abouts.get(name, ""), found) for name, found in by_tag.items() if found]


def code(text: str) -> str:
    """Text as HTML, what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", xhtml_escape(text))


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of Markdown as HTML, see `code`."""
    return (code(part) for part in text.strip().split("\n\n") if part)


class _Reader:
    """Reads operations, references resolved. Lives as long as the page is made."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def operation(self, path: str, method: str, item: Json) -> Operation:
        described = item[method]
        parameters = [*item.get("parameters", ()), *described.get("parameters", ())]
        content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = content.get("examples", {})
        return Operation(
            id=described["operationId"],
            method=method,
            path=path,
            summary=described.get("summary", ""),
            about=described.get("description", ""),
            parameters=[
                self._parameter(each)
                for each in map(self._resolved, parameters)
                if each["name"] != "X-Request-Id"
            ],
            body=[*self._fields(content["schema"])] if "schema" in content else [],
            body_examples=[
                (each.get("summary", name), _pretty(each["value"])) for name, each in examples.items()
            ],
            answers=[
                self._answer(status, self._resolved(each)) for status, each in described["responses"].items()
            ],
        )

    def _resolved(self, described: Json) -> Json:
        while "$ref" in described:
            found: Json = self._document
            for step in described["$ref"].removeprefix("#/").split("/"):
                found = found[step.replace("~1", "/").replace("~0", "~")]
            described = found
        return described

    def _parameter(self, described: Json) -> Field:
        required = described.get("required", False)
        return Field(
            name=described["name"],
            place=described["in"],
            kind=self._kind(described["schema"]),
            required=required,
            about=described.get("description", ""),
            # An optional one is sent where it was filled in, and not because it has an example.
            example=str(described.get("example", "")) if required else "",
        )

    def _fields(self, schema: Json) -> Iterable[Field]:
        schema = self._resolved(schema)
        for name, described in schema.get("properties", {}).items():
            about = described.get("description") or self._resolved(described).get("description", "")
            yield Field(name, "body", self._kind(described), name in schema.get("required", ()), about)

    def _answer(self, status: str, described: Json) -> Answer:
        example, problems = "", []
        for media_type, content in described.get("content", {}).items():
            for each in content.get("examples", {}).values():
                if media_type == "application/problem+json":
                    problems.append(each.get("summary", ""))
                elif not example:
                    value = each["value"]
                    example = value if isinstance(value, str) else _pretty(value)
        return Answer(status, described["description"], example, problems)

    def _kind(self, schema: Json) -> str:
        """A schema in a few words: ``integer 1 to 1000``, ``string or null``."""
        arms = schema.get("anyOf") or schema.get("oneOf")
        if arms:
            return " or ".join(dict.fromkeys(self._kind(arm) for arm in arms))
        if "$ref" in schema:
            schema = self._resolved(schema)
        if "enum" in schema:
            return " | ".join(map(str, schema["enum"]))
        if "const" in schema:
            return str(schema["const"])
        kind = str(schema.get("format") or schema.get("type") or "any")
        if schema.get("type") == "array":
            kind = f"array of {self._kind(schema.get('items', {}))}"
        least = schema.get("minimum", schema.get("minLength", schema.get("minItems")))
        most = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
        if most is not None and most < 2**53:
            kind += f" {'up to' if least is None else f'{least:,} to'} {most:,}"
        elif least is not None:
            kind += f" from {least:,}"
        return kind


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

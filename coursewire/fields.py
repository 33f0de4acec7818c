"""marshmallow fields that take exactly what an LMS documents, and nothing that merely looks like it.

Every field is optional: absent and null both load as None. Strings are no numbers, numbers are no booleans
(but where 0 and 1 are documented), and a float is no id. What a database could not keep is refused here: NUL,
lone surrogates, integers beyond 64 bits. Messages name the rule and never the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, TypeVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow import missing as absent

T = TypeVar("T")

# The widths that a table may rely on.
ID_LENGTH = 255
EMAIL_LENGTH = 320
TITLE_LENGTH = 1000
WIRE_TYPE_LENGTH = 128

INT64 = range(-(2**63), 2**63)


class Strict(fields.Field[T]):
    """The base of the fields below: optional, and without the cost of validators where there are none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(load_default=None, allow_none=True, **kwargs)

    def _validate(self, value: Any) -> None:
        # marshmallow makes a new chain of validators at each call, even of none.
        if self.validators:
            super()._validate(value)


class Text(Strict[str]):
    """A string. Without `longest` it may be of any length, as free text is."""

    def __init__(self, longest: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if type(value) is not str:
            raise ValidationError("must be a string")
        if self.longest is not None and len(value) > self.longest:
            raise ValidationError(f"must be at most {self.longest} characters long")
        if "\0" in value:
            raise ValidationError("must not contain NUL")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValidationError("must not contain lone surrogates") from None
        return value


class Id(Text):
    """An identifier, always loaded as a string. `numbers`: this LMS sends its ids as integers."""

    def __init__(self, *, numbers: bool = False, **kwargs: Any) -> None:
        super().__init__(ID_LENGTH, **kwargs)
        self.numbers = numbers

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if self.numbers:
            if type(value) is int:
                if value not in INT64:
                    raise ValidationError("must be an integer of at most 64 bits")
                return str(value)
            if type(value) is not str:
                raise ValidationError("must be an integer or a string")
        text = super()._deserialize(value, attr, data, **kwargs)
        if not text or text.isspace():
            raise ValidationError("must not be empty")
        return text


class Number(Strict[float]):
    """A finite JSON number; an integral one loads as an int, so that 95 and 95.0 are the same."""

    def __init__(self, *, least: float | None = None, most: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.least = least
        self.most = most

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        kind = type(value)
        if kind is not int and kind is not float:
            raise ValidationError("must be a number")
        # orjson reads an integer beyond 64 bits as a float, so the size of both is looked at.
        if not math.isfinite(value) or not -(2**63) <= value < 2**63:
            raise ValidationError("must be a finite number of at most 64 bits")
        if self.least is not None and value < self.least:
            raise ValidationError(f"must be at least {self.least}")
        if self.most is not None and value > self.most:
            raise ValidationError(f"must be at most {self.most}")
        if kind is float and value.is_integer():
            return int(value)
        return value  # type: ignore[no-any-return]


class Boolean(Strict[bool]):
    """true or false, nothing else."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError("must be true or false")
        return value


class Flag(Strict[bool]):
    """A boolean that this LMS documents as 0 or 1; true and false are taken as well."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if type(value) is bool:
            return value
        if type(value) is not int or value not in (0, 1):
            raise ValidationError("must be 0 or 1")
        return value == 1


class Choice(Text):
    """One of the documented words; loads as what it is mapped to."""

    def __init__(self, words: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = dict(words)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if type(value) is not str or value not in self.words:
            raise ValidationError(f"must be one of: {', '.join(self.words)}")
        return self.words[value]


class Temporal(Strict[T]):
    """A time in one textual form: `pattern` fixes the form, `parse` the calendar. Unlike `fromisoformat`
    alone, it takes no other form that Python happens to know."""

    pattern: re.Pattern[str]
    form: str

    def parse(self, text: str) -> T:
        raise NotImplementedError

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> T:
        if type(value) is not str:
            raise ValidationError(f"must be a string of the form {self.form}")
        if not self.pattern.fullmatch(value):
            raise ValidationError(f"must be of the form {self.form}")
        try:
            return self.parse(value)
        except ValueError:
            raise ValidationError("must be a time that exists") from None


class Timestamp(Temporal[datetime]):
    """An ISO 8601 time with any offset and any fraction; loads as UTC. One without an offset is refused."""

    pattern = re.compile(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?"
        r"([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)?"
    )
    form = "2014-04-18T00:59:12Z (ISO 8601)"

    def parse(self, text: str) -> datetime:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            raise ValidationError("must have an offset or Z: a time without a zone is not documented")
        return in_utc(moment)


class LocalDateTime(Temporal[datetime]):
    """`yyyy-MM-dd HH:mm:ss`, without a zone; loads naive."""

    pattern = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
    form = "yyyy-MM-dd HH:mm:ss"

    def parse(self, text: str) -> datetime:
        return datetime.fromisoformat(text)


class DayFirstDateTime(Temporal[datetime]):
    """`dd/MM/yyyy HH:mm:ss`, without a zone; loads naive."""

    pattern = re.compile(r"[0-9]{2}/[0-9]{2}/[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}")
    form = "dd/MM/yyyy HH:mm:ss"

    def parse(self, text: str) -> datetime:
        return datetime.fromisoformat(f"{text[6:10]}-{text[3:5]}-{text[:2]} {text[11:]}")


class Date(Temporal[date]):
    """`yyyy-MM-dd`."""

    pattern = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
    form = "yyyy-MM-dd"

    def parse(self, text: str) -> date:
        return date.fromisoformat(text)


class Time(Temporal[time]):
    """`HH:mm:ss`."""

    pattern = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}")
    form = "HH:mm:ss"

    def parse(self, text: str) -> time:
        return time.fromisoformat(text)


class JsonObject(Schema):
    """The base of every schema: one JSON object, whose unknown fields are kept but not mixed in.

    marshmallow's INCLUDE would let an unknown field take the place of a known one of another name, costs a
    set of all names at each load, and does not reach nested schemas. So unknown fields are left out of what
    is loaded, and `unknown_in` finds them.
    """

    class Meta:
        unknown = EXCLUDE

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._known = frozenset(field.data_key or name for name, field in self.load_fields.items())
        self._parts = tuple(
            (field.data_key or name, field)
            for name, field in self.load_fields.items()
            if isinstance(field, Part)
        )

    def unknown_in(self, item: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
        """The dotted path and value of every field of `item`, at any level, that no schema knows.

        `item` must have loaded. Dots and backslashes within a name are escaped by a backslash.
        """
        if not item.keys() <= self._known:
            for name in item.keys() - self._known:
                yield path + name.replace("\\", "\\\\").replace(".", "\\."), item[name]
        for name, part in self._parts:
            value = item.get(name)
            if type(value) is dict:
                yield from part.shape.unknown_in(value, f"{path}{name}.")
            elif type(value) is list:
                for index, element in enumerate(value):
                    yield from part.shape.unknown_in(element, f"{path}{name}.{index}.")


class Part(fields.Nested):
    """A nested object. Absent and null load as the object with every field None, so mappings need not ask."""

    def __init__(self, shape: type[JsonObject], **kwargs: Any) -> None:
        super().__init__(shape, **kwargs)
        self.shape = shape()
        self._empty: Any = self.shape.load({})

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        if value is None or value is absent:
            return self._empty
        return self._deserialize(value, attr, data)

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, partial: Any = None, **kwargs: Any
    ) -> Any:
        if type(value) is not dict:
            raise ValidationError("must be an object")
        return self.shape.load(value)


class Parts(Part):
    """An array of objects; absent and null load as an empty list."""

    def __init__(self, shape: type[JsonObject], **kwargs: Any) -> None:
        super().__init__(shape, **kwargs)
        self._empty = []

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, partial: Any = None, **kwargs: Any
    ) -> Any:
        if type(value) is not list:
            raise ValidationError("must be an array of objects")
        loaded, errors = [], {}
        for index, element in enumerate(value):
            try:
                loaded.append(super()._deserialize(element, attr, data))
            except ValidationError as exc:
                errors[index] = exc.messages
        if errors:
            raise ValidationError(errors)
        return loaded


class OneOrMany(Parts):
    """An object here and an array of objects there, in the same documentation. Loads a list."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, partial: Any = None, **kwargs: Any
    ) -> Any:
        if type(value) is dict:
            return [self.shape.load(value)]
        if type(value) is not list:
            raise ValidationError("must be an object or an array of objects")
        return super()._deserialize(value, attr, data)


class Objects(Strict[list[dict[str, Any]]]):
    """An array of objects that are not documented further; kept as they are."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if type(value) is not list or not all(type(element) is dict for element in value):
            raise ValidationError("must be an array of objects")
        return value


def in_utc(moment: datetime) -> datetime:
    """An aware time in UTC. Where the calendar ends before that, the offset is dropped."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return moment.replace(tzinfo=UTC)


def field_errors(error: ValidationError) -> dict[str, list[str]]:
    """marshmallow's nested messages as {dotted path: [rules]}. The paths hold names of known fields only."""
    found: dict[str, list[str]] = {}

    def collect(messages: Any, path: str) -> None:
        if isinstance(messages, dict):
            for name, inner in messages.items():
                collect(inner, path if name == "_schema" else f"{path}.{name}" if path else str(name))
        else:
            found.setdefault(path, []).extend(map(str, messages))

    collect(error.messages, "")
    return found

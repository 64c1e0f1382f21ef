"""The outputs of a site file: one strict model for each type, and one line for each error."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeasd.runtime.errors import InputError, describe_validation_error, printable
from edgeasd.runtime.outputs.messages import Kind
from edgeasd.runtime.storage.outbox import OutboxLimits

_Seconds = Annotated[float, Field(gt=0, le=3600.0, allow_inf_nan=False)]
_Hours = Annotated[float, Field(gt=0, le=87_600.0, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
_OUTPUT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_EVERYTHING: tuple[Kind, ...] = ("event", "score", "health", "trend", "status", "start", "stop")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class _Delivering(_Strict):
    """What every output that delivers messages has.

    All outputs read one outbox. It holds a message as long as the output that keeps messages longest: the largest
    of each limit over all outputs applies, see `outbox_limits`.
    """

    kinds: list[Kind] = Field(default=list(_EVERYTHING), min_length=1)
    """Which kinds of messages it gets."""
    queue_megabytes: Annotated[float, Field(ge=0.1, le=65_536.0, allow_inf_nan=False)] = 64.0
    """Size of the outbox at most; beyond it scores are dropped first, events last."""
    queue_hours: _Hours = 168.0
    """Messages other than events are dropped after this time."""
    queue_event_hours: _Hours = 2160.0
    """Events are dropped after this time."""
    retry_first_seconds: _Seconds = 1.0
    """Wait after the first failure; doubled after each one that follows."""
    retry_longest_seconds: _Seconds = 60.0
    """Longest wait between attempts."""


class JsonlSettings(_Delivering):
    """A file with one JSON object on each line."""

    type: Literal["jsonl"]
    path: _Text
    """The file; its folder must exist."""
    rotate_megabytes: Annotated[float, Field(ge=0.01, le=65_536.0, allow_inf_nan=False)] = 64.0
    """A new file is begun beyond this size."""
    rotate_hours: _Hours | None = None
    """A new file is begun after this time."""
    keep: Annotated[int, Field(ge=0, le=10_000)] = 8
    """Earlier files that are kept, as PATH.1 (the latest), PATH.2, …; with 0 edgeasd never begins a new file."""


class _Remote(_Delivering):
    """What every output over a network has."""

    url: _Text
    timeout_seconds: _Seconds = 10.0
    """An attempt fails after this time."""
    ca_file: _Text | None = None
    """Certificates to trust, PEM; those of the system by default."""
    certificate_file: _Text | None = None
    """Certificate of this client, PEM."""
    key_file: _Text | None = None
    """Its private key, PEM without a passphrase."""
    allow_plain_text: bool = False
    """Send secrets and messages without TLS beyond this machine."""

    @model_validator(mode="after")
    def _pair(self) -> _Remote:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together; give both")
        return self


class MqttSettings(_Remote):
    """An MQTT broker."""

    type: Literal["mqtt"]
    protocol: Literal["3.1.1", "5"] = "5"
    """Version of MQTT. With 3.1.1 a broker cannot say that it discards a message: it counts as delivered."""
    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Id of this client; by default a random id of this installation and the name of the output. A broker disconnects
    a client when another one with its id connects."""
    username: _Text | None = None
    password_file: _Text | None = None
    """File that holds the password."""
    password_env: _Variable | None = None
    """Environment variable that holds the password."""
    prefix: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f+#$/][^\x00-\x1f\x7f+#]{0,127}$")] = "edgeasd"
    """First levels of every topic."""
    keepalive_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """The broker publishes `offline` after one and a half times as long without a sign of life."""
    discovery: bool = False
    """Announce the machines to Home Assistant."""
    discovery_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,64}$")] = "homeassistant"
    commands: bool = False
    """Take commands from the command topics. Every client that may publish there may silence alarms."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = split_url(value, ("mqtt", "mqtts"))
        if parts.path not in ("", "/") or parts.query:
            raise ValueError("has a path; give mqtt://HOST:PORT or mqtts://HOST:PORT, and topics by prefix")
        return value

    @field_validator("prefix")
    @classmethod
    def _levels(cls, value: str) -> str:
        if "" in value.split("/"):
            raise ValueError("has an empty level; give levels such as plant/edgeasd")
        return value

    @model_validator(mode="after")
    def _credentials(self) -> MqttSettings:
        secret = one_of(self.password_file, self.password_env, "password_file", "password_env")
        if secret and self.username is None:
            raise ValueError("a password is given without username; give both")
        parts = urlsplit(self.url)
        if secret and parts.scheme == "mqtt" and not (is_loopback(parts.hostname) or self.allow_plain_text):
            where = f"url {parts.scheme}://{parts.netloc}"
            remedy = "the password would be sent in plain text; use mqtts://, or set allow_plain_text = true"
            raise ValueError(f"{where}: {remedy}")
        if parts.scheme == "mqtt" and (self.ca_file or self.certificate_file):
            raise ValueError("certificates are given for mqtt://, which uses none; use mqtts://")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the broker."""
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or (8883 if parts.scheme == "mqtts" else 1883)


class WebhookSettings(_Remote):
    """A web server that takes each message as a POST, with the headers of Standard Webhooks."""

    type: Literal["webhook"]
    kinds: list[Kind] = Field(default=["event"], min_length=1)
    """Which kinds of messages it gets."""
    secret_file: _Text | None = None
    """File that holds the key of the signature: `whsec_` and base64, or any text."""
    secret_env: _Variable | None = None
    """Environment variable that holds the key of the signature."""
    token_file: _Text | None = None
    """File that holds a token, sent as `Authorization: Bearer`."""
    token_env: _Variable | None = None
    """Environment variable that holds that token."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        split_url(value, ("http", "https"))
        return value

    @model_validator(mode="after")
    def _safe(self) -> WebhookSettings:
        one_of(self.secret_file, self.secret_env, "secret_file", "secret_env")
        one_of(self.token_file, self.token_env, "token_file", "token_env")
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not (is_loopback(parts.hostname) or self.allow_plain_text):
            # Without path and query, which may hold a token.
            where = f"url {parts.scheme}://{parts.netloc}"
            raise ValueError(f"{where}: would be sent in plain text; use https://, or set allow_plain_text = true")
        return self


class PrometheusSettings(_Strict):
    """A page of metrics that Prometheus fetches."""

    type: Literal["prometheus"]
    address: Annotated[str, Field(min_length=1, max_length=256)] = "127.0.0.1:9464"
    """HOST:PORT to listen on. Beyond this machine everybody who reaches it may read."""

    @field_validator("address")
    @classmethod
    def _pair(cls, value: str) -> str:
        split_address(value)
        return value


OutputSettings = JsonlSettings | MqttSettings | WebhookSettings | PrometheusSettings
TYPES: dict[str, type[BaseModel]] = {
    "jsonl": JsonlSettings,
    "mqtt": MqttSettings,
    "webhook": WebhookSettings,
    "prometheus": PrometheusSettings,
}


def parse_outputs(value: Any, place: str) -> dict[str, OutputSettings]:
    """The outputs of a site by name, from plain data. Raises InputError with one line that names `place`."""
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: holds {type(value).__name__}, expected a table for each output")
    outputs: dict[str, OutputSettings] = {}
    for name, table in value.items():
        if not isinstance(name, str) or not _OUTPUT_NAME.fullmatch(name):
            raise InputError(f"{place}.{_shown(name)}: use a name of small letters, digits, - and _, at most 32")
        if not isinstance(table, Mapping):
            raise InputError(f"{place}.{name}: holds {type(table).__name__}, expected a table with its type")
        kind = table.get("type")
        if not isinstance(kind, str) or kind not in TYPES:
            raise InputError(
                f"{place}.{name}.type {_shown(kind)}: use one of {', '.join(TYPES)}{_nearest(kind, TYPES)}"
            )
        try:
            outputs[name] = TYPES[kind].model_validate(dict(table))  # type: ignore[assignment]
        except ValidationError as error:
            problem = describe_validation_error(error, TYPES[kind])
            # An error of the whole table names no field.
            dot = "." if error.errors()[0]["loc"] else ": "
            raise InputError(f"{place}.{name}{dot}{problem}") from None
    return outputs


def outbox_limits(outputs: Mapping[str, OutputSettings]) -> OutboxLimits:
    """The largest of each limit over all outputs that deliver messages; the defaults without one."""
    limits: list[_Delivering] = [each for each in outputs.values() if isinstance(each, _Delivering)]
    limits = limits or [JsonlSettings(type="jsonl", path="default")]
    return OutboxLimits(
        int(1e6 * max(each.queue_megabytes for each in limits)),
        3600.0 * max(each.queue_hours for each in limits),
        3600.0 * max(each.queue_event_hours for each in limits),
    )


def shared_client_ids(outputs: Mapping[str, OutputSettings]) -> dict[str, str]:
    """Name to what is wrong, for each MQTT output whose `client_id` an earlier one has at the same broker."""
    first: dict[tuple[str | None, tuple[str, int]], str] = {}
    problems: dict[str, str] = {}
    for name, settings in outputs.items():
        if not isinstance(settings, MqttSettings) or settings.client_id is None:
            continue
        other = first.setdefault((settings.client_id, settings.address), name)
        if other != name:
            problems[name] = (
                f"client_id {settings.client_id!r}: is that of outputs.{other} at the same broker, which would "
                "disconnect one for the other; give each its own"
            )
    return problems


# Addresses


def split_url(value: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL of one of `schemes`. Raises ValueError, also for a user or password in it."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"is not {' or '.join(f'{scheme}://HOST' for scheme in schemes)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or password, which would be shown; give them by file or environment")
    if parts.fragment or not value.isascii() or " " in value or parts.port == 0:
        raise ValueError("is not a plain address; correct it")
    return parts


def split_address(value: str) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT or [HOST]:PORT. Raises ValueError."""
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:9464")
    return host, int(port)


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine, judged by its name or number alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def one_of(first: str | None, second: str | None, *names: str) -> bool:
    """Whether one is given. Raises ValueError if both are."""
    if first is not None and second is not None:
        raise ValueError(f"{names[0]} and {names[1]} are both given; give one")
    return (first or second) is not None


def _nearest(given: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(given), list(known), 1)
    return f", did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    return printable(repr(value)[:80])

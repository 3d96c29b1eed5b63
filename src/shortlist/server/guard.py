"""The door: who may come in, with how much, and what is written down about it. Plain ASGI, around everything else."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import traceback
import uuid
from asyncio import timeout
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Any

from shortlist.errors import BadInput
from shortlist.server.dialects import Answer, problem
from shortlist.server.metrics import Metrics
from shortlist.server.work import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEYS_VARIABLE = "SHORTLIST_KEYS"
_LOG = logging.getLogger("shortlist.access")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SHORTEST_KEY = 16
OPEN = ("/healthz", "/readyz")
_CLOSE = {"Connection": "close"}  # after a body that was not read to its end
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
]


# --- keys


@dataclass(frozen=True)
class Key:
    """A key as the server keeps it: its name for the log, what it allows, and the SHA-256 of the secret."""

    name: str
    write: bool
    digest: bytes


def read_keys(file: Path | None) -> tuple[Key, ...]:
    """The keys of a file, else those of the environment variable SHORTLIST_KEYS; none if there is neither.

    One a line (in the variable also separated by commas): `read NAME SECRET` or `write NAME SECRET`; a key that may write may
    read. In place of the secret its hash may stand, `sha256:HEX`. Empty lines and lines with # are comments.
    Raises BadInput naming the line, never its content.
    """
    text, where = os.environ.get(KEYS_VARIABLE, "").replace(",", "\n"), KEYS_VARIABLE
    if file is not None:
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file}: cannot be read as a file of keys ({type(error).__name__}).") from error
    keys = [
        _key(line.split(), f"{where}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if file is not None and not keys:
        raise BadInput(f"{file} holds no key. Expected lines such as: read NAME SECRET")
    if len({key.digest for key in keys}) != len(keys):
        raise BadInput(f"{where}: one key stands there twice. Give every client its own.")
    return tuple(keys)


def _key(words: list[str], where: str) -> Key:
    if len(words) != 3 or words[0] not in ("read", "write") or not _ID.fullmatch(words[1]):
        raise BadInput(f"{where}: expected `read NAME SECRET` or `write NAME SECRET`.")
    scope, name, secret = words
    if secret.startswith("sha256:"):
        digest = secret.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise BadInput(f"{where}: expected 64 hexadecimal digits after sha256:")
        return Key(name, scope == "write", bytes.fromhex(digest))
    if len(secret) < _SHORTEST_KEY:
        raise BadInput(
            f"{where}: the secret has {len(secret)} characters, expected at least {_SHORTEST_KEY}. "
            "Make one with: openssl rand -hex 32"
        )
    return Key(name, scope == "write", hashlib.sha256(secret.encode()).digest())


def checked_address(host: str, keys: Collection[Key]) -> bool:
    """Whether `host` is loopback. Raises BadInput if others could reach it and there are no keys."""
    loopback = host == "localhost"
    with suppress(ValueError):  # a name
        loopback = loopback or ipaddress.ip_address(host.strip("[]")).is_loopback
    if not loopback and not keys:
        raise BadInput(
            f"--host {host} can be reached from other machines, and there is no key. Give --keys FILE (or {KEYS_VARIABLE}), "
            "or leave --host at 127.0.0.1."
        )
    return loopback


# --- the door


class Refused(Exception):
    """A request that is turned away before its work begins."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Guard:
    """Middleware around the application: request id, Host, key, size and pace of the body, headers, metrics and access log.

    `hosts` are the names that the Host header may have; None lets all through (beyond loopback the key protects).
    """

    def __init__(
        self, app: App, *, keys: Collection[Key], hosts: Collection[str] | None, limits: Limits, metrics: Metrics
    ) -> None:
        self._app, self._keys, self._hosts = app, tuple(keys), hosts
        self._limits, self._metrics = limits, metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = _Visit(scope, send)
        try:
            try:
                self._check(scope, visit)
                await self._read(scope, receive, visit.body)
                await self._app(scope, _replay(bytes(visit.body), receive), visit.send)
            except Refused as refused:
                await _send(visit, scope, problem(scope["path"], refused.status, str(refused), headers=refused.headers))
            except Exception:
                visit.error = traceback.format_exc()
                if visit.status == 0:
                    message = f"something went wrong in the server; its log says what, under {visit.id}."
                    await _send(visit, scope, problem(scope["path"], 500, message))
        finally:
            self._held -= len(visit.body)
            self._write_down(scope, visit)

    def _check(self, scope: Scope, visit: _Visit) -> None:
        """Note whose key it is. Raises Refused for a foreign Host, without a valid key, and for a key that may not do this."""
        if self._hosts is not None and _host(_header(scope, b"host")) not in self._hosts:
            raise Refused(
                421, "the Host header names another server. Use the address that this one listens on, or --allow-host."
            )
        if not self._keys or scope["path"] in OPEN or _is_page(scope):
            return
        scheme, _, secret = _header(scope, b"authorization").partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        known = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if scheme.lower() != "bearer" or not known:
            raise Refused(401, "a valid key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        visit.key = known[0].name
        if _writes(scope) and not known[0].write:
            raise Refused(403, "this key may read, but not write.")

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> None:
        """Put the whole body into `body`. Raises Refused if it is too large or comes too slowly."""
        most = self._limits.body_bytes
        too_large = Refused(413, f"the body has more than the {most} bytes that this server takes. Split the request.", _CLOSE)
        length = _header(scope, b"content-length")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise too_large
        try:
            async with timeout(self._limits.body_s):
                more = True
                while more:
                    message = await receive()
                    piece = message.get("body", b"")
                    body += piece
                    self._held += len(piece)
                    if len(body) > most:
                        raise too_large
                    if self._held > self._limits.held_bytes:
                        raise Refused(429, "the server is busy with other requests.", {"Retry-After": "1", **_CLOSE})
                    more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError as error:
            raise Refused(408, f"the body did not come within {self._limits.body_s:g} s.", _CLOSE) from error

    def _write_down(self, scope: Scope, visit: _Visit) -> None:
        seconds = perf_counter() - visit.began
        route = getattr(scope.get("route"), "path", "none")
        status = visit.status or 499
        self._metrics.request(route, scope["method"] if route != "none" else "none", status, seconds)
        client = scope.get("client")
        line = {
            "time": round(time(), 3),
            "request_id": visit.id,
            "method": scope["method"][:16],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "client": client[0] if client else "",
            "key": visit.key,
            "bytes": visit.bytes,
            **scope.get("state", {}).get("log", {}),
        }
        if visit.error:
            line["error"] = visit.error
        _LOG.log(logging.ERROR if status >= 500 else logging.INFO, json.dumps(line))


class _Visit:
    """One request and its answer on the way out."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began, self._send = perf_counter(), send
        asked = _header(scope, b"x-request-id")
        self.id = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        self.status, self.bytes, self.key, self.error = 0, 0, "", ""
        self.body, self._page = bytearray(), _is_page(scope)
        scope.setdefault("state", {})["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Pass on a message of the application, the headers of ours added to the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [*_HEADERS, (b"x-request-id", self.id.encode())]
            if not any(name == b"cache-control" for name, _ in message["headers"]):
                own.append((b"cache-control", b"no-cache" if self._page else b"no-store"))
            message = {**message, "headers": [*message["headers"], *own]}
        self.bytes += len(message.get("body", b""))
        await self._send(message)


async def _send(visit: _Visit, scope: Scope, answer: Answer) -> None:
    await answer(scope, _nothing, visit.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what comes after it: the client that leaves."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message


def _header(scope: Scope, name: bytes) -> str:
    """The only value of a header, as text; "" if it is not there or stands there more than once."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _host(value: str) -> str:
    """The name in a Host header, without the port."""
    return re.sub(r":\d{1,5}$", "", value.lower())


def _is_page(scope: Scope) -> bool:
    """Whether a file of the package is asked for: it holds nothing of the indexes, and a browser may keep it."""
    return scope["path"] == "/" or scope["path"].startswith("/static/")


def _writes(scope: Scope) -> bool:
    return scope["path"].startswith("/v1/indexes") and scope["method"] not in ("GET", "HEAD", "OPTIONS")

# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's settings, checked once, when they are made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

from .auth import TOKEN_FORM, usable_token

_MIB = 1 << 20
MOST_WORKERS = 128
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# Those of a connection or a body, and those that the router sets.
_NEVER_FORWARDED = re.compile(
    r"connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|host|content-.*|accept-encoding|expect"
    r"|x-request-id",
    re.IGNORECASE,
)
# Whether both legs of a request are sent at once.
SEQUENTIAL, CONCURRENT = DISPATCH = ("sequential", "concurrent")


class ProxyConfigError(ValueError):
    """A setting of the router cannot be used; the message names it, its value and what is expected."""


def checked_url(role: str, url: str) -> str:
    """Return an instance's base URL without trailing slashes.

    Raises:
        ProxyConfigError: It is no base URL of an HTTP server, or holds a password.
    """
    expected = "expected a base URL such as http://127.0.0.1:8100"
    wrong = f"{role} URL {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ProxyConfigError(f"{wrong}: {error}; {expected}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ProxyConfigError(f"{wrong}: no http:// or https:// host in it; {expected}")
    if port == 0 or any(character.isspace() or not character.isprintable() for character in url):
        raise ProxyConfigError(f"{wrong}: port 0 or a blank in it; {expected}")
    if parts.username is not None or parts.password is not None:
        raise ProxyConfigError(
            f"a {role} URL holds a user name or password; leave it out: the client's Authorization header is passed on"
        )
    if parts.query or parts.fragment:
        raise ProxyConfigError(f"{wrong}: has a query or fragment; {expected}")
    base = url.rstrip("/")
    if base.endswith("/v1"):
        raise ProxyConfigError(f"{wrong}: leave out the /v1, the router adds it; {expected}")
    return base


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Settings of the router.

    Attributes:
        prefill: Base URLs of the prefill instances at start, one an option; none only with an admin token, so that
            some can join.
        decode: The same for decode; an instance that does both may be in both.
        admin_token: What the calls that let instances join and leave must present; None: these calls are refused.
        api_key_file: File with the keys of which a client must present one, one a line, with limits
            (`KEY name=alice max-in-flight=8 requests-per-minute=600`); read anew when it changes. Without it the
            instances judge the keys that clients send.
        instance_key: What instances are given for a key where clients present the router's; None: nothing.
        allowed_origins: Origins of web pages that may ask (CORS), `*` for any; one an option, or a JSON list as vLLM
            takes it.
        ssl_certfile: Certificate chain (PEM) to serve HTTPS with.
        ssl_keyfile: Its private key, where that is in a file of its own.
        ssl_ca_certs: Certificates (PEM) of which one must have signed the certificate that a client presents; without
            it clients need none.
        workers: Processes that serve; they share the port, the limits, the counts and what is known of the instances.
        host: Address the server listens on.
        port: Port the server listens on; 0 picks a free one.
        health_interval: Seconds between two health checks (`GET /health`) of an instance.
        health_timeout: Seconds one health check may take.
        health_failures: Failed checks in a row that take an instance out (a refused connection does so at once);
            one good check brings it back.
        connect_timeout: Seconds to open a connection to an instance.
        prefill_timeout: Seconds for a whole prefill request; later, the decode instance prefills.
        first_byte_timeout: Seconds until the first byte of a decode instance's answer; an answer that is not streamed
            comes whole, so this bounds all of it.
        idle_timeout: Seconds between two parts of an answer, and seconds a client may take to accept a part.
        body_timeout: Seconds a client may take to send its request.
        drain_timeout: Seconds running requests get to finish once the server is told to stop.
        retries: Times a request is sent again after a decode instance failed with it; attempts at instances that
            refuse the connection do not count.
        max_in_flight: Requests the router works on at once; beyond that 429 with `Retry-After`.
        max_in_flight_per_instance: Requests given to one instance at once; where every decode instance has that many,
            503 with `Retry-After`; where every prefill instance has, decode prefills.
        max_instances: Instances that may be known at once, over both roles.
        max_connections: Clients that may be connected at once, fewer where the limit of open files is lower; then a new
            one takes the place of the one that has waited longest for a request.
        max_body_bytes: Largest request body accepted, in bytes; beyond that 413.
        max_bodies_bytes: Bytes of all request bodies together, until their requests have ended; beyond that the body
            that has been arriving longest is refused with 429.
        max_answer_bytes: Largest answer taken of an instance that is not streamed, or event of one that is; beyond that
            the instance counts as broken.
        otlp_traces_endpoint: Where OpenTelemetry spans are sent, as vLLM's option says it: `http://HOST:4317` (gRPC),
            or `http://HOST:4318/v1/traces` with `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf` in the environment.
            Without it `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` says where; without that there are no spans.
        log_requests: Write a line to the log for each step of a request, for `kvdirect trace`.
        dispatch: `sequential`: a decode instance is asked once the prefill instance has answered. `concurrent`: both
            are asked at once, and the decode instance learns from the other engine when the cache is there (with
            KVDirect on both; with others, and for the first request of an instance, as `sequential`).
        elastic: Let instances change their role by what is measured of them: those that do both (`kv_both`, the
            default), whichever role they were named in.
        elastic_decode_requests: With that, how many requests a decode instance can have at a time with its tokens as
            fast as they should be.
        forward_header: Headers of clients that instances get beside Authorization, Accept, User-Agent, tracing and
            vLLM's own; one an option.

    Raises:
        ProxyConfigError: A value cannot be used.
    """

    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    admin_token: str | None = field(default=None, repr=False)
    api_key_file: str | None = None
    instance_key: str | None = field(default=None, repr=False)
    allowed_origins: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_ca_certs: str | None = None
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    health_interval: float = 5.0
    health_timeout: float = 5.0
    health_failures: int = 2
    connect_timeout: float = 5.0
    prefill_timeout: float = 600.0
    first_byte_timeout: float = 1800.0
    idle_timeout: float = 300.0
    body_timeout: float = 60.0
    drain_timeout: float = 30.0
    retries: int = 2
    max_in_flight: int = 4096
    max_in_flight_per_instance: int = 1024
    max_instances: int = 256
    max_connections: int = 8192
    max_body_bytes: int = 32 * _MIB
    max_bodies_bytes: int = 512 * _MIB
    max_answer_bytes: int = 64 * _MIB
    dispatch: str = SEQUENTIAL
    elastic: bool = False
    elastic_decode_requests: int = 32
    forward_header: tuple[str, ...] = ()
    otlp_traces_endpoint: str | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        if self.admin_token is not None and not usable_token(self.admin_token):
            raise ProxyConfigError(f"admin_token cannot serve as one; expected {TOKEN_FORM}")
        self._check_instances()
        self._check_clients()
        for name in self.forward_header:
            if not _HEADER_NAME.fullmatch(name) or _NEVER_FORWARDED.fullmatch(name):
                raise ProxyConfigError(
                    f"forward_header {name!r} cannot be passed on; expected a header of the client's"
                )
        self._check_words()
        if self.workers > MOST_WORKERS:
            raise ProxyConfigError(f"workers is {self.workers}; expected 1 to {MOST_WORKERS}, one a processor core")
        if not 0 <= self.port <= 65535:
            raise ProxyConfigError(f"port is {self.port}; expected 0 (any free port) to 65535")
        for item in fields(self):  # those in seconds have a float as default, those that count an integer
            value = getattr(self, item.name)
            if isinstance(item.default, float) and not (math.isfinite(value) and value > 0):
                raise ProxyConfigError(f"{item.name} is {value}; expected a number of seconds above 0")
            least = 0 if item.name in {"retries", "port"} else 1
            if isinstance(item.default, int) and not isinstance(item.default, bool) and value < least:
                raise ProxyConfigError(f"{item.name} is {value}; expected {least} or more")

    def _check_words(self) -> None:
        if self.dispatch not in DISPATCH:
            raise ProxyConfigError(f"dispatch is {self.dispatch!r}; expected one of {', '.join(DISPATCH)}")
        if not self.host:
            raise ProxyConfigError("host is empty; expected an address such as 127.0.0.1, or 0.0.0.0 for all")

    def _check_clients(self) -> None:
        """What clients present, and what they are presented with."""
        if self.api_key_file is None and self.instance_key is not None:
            raise ProxyConfigError(
                "instance_key without api_key_file would let anybody use the instances with it; give clients keys "
                "with --api-key-file"
            )
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ProxyConfigError(f"allowed_origins: {origin!r}; expected * or an origin: https://chat.example")
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_ca_certs):
            raise ProxyConfigError("ssl_keyfile or ssl_ca_certs without ssl_certfile; give the certificate too")

    def _check_instances(self) -> None:
        for role in ("prefill", "decode"):
            urls = tuple(checked_url(role, url) for url in getattr(self, role))
            if not urls and self.admin_token is None:
                raise ProxyConfigError(
                    f"no {role} instance given: expected at least one --{role} URL, "
                    "or --admin-token-file so that instances can join later"
                )
            twice = sorted({url for url in urls if urls.count(url) > 1})
            if twice:
                raise ProxyConfigError(f"{role} URL {twice[0]!r} is given twice; expected each instance once")
            object.__setattr__(self, role, urls)
        given = len(self.prefill) + len(self.decode)
        if given > self.max_instances:
            raise ProxyConfigError(f"{given} instances given, and max_instances is {self.max_instances}; raise it")

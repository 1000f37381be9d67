"""Where a parameter store over a network is, as users write it.

    redis://[user[:password]@]host[:port][/db][?...]   rediss:// the same over TLS
    unix://[user[:password]@]/path/to/socket[?db=0]

Several, separated by commas, hold the model together. A password stays in the memory of the process
that it was given to: what is called a URL everywhere else, `StoreUrl.shown`, has none. Where it is
kept may be said by name, ?password_from=NAME (store_secret.py): whoever uses the URL looks it up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cirrus_fast import store_secret
from cirrus_fast.errors import OptionError

SCHEMES = ("redis://", "rediss://", "unix://")
# Where a password is taken from if the URL has none.
PASSWORD_VARIABLE = "CIRRUS_FAST_REDIS_PASSWORD"
# What a supervisor hands to the worker processes it starts: JSON, shown URL -> password.
SECRETS_VARIABLE = "CIRRUS_FAST_STORE_SECRETS"
# How a server may hold a model.
STORES = ("bitfield", "module")
_SECURE = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_QUERY = ("db", "store", "timeout", "password_from", *_SECURE)

_passwords: dict[str, str] = {}


def is_store_url(text: str) -> bool:
    return text.startswith(SCHEMES)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """One server.

    Attributes
    ----------
    timeout : seconds a connection or an answer may take
    ca_certs : file of certificates to trust; None: those the system trusts
    certfile, keyfile : this side's certificate, where the server wants one
    store : how it is to hold the model, one of STORES; None: whichever it can do best
    password_from : name of the place that has the password; None: nobody said
    """

    scheme: str
    host: str
    port: int
    path: str
    username: str
    db: int
    timeout: float
    ca_certs: str | None
    certfile: str | None
    keyfile: str | None
    store: str | None
    password_from: str | None
    shown: str

    @property
    def place(self) -> str:
        """The server, for messages."""
        return self.path if self.scheme == "unix" else _place(self.host, self.port)

    @property
    def password(self) -> str:
        """Empty if there is none."""
        if self.shown in _passwords:
            return _passwords[self.shown]
        handed: Mapping[str, str] = json.loads(os.environ.get(SECRETS_VARIABLE) or "{}")
        if self.shown not in handed and self.password_from is not None:
            return store_secret.look_up(self.password_from)
        return handed.get(self.shown) or os.environ.get(PASSWORD_VARIABLE, "")

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Raises OptionError, whose message has no password."""
        scheme = text.partition("://")[0]
        if not is_store_url(text):
            raise OptionError(f"param_store: begins with none of {', '.join(SCHEMES)}")
        try:
            parts = urlsplit(text)
            port = parts.port or 6379
        except ValueError as error:
            raise OptionError(f"param_store={scheme}://...: {_without(error)}") from None
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        name = f"param_store={scheme}://{parts.hostname or ''}{parts.path}"
        for key in query:
            if key not in _QUERY:
                raise OptionError(f"{name}: ?{key} is unknown; there are {', '.join(_QUERY)}")
            if key in _SECURE and scheme != "rediss":
                raise OptionError(f"{name}: ?{key} means nothing without TLS, which is rediss://")
        if "password_from" in query:
            store_secret.check(query["password_from"])
        if parts.fragment:
            raise OptionError(f"{name}: ends in '#...'; write %23 for a # in a password")
        kind = query.get("store")
        if kind not in (None, *STORES):
            raise OptionError(f"{name}: ?store={kind} is unknown; choose {' or '.join(STORES)}")
        if scheme == "unix" and (parts.hostname or not parts.path.strip("/")):
            raise OptionError(f"{name}: needs the path of a socket: unix:///path/to/socket")
        if scheme != "unix" and not parts.hostname:
            raise OptionError(f"{name}: needs a host")
        db = query.get("db", "") if scheme == "unix" else query.get("db", parts.path.strip("/"))
        if db and not (db.isdecimal() and int(db) < 2**31):
            raise OptionError(f"{name}: the database must be a number, not {db!r}")
        timeout = _seconds(name, query.get("timeout", "5"))
        user, given = unquote(parts.username or ""), unquote(parts.password or "")
        host = parts.hostname or ""
        path = unquote(parts.path) if scheme == "unix" else ""
        shown = f"{scheme}://" + (f"{quote(user, safe='')}@" if user else "")
        shown += quote(path) if scheme == "unix" else _place(host, port)
        shown += f"/{int(db)}" if db and scheme != "unix" else ""
        kept = {k: v for k, v in query.items() if k != "db" or scheme == "unix"}
        shown += "?" * bool(kept) + "&".join(f"{k}={quote(v, safe='/:')}" for k, v in kept.items())
        if given:
            _passwords[shown] = given
        return cls(
            scheme=scheme,
            host=host,
            port=port,
            path=path,
            username=user,
            db=int(db or 0),
            timeout=timeout,
            ca_certs=query.get("ssl_ca_certs"),
            certfile=query.get("ssl_certfile"),
            keyfile=query.get("ssl_keyfile"),
            store=kind,
            password_from=query.get("password_from"),
            shown=shown,
        )


def parse_urls(text: str) -> tuple[StoreUrl, ...]:
    """One URL, or several with commas between them."""
    urls = tuple(StoreUrl.parse(part.strip()) for part in text.split(","))
    if len({(url.place, url.db) for url in urls}) < len(urls):
        raise OptionError("param_store: names a server twice")
    return urls


def secrets(urls: Sequence[StoreUrl]) -> dict[str, str]:
    """What a process that shall reach these needs in its environment."""
    known = {url.shown: _passwords[url.shown] for url in urls if url.shown in _passwords}
    return {SECRETS_VARIABLE: json.dumps(known)} if known else {}


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise OptionError(f"{name}: ?timeout={text}: must be seconds above 0, at most 3600")
    return seconds


def _without(error: ValueError) -> str:
    """What is wrong with a URL, unless that repeats a part of it, which may be of a password."""
    return "the port is not a number up to 65535" if "ort" in str(error) else "is no URL"

"""Traffic rules: the action of a request and the source of a visit, declared in traffic_rules.toml."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from warehouse.errors import DeclarationError
from warehouse.model import weblog_definition

ACTIONS = ("other", "view", "search", "add_to_cart", "checkout", "login")
DIRECT = ("direct", "direct")

# Visitors choose these texts. Longer ones name no product or source, and would not fit into an index entry.
_MAX_NAME_LENGTH = 100
_MAX_PRODUCT_LENGTH = 255


@dataclass(frozen=True)
class ActionRule:
    """The action of requests with one of the methods and a path that matches."""

    action: str
    methods: frozenset[str]
    path: re.Pattern[str]


@dataclass(frozen=True)
class Request:
    """A parsed request line."""

    method: str | None
    path: str | None
    action: str
    product_id: str | None
    # Name and medium of the campaign, if the request has one.
    campaign: tuple[str, str] | None


@dataclass(frozen=True)
class TrafficRules:
    """All rules of a shop."""

    landing: str
    ignore: tuple[str, ...]
    hosts: frozenset[str]
    product_parameters: tuple[str, ...]
    rules: tuple[ActionRule, ...]
    media: Mapping[str, str]
    aliases: Mapping[str, str]

    def request(self, text: str) -> Request:
        """Parse a request line; text that is not one has action 'other'."""
        parts = text.split(" ")
        method = parts[0] if parts[0].isalpha() and parts[0].isupper() and len(parts) > 1 else None
        target = parts[1] if method else ""
        if not target.startswith("/"):
            # CONNECT host:port, OPTIONS *, absolute targets of proxies, noise.
            return Request(method, target or None, "other", None, None)
        path, _, query = target.partition("?")
        parameter_names = ("utm_source", *self.product_parameters)
        parameters = dict(parse_qsl(query)) if any(name in query for name in parameter_names) else {}
        source = parameters.get("utm_source", "").strip().lower()[:_MAX_NAME_LENGTH]
        campaign = (_clean(source), "campaign") if source else None
        for rule in self.rules:
            match = rule.path.search(path) if method in rule.methods else None
            if match is not None:
                return Request(method, path, rule.action, self._product(match, parameters), campaign)
        return Request(method, path, "other", None, campaign)

    def traffic_source(self, referer: str) -> tuple[str, str]:
        """Name and medium of the site of a referer."""
        try:
            host = (urlsplit(referer).hostname or "").removesuffix(".")
        except ValueError:
            host = ""
        if not host:
            return DIRECT
        if host in self.hosts:
            return "internal", "internal"
        name = self.aliases.get(host)
        # google.com, www.google.co.uk, images.google.de
        name = name or next((label for label in host.split(".")[:-1][::-1] if label in self.media), None)
        if name is not None:
            return name, self.media.get(name, "referral")
        return _clean(host.removeprefix("www.")[:_MAX_NAME_LENGTH]), "referral"

    def _product(self, match: re.Match[str], parameters: Mapping[str, str]) -> str | None:
        named = match.groupdict().get("product_id")
        product = unquote(named) if named else next(
            (parameters[name] for name in self.product_parameters if parameters.get(name)), None
        )  # fmt: skip
        return _clean(product) if product and len(product) <= _MAX_PRODUCT_LENGTH else None


def read_traffic_rules(path: Path | None = None) -> TrafficRules:
    """Read the rules declared in a file, by default those of the shop.

    Raises:
        DeclarationError: the file is not a valid declaration.
    """
    return _read(path or weblog_definition.RULES_FILE)


@cache
def _read(path: Path) -> TrafficRules:
    try:
        declared = tomllib.loads(path.read_text("utf-8-sig"))
        rules = tuple(
            ActionRule(one["action"], frozenset(one["methods"]), re.compile(one["path"]))
            for one in declared["actions"]
        )
        unknown = {rule.action for rule in rules} - set(ACTIONS)
        if unknown:
            raise ValueError(f"action {sorted(unknown)[0]!r} is none of {', '.join(ACTIONS)}")
        return TrafficRules(
            landing=declared["landing"],
            ignore=tuple(declared["ignore"]),
            hosts=frozenset(declared["hosts"]),
            product_parameters=tuple(declared["product_parameters"]),
            rules=rules,
            media={name: medium for medium, site in declared["sites"].items() for name in site["names"]},
            aliases=declared["aliases"],
        )
    except (OSError, KeyError, TypeError, ValueError, re.error) as error:
        raise DeclarationError(
            f"{path} cannot be used: {error}.", hint="Compare it with the one in git."
        ) from None


def _clean(text: str) -> str:
    """Text that PostgreSQL accepts: no NUL, no lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()

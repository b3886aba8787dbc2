"""Settings (DWH_… variables and .env): one frozen object, built at the entry point and passed down."""

import logging
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from warehouse.errors import SettingsError

ENV_FILE = Path(".env")


# Source names have no underscore, since mirrors are named <source>_<table>: two sources could share one.
SOURCE_URL = re.compile(r"dwh_([a-z][a-z0-9]*)_url")
PACKAGED_SOURCES = Path(__file__).parent / "sources"
# Least similarity of a suggestion: all names begin with DWH_, and all URLs end with _URL, so lower ones are chance.
SIMILARITY = 0.8
# Other variables with our prefix, which are not settings: for the command line, the local stack, and tests.
OTHER_VARIABLES = ("DWH_COMMIT", "DWH_DEBUG", "DWH_LOG_FORMAT", "DWH_STACK_HOME", "DWH_STACK_ROLE")
TEST_VARIABLES = "DWH_TEST_"


DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def _parse_duration(value: object) -> object:
    """Parse a duration such as 24h, 15min, 30s or 7d."""
    if not isinstance(value, str):
        return value
    match = DURATION.fullmatch(value)
    if match is None:
        raise PydanticCustomError("duration", "must be a time such as 24h, 15min, 30s or 7d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


Duration = Annotated[
    timedelta, BeforeValidator(_parse_duration), Field(ge=timedelta(0), le=timedelta(days=3650))
]


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets read from the files that DWH_..._FILE name, as Docker and Kubernetes mount them."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        is_secret = SecretStr.__name__ in str(field.annotation)
        return (_read_secret(f"DWH_{field_name.upper()}") if is_secret else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class _SourceUrls(PydanticBaseSettingsSource):
    """URLs of sources from DWH_<NAME>_URL, for every name that is not a setting."""

    def __init__(self, settings_cls: type[BaseSettings], *variables: Mapping[str, str | None]) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        urls: dict[str, str] = {}
        for variable, value in (item for variables in self._variables for item in variables.items()):
            match = SOURCE_URL.fullmatch(variable.removesuffix("_file"))
            if match is None or f"{match[1]}_url" in self.settings_cls.model_fields:
                continue
            is_file = variable.endswith("_file")
            url = _read_secret(f"DWH_{match[1].upper()}_URL") if is_file else value
            if url:
                urls[match[1]] = url
        return {"source_urls": urls}


def _read_secret(name: str) -> str | None:
    """Read the secret `name` from the file that NAME_FILE names; None if that variable is not set."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    if os.environ.get(name):
        raise SettingsError(f"Both {name} and {name}_FILE are set.", hint="Unset one of them.")
    try:
        if secret := Path(path).read_text("utf-8-sig").strip():
            return secret
        raise SettingsError(f"{name}_FILE: {path} is empty.", hint="Write the secret into it.")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(
            f"{name}_FILE: {path} cannot be read: {reason}.", hint="Name a file that holds only the secret."
        ) from None


class Settings(BaseSettings):
    """All settings, from the environment (prefix DWH_) or from `.env`; secrets also from files."""

    model_config = SettingsConfigDict(env_prefix="DWH_", env_file=ENV_FILE, extra="ignore", frozen=True)

    home: Path = Field(Path(".dwh"), description="State of the local stack")
    sources: Path | None = Field(
        None, description="Folder with source declarations of your own, <name>/source.toml"
    )
    source_urls: Mapping[str, SecretStr] = Field(
        default_factory=dict, description="Database URL of each source by name, from DWH_<NAME>_URL"
    )
    warehouse_url: SecretStr | None = Field(None, description="The warehouse's database; unset: embedded")
    api_shop_url: SecretStr | None = Field(
        None, description="The shop's database as `dwh api` uses it, with its own login; unset: DWH_SHOP_URL"
    )
    api_token: SecretStr | None = Field(
        None, description="Token that clients of `dwh api` send; needed where it listens beyond this machine"
    )
    embedded: Literal["as-needed", "never"] = Field(
        "as-needed", description="never: no embedded PostgreSQL where a database has no URL, as in containers"
    )
    lake: str = Field("lake", description="Folder or fsspec URL of the lake")
    archive: bool = Field(
        True,
        description="Whether every captured batch is archived as Delta tables, in the folder archive of the lake",
    )
    archive_pending_runs: int = Field(
        1000,
        ge=1,
        le=10**6,
        description="So many runs may wait for an archive that cannot be reached; then runs stop",
    )
    archive_delay: Duration = Field(
        timedelta(minutes=1),
        description="How long small batches wait in the warehouse while `dwh live` collects them for the archive",
    )
    geoip_path: Path | None = Field(None, description="MaxMind-format file that tells addresses' countries")
    geoip_license_key: SecretStr | None = Field(
        None, description="MaxMind licence key: `dwh geoip update` fetches GeoLite2 instead of DB-IP Lite"
    )
    geoip_account_id: str | None = Field(None, description="MaxMind account that the licence key is of")
    geoip_url: str | None = Field(
        None, description="Where else to fetch from; {month} is 2026-11, {license_key} the licence key"
    )
    currency: str = Field(
        "USD",
        pattern="^[A-Z]{3}$",
        description="Currency of customers' spend and profit level, ISO 4217; other currencies are shown beside it",
    )
    without_geoip: Literal["fail", "unknown"] = Field(
        "fail",
        description="unknown: without a GeoIP file web logs are loaded with country ZZ, to be reclassified later",
    )
    smtp_url: SecretStr | None = Field(None, description="smtp://, smtp+starttls:// or smtps:// URL for mail")
    alert_to: str | None = Field(None, description="Who is mailed; several with commas between them")
    alert_from: str | None = Field(
        None, description="Sender of mails; unset: the SMTP user, or dwh@ this host"
    )
    reminder_hours: float = Field(
        24, ge=0, le=10_000, description="Hours after which a problem that lasts is mailed again; 0: never"
    )
    heartbeat_url: SecretStr | None = Field(
        None,
        description="URL that each successful round of the watchdog calls (healthchecks.io or alike), so that "
        "somebody notices when it is gone",
    )
    export_url: SecretStr | None = Field(
        None, description="PostgreSQL whose schema dwh_report `dwh export` also writes the reports into"
    )
    ui_url: str | None = Field(
        None, description="Prefect UI that mails link to; unset: that of PREFECT_API_URL"
    )
    quarantine_alert_rows: int = Field(1000, ge=0, description="More rows into quarantine by one run: a mail")
    quarantine_alert_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="A larger share of a run's rows into quarantine (100 rows or more): a mail",
    )
    weblog_formats: Path | None = Field(
        None, description="File that declares the formats of web logs; unset: weblogs.toml in the lake"
    )
    weblog_monthly_mb: int = Field(
        1024,
        ge=0,
        le=10**9,
        description="A country's partition of fact_weblog larger than this is divided by month",
    )
    weblog_ignore: str = Field(
        "",
        description="Names of files in the landing folder to ignore, with * and ?; several with commas between",
    )
    weblog_readable_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="A file of whose first lines a smaller share can be read is not read at all, and is named",
    )
    unpack_mb: int = Field(20480, ge=1, description="An archive that unpacks to more than this is not read")
    unpack_ratio: int = Field(
        1000,
        ge=1,
        description="A compressed file that unpacks to more than so many times its size is not read on",
    )
    weblog_retention_days: int | None = Field(
        None,
        ge=1,
        le=36500,
        description="Web log requests older than so many days (UTC) are removed; unset: none are",
    )
    scan_rows: int = Field(
        200_000,
        ge=0,
        le=10**12,
        description="Rows of a source's smallest tables together, which every run scans and verifies whole",
    )
    verify_within: Duration = Field(
        timedelta(hours=24),
        description="Every row of larger tables is verified within this time, in parts",
    )
    late_commit_window: Duration = Field(
        timedelta(hours=1),
        description="How far back changed rows are looked for where a source hides how long transactions are open",
    )
    scan_interval: Duration = Field(
        timedelta(hours=1),
        description="How often a large table is scanned that has no index on its cursor",
    )
    change_log_days: int = Field(
        90, ge=1, le=36500, description="Days for which changes, and what undo needs, are kept"
    )
    audit_days: int = Field(
        90,
        ge=1,
        le=36500,
        description="Days for which runs that changed nothing, and sent mails, stay in the audit trail",
    )
    time_zone: str | None = Field(
        None,
        description="IANA name of the zone in which days and months are counted; unset: as it is, UTC at first",
    )
    reconform_rows: int = Field(
        1_000_000,
        ge=0,
        le=10**12,
        description="A run conforms at most so many rows again where what they were made by has changed",
    )
    live_interval: float = Field(
        0.5, ge=0.05, le=60, description="Seconds between two questions of live whether a source has changed"
    )
    live_run_minutes: float = Field(
        15, gt=0, le=1440, description="Minutes after which live begins another run"
    )
    live_batch_rows: int = Field(
        20_000,
        ge=1,
        le=10**7,
        description="Rows of a batch of live, about: a backlog is worked off in several",
    )
    live_batch_mb: int = Field(64, ge=1, le=10_000, description="Megabytes of a batch of live, about")
    live_min_rows: int = Field(
        100, ge=0, description="Rows that a run of live needs before contract rules about whole batches apply"
    )
    max_delete_share: float = Field(0.10, ge=0, le=1, description="Share of a table that one run may delete")
    delete_floor_rows: int = Field(
        10, ge=0, description="Rows of a table that one run may delete whatever their share, but never all"
    )
    source_lock_wait: float = Field(
        60, ge=0, le=86400, description="Seconds that a run waits for source tables that somebody has locked"
    )
    warehouse_lock_wait: float = Field(
        600,
        ge=0,
        le=86400,
        description="Seconds that a run waits for warehouse tables that somebody has locked",
    )

    @field_validator("time_zone")
    @classmethod
    def _is_time_zone(cls, value: str | None) -> str | None:
        if value is not None and value not in available_timezones():
            close = "".join(
                f"; did you mean {one}?" for one in get_close_matches(value, available_timezones(), 1)
            )
            raise PydanticCustomError(
                "time_zone",
                "'{zone}' is no time zone, as Europe/Madrid is{close}",
                {"zone": value, "close": close},
            )
        return value

    @field_validator("api_token")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]{16,}", value.get_secret_value()):
            raise PydanticCustomError("token", "it should have 16 characters or more, ASCII without blanks")
        return value

    @field_validator("source_urls", "warehouse_url", "export_url", "api_shop_url")
    @classmethod
    def _is_database_url(
        cls, value: Mapping[str, SecretStr] | SecretStr | None, info: ValidationInfo
    ) -> Mapping[str, SecretStr] | SecretStr | None:
        name = str(info.field_name).removesuffix("_url")
        urls = value if isinstance(value, Mapping) else {name: value} if value else {}
        for name, url in urls.items():
            try:
                ports = str(conninfo_to_dict(url.get_secret_value()).get("port") or "")
            except ProgrammingError:
                ports = "none"
            if not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports.split(",") if port):
                raise PydanticCustomError(
                    "database_url",
                    "it should read postgresql://user:password@host:port/database",
                    {"setting": f"{name}_url"},
                )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Set the precedence: arguments, environment, files of secrets, `.env`."""
        assert isinstance(env_settings, EnvSettingsSource) and isinstance(
            dotenv_settings, DotEnvSettingsSource
        )
        urls = _SourceUrls(
            settings_cls,
            {name: value for name, value in dotenv_settings.env_vars.items() if not name.endswith("_file")},
            env_settings.env_vars,
        )
        return init_settings, env_settings, _SecretFiles(settings_cls), urls, dotenv_settings

    @classmethod
    def load(cls, new_source: str = "") -> Self:
        """Load the settings of this process. `new_source` may have a URL before it is declared.

        Raises:
            SettingsError: settings are invalid; the message names each.
        """
        try:
            _check_variables(new_source)
            return cls()
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"{ENV_FILE} is not UTF-8 text: byte {error.object[error.start]:#x}.",
                hint="Save it as UTF-8.",
            ) from None
        except ValidationError as error:
            wrong = "; ".join(
                f"DWH_{str(e.get('ctx', {}).get('setting', e['loc'][0])).upper()}: {e['msg']}"
                for e in error.errors()
            )
            raise SettingsError(f"Settings cannot be used: {wrong}.", hint="See .env.example.") from None

    @property
    def warehouse(self) -> str:
        """URL of the warehouse's database.

        Raises:
            SettingsError: it is not set.
        """
        return self._url("warehouse", self.warehouse_url)

    def source_url(self, source: str) -> str:
        """URL of the database of `source`.

        Raises:
            SettingsError: it is not set.
        """
        return self._url(source, self.source_urls.get(source))

    def with_source_url(self, source: str, url: str) -> Self:
        """Return a copy with another URL for `source`."""
        return self.model_copy(update={"source_urls": {**self.source_urls, source: SecretStr(url)}})

    def with_warehouse_url(self, url: str) -> Self:
        """Return a copy with another URL for the warehouse."""
        return self.model_copy(update={"warehouse_url": SecretStr(url)})

    def _url(self, name: str, url: SecretStr | None) -> str:
        if url is None:
            raise SettingsError(
                f"DWH_{name.upper()}_URL is not set.",
                hint=f"Set it to the postgresql:// URL of {name}'s database (in the environment or in .env).",
            )
        return url.get_secret_value()


def move_env_file_to_environment() -> None:
    """Move the settings of .env to this process's environment, where it can unset them. .env is not read again."""
    for name, value in dotenv_values(ENV_FILE).items():
        if name.upper().startswith("DWH_") and value and f"{name}_FILE" not in os.environ:
            os.environ.setdefault(name, value)
    Settings.model_config["env_file"] = None


def _check_variables(new_source: str = "") -> None:
    """Refuse unknown and empty DWH_… variables: after a typo in a URL's name, an empty embedded database would be used.

    Raises:
        SettingsError: the message names each such variable, with the setting that may have been meant.
    """
    lines, wrong = _lines_of_env_file()
    environment = {name.upper(): value for name, value in os.environ.items()}
    folder = environment.get("DWH_SOURCES") or next((v for _, name, v in lines if name == "DWH_SOURCES"), "")
    fields = {f"DWH_{name.upper()}": field for name, field in Settings.model_fields.items()}
    del fields["DWH_SOURCE_URLS"]
    places = [PACKAGED_SOURCES, *([Path(folder)] if folder else [])]
    declared = {
        path.parent.name
        for place in places
        for path in place.glob("*/source.toml")
        if feed_section(path) is None
    }
    urls = {f"DWH_{name.upper()}_URL" for name in filter(None, {*declared, new_source})}
    secrets = {name for name, field in fields.items() if SecretStr.__name__ in str(field.annotation)} | urls
    in_files = {*fields, *urls}
    in_environment = in_files | {f"{name}_FILE" for name in secrets}
    variables = [
        *((f"{name}", name, value, in_environment) for name, value in environment.items()),
        *((f"{ENV_FILE}, line {number}: {name}", name, value, in_files) for number, name, value in lines),
    ]
    for place, name, value, known in variables:
        if not name.startswith("DWH_") or name.startswith(TEST_VARIABLES) or name in OTHER_VARIABLES:
            continue
        # While sources are declared one after the other, the URLs of later ones may be set already.
        is_later_source = bool(new_source) and SOURCE_URL.fullmatch(name.removesuffix("_FILE").lower())
        if name not in known and not is_later_source:
            bare = name.removesuffix("_FILE")
            nearest = (
                [bare]
                if bare in known
                else get_close_matches(name, sorted(known), 1, SIMILARITY)
                or get_close_matches(bare, sorted(known), 1, SIMILARITY)
            )
            wrong.append(f"{place} is no setting" + "".join(f" (did you mean {one}?)" for one in nearest))
        elif not value.strip() and (name not in fields or fields[name].default != ""):
            wrong.append(f"{place} is empty")
    if wrong:
        raise SettingsError(
            f"Settings cannot be used: {'; '.join(wrong)}.",
            hint="Unset what is not needed; .env.example lists the settings. The URL of a source belongs to a declared "
            "source (warehouse/sources, DWH_SOURCES); `dwh source new NAME` declares one.",
        )


def feed_section(declaration: Path) -> object:
    """Return the unvalidated feed section of a `source.toml`; None if it has none, or cannot be read.

    A source with one is a feed: its rows come from files, so it has no URL.
    """
    try:
        return tomllib.loads(declaration.read_text("utf-8-sig")).get("feed")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return None


def _lines_of_env_file() -> tuple[list[tuple[int, str, str]], list[str]]:
    """Return the lines of .env (number, name, value), and errors for DWH_… lines that are not NAME=value."""
    if Settings.model_config["env_file"] is None or not ENV_FILE.is_file():
        return [], []
    # Silence the parser's own warnings, which are less precise.
    logging.getLogger("dotenv").setLevel(logging.ERROR)
    parsed = list(parse_stream(StringIO(ENV_FILE.read_text("utf-8"))))
    return [
        (line.original.line, line.key.upper(), line.value or "")
        for line in parsed
        if line.key and not line.error
    ], [
        f"{ENV_FILE}, line {line.original.line} is not NAME=value"
        for line in parsed
        if line.error and "DWH_" in line.original.string.upper()
    ]

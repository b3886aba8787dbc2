"""Settings: one frozen object, built at the entry point and passed down."""

import logging
import os
import sys
from difflib import get_close_matches
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Literal, Self

from dotenv.parser import parse_stream
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from warehouse.errors import SettingsError

ENV_FILE = Path(".env")


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets out of files that DWH_..._FILE name, as Docker and Kubernetes mount them."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = f"DWH_{field_name.upper()}"
        path = os.environ.get(f"{name}_FILE") if SecretStr.__name__ in str(field.annotation) else None
        if not path:
            return None, field_name, False
        if os.environ.get(name):
            raise SettingsError(f"Both {name} and {name}_FILE are set.", hint="Unset one of them.")
        try:
            return Path(path).read_text().strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingsError(
                f"{name}_FILE: {path} cannot be read: {reason}.", hint="Name a file with the secret alone."
            ) from None

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """Everything that can be set, from the environment (prefix DWH_) or from `.env`; secrets also from files."""

    model_config = SettingsConfigDict(env_prefix="DWH_", env_file=ENV_FILE, extra="ignore", frozen=True)

    home: Path = Field(Path(".dwh"), description="State of the local stack")
    source: str = Field("shop", description="Folder of warehouse/sources to capture")
    source_url: SecretStr | None = Field(None, description="Database of the source; unset: DWH_SHOP_URL")
    shop_url: SecretStr | None = Field(None, description="The shop's database; unset: embedded")
    warehouse_url: SecretStr | None = Field(None, description="The warehouse's database; unset: embedded")
    lake: str = Field("lake", description="Folder or fsspec URL of the lake")
    geoip_path: Path | None = Field(None, description="MaxMind-format file that tells addresses' countries")
    geoip_license_key: SecretStr | None = Field(
        None, description="MaxMind licence key: `dwh geoip update` fetches GeoLite2 instead of DB-IP Lite"
    )
    geoip_account_id: str | None = Field(None, description="MaxMind account that the licence key is of")
    geoip_url: str | None = Field(
        None, description="Where else to fetch from; {month} is 2026-11, {license_key} the licence key"
    )
    smtp_url: SecretStr | None = Field(None, description="smtp://, smtp+starttls:// or smtps:// URL for mail")
    alert_to: str | None = Field(None, description="Who is mailed; several with commas between them")
    alert_from: str | None = Field(
        None, description="Sender of mails; unset: the SMTP user, or dwh@ this host"
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
    weblog_monthly_mb: int = Field(
        1024,
        ge=0,
        le=10**9,
        description="A country's partition of fact_weblog larger than this is divided by month",
    )
    weblog_retention_days: int | None = Field(
        None,
        ge=1,
        le=36500,
        description="Web log requests older than so many days (UTC) are removed; unset: none are",
    )
    xid_net: Literal["always", "unless-quiet"] = Field(
        "always",
        description="unless-quiet: read by the cursor's index where no transaction was in flight at the last snapshot",
    )
    change_log_days: int = Field(
        90, ge=1, le=36500, description="Days for which changes, and what undo needs, are kept"
    )
    max_delete_share: float = Field(0.10, ge=0, le=1, description="Share of a table that one run may delete")

    @field_validator("source_url", "shop_url", "warehouse_url")
    @classmethod
    def _leads_to_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            ports = str(conninfo_to_dict(url.get_secret_value()).get("port") or "") if url else ""
        except ProgrammingError:
            ports = "none"
        if not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports.split(",") if port):
            raise ValueError("it should read postgresql://user:password@host:port/database")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed wins over the environment, that over files of secrets, and those over `.env`."""
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings

    @classmethod
    def load(cls) -> Self:
        """Settings of this process.

        Raises:
            SettingsError: naming each setting that cannot be used.
        """
        try:
            _tell_what_sets_nothing()
            return cls()
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"{ENV_FILE} is no UTF-8 text: byte {error.object[error.start]:#x}.",
                hint="Save it as UTF-8.",
            ) from None
        except ValidationError as error:
            wrong = "; ".join(f"DWH_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"Settings cannot be used: {wrong}.", hint="See .env.example.") from None

    @property
    def warehouse(self) -> str:
        """URL of the warehouse database, which must be set by now."""
        return self._url("warehouse_url")

    @property
    def captured(self) -> str:
        """URL of the database of the source to capture."""
        return self._url("source_url" if self.source_url else "shop_url")

    def _url(self, name: str) -> str:
        url: SecretStr | None = getattr(self, name)
        if url is None:
            raise SettingsError(
                f"DWH_{name.upper()} is not set and no embedded database runs.",
                hint="Run `dwh up`, or set it to a postgresql:// URL.",
            )
        return url.get_secret_value()


@cache
def _tell_what_sets_nothing() -> None:
    """Warn on stderr, once, of lines of .env that set nothing: a typo must not pass for the default in silence."""
    names = [f"DWH_{name.upper()}" for name in Settings.model_fields]
    if not ENV_FILE.is_file():
        return
    # Its reader says less of it, and not everywhere.
    logging.getLogger("dotenv").setLevel(logging.ERROR)
    for line in parse_stream(StringIO(ENV_FILE.read_text("utf-8"))):
        name = (line.key or "").upper()
        if line.error:
            said = "is no NAME=value, and sets nothing"
        elif name.startswith("DWH_") and name not in names:
            meant = "".join(f"; do you mean {near}?" for near in get_close_matches(name, names, 1))
            said = f"{name} is not read from here{meant}"
        else:
            continue
        sys.stderr.write(f"Warning: {ENV_FILE}, line {line.original.line}: {said}\n")

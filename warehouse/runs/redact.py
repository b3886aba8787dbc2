"""Remove passwords from text that is stored or sent: audit rows, logs and mails."""

import re

# The password in a URL: everything up to the last @ before a blank or a quote.
IN_URL = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s'\"]*@")
# password=… in connection strings of libpq and others, quoted or not.
NAMES = "password|passwd|sslpassword|api_key|license_key|token"
IN_CONNINFO = re.compile(rf"(?i)\b({NAMES})(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,;)}}\]&]+)")


def redact(text: str) -> str:
    """Return `text` with the passwords in URLs and connection strings replaced by an ellipsis."""
    return IN_CONNINFO.sub(r"\1\2…", IN_URL.sub(r"\1:…@", text))

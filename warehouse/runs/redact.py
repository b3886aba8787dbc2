"""Remove passwords from text that is stored or sent: audit rows, logs and mails."""

import re

# The password of any URL: everything up to the last @ before a blank or a quote.
IN_URL = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s'\"]*@")
# password=… as libpq and others write it, quoted or not.
NAMES = "password|passwd|sslpassword|api_key|license_key|token"
IN_CONNINFO = re.compile(rf"(?i)\b({NAMES})(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,;)}}\]&]+)")


def redact(text: str) -> str:
    """`text` without the passwords of URLs and connection strings in it."""
    return IN_CONNINFO.sub(r"\1\2…", IN_URL.sub(r"\1:…@", text))

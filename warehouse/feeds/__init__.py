"""Feeds: sources of files (JSON, CSV, workbooks). Their records are parsed, typed and staged like a database's rows."""

"""Formats of log lines by declaration: Apache and nginx strings, W3C extended, JSON lines, wrapped lines."""

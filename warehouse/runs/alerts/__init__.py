"""Alerts by mail to the people who run the warehouse: what failed, since when, what was done, what to do next."""

from warehouse.runs.alerts.compose import Alert, Kind, compose, format_span
from warehouse.runs.alerts.deliver import Delivery, deliver, send_now, send_test
from warehouse.runs.alerts.mailbox import Mailbox
from warehouse.runs.alerts.outbox import (
    enqueue_alert,
    enqueue_gone_alert,
    enqueue_late_alert,
    enqueue_reminders,
    has_overdue_mail,
)
from warehouse.runs.alerts.rules import Rules

__all__ = [
    "Alert",
    "Delivery",
    "Kind",
    "Mailbox",
    "Rules",
    "compose",
    "deliver",
    "enqueue_alert",
    "enqueue_gone_alert",
    "enqueue_late_alert",
    "enqueue_reminders",
    "format_span",
    "has_overdue_mail",
    "send_now",
    "send_test",
]

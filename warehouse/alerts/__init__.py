"""Mail to those who run the warehouse: what failed, since when, what was done, what to do next."""

from warehouse.alerts.compose import Alert, compose
from warehouse.alerts.deliver import Delivery, deliver, send_now, send_test
from warehouse.alerts.mailbox import Mailbox
from warehouse.alerts.outbox import tell, tell_late
from warehouse.alerts.rules import Rules

__all__ = [
    "Alert",
    "Delivery",
    "Mailbox",
    "Rules",
    "compose",
    "deliver",
    "send_now",
    "send_test",
    "tell",
    "tell_late",
]

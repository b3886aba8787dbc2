"""The error class of the local stack."""


class StackError(Exception):
    """What happened and to what (`what`), and what to do next (`hint`)."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()

"""What the local stack says when it cannot do what was asked."""


class StackError(Exception):
    """What happened and to what, with advice on what to do next."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()

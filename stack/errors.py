"""What the local stack says when it cannot do what was asked."""


class StackError(Exception):
    """What happened and to what, with advice on what to do next."""

    def __init__(self, what: str, *, advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what} {self.advice}".strip()

"""The error class of the generators."""


class GeneratorError(Exception):
    """A request that cannot be carried out: what went wrong, and what to do next."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()

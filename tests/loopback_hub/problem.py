"""An answer that is an error, in the Hub's own form."""

from dataclasses import dataclass


@dataclass(slots=True)
class Problem(Exception):
    """Raised by a handler; becomes status, X-Error-Code, X-Error-Message and a JSON body."""

    status: int
    message: str
    code: str | None = None
    commit: str | None = None  # X-Repo-Commit, which goes with EntryNotFound

    def headers(self) -> dict[str, str]:
        """Return the headers of the error contract."""
        told = {"X-Error-Message": self.message}
        if self.code is not None:
            told["X-Error-Code"] = self.code
        if self.commit is not None:
            told["X-Repo-Commit"] = self.commit
        return told

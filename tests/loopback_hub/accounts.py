"""Users, organisations and their tokens."""

from dataclasses import dataclass, field
from typing import Literal

from tests.loopback_hub.history import Repo, hex24
from tests.loopback_hub.problem import Problem

Role = Literal["read", "write"]


@dataclass(slots=True, kw_only=True)
class Account:
    """One user."""

    name: str
    orgs: set[str] = field(default_factory=set)
    id: str = field(default_factory=hex24)


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks, and what the token is good for."""

    account: Account
    role: Role


class Accounts:
    """All users, and who may do what."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, Login] = {}

    def add(self, name: str, *, orgs: tuple[str, ...] = ()) -> Account:
        """Return the account of this name, made where it is not there."""
        account = self._accounts.setdefault(name, Account(name=name))
        account.orgs.update(orgs)
        return account

    def add_token(self, name: str, role: Role = "write", *, token: str | None = None) -> str:
        """Return a new token of a user."""
        made = token or f"hf_{role}_{hex24()}"
        self._tokens[made] = Login(self.add(name), role)
        return made

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        del self._tokens[token]

    def login(self, authorization: str | None) -> Login | None:
        """Return who asks; None without a token, 401 with a wrong one."""
        if authorization is None:
            return None
        login = self._tokens.get(authorization.removeprefix("Bearer "))
        if login is None:
            raise Problem(401, "Invalid credentials in Authorization header")
        return login

    def id_of(self, name: str) -> str:
        """Return the id of a user or organisation."""
        return self.add(name).id


def member(login: Login | None, repo: Repo) -> bool:
    """Tell whether this login belongs to the repository's owner."""
    return login is not None and repo.namespace in {login.account.name, *login.account.orgs}


def check_read(login: Login | None, repo: Repo) -> None:
    """Raise what the Hub answers where a repository cannot be seen."""
    if repo.private and not member(login, repo):
        raise Problem(404 if login else 401, "Repository not found", code="RepoNotFound")
    if repo.disabled:
        raise Problem(403, "Access to this resource is disabled.")


def check_files(login: Login | None, repo: Repo) -> None:
    """Raise what the Hub answers where files of a repository cannot be read."""
    check_read(login, repo)
    if repo.gated and not member(login, repo):
        if login is None:
            raise Problem(401, f"Access to model {repo.repo_id} is restricted.", code="GatedRepo")
        if login.account.name not in repo.let_in:
            raise Problem(
                403,
                f"Access to model {repo.repo_id} is restricted and you are not in the list.",
                code="GatedRepo",
            )


def check_write(login: Login | None, repo: Repo) -> Login:
    """Return the login; raise what the Hub answers where it may not push."""
    check_read(login, repo)
    if login is None:
        raise Problem(401, "Invalid username or password.", code="RepoNotFound")
    if login.role != "write" or not member(login, repo):
        raise Problem(403, "Forbidden: you must have write access to this repository.")
    return login


def check_talk(login: Login | None, repo: Repo) -> Login:
    """Return the login; raise what the Hub answers where it may not open or write discussions."""
    check_read(login, repo)
    if login is None:
        raise Problem(401, "Invalid username or password.", code="RepoNotFound")
    if repo.discussions_disabled:
        raise Problem(403, "Discussions are disabled for this repo")
    return login

"""One job: what the runner says, what happened, what is wanted, and which rules decide."""

from dataclasses import dataclass

from safety_gate.action.event import Event, commit_of
from safety_gate.action.options import Options
from safety_gate.action.policy_source import PolicySource
from safety_gate.action.runner import Runner
from safety_gate.publish.publisher import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is known before anything is judged."""

    runner: Runner
    event: Event
    options: Options
    policy: PolicySource | None = None  # None: not read yet, or it cannot be had

    @property
    def address(self) -> Address:
        """Where GitHub is, and by which token."""
        return Address(
            repository=self.runner.repository,
            api_url=self.runner.api_url,
            token=self.options.github_token,
        )

    @property
    def commit(self) -> str:
        """The commit that the verdict belongs to."""
        return commit_of(self.event, self.runner)

    @property
    def policy_path(self) -> str:
        """The policy file in the repository; empty for a preset."""
        return self.policy.path if self.policy else ""

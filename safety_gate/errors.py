"""The one error tree of the project.

GateError                     could not judge: the verdict is Undecided, exit status 3
├── SourceError               a folder or repository cannot be read
│   ├── MissingFile           a file that is needed is not there
│   ├── UnsafePath            a name or a link that would lead outside
│   ├── ChangedWhileRead      the bytes moved under us
│   ├── BadLocation           a text names neither a folder nor a repository
│   ├── BadDatabase           a text names no database
│   ├── BadList, BadEvent     a list of adapters or an event of the Hub cannot be followed
│   ├── BadSecret             the webhook's secret is missing or weak
│   └── HubError              the Hub does not give what was asked for
│       ├── HubGated          HubUnauthorised, HubRepoMissing, HubRevisionMissing, HubDisabled
│       ├── HubRateLimited    HubOffline, HubUnreachable, HubTooLarge, HubWrongBytes
│       └── NotPublishedOnHub a report was not taken; NotAllowed, DiscussionsDisabled
├── BadTensorFile             a safetensors file breaks the format, or our limits
├── BadCheckpoint             base or aligned cannot serve as a reference
│   └── NamesUnknown          its names do not tell which parameters they are
├── BadAdapter                the adapter's own files contradict themselves
│   ├── PatternRefused        a pattern of its config cannot be judged; PatternTooSlow
│   │   └── TargetsRefused    nor can its target_modules
│   └── ShellRefused          PEFT could not merge its update within the limits
├── BadScore                  a figure came out as nonsense
├── BadPolicy                 the policy file cannot be followed
├── CannotProbe               the model cannot be asked
├── CannotCalibrate           labelled adapters say nothing about thresholds
├── CannotRepair              the repair is not possible, or would lose something in silence
├── BadInput, BadReport       the action's inputs, or the files of an earlier job
├── NotPublished, NotTold     a verdict stands, and was not told where people look
├── NoPictures                a picture was wanted, and the library for it is not there
├── BadOrder, BadFrame, JobFailed     a Job of the Hub cannot be had, or its report is not whole
└── StoreDown, LeaseLost, HeadMoved   the queue of jobs

Every message says where, what, got and expected; ``hint`` says what to do next.
"""

from typing import ClassVar


class GateError(Exception):
    """The gate could not judge; the adapter is neither passed nor blocked."""

    exit_code: ClassVar[int] = 3
    rule: ClassVar[str] = "could-not-judge"  # id of the finding that this error becomes

    def __init__(
        self, what: str, *, where: str, got: str = "", expected: str = "", hint: str
    ) -> None:
        """Keep the parts apart, so that a report can escape each of them.

        Args:
            what: our own words; never a stranger's text.
            where: file, tensor, module or key, as its owner wrote it (a stranger's text).
            got: what was found there (a stranger's text).
            expected: our own words.
            hint: what the reader should do next; never empty.
        """
        if not hint:
            raise AssertionError("a GateError needs a hint")
        detail = ", ".join(
            part for part in (got and f"got {got}", expected and f"expected {expected}") if part
        )
        super().__init__(f"{where}: {what}" + (f" ({detail})" if detail else ""))
        self.what = what
        self.where = where
        self.got = got
        self.expected = expected
        self.hint = hint


class SourceError(GateError):
    """A folder or repository cannot be read."""

    rule = "source-unreadable"


class MissingFile(SourceError):
    """A file that is needed is not there."""

    rule = "file-missing"


class UnsafePath(SourceError):
    """A name or a link that would lead outside the folder, or that is not a regular file."""

    rule = "path-unsafe"


class ChangedWhileRead(SourceError):
    """The bytes moved under us, so what was judged is not what is there now."""

    rule = "changed-while-read"


class BadTensorFile(GateError):
    """A safetensors file breaks the format, or goes beyond our limits."""

    rule = "tensor-file-bad"


class BadCheckpoint(GateError):
    """The base or aligned checkpoint cannot serve as a reference."""

    rule = "checkpoint-bad"


class BadAdapter(GateError):
    """The adapter's own files contradict themselves."""

    rule = "adapter-bad"


class BadScore(GateError):
    """A figure came out as nonsense, so nothing may be decided on it."""

    rule = "score-bad"


class BadPolicy(GateError):
    """The policy file cannot be followed as it stands."""

    rule = "policy-bad"

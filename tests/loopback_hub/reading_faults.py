"""What can go wrong while reading, and what comes of it: the rows of the fault matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field

from safety_gate.errors import MissingFile, SourceError
from safety_gate.sources import hub_errors as errors
from safety_gate.sources.hub import HubLimits, HubSource
from safety_gate.sources.hub_ahead import AheadLimits
from safety_gate.sources.hub_client import Timeouts
from safety_gate.sources.hub_patience import Patience
from tests.loopback_hub import Fault, LoopbackHub, rate_limited
from tests.loopback_hub.quick import QUICK, quick_client

REPO = "acme/model"
BIG = bytes(range(256)) * 3200  # read by ranges
SPAN = (400_000, 800_000)
SHORT = Timeouts(connect=1.0, read=0.2)
LIMITS = HubLimits(
    small_bytes=1000, ahead=AheadLimits(connections=2, buffer_bytes=2**18, piece_bytes=2**16)
)


def read_all(
    hub: LoopbackHub, *, patience: Patience = QUICK, timeouts: Timeouts | None = None
) -> HubSource:
    """Make every request that reading makes: info, tree, HEAD, small GET, ranged GET, verify."""
    client = quick_client(hub, hub.token(), timeouts=timeouts, patience=patience)
    source = HubSource(REPO, client=client, limits=LIMITS)
    try:
        for path, data, (start, stop) in (
            ("config.json", b'{"small": 1}', (0, 12)),
            ("model.safetensors", BIG, SPAN),
        ):
            room = bytearray(stop - start)
            source.read_into(path, start, memoryview(room))
            assert room == data[start:stop]
        source.verify()
    finally:
        source.close()
    return source


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault, and what comes of it when it stays."""

    name: str
    fault: Callable[[str], Fault]
    lasting: dict[str, type[SourceError]] = field(default_factory=dict)  # by route; "*" the rest
    passing: bool = True  # a single one is survived
    timeouts: Timeouts | None = None


def with_status(status: int, **headers: str) -> Callable[[str], Fault]:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda route: Fault(route=route, status=status, headers=told)


CASES = [
    Case(name="500", fault=with_status(500), lasting={"*": errors.HubUnreachable}),
    Case(name="502", fault=with_status(502), lasting={"*": errors.HubUnreachable}),
    Case(name="503", fault=with_status(503, Retry_After="0"), lasting={"*": errors.HubUnreachable}),
    Case(name="504", fault=with_status(504), lasting={"*": errors.HubUnreachable}),
    Case(name="408", fault=with_status(408), lasting={"*": errors.HubUnreachable}),
    Case(name="429", fault=with_status(429), lasting={"*": errors.HubRateLimited}),
    Case(name="429-ratelimit", fault=rate_limited, lasting={"*": errors.HubRateLimited}),
    Case(
        name="timeout",
        fault=lambda route: Fault(route=route, delay=0.4),
        lasting={"*": errors.HubUnreachable},
        timeouts=SHORT,
    ),
    Case(
        name="reset",
        fault=lambda route: Fault(route=route, drop=True),
        lasting={"*": errors.HubUnreachable},
    ),
    Case(
        name="400",
        fault=with_status(400),
        lasting={"*": errors.HubError, "cdn": errors.HubUnreachable},
        passing=False,
    ),
    Case(
        name="401",
        fault=with_status(401, X_Error_Code="RepoNotFound"),
        lasting={
            "*": errors.HubRepoMissing,
            "cdn": errors.HubUnreachable,
            "resolve-cache": errors.HubUnauthorised,
        },
        passing=False,
    ),
    Case(
        name="403-gated",
        fault=with_status(403, X_Error_Code="GatedRepo"),
        lasting={
            "*": errors.HubGated,
            "cdn": errors.HubUnreachable,
            "resolve-cache": errors.HubUnauthorised,
        },
        passing=False,
    ),
    Case(
        name="403-disabled",
        fault=with_status(403, X_Error_Message="Access to this resource is disabled."),
        lasting={
            "*": errors.HubDisabled,
            "cdn": errors.HubUnreachable,
            "resolve-cache": errors.HubUnauthorised,
        },
        passing=False,
    ),
    Case(
        name="404-revision",
        fault=with_status(404, X_Error_Code="RevisionNotFound"),
        lasting={
            "*": errors.HubRevisionMissing,
            "cdn": errors.HubUnreachable,
            "resolve-cache": errors.HubRepoMissing,
        },
        passing=False,
    ),
    Case(
        name="404-entry",
        fault=with_status(404, X_Error_Code="EntryNotFound"),
        lasting={
            "*": MissingFile,
            "cdn": errors.HubUnreachable,
            "resolve-cache": errors.HubRepoMissing,
        },
        passing=False,
    ),
    Case(
        name="409",
        fault=with_status(409),
        lasting={"*": errors.HubError, "cdn": errors.HubUnreachable},
        passing=False,
    ),
    Case(
        name="412",
        fault=with_status(412),
        lasting={"*": errors.HubError, "cdn": errors.HubUnreachable},
        passing=False,
    ),
    Case(
        name="416",
        fault=with_status(416),
        lasting={
            "*": errors.HubError,
            "cdn": errors.HubWrongBytes,
            "resolve-cache": errors.HubWrongBytes,
        },
        passing=False,
    ),
]
ROUTES = (("info", "GET"), ("tree", "GET"), ("resolve", "HEAD"), ("cdn", "GET"))
SMALL_GET = ("resolve-cache", "GET")


@dataclass(frozen=True, kw_only=True)
class Lie:
    """An answer that looks fine."""

    name: str
    fault: Fault
    lasting: type[SourceError]
    passing: bool


LIES = [
    Lie(
        name="200-to-a-range",
        fault=Fault(route="cdn", ignore_range=True),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="another-span",
        fault=Fault(route="cdn", span_shift=1),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="no-content-range",
        fault=Fault(route="cdn", headers={"Content-Range": ""}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="another-size-of-the-file",
        fault=Fault(
            route="cdn", headers={"Content-Range": f"bytes {SPAN[0]}-{SPAN[1] - 1}/99999999"}
        ),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="gzip",
        fault=Fault(route="cdn", headers={"Content-Encoding": "gzip"}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="truncated",
        fault=Fault(route="cdn", cut_after=50_000),
        lasting=errors.HubUnreachable,
        passing=True,
    ),
    Lie(
        name="truncated-at-once",
        fault=Fault(route="cdn", cut_after=0),
        lasting=errors.HubUnreachable,
        passing=True,
    ),
    Lie(
        name="another-commit",
        fault=Fault(route="resolve", headers={"X-Repo-Commit": "f" * 40}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="another-etag",
        fault=Fault(route="resolve", path="model", headers={"X-Linked-ETag": '"abc"'}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="another-size",
        fault=Fault(route="resolve", path="model", headers={"X-Linked-Size": "12"}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="no-size",
        fault=Fault(route="resolve", path="model", headers={"X-Linked-Size": ""}),
        lasting=errors.HubWrongBytes,
        passing=False,
    ),
    Lie(
        name="not-json",
        fault=Fault(route="info", status=200, body=b"<html>Please log in</html>"),
        lasting=errors.HubError,
        passing=False,
    ),
    Lie(
        name="a-commit-that-is-none",
        fault=Fault(route="info", status=200, body=b'{"id": "acme/model", "sha": "main"}'),
        lasting=errors.HubError,
        passing=False,
    ),
    Lie(
        name="a-tree-that-is-none",
        fault=Fault(route="tree", status=200, body=b'{"files": []}'),
        lasting=errors.HubError,
        passing=False,
    ),
    Lie(
        name="a-size-that-is-none",
        fault=Fault(
            route="tree",
            status=200,
            body=b'[{"type":"file","path":"a","size":-1,"oid":"' + b"0" * 40 + b'"}]',
        ),
        lasting=errors.HubError,
        passing=False,
    ),
    Lie(
        name="two-sizes",
        fault=Fault(
            route="tree",
            status=200,
            body=b'[{"type":"file","path":"a","size":1,"oid":"%b","lfs":{"oid":"%b","size":2}}]'
            % (b"0" * 40, b"0" * 64),
        ),
        lasting=errors.HubError,
        passing=False,
    ),
]

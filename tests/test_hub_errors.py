"""Every error of the client, and of what it is made of, has words of ours."""

import http.client
import inspect
import socket
import ssl

import httpx2
import pytest
from huggingface_hub import errors as hf

from safety_gate.errors import GateError, MissingFile, SourceError
from safety_gate.sources import hub_errors
from safety_gate.sources.hub_errors import FOREIGN, for_status, translate

# Raised only by parts of the client that are not used: its own cache and downloads, inference,
# jobs and sandboxes, its command line, files of formats that are never opened.
ELSEWHERE = {
    "CacheNotFound",
    "CorruptedCacheException",
    "CachedRepoTreeNotFoundError",
    "InferenceEndpointError",
    "SafetensorsParsingError",
    "NotASafetensorsRepoError",
    "DDUFError",
    "DDUFCorruptedFileError",
    "DDUFExportError",
    "DDUFInvalidEntryNameError",
    "StrictDataclassError",
    "StrictDataclassDefinitionError",
    "StrictDataclassFieldValidationError",
    "StrictDataclassClassValidationError",
    "XetDownloadError",
    "FileDuplicationError",
    "CLIError",
    "ConfirmationError",
    "CLIExtensionInstallError",
    "SandboxError",
    "SandboxCommandError",
}


def exceptions_of(module: object) -> list[type[Exception]]:
    found = inspect.getmembers(module, inspect.isclass)
    return [kind for _, kind in found if issubclass(kind, Exception)]


@pytest.mark.parametrize(
    "kind", exceptions_of(hf), ids=lambda kind: f"huggingface_hub.{kind.__name__}"
)
def test_every_error_of_the_client_is_translated(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN) != (kind.__name__ in ELSEWHERE)


@pytest.mark.parametrize(
    "kind",
    [*exceptions_of(httpx2), *exceptions_of(http.client), ssl.SSLError, socket.gaierror, OSError],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_error_of_the_transport_is_translated(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN)


def answered(kind: type[hf.HfHubHTTPError], status: int) -> hf.HfHubHTTPError:
    request = httpx2.Request("GET", "https://hub.example/secret-path")
    response = httpx2.Response(status, request=request)
    return kind("words of the server", response=response, server_message="words of the server")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered(hf.GatedRepoError, 403), hub_errors.HubGated),
        (answered(hf.RepositoryNotFoundError, 404), hub_errors.HubRepoMissing),
        (answered(hf.RevisionNotFoundError, 404), hub_errors.HubRevisionMissing),
        (answered(hf.RemoteEntryNotFoundError, 404), MissingFile),
        (answered(hf.DisabledRepoError, 403), hub_errors.HubDisabled),
        (answered(hf.BadRequestError, 400), hub_errors.HubError),
        (answered(hf.HfHubHTTPError, 401), hub_errors.HubUnauthorised),
        (answered(hf.HfHubHTTPError, 403), hub_errors.HubUnauthorised),
        (answered(hf.HfHubHTTPError, 404), hub_errors.HubRepoMissing),
        (answered(hf.HfHubHTTPError, 429), hub_errors.HubRateLimited),
        (answered(hf.HfHubHTTPError, 503), hub_errors.HubUnreachable),
        (hf.OfflineModeIsEnabled("offline"), hub_errors.HubOffline),
        (hf.OIDCError("no token"), hub_errors.HubUnauthorised),
        (httpx2.ConnectError("refused"), hub_errors.HubUnreachable),
        (httpx2.ReadTimeout("slow"), hub_errors.HubUnreachable),
        (ssl.SSLCertVerificationError("self-signed"), hub_errors.HubUnreachable),
        (socket.gaierror("no such host"), hub_errors.HubUnreachable),
        (http.client.IncompleteRead(b""), hub_errors.HubUnreachable),
        (ValueError("not JSON"), hub_errors.HubError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_the_meaning_is_kept(error: Exception, kind: type[SourceError]) -> None:
    ours = translate(error, "acme/lora")
    assert type(ours) is kind
    assert ours.where == "acme/lora"
    assert ours.hint
    assert "words of the server" not in str(ours)
    assert "secret-path" not in str(ours)


def test_every_kind_has_a_rule_of_its_own() -> None:
    kinds = [kind for kind in exceptions_of(hub_errors) if issubclass(kind, hub_errors.HubError)]
    rules = [kind.rule for kind in kinds if issubclass(kind, GateError)]
    assert len(set(rules)) == len(rules) == 11


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 412, 416, 429, 500, 503])
def test_every_status_has_words(status: int) -> None:
    assert f"HTTP {status}" in str(for_status(status, "acme/lora"))

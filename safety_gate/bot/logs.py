"""Structured logs, one JSON object a line, from which no secret can be read."""

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, TextIO

GONE: Final = "[redacted]"
SHORTEST: Final = 8  # characters; anything shorter would blot out honest text
# Values of these environment variables never stand in a log, whatever they look like.
NAMES: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|DATABASE_URL|CREDENTIAL|API_?KEY", re.I)
SHAPES: Final = re.compile(
    r"hf_[A-Za-z0-9_.-]{8,}"  # Hub: user, organisation and OIDC tokens
    r"|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_[A-Za-z0-9_]{8,}"  # GitHub
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?i:\b(?:secret|token|password|signature)=)[^&\s\"']+"  # in addresses
    r"|(?<=://)[^/\s:@]*:[^/\s]*(?=@)"  # user and password in an address
)
PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Knows what must not be shown."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Take the exact secrets of this process; shapes of tokens are known besides."""
        exact = sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, exact))) if exact else None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Redactor":
        """Take every variable whose name says that it is secret."""
        return cls(value for name, value in environ.items() if NAMES.search(name))

    def clean(self, text: str) -> str:
        """Return text without secrets."""
        if self._exact is not None:
            text = self._exact.sub(GONE, text)
        return SHAPES.sub(GONE, text)

    def cleaned(self, value: object) -> object:
        """Return a value without secrets, however deep it lies."""
        match value:
            case None | bool() | int() | float():
                return value
            case Mapping():
                return {self.clean(str(k)): self.cleaned(v) for k, v in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.cleaned(one) for one in value]
            case _:
                return self.clean(str(value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line; everything in it went through the redactor, tracebacks too."""

    def __init__(self, redactor: Redactor) -> None:
        """Format with this redactor."""
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(self._redactor.cleaned(line), ensure_ascii=True, default=str)


def log_to(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send every log of this process to a stream; the only handler there is."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(Redactor.of(os.environ)))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in (
        "httpx",
        "httpx2",
        "httpcore",
        "procrastinate",
        "psycopg.pool",
        "uvicorn.access",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)

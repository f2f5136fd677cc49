"""How the broker logs: one JSON object a line, or text, to standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_QUIET = ("urllib3", "alembic", "spiffe", "grpc")


def _trouble(record: logging.LogRecord) -> tuple[str, list[str]]:
    """An exception's type and the innermost places it went through, never its text: it could hold anything (R6)."""
    if not record.exc_info or record.exc_info[0] is None:
        return "", []
    places = []
    trace = record.exc_info[2]
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return record.exc_info[0].__name__, places[-8:]


class JsonFormatter(logging.Formatter):
    """One line, one object: time, level, logger, message; of an exception what `_trouble` says."""

    def format(self, record: logging.LogRecord) -> str:
        """Format."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        exception, places = _trouble(record)
        if exception:
            line["exception"] = exception
            line["at"] = places
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """One line a record, for reading; of an exception what `_trouble` says."""

    def format(self, record: logging.LogRecord) -> str:
        """Format."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")
        exception, places = _trouble(record)
        trouble = f" [{exception} at {' < '.join(reversed(places))}]" if exception else ""
        message = (
            record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        )  # nobody adds lines of their own
        return f"{time} {record.levelname:<7} {record.name}: {message}{trouble}"


def set_up_logging(*, style: str, level: str) -> None:
    """Send the project's logs to standard error; keep libraries to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)

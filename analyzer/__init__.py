"""smtpscope: reads packet captures and says why mail does not get through.

    import analyzer
    case = analyzer.analyze("incident.pcapng")
    case.findings          # a pandas DataFrame; also .connections, .messages, .paths, .icmp, .captures

Importing this package costs nothing: the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Case, analyze
    from .errors import CaptureError, NotACapture, RuleError, SmtpscopeError, ToolError, UsageError

__version__ = "0.1.0"
__all__ = [
    "CaptureError",
    "Case",
    "NotACapture",
    "RuleError",
    "SmtpscopeError",
    "ToolError",
    "UsageError",
    "__version__",
    "analyze",
]

_HOME = {"analyze": ".api", "Case": ".api"}  # everything else that is public is an error


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, ".errors"), __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What can go wrong, as one tree.

    SmtpscopeError              anything smtpscope refuses to do; the message is one clear line for the user
      UsageError                wrong option, wrong file given to an option       -> exit status 2
        RuleError               a rule file that cannot be used (says file:line)
      CaptureError              a capture that cannot be read, or not to its end  -> exit status 3
        NotACapture             no known capture format at all
      ToolError                 an outside program (tshark) is missing, crashed or hung

A message says where (file:line or file:frame), what was found, what was expected, and what to do.
"""


class SmtpscopeError(Exception):
    """Base of all errors that are shown to the user as one line, never as a traceback."""


class UsageError(SmtpscopeError):
    """The command line, a configuration file or another argument is wrong (exit status 2)."""


class RuleError(UsageError):
    """A rule file cannot be used; the message begins with ``file:line:``."""


class CaptureError(SmtpscopeError):
    """A capture cannot be read, or not to its end (exit status 3)."""


class NotACapture(CaptureError):
    """The bytes are in no capture format that smtpscope knows."""


class ToolError(SmtpscopeError):
    """A program that smtpscope calls (tshark) is missing, failed or did not answer in time."""

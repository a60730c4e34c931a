"""python -m analyzer: the same as the command smtpscope."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

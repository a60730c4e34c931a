"""python -m analyzer: the same as the command smtpscope."""

from .cli import command

if __name__ == "__main__":
    command()

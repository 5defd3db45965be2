"""`python -m helpers`: can the course run on this computer? See helpers/machine/environment.py."""

import sys

from helpers.machine.environment import report

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a console that cannot show a character
    sys.exit(report())

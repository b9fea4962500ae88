"""``python -m fromnoise`` is the command line."""

import sys

from fromnoise.cli import main

if __name__ == "__main__":
    sys.exit(main())

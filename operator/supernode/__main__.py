"""`python -m supernode` is the `supernode` command."""

import sys

from supernode.cli import main

if __name__ == "__main__":
    sys.exit(main())

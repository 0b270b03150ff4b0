"""`python -m herd` is `herd`."""

import sys

from herd.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m fncb`, which is the program `fncb`."""

import sys

from fncb.cli import main

sys.exit(main())

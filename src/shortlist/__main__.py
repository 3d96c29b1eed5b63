"""`python -m shortlist`: the command line."""

import sys

from shortlist.cli import main

sys.exit(main())

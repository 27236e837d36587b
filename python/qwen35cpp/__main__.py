"""`python -m qwen35cpp`: the same as the command `qwen35cpp`."""

import sys

from .cli import main

sys.exit(main())

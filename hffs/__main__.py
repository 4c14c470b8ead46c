"""``python -m hffs``: the same as the ``hffs`` command."""

import sys

from .cli import main

sys.exit(main())

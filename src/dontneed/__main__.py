"""`python -m dontneed`: the command."""

from __future__ import annotations

import sys

from dontneed.cli.main import main

sys.exit(main())

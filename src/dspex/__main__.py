"""``python -m dspex`` is the command ``dspex``."""

import sys

from dspex.cli.main import main

sys.exit(main())

#!/usr/bin/env python3
"""Serve the web page from a clone, installed or not: python client/app.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ma_agiqa_client.app import main

if __name__ in {"__main__", "__mp_main__"}:
    main(prog_name="python client/app.py")

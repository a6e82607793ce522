#!/usr/bin/env python3
"""Score images from a clone, installed or not: python client/score.py imgs/"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ma_agiqa_client.cli import main

if __name__ == "__main__":
    main(prog_name="python client/score.py")

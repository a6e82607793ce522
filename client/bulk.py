#!/usr/bin/env python3
"""Score the images of a Parquet table from a clone: python client/bulk.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ma_agiqa_client.bulk import main

if __name__ == "__main__":
    main(prog_name="python client/bulk.py")

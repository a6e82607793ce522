"""Bulk jobs of an installed client: `python -m ma_agiqa_client.bulk --help`."""

from ma_agiqa_client.bulk import main

if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa_client.bulk")

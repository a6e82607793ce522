"""The page of an installed client: `python -m ma_agiqa_client.app --help`."""

from ma_agiqa_client.app import main

if __name__ in {"__main__", "__mp_main__"}:
    main(prog_name="python -m ma_agiqa_client.app")

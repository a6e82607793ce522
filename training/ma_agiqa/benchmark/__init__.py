"""How fast the package is on this machine, measured on the real work.

One module for each subject; `python -m ma_agiqa benchmark` runs them.
"""

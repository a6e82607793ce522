"""Write a checkpoint into a Triton model repository: `python export/to_triton.py --help`."""

from exporter.commands import main

if __name__ == "__main__":
    main()

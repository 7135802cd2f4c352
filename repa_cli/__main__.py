"""Run the command as `python -m repa_cli`, which torchrun needs."""

from repa_cli.app import main

if __name__ == "__main__":
    main()

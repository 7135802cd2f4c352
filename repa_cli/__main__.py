"""Where the command starts, as `repa` or as `python -m repa_cli`, which torchrun needs."""


def main() -> None:
    """Load the app and run it."""
    try:
        from repa_cli.running.start import Loading, hush_torch

        hush_torch()

        with Loading():
            from repa_cli.app import main as run
        run()
    except KeyboardInterrupt:  # when Ctrl-C was not set yet
        import os

        if os.environ.get("RANK", "0") == "0" and "REPA_LAUNCHED" not in os.environ:
            os.write(2, b"repa: error: interrupted.\n")
        os._exit(130)


if __name__ == "__main__":
    main()

"""The command of a tiny training run, and what it leaves in its folder."""

CLI_TINY = ["--model", "SiT-Pico/8", "--image-size", "16", "--encoder", "none"]
CLI_TINY += ["--encoder-depth", "1", "--batch-size", "8", "--warmup-steps", "0"]
CLI_TINY += ["--decay-steps", "0"]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

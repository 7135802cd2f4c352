"""A prepared set of given or random rows, written without preparing anything."""

import json
import zlib
from pathlib import Path

import numpy as np

from repa.data.prepared_set import CHECKSUMS, FORMAT, MANIFEST, labels_digest
from repa.data.row_files import Layout
from repa_base.checksums import sealed


def write_set(folder: Path, layout: Layout, rows, latent_space: dict | None = None) -> int:
    """Write the set of a layout with labels; return its bytes.

    `rows(key, indices)` gives the rows of a file. The identity is that of the rows' checksums.
    """
    folder.mkdir(parents=True)
    checksums, sizes = {}, {}
    for key, file in layout.files.items():
        path = folder / file.name
        path.parent.mkdir(exist_ok=True)
        sums = []
        with path.open("wb") as stream:
            stream.write(file.head)
            for index in range(layout.count):
                content = file.encode(rows(key, [index])[0])
                sums.append(zlib.crc32(content))
                stream.write(file.prefix(index, sums[-1]) + content)
            stream.writelines(file.tail(sums))
        checksums[key], sizes[file.name] = np.array(sums, np.uint32), path.stat().st_size
    np.savez(folder / CHECKSUMS, **checksums)
    space = {"latent_space": latent_space, "moments_shape": layout.moments_shape}
    num_classes = int(layout.labels.max()) + 1
    manifest = {
        "format": FORMAT,
        "image_size": layout.image_size,
        "count": layout.count,
        "held_out": None,
        "num_classes": num_classes,
        "class_names": [f"class {label}" for label in range(num_classes)],
        "labels": labels_digest(layout.labels),
        "autoencoder": space if layout.moments_shape else None,
        "encoders": [
            {"name": name, "tokens": tokens, "dim": dim}
            for name, (tokens, dim) in layout.features.items()
        ],
        "flip": layout.flip,
        "files": {name: {"size": size} for name, size in sizes.items()},
        "identity": "".join(f"{zlib.crc32(sums.tobytes()):08x}" for sums in checksums.values()),
    }
    (folder / MANIFEST).write_text(json.dumps(sealed(manifest)))
    return sum(sizes.values())

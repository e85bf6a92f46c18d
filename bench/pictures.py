"""Many different real photographs out of two: scaled, mirrored, recompressed."""

from pathlib import Path

from PIL import Image, ImageOps

from services.testing.samples import sample


def write_variants(folder: Path, number: int, *, largest: int) -> list[Path]:
    """Write JPEG files of one face each, their longest side from 0.6 to 1 times ``largest``."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = [
        Image.open(sample(name)).convert("RGB") for name in ("astronaut.png", "grace_hopper.jpg")
    ]
    return [
        _write(folder / f"{index:03}.jpg", originals[index % 2], index, largest)
        for index in range(number)
    ]


def _write(file: Path, original: Image.Image, index: int, largest: int) -> Path:
    side = largest * (0.6 + 0.4 * (index * 7 % 10) / 9)
    scale = side / max(original.size)
    picture = original.resize((round(original.width * scale), round(original.height * scale)))
    if index % 4 > 1:
        picture = ImageOps.mirror(picture)
    picture.save(file, quality=75 + index % 20)
    return file

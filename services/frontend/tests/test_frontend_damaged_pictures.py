"""What a browser shows is taken: damaged files in a real Chromium."""

import base64
import io

import numpy as np
from PIL import Image

from services.frontend.tests.browser import EILEEN, chromium, photo
from services.testing.damaged_pictures import damaged_pictures

_SHOW = """async (content) => {
    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
    const image = new Image();
    const shown = new Promise((resolve) => { image.onload = image.onerror = resolve; });
    image.src = URL.createObjectURL(new Blob([bytes]));
    await shown;
    if (!image.naturalWidth) return null;
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
}"""


def test_what_a_browser_shows_is_taken() -> None:
    original = photo(EILEEN).resize((256, 256))
    wanted = np.asarray(original.convert("L")).astype(int)
    turned = np.rot90(wanted, -1)
    damaged = damaged_pictures(original)
    shown = {}
    with chromium() as browser:
        page = browser.new_page()
        for name, one in damaged.items():
            result = page.evaluate(_SHOW, base64.b64encode(one.content).decode())
            if result is None:
                continue
            with Image.open(io.BytesIO(base64.b64decode(result))) as screen:
                pixels = np.asarray(screen.convert("RGB").convert("L")).astype(int)
            for orientation, upright in ((1, wanted), (6, turned)):
                if (np.abs(pixels - upright).mean(axis=1) < 12).mean() > 0.9:
                    shown[name] = orientation
    assert len(shown) > 60
    assert {name for name in shown if damaged[name].refusal} == set()
    # A browser turns pictures by nothing but the standard's form of the number.
    assert {name for name, turn in shown.items() if turn == 6} <= {
        name for name, one in damaged.items() if one.orientation == 6
    }

"""``python -m services.client``, which is installed as ``facestack``."""

from services.client.app import main

if __name__ == "__main__":
    main()

"""``python -m services.local run`` or ``demo``."""

from services.local.app import main

if __name__ == "__main__":
    main()

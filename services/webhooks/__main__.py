"""``python -m services.webhooks``."""

from services.webhooks.app import main

if __name__ == "__main__":
    main()

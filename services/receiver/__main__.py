"""``python -m services.receiver``."""

from services.receiver.app import main

if __name__ == "__main__":
    main()

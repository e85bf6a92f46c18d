"""``python -m services.frontend``."""

from services.frontend.app import main

if __name__ == "__main__":
    main()

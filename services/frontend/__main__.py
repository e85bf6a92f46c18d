"""``python -m services.frontend``."""

from services.frontend.app import main

main()

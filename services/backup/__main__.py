"""Run a command."""

from services.backup.app import main

if __name__ == "__main__":
    main()

"""Run the redeemer."""

from services.redeemer.app import main

if __name__ == "__main__":
    main()

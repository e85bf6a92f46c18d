"""Run the service of people."""

from services.people.app import main

if __name__ == "__main__":
    main()

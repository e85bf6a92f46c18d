"""Tell what the images are made of, and check it: ``python -m scripts.supply --help``."""

import argparse
import os
import sys

from scripts.supply import licences, sbom


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when it is done, or all is well."""
    parser = argparse.ArgumentParser(prog="python -m scripts.supply")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("sbom", help="write var/sbom")
    one.add_argument("names", nargs="*", help=f"default: {' '.join(sbom.names())}")
    one.add_argument("--images", action="store_true", help="look into the built images, too")
    commands.add_parser("licences", help="write docs/licences.md")
    options = parser.parse_args(arguments)
    try:
        if options.command == "sbom":
            for file in sbom.write(options.names or sbom.names(), images=options.images):
                print(os.path.relpath(file))
        else:
            licences.PAGE.write_text(licences.page(), "utf-8")
    except (licences.LicenceError, sbom.SbomError) as error:
        for line in str(error).splitlines():
            print(f"{options.command}: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

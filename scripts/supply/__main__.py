"""Tell what the images are made of, and check it: ``python -m scripts.supply --help``."""

import argparse
import os
import sys

from scripts.supply import licences, sbom


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when it is done, or all is well."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "sbom":
            for file in sbom.write(options.names or sbom.names(), images=options.images):
                print(os.path.relpath(file))
        else:
            licences.write(check=options.check)
    except (licences.LicenceError, sbom.SbomError) as error:
        print(
            *(f"{options.command}: {line}" for line in str(error).splitlines()),
            sep="\n",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.supply")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("sbom", help="write var/sbom")
    one.add_argument("names", nargs="*", help=f"default: {' '.join(sbom.names())}")
    one.add_argument("--images", action="store_true", help="look into the built images, too")
    one = commands.add_parser("licences", help="write docs/licences.md")
    one.add_argument("--check", action="store_true", help="only say whether it is old")
    return parser


if __name__ == "__main__":
    sys.exit(main())

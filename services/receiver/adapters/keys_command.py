"""``python -m services.receiver keys``: keys without the API, straight in the database.

For whoever may run commands where the receiver runs, so may read its database password anyway.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from services.common.clock import now_ms
from services.common.errors import AwayError, RefusedError
from services.receiver.domain.access import AccessScope, ActorKind, Principal
from services.receiver.domain.acts import Act, SubjectKind, acting
from services.receiver.domain.keys import ApiKey, WantedKey, check_key_name
from services.receiver.service.keys import Keyring

_BY: Final = "command line"
_DAY_MS: Final = 24 * 60 * 60 * 1000


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what is to be done, or end the process with what is wrong with it."""
    parser = argparse.ArgumentParser(
        "python -m services.receiver", description="Without arguments: serve."
    )
    keys = parser.add_subparsers(required=True).add_parser("keys", help="keys of programs")
    actions = keys.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", type=_name, help="which program or installation has it")
    create.add_argument(
        "--scope", action="append", required=True, type=AccessScope, choices=list(AccessScope)
    )
    create.add_argument(
        "--expires", type=_days, metavar="DAYSd", help="such as 90d; without it: when revoked"
    )
    actions.add_parser("list", help="list keys")
    rotate = actions.add_parser("rotate", help="make another key of the same name, and print it")
    revoke = actions.add_parser("revoke", help="end a key at once, on all replicas")
    for action in (rotate, revoke):
        action.add_argument("id", help="12 characters: the part of a key behind fsk_")
    return parser.parse_args(arguments)


_ACTIONS: Final = {"create": "make_key", "rotate": "rotate_key", "revoke": "revoke_key"}
"""What the audit calls them, as the API does."""


async def run(wanted: argparse.Namespace, keys: Keyring) -> None:
    """Do it, or end the process with one line that says why not."""
    if action := _ACTIONS.get(wanted.action):
        by = Principal(ActorKind.COMMAND, _BY, frozenset())
        act = Act(action, "", audited=True, principal=by)
        if wanted.action != "create":
            act.about(SubjectKind.KEY, wanted.id)
        acting.set(act)
    try:
        match wanted.action:
            case "create":
                expires_at = wanted.expires and now_ms() + wanted.expires * _DAY_MS
                asked = WantedKey(wanted.name, frozenset(wanted.scope), expires_at)
                _show(await keys.make(asked, by=_BY))
            case "rotate":
                _show(await keys.rotate(wanted.id, by=_BY))
                _say(f"the other one is valid until: keys revoke {wanted.id}")
            case "revoke":
                await keys.revoke(wanted.id)
                _say(f"key {wanted.id} opens nothing any more")
            case "list":
                for key in await keys.all():
                    print(_line(key))  # noqa: T201
    except RefusedError as error:
        raise SystemExit(f"receiver: {error}") from None
    except AwayError as error:
        raise SystemExit(f"receiver: {error.service} is not available: {error}") from None


def _show(made: tuple[ApiKey, str]) -> None:
    key, text = made
    _say(f"{_line(key)}\nthe key, which nobody can show again:")
    print(text)  # noqa: T201, alone on standard output, for a pipe


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _line(key: ApiKey) -> str:
    told = [
        ("created", key.created_at),
        ("last used", key.last_used_at),
        ("expires", key.expires_at),
        ("revoked", key.revoked_at),
    ]
    times = ", ".join(f"{what} {_time(when)}" for what, when in told if when is not None)
    return f"{key.id}  {key.name}  {' '.join(sorted(key.scopes))}  {times}"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(text: str) -> str:
    try:
        return check_key_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _days(text: str) -> int:
    days = text.removesuffix("d")
    if days == text or not days.isdecimal() or not 0 < int(days) <= 36_500:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"write days such as 90d, 36500d at most, not {text!r}")
    return int(days)

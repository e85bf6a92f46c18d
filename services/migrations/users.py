"""The services' users on MariaDB, with exactly the grants below."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from services.common.errors import RefusedError
from services.common.settings import read_secret
from services.common.tables import metadata

log = structlog.get_logger(__name__)

# The last is the table that a service asks whether it may begin, so by then it has the others.
GRANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "receiver": {
        "images": "SELECT, INSERT, UPDATE, DELETE",
        "faces": "SELECT, INSERT, UPDATE, DELETE",
        "persons": "SELECT, INSERT, UPDATE, DELETE",
        "person_images": "SELECT, INSERT, UPDATE, DELETE",
        "garbage": "SELECT, INSERT, UPDATE, DELETE",
        "encoding_work": "SELECT, UPDATE",
        "face_encodings": "SELECT, INSERT, DELETE",
        "face_denials": "SELECT, INSERT, UPDATE, DELETE",
        "person_merges": "SELECT, INSERT, UPDATE, DELETE",
        "erasures": "SELECT, INSERT, UPDATE, DELETE",
        "face_groups": "SELECT, UPDATE",
        "group_faces": "SELECT, DELETE",
        "group_denials": "SELECT, INSERT, DELETE",
        "group_questions": "SELECT, INSERT, UPDATE, DELETE",
        "people_work": "SELECT, INSERT, UPDATE",
        "webhook_deliveries": "SELECT, UPDATE",
        "api_keys": "SELECT, INSERT, UPDATE",
        "users": "SELECT, INSERT, UPDATE, DELETE",
        "sessions": "SELECT, INSERT, UPDATE, DELETE",
        "log_in_failures": "SELECT, INSERT, UPDATE, DELETE",
        "audit": "SELECT, INSERT",
        "events": "SELECT, INSERT",
        "backups": "SELECT",
        "alembic_version": "SELECT",
    },
    "image_processor": {
        "images": "SELECT, UPDATE",
        "faces": "SELECT, INSERT, DELETE",
        "face_encodings": "SELECT, INSERT, DELETE",
        "encoding_work": "SELECT, UPDATE",
        "persons": "SELECT",
        "person_images": "SELECT",
        "people_work": "SELECT, INSERT",
        "events": "INSERT",
        "alembic_version": "SELECT",
    },
    "redeemer": {
        "images": "SELECT, UPDATE, DELETE",
        "faces": "SELECT",
        "persons": "SELECT",
        "person_images": "SELECT, DELETE",
        "face_groups": "SELECT, UPDATE",
        "group_faces": "SELECT",
        "group_questions": "SELECT, DELETE",
        "people_work": "SELECT, INSERT, UPDATE",
        "garbage": "SELECT, INSERT, UPDATE, DELETE",
        "audit": "SELECT, DELETE",
        "backups": "SELECT",
        "events": "SELECT, INSERT, DELETE",
        "alembic_version": "SELECT",
    },
    "people": {
        "images": "SELECT",
        "faces": "SELECT, UPDATE",
        "face_encodings": "SELECT",
        "persons": "SELECT, INSERT",
        "person_images": "SELECT",
        "garbage": "SELECT",
        "face_denials": "SELECT",
        "erasures": "SELECT",
        "face_groups": "SELECT, INSERT, UPDATE",
        "group_faces": "SELECT, INSERT, UPDATE, DELETE",
        "group_denials": "SELECT, INSERT",
        "group_questions": "SELECT, INSERT, UPDATE, DELETE",
        "group_work": "SELECT, UPDATE",
        "people_work": "SELECT, UPDATE, DELETE",
        "events": "SELECT, INSERT",
        "alembic_version": "SELECT",
    },
    "webhooks": {
        "events": "SELECT",
        "images": "SELECT",
        "faces": "SELECT",
        "persons": "SELECT",
        "erasures": "SELECT",
        "webhook_positions": "SELECT, INSERT, UPDATE",
        "webhook_deliveries": "SELECT, INSERT, UPDATE, DELETE",
        "alembic_version": "SELECT",
    },
    # It reads whatever there is.
    "backup": dict.fromkeys(metadata.tables, "SELECT")
    | {"backups": "SELECT, INSERT, UPDATE", "alembic_version": "SELECT"},
}

_PREVIOUS: Final = ".previous"


class UsersError(RefusedError):
    """The users cannot be made as asked; the message says what to do."""


def read_users(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the passwords that each user of the folder may use, the current one first.

    ``receiver`` holds the password of that user, ``receiver.previous`` the one before it, if any.
    """
    users: dict[str, tuple[str, ...]] = {}
    # Kubernetes keeps the files themselves in folders that start with a dot.
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for file in files:
        name = file.name.removesuffix(_PREVIOUS)
        if name not in GRANTS:
            known = ", ".join(GRANTS)
            raise UsersError(f"{file}: there is no user {name!r}, only {known}")
        password = read_secret(file)
        if file.name == name:
            if not password:
                raise UsersError(f"{file} is empty: it must hold the password of {name}")
            users[name] = (password,)
        elif name not in users:
            raise UsersError(f"{file} is there, but no file {name} with the current password")
        elif password and password not in users[name]:
            users[name] += (password,)
    if not users:
        raise UsersError(f"{folder} holds no file: one for each user is expected")
    return users


def apply_users(
    connection: sa.Connection, users: Mapping[str, Sequence[str]], *, revoke: bool = True
) -> None:
    """Give each user its passwords and its grants, and without ``revoke=False`` no others.

    What a user has and keeps is not taken away meanwhile, so services go on working; but a table
    of which it had everything is out of its reach from one statement to the next.
    """
    for user, passwords in users.items():
        account = f"'{user}'@'%'"
        for statement in ("CREATE USER IF NOT EXISTS", "ALTER USER"):
            _run(connection, f"{statement} {account} {_identified(map(_hashed, passwords))}")
        _grant(connection, account, GRANTS[user])
        if revoke and _revoke_surplus(connection, account, GRANTS[user]):
            # Taking ALL away has taken the rest too.
            _grant(connection, account, GRANTS[user])
        log.info("database user is up to date", user=user, passwords=len(passwords))


_HASH: Final = re.compile(r"'(\*[0-9A-F]{40})'")


def apply_own(connection: sa.Connection, passwords: Sequence[str]) -> None:
    """Give the user of this connection its passwords, the current one first, and no others.

    A user of MariaDB is one account here and one for elsewhere, and both are rotated. An account of
    that name that has none of the passwords is somebody else's and stays as it is.
    """
    wanted = [_hashed(password) for password in passwords if password]
    user = connection.engine.url.username
    # One for each name of a host may be there, too, but a server that resolves none knows none.
    hosts = "SELECT Host FROM mysql.user WHERE User = :user AND Host IN ('%', 'localhost')"
    for host in connection.scalars(sa.text(hosts), {"user": user}).all():
        account = f"'{user}'@'{host}'"
        shown = str(_run(connection, f"SHOW CREATE USER {account}").scalar_one())
        found = set(_HASH.findall(shown))
        if found & set(wanted) and found != set(wanted):
            _run(connection, f"ALTER USER {account} {_identified(wanted)}")
            log.info("changed the passwords of this user", user=account, passwords=len(wanted))


def _identified(hashes: Iterable[str]) -> str:
    # Hashed here, so the server's logs and process list never show a password.
    ways = " OR ".join(f"mysql_native_password USING '{hashed}'" for hashed in hashes)
    return f"IDENTIFIED VIA {ways}"


def _grant(connection: sa.Connection, account: str, grants: Mapping[str, str]) -> None:
    for table, privileges in grants.items():
        _run(connection, f"GRANT {privileges} ON `{table}` TO {account}")


_GRANT: Final = re.compile(r"GRANT (?P<privileges>.+) ON (?P<object>.+) TO `\w+`@`%`(?P<rest>.*)")
_ROLE: Final = re.compile(r"GRANT (?P<role>`.+`) TO `\w+`@`%`.*")
# SELECT, or SELECT (`one`, `two`)
_PRIVILEGE: Final = re.compile(r"[A-Z][A-Z ]*[A-Z](?: \([^)]*\))?")


def _revoke_surplus(connection: sa.Connection, account: str, grants: Mapping[str, str]) -> bool:
    """Take away what SHOW GRANTS says beyond the grants; tell whether there was anything."""
    database = connection.engine.url.database
    wanted = {
        f"`{database}`.`{table}`": set(privileges.split(", "))
        for table, privileges in grants.items()
    }
    surplus: list[str] = []
    for line in _run(connection, f"SHOW GRANTS FOR {account}").scalars().all():
        if role := _ROLE.fullmatch(line):
            surplus.append(role["role"])
        elif told := _GRANT.fullmatch(line):
            found = set(_PRIVILEGE.findall(told["privileges"])) - {"USAGE"}
            if "WITH GRANT OPTION" in told["rest"]:
                surplus.append(f"GRANT OPTION ON {told['object']}")
            if too_much := sorted(found - wanted.get(told["object"], set())):
                surplus.append(f"{', '.join(too_much)} ON {told['object']}")
    for grant in surplus:
        log.warning("taking away what the user need not have", user=account, grant=grant)
        _run(connection, f"REVOKE {grant} FROM {account}")
    return bool(surplus)


def _run(connection: sa.Connection, statement: str) -> sa.CursorResult[str]:
    # An account's % is no placeholder.
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _hashed(password: str) -> str:
    """Return what mysql_native_password keeps of a password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return f"*{hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()}"

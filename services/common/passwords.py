"""The password of a database user, from a file that changes while the process runs."""

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from services.common.settings import read_passwords

_ACCESS_DENIED: Final = 1045


def log_in_with(engine: sa.Engine, file: Path) -> None:
    """Have every new connection of the engine take its password from the file.

    Pods and server hear of a new password at different times, in either order: whoever is refused
    with the new one is let in with the one before.
    """

    def connect(dialect: Any, _: object, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        passwords = read_passwords(file)
        password = next(passwords)
        while True:
            # Bytes, because the driver turns text into Latin-1.
            login = {**parameters, "password": password.encode()}
            try:
                return dialect.connect(*arguments, **login)
            except dialect.loaded_dbapi.OperationalError as error:
                other = next(passwords, None) if error.args[0] == _ACCESS_DENIED else None
                if other is None:
                    raise
                password = other

    event.listen(engine, "do_connect", connect)
